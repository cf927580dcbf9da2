package identity

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAdmissionMessagesRoundTrip(t *testing.T) {
	req := AdmitRequest{Ticket: NewTicket(), CSR: aRequest(t).CSR}
	data, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	gotReq, err := DecodeAdmitRequest(bytes.NewReader(data))
	if diff := cmp.Diff(req, gotReq, secrets); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	from := aResponse(t)
	resp := AdmitResponse{Certificate: from.Certificate, CA: from.CA, Time: start}
	if data, err = resp.Encode(); err != nil {
		t.Fatal(err)
	}
	gotResp, err := DecodeAdmitResponse(bytes.NewReader(data))
	if diff := cmp.Diff(resp, gotResp); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestAdmissionMessagesAreCheckedAndQuoteNoSecret(t *testing.T) {
	ticket := NewTicket().Reveal()
	for name, data := range map[string]string{
		"nothing":       ``,
		"no request":    `{"ticket":"` + ticket + `"}`,
		"no ticket":     `{"csr":"x"}`,
		"unknown field": `{"ticket":"` + ticket + `","role":"node"}`,
		"too much":      `{"csr":"` + strings.Repeat("x", MaxRedeemRequest) + `"}`,
	} {
		if _, err := DecodeAdmitRequest(strings.NewReader(data)); err == nil || strings.Contains(err.Error(), ticket) {
			t.Errorf("%s: %v", name, err)
		}
	}
	from := aResponse(t)
	for name, resp := range map[string]AdmitResponse{
		"no certificate": {CA: from.CA, Time: start},
		"no authority":   {Certificate: from.Certificate, Time: start},
		"no time":        {Certificate: from.Certificate, CA: from.CA},
	} {
		data, err := resp.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeAdmitResponse(bytes.NewReader(data)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// A machine that installs itself exchanges artifacts with nodes and its like, and nothing else is open to it.
func TestInstallingMachineExchangesAndNothingElse(t *testing.T) {
	ca := newCA(t, "alpha")
	node := member(t, ca, Options{})
	one, other := member(t, ca, Options{Role: RoleInstall}), member(t, ca, Options{Role: RoleInstall})
	for name, c := range map[string]struct {
		caller, answerer *Identity
		proto            string
		want             error
	}{
		"to a node":                          {one, node, ProtoShare, nil},
		"to another":                         {one, other, ProtoShare, nil},
		"to the ledger":                      {one, node, ProtoRaft, ErrWrongRole},
		"to the peer API":                    {one, node, ProtoPeer, ErrWrongRole},
		"as an operator":                     {one, node, ProtoOperate, ErrWrongRole},
		"a node does not take it for a node": {node, one, ProtoShare, ErrWrongRole},
	} {
		m := meet(t, c.answerer.serverConfig(nowhere(), c.proto), c.caller.clientConfig(nowhere(), c.proto, ""))
		if err := errors.Join(m.client, m.server); (c.want == nil) != (err == nil) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInstallingMachineAnswersNoOtherProtocol(t *testing.T) {
	ca := newCA(t, "alpha")
	m := runMux(t, member(t, ca, Options{Role: RoleInstall}), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	caller := member(t, ca, Options{Role: RoleInstall})
	if c, err := caller.Dial(ctx, ProtoPeer, m.ln.Addr().String(), ""); err == nil {
		_ = c.Close()
		t.Error("the peer API of a machine that installs itself was reached")
	}
	c, err := caller.Dial(ctx, ProtoShare, m.ln.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestRoleOfCertificateIsHeldAgainstTheIdentitys(t *testing.T) {
	ca := newCA(t, "alpha")
	for _, role := range []Role{RoleNode, RoleInstall} {
		id, err := Open(Options{Dir: t.TempDir(), Role: role, Now: at(start)})
		if err != nil {
			t.Fatal(err)
		}
		other := map[Role]Role{RoleNode: RoleInstall, RoleInstall: RoleNode}[role]
		cert, _ := issue(t, ca, id, "0123456789abcdef", other, start)
		if err := id.Enroll(ca.Pin(), cert, ca.Certificate()); !errors.Is(err, ErrWrongRole) {
			t.Errorf("an identity for %q enrolled as %q: %v", role, other, err)
		}
	}
}
