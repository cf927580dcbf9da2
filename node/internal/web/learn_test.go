package web

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

const script1 = "/b/" + nonce1 + "/boot.ipxe"

// besideOthers is a house on a segment that was founded by proxy, on which iPXE of the first machine was told its nonce.
func besideOthers(t *testing.T) *house {
	t.Helper()
	h := emptyHouse(t, swarm.ModeProxy)
	h.begun, h.neighbour = map[string]swarm.MAC{nonce1: mac1}, mac1
	return h
}

func (h *house) leaseOf(mac swarm.MAC) swarm.Lease {
	l, _ := h.state.View().LeaseOf("s1", mac)
	return l
}

func TestAddressOfOthersIsLearnedFromTheMachineItself(t *testing.T) {
	h := besideOthers(t)
	h.want(h.ask(request{path: script1}), http.StatusOK, "the agent")
	if l := h.leaseOf(mac1); l.Addr != addr1 || l.Class != swarm.LeaseForeign || l.Nonce != nonce1 {
		t.Fatalf("%+v", l)
	}
	before := h.commands
	h.want(h.ask(request{path: "/b/" + nonce1 + "/install"}), http.StatusForbidden)
	if h.commands != before {
		t.Error("what is known is written down again")
	}
	// The agent has another address than iPXE; the nonce is the machine's still.
	h.must(swarm.ArmMachine{MAC: mac1})
	var cfg install.Config
	if err := json.Unmarshal([]byte(h.want(h.ask(request{path: "/b/" + nonce1 + "/install", from: addr2}), http.StatusOK)), &cfg); err != nil {
		t.Fatal(err)
	}
	if !cfg.Join.Foreign || cfg.Join.Address.Addr() != addr2 {
		t.Errorf("join: %+v", cfg.Join)
	}
	if l := h.leaseOf(mac1); l.Addr != addr2 {
		t.Errorf("%+v", l)
	}
	// It is written down again before it ends.
	h.now = h.now.Add(learnedLife - learnedAgain)
	h.want(h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/event", body: `{"install":"` + cfg.Install + `","phase":"image","percent":3}`, from: addr2}), http.StatusOK)
	if l := h.leaseOf(mac1); l.Expires.Sub(h.now) != learnedLife {
		t.Errorf("ends in %v", l.Expires.Sub(h.now))
	}
}

func TestNonceOfAProxyIsGoodForItsMACOnly(t *testing.T) {
	for _, behind := range []swarm.MAC{mac2, ""} {
		h := besideOthers(t)
		h.neighbour = behind
		h.want(h.ask(request{path: script1}), http.StatusConflict, "belongs to "+string(mac1))
		if l := h.leaseOf(mac1); l.MAC != "" {
			t.Errorf("written down: %+v", l)
		}
	}
	h := besideOthers(t)
	h.want(h.ask(request{path: "/b/" + nonce2 + "/boot.ipxe"}), http.StatusNotFound)
	h.want(h.ask(request{path: script1, from: netip.MustParseAddr("10.9.9.9")}), http.StatusConflict, "on no segment that is served by proxy")
	h.duty = false
	h.want(h.ask(request{path: script1}), http.StatusServiceUnavailable, "duty")
	if l := h.leaseOf(mac1); l.MAC != "" {
		t.Errorf("written down: %+v", l)
	}
}

func TestMachineIsHeldWhoseConfigAnotherAsksFor(t *testing.T) {
	h := besideOthers(t)
	h.want(h.ask(request{path: script1}), http.StatusOK)
	h.must(swarm.ArmMachine{MAC: mac1})
	h.neighbour = mac2
	h.want(h.ask(request{path: "/b/" + nonce1 + "/install", from: addr2}), http.StatusConflict)
	if m, _ := h.state.View().Machine(mac1); m.State != swarm.MachineHeld {
		t.Errorf("it is %s", m.State)
	}
}

// TestNothingIsInstalledWhileASegmentYields: on a segment that is ours, while the server of others is there.
func TestNothingIsInstalledWhileASegmentYields(t *testing.T) {
	h := newHouse(t)
	h.must(swarm.ArmMachine{MAC: mac1})
	h.must(swarm.SetMode{Segment: "s1", Mode: swarm.ModeProxy, Reason: "another DHCP server answers there: 192.168.42.254"})
	const third = "CCCCCCCCCCCCCCCCCCCCCC"
	h.begun, h.neighbour = map[string]swarm.MAC{third: mac1}, mac1
	foreign := netip.MustParseAddr("192.168.42.200")
	if s := h.want(h.ask(request{path: "/b/" + third + "/boot.ipxe", from: foreign}), http.StatusOK, "nothing is installed for now"); strings.Contains(s, "kernel") {
		t.Errorf("it starts something:\n%s", s)
	}
	h.want(h.ask(request{path: "/b/" + third + "/install", from: foreign}), http.StatusForbidden, "192.168.42.254")
}

// TestNodeStartsItsOwnDiskWhileItsSegmentYields: it owns an address from us for good, and its firmware has one from the server of others.
func TestNodeStartsItsOwnDiskWhileItsSegmentYields(t *testing.T) {
	h := newHouse(t)
	h.must(swarm.ArmMachine{MAC: mac1})
	h.must(swarm.MintTicket{ID: "t", Hash: "h", MAC: mac1, Segment: "s1", Addr: addr1, Expires: h.now.Add(time.Hour)})
	h.must(swarm.RedeemTicket{ID: "t", Hash: "h", Key: "k", MACs: []swarm.MAC{mac1}, Node: "n1", Address: "192.168.42.17:7400"})
	h.must(swarm.SetMode{Segment: "s1", Mode: swarm.ModeProxy, Reason: "a server"})
	const third = "CCCCCCCCCCCCCCCCCCCCCC"
	h.begun, h.neighbour = map[string]swarm.MAC{third: mac1}, mac1
	h.want(h.ask(request{path: "/b/" + third + "/boot.ipxe", from: netip.MustParseAddr("192.168.42.200")}), http.StatusOK, "starts its own disk")
	if l := h.leaseOf(mac1); l.Addr != addr1 || !l.Expires.IsZero() {
		t.Errorf("it owns %+v now", l)
	}
}
