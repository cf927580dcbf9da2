package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"offshoot/node/internal/install"
	"offshoot/swarm"

	"github.com/google/go-cmp/cmp"
)

func (h *house) exchange(mac swarm.MAC, body string, want int) install.Neighbours {
	h.t.Helper()
	q := request{method: http.MethodPost, path: "/b/" + nonce1 + "/exchange", body: body}
	if mac == mac2 {
		q.path, q.from = "/b/"+nonce2+"/exchange", addr2
	}
	resp := h.ask(q)
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != want {
		h.t.Fatalf("%s answered %s, want %d", body, resp.Status, want)
	}
	if want != http.StatusOK {
		return install.Neighbours{}
	}
	n, err := install.DecodeNeighbours(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

func presenceOf(p install.Presence) string {
	raw, _ := json.Marshal(p) // numbers and a bool
	return string(raw)
}

func TestInstallingMachinesHearOfEachOtherAndOfTheNodes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	names := map[swarm.MAC]string{}
	for mac, nonce := range map[swarm.MAC]string{mac1: nonce1, mac2: nonce2} {
		h.must(swarm.ArmMachine{MAC: mac})
		q := request{path: "/b/" + nonce + "/install"}
		if mac == mac2 {
			q.from = addr2
		}
		h.want(h.ask(q), http.StatusOK)
		m, _ := h.state.View().Machine(mac)
		names[mac] = string(swarm.InstallerID(m.Install))
	}
	node := install.Neighbour{ID: "node-on-s1", Address: netip.AddrPortFrom(self, 7400)}
	first := h.exchange(mac1, presenceOf(install.Presence{Port: 1000}), http.StatusOK)
	if diff := cmp.Diff(install.Neighbours{Peers: []install.Neighbour{node}, Part: 0, Parts: 1}, first, addresses); diff != "" {
		t.Error(diff)
	}
	second := h.exchange(mac2, presenceOf(install.Presence{Port: 2000}), http.StatusOK)
	wantPeers := []install.Neighbour{node, {ID: names[mac1], Address: netip.AddrPortFrom(addr1, 1000)}}
	if diff := cmp.Diff(wantPeers, second.Peers, addresses); diff != "" || second.Parts != 2 {
		t.Errorf("%s; part %d of %d", diff, second.Part, second.Parts)
	}
	// Parts differ, and who has it all takes none.
	if again := h.exchange(mac1, presenceOf(install.Presence{Port: 1000}), http.StatusOK); again.Part == second.Part || again.Parts != 2 {
		t.Errorf("part %d of %d, and %d of %d", again.Part, again.Parts, second.Part, second.Parts)
	}
	h.exchange(mac1, presenceOf(install.Presence{Port: 1000, Done: true}), http.StatusOK)
	if alone := h.exchange(mac2, presenceOf(install.Presence{Port: 2000}), http.StatusOK); alone.Parts != 1 || len(alone.Peers) != 2 {
		t.Errorf("%+v", alone)
	}
	h.mu.Lock()
	h.now = h.now.Add(presenceTime + time.Second)
	h.mu.Unlock()
	if gone := h.exchange(mac2, presenceOf(install.Presence{Port: 2000}), http.StatusOK); len(gone.Peers) != 1 {
		t.Errorf("a machine that was not heard of is still named: %+v", gone)
	}
}

var addresses = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func TestExchangeIsForMachinesThatInstallThemselves(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.exchange(mac1, presenceOf(install.Presence{Port: 1000}), http.StatusForbidden)
	h.arm()
	h.config()
	for _, body := range []string{"", "{}", `{"port":0}`, `{"port":65536}`, `{"port":1,"id":"another"}`} {
		h.exchange(mac1, body, http.StatusBadRequest)
	}
	h.exchange(mac1, presenceOf(install.Presence{Port: 1000}), http.StatusOK)
}

// Of many machines each is told of a bounded number, and none is forgotten by all.
func TestAThousandMachinesAreAllNamedToSome(t *testing.T) {
	t.Parallel()
	var all []presence
	for i := range 1000 {
		all = append(all, presence{name: fmt.Sprint(i), segment: "s1", image: image, at: netip.AddrPortFrom(addr1, uint16(i+1)), done: i%2 == 0})
	}
	all = append(all, presence{name: "elsewhere", segment: "s2", image: image}, presence{name: "other", segment: "s1", image: "another"})
	named, parts := map[string]int{}, map[int]bool{}
	for _, p := range all[:1000] {
		n := around(p, all)
		if len(n.Peers) != maxMachines {
			t.Fatalf("told of %d", len(n.Peers))
		}
		for _, peer := range n.Peers {
			if peer.ID == p.name {
				t.Fatal("a machine is told of itself")
			}
			named[peer.ID]++
		}
		if p.done {
			continue
		}
		if n.Parts != 500 || n.Part >= n.Parts || parts[n.Part] {
			t.Fatalf("part %d of %d, taken before: %v", n.Part, n.Parts, parts[n.Part])
		}
		parts[n.Part] = true
	}
	for _, p := range all[:1000] {
		if named[p.name] != maxMachines {
			t.Fatalf("%s is named %d times", p.name, named[p.name])
		}
	}
	for _, p := range all[1000:] {
		if named[p.name] > 0 {
			t.Errorf("%s of another segment, or with another image, is named", p.name)
		}
	}
}
