package identity

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// trusting makes a node trust these authorities.
func trusting(t *testing.T, id *Identity, cas ...*CA) {
	t.Helper()
	var all [][]byte
	for _, ca := range cas {
		all = append(all, ca.Certificate())
	}
	if err := id.Trust(all...); err != nil {
		t.Fatal(err)
	}
}

// renewed gives a node a certificate of another authority, which it trusts.
func renewed(t *testing.T, id *Identity, ca *CA) {
	t.Helper()
	cert, _ := issue(t, ca, id, id.Node(), RoleNode, start)
	if err := id.Renew(cert); err != nil {
		t.Fatal(err)
	}
}

// meets says how a calls b.
func meets(t *testing.T, a, b *Identity) meeting {
	t.Helper()
	return meet(t, b.serverConfig(nowhere(), ProtoPeer), a.clientConfig(nowhere(), ProtoPeer, b.Node()))
}

// The steps of a replacement: at none of them do two members that are one step apart refuse each other, and at the end what the
// old authority signs is refused by both sides.
func TestCAIsReplacedWithoutAGap(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	a, b := member(t, was, Options{}), member(t, was, Options{})
	together := func(step string) {
		t.Helper()
		for _, pair := range [][2]*Identity{{a, b}, {b, a}} {
			if m := meets(t, pair[0], pair[1]); m.client != nil || m.server != nil {
				t.Fatalf("%s: %v, %v", step, m.client, m.server)
			}
		}
	}
	both := []*CA{is, was}
	trusting(t, a, both...)
	together("one trusts both")
	trusting(t, b, both...)
	together("both trust both")
	renewed(t, a, is)
	together("one is renewed")
	if a.Pin() != is.Pin() || b.Pin() != was.Pin() {
		t.Fatalf("pins %s, %s", a.Pin(), b.Pin())
	}
	renewed(t, b, is)
	together("both are renewed")
	trusting(t, a, is)
	together("one has dropped the old one")
	trusting(t, b, is)
	together("both have")

	thief := member(t, was, Options{}) // the stolen key signs for whoever it likes
	trusting(t, thief, both...)
	m := meets(t, thief, a)
	refusedBy(t, m.server, m.client, ErrNotMember)
	m = meets(t, a, thief)
	refusedBy(t, m.client, m.server, ErrNotMember)
}

func TestNodeKeepsTheAuthorityOfItsOwnCertificate(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	id := member(t, was, Options{})
	if err := id.Trust(is.Certificate()); !errors.Is(err, ErrNotMember) {
		t.Errorf("it would have no certificate: %v", err)
	}
	if err := id.Trust(is.Certificate(), was.Certificate(), newCA(t, "beta").Certificate()); !errors.Is(err, ErrOtherSwarm) {
		t.Errorf("another swarm's authority: %v", err)
	}
	if err := id.Trust(); err == nil {
		t.Error("nobody is trusted")
	}
	cert, _ := issue(t, is, id, id.Node(), RoleNode, start)
	if err := id.Renew(cert); !errors.Is(err, ErrNotMember) {
		t.Errorf("renewed by an authority that is not trusted: %v", err)
	}
	trusting(t, id, is, was)
	late, _ := issue(t, was, id, id.Node(), RoleNode, start)
	renewed(t, id, is)
	if err := id.Renew(late); !errors.Is(err, ErrNotMember) || id.Pin() != is.Pin() {
		t.Errorf("an answer from before came late: %v", err)
	}
	if err := (&Identity{}).Trust(is.Certificate()); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("who is nobody: %v", err)
	}
}

// After a crash between any two writes the directory holds what a step before or after it held: a node that can start.
func TestEveryMomentOfAReplacementCanBeStartedFrom(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	id := member(t, was, Options{})
	again := func(step, pin string, trusts ...*CA) {
		t.Helper()
		from, err := Open(Options{Dir: id.dir})
		if err != nil || from.Pin() != pin || from.Node() != id.Node() {
			t.Fatalf("%s: %v", step, err)
		}
		for _, ca := range []*CA{was, is} {
			want := false
			for _, trusted := range trusts {
				want = want || trusted == ca
			}
			if from.current.Load().trusts(ca.Pin()) != want {
				t.Errorf("%s: trusts %s: %v", step, ca, !want)
			}
		}
	}
	again("before", was.Pin(), was)
	trusting(t, id, is, was)
	again("it trusts both", was.Pin(), is, was)
	renewed(t, id, is)
	again("it is renewed", is.Pin(), is, was)
	trusting(t, id, is)
	again("the old one is dropped", is.Pin(), is)
}

