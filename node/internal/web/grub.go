package web

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// grubs is the folder of GRUB's questions.
const grubs = "/grub/"

// GRUBURL is where GRUB asks what its machine boots, on the node that has this address on the segment.
func GRUBURL(self netip.Addr) string {
	return "http://" + netip.AddrPortFrom(self, Port).String() + grubs
}

// handleGRUB adds what GRUB asks for. Firmware that boots by HTTP has its GRUB look for the first lines here too.
func (s *Server) handleGRUB(mux *http.ServeMux) {
	for _, name := range boot.EntryNames() {
		mux.HandleFunc("GET /"+name, s.grubEntry) // HEAD too
	}
	for _, name := range []string{boot.SecureConfig, boot.OpenConfig} {
		mux.HandleFunc("GET "+grubs+name, s.grub) // HEAD too
	}
}

// single takes out the second of two slashes, as in shim's /boot//grubx64.efi: it would be redirected, and shim does not follow.
func single(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, programs+"/"); ok {
			r.URL.Path = programs + strings.TrimLeft(rest, "/")
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) grubEntry(w http.ResponseWriter, r *http.Request) {
	base := "" // says that it is none
	if self, err := asked(r); err == nil {
		base = GRUBURL(self)
	}
	s.o.Trace(s.leaseholder(r).MAC, what(r), "ask for this machine's own", "")
	plain(w, boot.EntryConfig(base))
}

// grub answers what script answers to iPXE. A refusal is a configuration as well: GRUB 2.12 was seen to run the text that came with
// a 404, line by line, without any pause.
func (s *Server) grub(w http.ResponseWriter, r *http.Request) {
	v, err := s.admitByAddress(r)
	if err != nil {
		s.o.Trace(v.lease.MAC, what(r), "", err.Error())
		plain(w, boot.GRUBConfig(boot.Facts{MAC: v.lease.MAC, Decision: boot.Wait{Reason: err.Error()}}))
		return
	}
	if path.Base(r.URL.Path) == boot.SecureConfig && v.machine.Loader == swarm.LoaderAuto {
		s.learn(v.machine.MAC)
	}
	facts, answer := s.facts(v)
	s.o.Trace(v.machine.MAC, what(r), answer, "")
	plain(w, boot.GRUBConfig(facts))
}

// admitByAddress lets in who has no nonce: a machine is known by the address that it asks from, and by the MAC behind that.
func (s *Server) admitByAddress(r *http.Request) (visit, error) {
	lease := s.leaseholder(r)
	if lease.MAC == "" {
		return visit{}, refuse(http.StatusNotFound, "%s is leased to nobody: boot from the network again", r.RemoteAddr)
	}
	v, err := s.visit(r, lease)
	if err == nil && !s.o.OnDuty(lease.Segment) {
		err = refuse(http.StatusServiceUnavailable, "this node does not hold duty on segment %s", lease.Segment)
	}
	return v, err
}

// learn notes that a machine starts signed programs only, without making it wait for the ledger.
func (s *Server) learn(mac swarm.MAC) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := s.o.Propose(ctx, swarm.LearnLoader{MAC: mac, Loader: swarm.LoaderSigned}); err != nil {
			s.o.Logger.Debug("Secure Boot is not noted", "mac", mac, "error", err)
		}
	}()
}

func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text) // the machine has gone: nothing to be done
}
