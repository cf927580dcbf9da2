//go:build wire

package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestStolenCAOpensNothingOnceItIsReplaced: the seed's laptop is stolen, with the key of the swarm's CA. The seed is evicted with
// --rotate-ca while clients keep asking for addresses. The three nodes go on all the while, a fourth joins, and whoever has
// the laptop gets in nowhere, whatever certificate it signs for itself.
func TestStolenCAOpensNothingOnceItIsReplaced(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	h := newHeist(ctx, t)
	genuine := h.operator(ctx, "ann")
	if !h.asks(ctx, genuine) {
		t.Fatal("the operator's file does not work to begin with")
	}
	h.breakIn(ctx)
	served := len(h.messages())

	out, err := h.m1.Offshoot(ctx, "swarm", "evict", "seed", "--rotate-ca", "--yes")
	if err != nil {
		t.Fatal(err, out)
	}
	began := time.Now()
	t.Logf("evict says:\n%s", out)
	for name, c := range h.open {
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: what the thief had open is open still: %v", name, err)
		}
	}
	for _, b := range h.Machines { // a node that has not heard yet believes what the thief signs: docs/ARCHITECTURE.md, G6
		if _, err := h.Until(ctx, b, b.Host.String()+" has heard of the eviction", func(s status.Status) string {
			if s.CA == nil && s.Pin == h.pin {
				return "not yet"
			}
			return ""
		}); err != nil {
			t.Fatal(err)
		}
	}
	h.lockedOut(ctx, "while the CA is being replaced")
	pin := h.replaced(ctx, h.pin, h.Machines...)
	h.Say("every node has a new certificate after %.1f s", time.Since(began).Seconds())
	if !strings.Contains(out, pin) || pin == h.pin {
		t.Errorf("the swarm has pin %s, before %s; evict said %s", pin, h.pin, out)
	}
	h.lockedOut(ctx, "afterwards")
	if _, err := h.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	if now := len(h.messages()); now < served+20 {
		t.Errorf("%d DHCP messages while the CA was replaced: this proves nothing", now-served)
	}
	if silence, ok := lab.Silence(h.messages(), began); !ok || silence > takeover {
		t.Errorf("new clients had no lease for %.1f s (served: %v)", silence.Seconds(), ok)
	}
	h.people(ctx, genuine)
	h.newcomer(ctx)
	h.restart(ctx)
	h.judge(ctx)
	h.encore(ctx, pin)
}

// heist is a swarm of three, clients that keep asking, and somebody with the seed's disk.
type heist struct {
	*crisis
	*siege
	small  story.Small
	pin    string // of the stolen CA
	loot   string // the seed's data directory
	cert   *x509.Certificate
	key    any
	open   map[string]*tls.Conn
	fourth *story.Bare // the machine that joins afterwards
}