func TestDroppedAuthorityEndsItsConnectionsAndThoseInTheirHandshake(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	asked, goOn := make(chan struct{}), make(chan struct{})
	var slow atomic.Bool
	server := member(t, was, Options{Now: func() time.Time { // asked after the trusted authorities were looked up
		if slow.CompareAndSwap(true, false) {
			close(asked)
			<-goOn
		}
		return start
	}})
	trusting(t, server, is, was)
	renewed(t, server, is)
	thief := member(t, was, Options{})
	trusting(t, thief, is, was)
	mux := runMux(t, server, nil)
	l := mux.Listener(ProtoPeer)
	conn, err := thief.Dial(t.Context(), ProtoPeer, mux.ln.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	trusting(t, server, is)
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection of before stands: %v", err)
	}

	trusting(t, server, is, was)
	slow.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	second, err := thief.Dial(ctx, ProtoPeer, mux.ln.Addr().String(), "") // TLS 1.3: the client is done first
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	<-asked
	trusting(t, server, is)
	close(goOn)
	if err := second.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection came through while its authority was dropped: %v", err)
	}
}

// What decides over a certificate is told by whom it was signed, and for which key.
func TestRefusedIsToldAuthorityAndKey(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	var saw Peer
	a := member(t, was, Options{Refused: func(_ string, p Peer) error { saw = p; return nil }})
	b := member(t, was, Options{})
	trusting(t, a, is, was)
	trusting(t, b, is, was)
	for _, ca := range []*CA{was, is} {
		if ca == is {
			renewed(t, b, is)
		}
		if m := meets(t, b, a); m.client != nil || m.server != nil {
			t.Fatal(m.client, m.server)
		}
		csr, err := b.CSR()
		if err != nil {
			t.Fatal(err)
		}
		key, err := KeyOf(csr)
		if err != nil || saw.CA != ca.Pin() || saw.Key != key || saw.Node != b.Node() {
			t.Errorf("told %+v, want key %s of %s: %v", saw, key, ca.Pin(), err)
		}
	}
}

func TestOperatorOfTheOldCAIsServedUntilItIsDropped(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	node := member(t, was, Options{})
	old, _, err := was.IssueOperator("ann", OperatorView, start, 0)
	if err != nil {
		t.Fatal(err)
	}
	fresh, _, err := is.IssueOperator("ann", OperatorView, start, 0)
	if err != nil {
		t.Fatal(err)
	}
	call := func(f OperatorFile) meeting {
		f.Endpoints = []string{"127.0.0.1:1"}
		cfg, err := f.ClientConfig(start)
		if err != nil {
			t.Fatal(err)
		}
		return meet(t, node.serverConfig(nowhere(), ProtoOperate), cfg)
	}
	trusting(t, node, is, was)
	if m := call(old); m.client != nil || m.server != nil {
		t.Errorf("before the node is renewed: %v, %v", m.client, m.server)
	}
	renewed(t, node, is)
	m := call(old)
	refusedBy(t, m.client, m.server, ErrNotMember)
	if !strings.Contains(m.client.Error(), "offshoot operator add ann --role view") {
		t.Errorf("ann is told %v", m.client)
	}
	if m := call(fresh); m.client != nil || m.server != nil {
		t.Errorf("with the new file: %v, %v", m.client, m.server)
	}
}

func TestSeveralAuthoritiesAreKeptInOneFile(t *testing.T) {
	was, is := newCA(t, "alpha"), newCA(t, "alpha")
	dir := t.TempDir()
	if err := SaveCAs(dir, was, is); err != nil {
		t.Fatal(err)
	}
	all, err := LoadCAs(dir)
	if err != nil || len(all) != 2 || all[0].Pin() != was.Pin() || all[1].Pin() != is.Pin() {
		t.Fatalf("%v, %v", all, err)
	}
	data, err := EncodeCAs(was, is)
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.Index(data, []byte("-----BEGIN PRIVATE"))
	for name, bad := range map[string][]byte{
		"nothing": nil, "rubbish": []byte("rubbish"), "half": data[:len(data)/2+1], "no key": data[:cut], "keys alone": data[cut:],
		"rubbish behind": append(bytes.Clone(data), "rubbish"...), "long": bytes.Repeat(data, 40),
	} {
		if all, err := DecodeCAs(bad); err == nil {
			t.Errorf("%s: %v", name, all)
		}
	}
	if err := SaveCAs(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, caKeyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key that is worth nothing was kept: %v", err)
	}
}
