package identity

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"offshoot/swarm"

	"github.com/google/go-cmp/cmp"
)

func aRequest(t testing.TB) RedeemRequest {
	t.Helper()
	id, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	return RedeemRequest{
		Ticket: NewTicket(), CSR: csr, MACs: []swarm.MAC{"52:54:00:00:00:01", "52:54:00:00:00:02"},
		UUID: "4c4c4544-0044-4a10-8054-b7c04f4d3732", Name: "m1",
	}
}

func aResponse(t testing.TB) RedeemResponse {
	t.Helper()
	ca := newCA(t, "alpha")
	id := member(t, ca, Options{})
	return RedeemResponse{
		Node: id.Node(), Swarm: "alpha", Certificate: encodeCert(id.current.Load().leaf.Raw), CA: ca.Certificate(),
		GossipKeys: []Key{NewGossipKey(), NewGossipKey()}, Members: []netip.AddrPort{netip.MustParseAddrPort("192.168.42.1:7401")},
		Leader: netip.MustParseAddrPort("192.168.42.1:7400"), Time: start,
	}
}

var secrets = cmp.Options{
	cmp.Comparer(func(a, b Ticket) bool { return a.Reveal() == b.Reveal() }),
	cmp.Comparer(func(a, b Key) bool { return a.Encode() == b.Encode() }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func TestRedeemMessagesRoundTrip(t *testing.T) {
	req := aRequest(t)
	data, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	gotReq, err := DecodeRedeemRequest(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(req, gotReq, secrets); diff != "" {
		t.Error(diff)
	}
	resp := aResponse(t)
	for range 2 {
		if data, err = resp.Encode(); err != nil {
			t.Fatal(err)
		}
		gotResp, err := DecodeRedeemResponse(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(resp, gotResp, secrets); diff != "" {
			t.Error(diff)
		}
		resp.Leader = netip.AddrPort{} // an election is under way
	}
}

// Machines installed by an older node redeem at a newer one, and the other way round.
func TestRecordedRedeemMessagesAreStillRead(t *testing.T) {
	req, err := DecodeRedeemRequest(bytes.NewReader(recorded(t, "redeem-request.json")))
	if err != nil || req.Name != "m1" {
		t.Errorf("%+v, %v", req, err)
	}
	resp, err := DecodeRedeemResponse(bytes.NewReader(recorded(t, "redeem-response.json")))
	if err != nil || resp.Swarm != "alpha" {
		t.Errorf("%+v, %v", resp, err)
	}
}

func recorded(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRedeemRequestIsStrict(t *testing.T) {
	req := aRequest(t)
	good, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	with := func(key string, value any) string {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		m[key] = value
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	many := make([]string, maxMACs+1)
	for i := range many {
		many[i] = "52:54:00:00:00:01"
	}
	secret := strings.Split(req.Ticket.Reveal(), ".")[2]
	for name, text := range map[string]string{
		"nothing":        "",
		"not JSON":       "ticket",
		"null":           "null",
		"a list":         "[]",
		"unknown field":  with("role", "admin"),
		"trailing data":  string(good) + "{}",
		"too large":      string(good) + strings.Repeat(" ", MaxRedeemRequest),
		"no ticket":      with("ticket", ""),
		"broken ticket":  with("ticket", req.Ticket.Reveal()+"x"),
		"ticket as list": with("ticket", []string{req.Ticket.Reveal()}),
		"no key":         with("csr", ""),
		"no address":     with("macs", []string{}),
		"65 addresses":   with("macs", many),
		"upper case MAC": with("macs", []string{"52:54:00:AA:00:01"}),
		"path as MAC":    with("macs", []string{"../../etc"}),
		"broken UUID":    with("uuid", "4c4c4544"),
		"name with path": with("name", "../m1"),
		"name with dots": with("name", "m1.example"),
		"long name":      with("name", strings.Repeat("a", 64)),
	} {
		if _, err := DecodeRedeemRequest(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

func TestRedeemResponseIsStrict(t *testing.T) {
	good, err := aResponse(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	with := func(key string, value any) string {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		m[key] = value
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"unknown field":    with("admin", true),
		"trailing data":    string(good) + "1",
		"too large":        string(good) + strings.Repeat(" ", MaxRedeemResponse),
		"no node":          with("node", ""),
		"node with a path": with("node", "../x"),
		"no swarm":         with("swarm", ""),
		"no certificate":   with("certificate", ""),
		"no authority":     with("ca", "x"),
		"no gossip key":    with("gossip_keys", []string{}),
		"short gossip key": with("gossip_keys", []string{"AAAA"}),
		"65 gossip keys":   with("gossip_keys", make([]string, maxKeys+1)),
		"host name":        with("members", []string{"seed:7401"}),
		"empty member":     with("members", []string{""}),
		"no time":          with("time", "0001-01-01T00:00:00Z"),
	} {
		if _, err := DecodeRedeemResponse(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecodeRedeemRequest(f *testing.F) {
	f.Add(recorded(f, "redeem-request.json"))
	f.Add([]byte(`{"ticket":"","csr":"","macs":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := DecodeRedeemRequest(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := req.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRedeemRequest(bytes.NewReader(again)); err != nil {
			t.Errorf("what was accepted once is refused the second time: %v", err)
		}
	})
}

func FuzzDecodeRedeemResponse(f *testing.F) {
	f.Add(recorded(f, "redeem-response.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		resp, err := DecodeRedeemResponse(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := resp.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRedeemResponse(bytes.NewReader(again)); err != nil {
			t.Errorf("what was accepted once is refused the second time: %v", err)
		}
	})
}