func newHeist(ctx context.Context, t *testing.T) *heist {
	t.Helper()
	w, small, trio := threeVoters(ctx, t)
	var err error
	h := &heist{crisis: &crisis{Trio: trio, t: t, seed: 1}, small: small, open: map[string]*tls.Conn{}, loot: filepath.Join(w.Lab.Dir(), "seed")}
	h.siege = &siege{World: w, t: t, m1: trio.Machine("m1"), small: small}
	s := h.siege.status(ctx)
	h.pin, h.swarm = s.Pin, s.Swarm
	if h.home, _, err = net.SplitHostPort(m1Node(s).Address); err != nil {
		t.Fatal(err)
	}
	if h.stranger, err = w.Lab.Host("stranger", w.Lan0); err != nil {
		t.Fatal(err)
	}
	if h.crowd, err = w.NewCrowd(ctx, 10, 60); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.crowd.Stop(); err != nil {
			t.Errorf("clients: %v", err)
		}
	})
	data, err := os.ReadFile(filepath.Join(h.loot, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			h.cert, err = x509.ParseCertificate(block.Bytes)
		case "PRIVATE KEY":
			h.key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if h.cert == nil || h.key == nil {
		t.Fatal("there is no CA to steal")
	}
	return h
}

func (h *heist) fatal(err error, out ...any) {
	h.crisis.t.Helper()
	if err != nil {
		h.crisis.t.Fatal(append([]any{err}, out...)...)
	}
}

// forge signs a certificate with the stolen key, for a key of the thief's own: "/node/ID" or "/operator/NAME/ROLE".
func (h *heist) forge(path string, serial *big.Int) tls.Certificate {
	h.crisis.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	h.fatal(err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: path}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		URIs:     []*url.URL{{Scheme: "offshoot", Host: h.swarm, Path: path}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, h.cert, public, h.key)
	h.fatal(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

const unknownNode = "/node/0123456789abcdef"

// breakIn sees that the stolen key opens the doors as long as nobody has done anything, and leaves a foot in two of them.
func (h *heist) breakIn(ctx context.Context) {
	h.crisis.t.Helper()
	h.move(ctx)
	cert := h.forge(unknownNode, big.NewInt(7))
	if !h.pulse(ctx, h.stranger, cert) {
		h.crisis.t.Fatal("the stolen CA makes no nodes even before it is replaced: this would prove nothing")
	}
	for _, protocol := range []string{"offshoot-raft", "offshoot-peer"} {
		c, err := shake(ctx, h.stranger, h.home+":7400", protocol, cert)
		h.fatal(err)
		h.fatal(c.SetDeadline(time.Now().Add(5 * time.Minute)))
		h.crisis.t.Cleanup(func() { _ = c.Close() })
		h.open[protocol] = c
	}
}

// lockedOut tries every door with everything that the thief could make of its loot.
func (h *heist) lockedOut(ctx context.Context, when string) {
	h.crisis.t.Helper()
	serial := new(big.Int)
	for _, o := range h.operators(ctx) {
		if o.Name == "ann" {
			serial.SetString(o.Serial, 16)
		}
	}
	if serial.Sign() == 0 {
		h.crisis.t.Fatal("ann has no serial")
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(h.loot, "node.crt"), filepath.Join(h.loot, "node.key"))
	h.fatal(err)
	nodes := map[string]tls.Certificate{"as nobody known": h.forge(unknownNode, big.NewInt(7)), "as the seed": own}
	for _, n := range h.siege.status(ctx).Nodes {
		nodes["as "+n.Name+", with another key"] = h.forge("/node/"+n.ID, big.NewInt(8))
	}
	for _, b := range h.Machines {
		address, err := b.Host.Run(ctx, "sh", "-c", "ip -4 -o addr show dev lan0 | awk '{print $4}' | cut -d/ -f1 | head -n1")
		h.fatal(err)
		at := strings.TrimSpace(address) + ":7400"
		for name, cert := range nodes {
			h.move(ctx)
			for _, protocol := range []string{"offshoot-peer", "offshoot-raft"} {
				h.closed(ctx, when+" "+name, at, protocol, cert)
			}
		}
		h.move(ctx)
		h.closed(ctx, when+" as ann, with another key", at, "offshoot-operate", h.forge("/operator/ann/admin", serial))
		h.closed(ctx, when+" as an operator", at, "offshoot-operate", h.forge("/operator/eve/admin", big.NewInt(9)))
	}
}

// closed wants a door to be shut: no answer, and no connection that stands.
func (h *heist) closed(ctx context.Context, who, at, protocol string, cert tls.Certificate) {
	h.crisis.t.Helper()
	c, err := shake(ctx, h.stranger, at, protocol, cert)
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	if err != nil {
		if !strings.Contains(err.Error(), "tls:") && !strings.Contains(err.Error(), "reset") {
			h.crisis.t.Errorf("%s at %s %s: %v; that is no refusal", who, at, protocol, err)
		}
		return
	}
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		h.crisis.t.Error(err)
	}
	if protocol != "offshoot-raft" {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://x/v1/status", nil)
		h.fatal(err)
		req.Close = true
		_ = req.Write(c) // refused already: the read tells
	}
	n, err := c.Read(make([]byte, 1))
	if n > 0 || err == nil || !strings.Contains(err.Error(), "tls:") && !strings.Contains(err.Error(), "reset") {
		h.crisis.t.Errorf("%s at %s: %s stands open, or was shut for another reason: %d bytes, %v", who, at, protocol, n, err)
	}
}

// replaced waits until all say that the CA is replaced, and returns the pin.
func (h *heist) replaced(ctx context.Context, before string, all ...*story.Bare) (pin string) {
	h.crisis.t.Helper()
	bounded, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for _, b := range all {
		last := ""
		for {
			s, err := b.Status(bounded)
			if err == nil && s.CA == nil && s.Pin != before {
				pin = s.Pin
				break
			}
			if s.CA != nil {
				if text, err := b.Offshoot(bounded, "swarm", "status"); err == nil {
					for line := range strings.Lines(text) {
						if strings.Contains(line, "CA is being replaced") && line != last {
							h.Say("%s: %s", b.Host, strings.TrimSpace(line))
							last = line
						}
					}
				}
			}
			if lapse(bounded, 100*time.Millisecond) != nil {
				h.crisis.t.Fatalf("%s: the CA is not replaced: %+v, %v", b.Host, s.CA, err)
			}
		}
	}
	return pin
}

func (h *heist) operators(ctx context.Context) []status.Operator {
	h.crisis.t.Helper()
	out, err := h.m1.Offshoot(ctx, "operator", "list", "-o", "json")
	var all []status.Operator
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	h.fatal(err, out)
	return all
}

// operator makes an operator's file, on the swarm's side, and returns its path.
func (h *heist) operator(ctx context.Context, name string) string {
	h.crisis.t.Helper()
	file := filepath.Join(h.crisis.t.TempDir(), name+".operator")
	out, err := h.m1.Offshoot(ctx, "operator", "add", name, "--role", "admin", "-o", file)
	h.fatal(err, out)
	return file
}

// asks says whether an operator's file is good for a look at the swarm, from outside.
func (h *heist) asks(ctx context.Context, file string) bool {
	h.crisis.t.Helper()
	out, err := h.Operator.Run(ctx, os.Getenv("OFFSHOOT_BIN"), "--operator", file, "swarm", "status", "-o", "json")
	if err != nil {
		h.crisis.t.Logf("%s: %v", out, err)
	}
	return err == nil
}

// people: operators need new files, are listed as such, and get them without being revoked first. Who did it stands in the audit log.
func (h *heist) people(ctx context.Context, old string) {
	h.crisis.t.Helper()
	if h.asks(ctx, old) {
		h.crisis.t.Error("the operator's file of the old CA still works")
	}
	if all := h.operators(ctx); len(all) != 1 || !all[0].Outdated {
		h.crisis.t.Errorf("operators are %+v", all)
	}
	if !h.asks(ctx, h.operator(ctx, "ann")) {
		h.crisis.t.Error("the operator's new file does not work")
	}
	if all := h.operators(ctx); len(all) != 1 || all[0].Outdated {
		h.crisis.t.Errorf("operators are %+v", all)
	}
	out, err := h.m1.Offshoot(ctx, "swarm", "audit")
	if err != nil || !strings.Contains(out, "evict node") || !strings.Contains(out, "replace the swarm's CA") {
		h.crisis.t.Errorf("%v: audit says %s", err, out)
	}
}

// encore: the next disk that is stolen is that of the leader. The node that is asked waits for another one, which makes the new CA.
func (h *heist) encore(ctx context.Context, pin string) {
	h.crisis.t.Helper()
	s, err := h.Settled(ctx)
	h.fatal(err)
	others := h.Others(h.Machine(s.Leader))
	began := time.Now()
	out, err := others[0].Offshoot(ctx, "swarm", "evict", s.Leader, "--rotate-ca", "--yes")
	h.fatal(err, out)
	again := h.replaced(ctx, pin, append(others, h.fourth)...)
	h.Say("the leader is evicted, and the CA replaced once more, after %.1f s", time.Since(began).Seconds())
	if !strings.Contains(out, again) {
		h.crisis.t.Errorf("the pin is %s; evict said %s", again, out)
	}
}

// newcomer: a machine that is armed now joins with the new pin.
func (h *heist) newcomer(ctx context.Context) {
	h.crisis.t.Helper()
	b, err := h.NewBare("m4", h.small)
	h.fatal(err)
	h.fourth = b
	for _, args := range [][]string{{"machine", "name", b.MAC.String(), "m4"}, {"machine", "arm", b.MAC.String()}} {
		out, err := h.m1.Offshoot(ctx, args...)
		h.fatal(err, out)
	}
	living, off := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.Life(living) }()
	h.crisis.t.Cleanup(func() {
		off()
		if err := <-done; err != nil {
			h.crisis.t.Errorf("m4: %v", err)
		}
	})
	_, err = h.Until(ctx, h.m1, "m4 has joined", func(s status.Status) string {
		for _, n := range s.Nodes {
			if n.Name == "m4" && n.State == status.NodeAlive && n.Warm {
				return ""
			}
		}
		return "it has not"
	})
	h.fatal(err)
}

// restart: after a loss of power nodes are who they are now. The duty is moved, so that two of them have served.
func (h *heist) restart(ctx context.Context) {
	h.crisis.t.Helper()
	s, err := h.Settled(ctx)
	h.fatal(err)
	others := h.Others(h.Machine(s.Segments[0].Holder))
	out, err := others[0].Offshoot(ctx, "segment", "move", "s1", others[0].Host.String())
	h.fatal(err, out)
	h.fatal(lapse(ctx, 2*time.Second))
	h.fatal(others[1].Signal(ctx, syscall.SIGKILL))
	_, err = h.Settled(ctx)
	h.fatal(err)
	for _, b := range h.Machines {
		for file, want := range map[string]int{"var/lib/offshoot/ca.crt": 1, "var/lib/offshoot/ca.key": 2} {
			text, err := b.OnDisk(ctx, "cat", file)
			if h.fatal(err, text); strings.Count(text, "-----BEGIN") != want {
				h.crisis.t.Errorf("%s on %s has %d blocks, want %d: the stolen CA is still there", file, b.Host, strings.Count(text, "-----BEGIN"), want)
			}
		}
	}
	if s := h.siege.status(ctx); !slices.ContainsFunc(s.Nodes, func(n status.Node) bool { return n.Name == "seed" && n.Ended != "" }) {
		h.crisis.t.Errorf("the seed: %+v", s.Nodes)
	}
}
