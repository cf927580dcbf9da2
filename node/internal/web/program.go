package web

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// programs is the path of the boot programs. They are no secret and name no machine, so there is no nonce in it: iPXE asks DHCP
// for its script itself, whoever loaded it.
const programs = "/boot/"

// ProgramURL is where UEFI firmware finds a boot program by HTTP, on the node that has this address on the segment. "" is the
// folder. The address is a literal, so that firmware needs no name server.
func ProgramURL(self netip.Addr, name string) string {
	return "http://" + netip.AddrPortFrom(self, Port).String() + programs + name
}

// program serves what UEFI HTTP boot loads, as OVMF was seen to load it: HEAD, whose Content-Length is the size of the buffer
// that it makes, then GET on the same connection. The type says that it is a program and not a disk. Duty is not asked for: these
// bytes are the same everywhere.
func (s *Server) program(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	content, size, err := s.programFile(r, name)
	mac := s.leaseholder(r).MAC
	if err != nil {
		s.o.Trace(mac, r.Method+" boot program", "", "404: "+err.Error()) // a name of its choice only within this sentence
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer func() { _ = content.Close() }() // only read
	kind := "application/efi"              // UEFI 2.10, 24.7
	if name == boot.Autoexec {
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	answer := "size only"
	if r.Method == http.MethodGet {
		answer = fmt.Sprintf("%d bytes", size)
	}
	var sent int64
	http.ServeContent(&counted{ResponseWriter: w, sent: func(n int64) { sent += n }}, r, "", time.Time{}, content)
	if r.Method == http.MethodGet && sent < size { // it hung up, or wanted a part
		answer = fmt.Sprintf("%d of %d bytes", sent, size)
	}
	s.o.Trace(mac, what(r), answer, "")
}

// programFile opens a boot program.
func (s *Server) programFile(r *http.Request, name string) (io.ReadSeekCloser, int64, error) {
	if name == boot.Autoexec {
		at, err := asked(r)
		text := boot.AutoexecScript(ProgramURL(at, ""))
		return still{strings.NewReader(text)}, int64(len(text)), err
	}
	if !boot.LoadedByHTTP(name) {
		return nil, 0, fmt.Errorf("there is no boot program %.40q for HTTP boot", name)
	}
	f, err := s.o.Programs.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	content, ok := f.(io.ReadSeekCloser)
	if err == nil && !ok {
		err = errors.New("it has no positions")
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("boot program %s: %w", name, err), f.Close())
	}
	return content, info.Size(), nil
}

// still is content that needs no closing.
type still struct{ io.ReadSeeker }

func (still) Close() error { return nil }

// leaseholder is the lease of the address of whoever asks; without a MAC if nobody has it.
func (s *Server) leaseholder(r *http.Request) swarm.Lease {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return swarm.Lease{}
	}
	view, addr := s.o.View(), from.Addr().Unmap()
	for _, segment := range view.Segments() {
		if !segment.Network.Contains(addr) {
			continue
		}
		if lease, ok := view.Lease(segment.ID, addr); ok {
			return lease
		}
	}
	return swarm.Lease{}
}
