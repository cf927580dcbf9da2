package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"offshoot/handoff"
	"offshoot/node/internal/install"
	"offshoot/node/internal/peer"
	"offshoot/node/internal/segment"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

// spaceEnv tells a test that it runs in a network namespace of its own.
const spaceEnv = "OFFSHOOT_TEST_SPACE"

// ownSpace runs the rest of the test in a process with its own network, in which it is root without being so outside. It
// returns false in the outer process, where the test is over.
func ownSpace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(spaceEnv) != "" {
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0", HardwareAddr: mac1.Hardware()}, PeerName: "far0"}
		err := netlink.LinkAdd(port)
		for _, name := range []string{"lo", "far0"} {
			link, e := netlink.LinkByName(name)
			if e == nil {
				e = netlink.LinkSetUp(link)
			}
			err = errors.Join(err, e)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), spaceEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) && os.Getenv("CI") != "true" {
		t.Skipf("no network namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// door is a node that lets machines with a ticket in: real TLS on loopback, real tickets, real certificates.
type door struct {
	*leader
	addr  string
	asked atomic.Int32
	lose  atomic.Bool // the answer after it was given
}

func openDoor(t *testing.T) *door {
	t.Helper()
	d := &door{leader: founded(t)}
	id, err := identity.Open(identity.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := d.authority.IssueNode(csr, seedID, identity.RoleNode, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Enroll(d.authority.Pin(), cert, d.authority.Certificate()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	mux := identity.NewMux(l, id, quiet())
	server := peer.NewServer(peer.JoinHandler(func(ctx context.Context, request []byte) ([]byte, error) {
		d.asked.Add(1)
		answer, err := d.redeem(ctx, request)
		if d.lose.Swap(false) {
			panic(http.ErrAbortHandler)
		}
		return answer, err
	}, nil, identity.MaxRedeemRequest), joinTime)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- mux.Run(ctx) }()
	go func() { done <- serve(server, mux.Listener(identity.ProtoJoin))(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Errorf("door: %v", err)
		}
	})
	return d
}

// machine is a freshly installed one. Each call is a new life on the same disk.
func (d *door) machine(dir string, ticket identity.Ticket, change func(*install.Join)) *taker {
	d.t.Helper()
	j := install.Join{
		Swarm: "5eed", Ticket: ticket.Reveal(), Pin: d.authority.Pin(), Endpoints: []string{d.addr}, Segment: "s1",
		Address: netip.MustParsePrefix("192.168.42.17/24"), MAC: string(mac1), Name: "m1",
	}
	if change != nil {
		change(&j)
	}
	id, err := identity.Open(identity.Options{Dir: dir})
	if err != nil {
		d.t.Fatal(err)
	}
	undo, err := segment.OpenJournal(filepath.Join(dir, "undo.json"), quiet())
	if err != nil {
		d.t.Fatal(err)
	}
	return &taker{dir: dir, join: j, identity: id, undo: undo, log: quiet()}
}

// joined wants exactly one node of mac1, in good standing, which is who the machine believes to be.
func (d *door) joined(dir string) memory {
	d.t.Helper()
	m, ok, err := loadMemory(dir)
	if err != nil || !ok {
		d.t.Fatalf("no memory: %t, %v", ok, err)
	}
	id, err := identity.Open(identity.Options{Dir: dir})
	if err != nil || id.Node() != m.Node || id.Pin() != d.authority.Pin() {
		d.t.Errorf("certificate is for %s, memory is of %s: %v", id.Node(), m.Node, err)
	}
	var nodes []swarm.Node
	for _, n := range d.state.View().Nodes() {
		if n.ID != seedID {
			nodes = append(nodes, n)
		}
	}
	if len(nodes) != 1 || nodes[0].ID != m.Node || !nodes[0].Eligible() || nodes[0].Machine != mac1 {
		d.t.Errorf("ledger knows %+v, the machine is %s", nodes, m.Node)
	}
	return m
}

func TestGoodTicketMakesTheMachineANode(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil { // the node that installed the machine is gone: the next one lets it in
		t.Fatal(err)
	}
	m := d.machine(dir, d.mint(), func(j *install.Join) { j.Endpoints = []string{dead.Addr().String(), d.addr} })
	if err := m.Redeem(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := d.joined(dir)
	settings, _ := d.state.View().Settings()
	if got.Name != "m1" || got.Port != mac1 || got.Address.String() != "192.168.42.17/24" || got.Segment != "s1" || len(got.Members) != 1 ||
		len(got.Keys) != 1 || got.Keys[0] != settings.GossipKeys[0] || got.Ephemeral {
		t.Errorf("memory %+v", got)
	}
	port, err := segment.PortByName("lan0")
	if err != nil || !port.Up || len(port.Addrs) != 1 || port.Addrs[0] != got.Address {
		t.Errorf("port %+v, %v", port, err)
	}
}

func TestMachineFindsTheWayToNodesBehindItsGateway(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d := openDoor(t)
	m := d.machine(t.TempDir(), d.mint(), func(j *install.Join) {
		j.Gateway, j.Endpoints = netip.MustParseAddr("192.168.42.1"), []string{"192.168.42.1:7400", "10.42.3.1:7400"}
	})
	if err := m.stand(); err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteGet(net.IPv4(10, 42, 3, 1))
	if err != nil || len(routes) == 0 || !routes[0].Gw.Equal(net.IPv4(192, 168, 42, 1)) {
		t.Errorf("way to the second endpoint: %v, %v", routes, err)
	}
}

func TestRefusedTicketIsFinalAndSaysWhatToDo(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	revoked := d.mint()
	d.mint() // its config was fetched again
	m := d.machine(dir, revoked, func(j *install.Join) { j.Endpoints = []string{d.addr, d.addr} })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := handoff.Take(dir, m, quiet()).Execute(ctx) // goes on trying unless the refusal is final
	for _, words := range []string{"revoked", "offshoot machine arm " + string(mac1), "redeem"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v lacks %q", err, words)
		}
	}
	if err != nil && strings.Contains(err.Error(), revoked.Reveal()) {
		t.Error("the error shows the ticket")
	}
	if n := d.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if _, ok, err := loadMemory(dir); ok || err != nil || m.identity.Enrolled() {
		t.Errorf("the machine believes to be a node: %t, %v", ok, err)
	}
}

func TestWrongPinSendsNothing(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	ticket := d.mint()
	m := d.machine(dir, ticket, func(j *install.Join) { j.Pin = "sha256:" + strings.Repeat("0", 64) })
	if err := m.Redeem(t.Context()); !errors.Is(err, identity.ErrWrongPin) {
		t.Errorf("got %v", err)
	}
	if n := d.asked.Load(); n != 0 {
		t.Errorf("%d requests went out to a stranger", n)
	}
	if got, _ := d.state.View().Ticket(ticket.ID()); got.State != swarm.TicketMinted {
		t.Errorf("ticket is %s", got.State)
	}
}

func TestAnswerOfAnotherSwarmIsRefused(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	m := d.machine(dir, d.mint(), func(j *install.Join) { j.Swarm = "another" })
	if err := m.Redeem(t.Context()); err == nil || !strings.Contains(err.Error(), "5eed") || m.identity.Enrolled() {
		t.Errorf("got %v", err)
	}
}

func TestCrashBetweenEnrollAndMemoryResumesAsTheSameNode(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	ticket := d.mint()
	if err := os.MkdirAll(filepath.Join(memoryPath(dir), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := d.machine(dir, ticket, nil)
	if err := m.Redeem(t.Context()); err == nil || !m.identity.Enrolled() {
		t.Fatalf("enrolled: %t, %v", m.identity.Enrolled(), err)
	}
	if err := os.RemoveAll(memoryPath(dir)); err != nil {
		t.Fatal(err)
	}
	first := m.identity.Node()
	if err := d.machine(dir, ticket, nil).Redeem(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.joined(dir); got.Node != first {
		t.Errorf("node %s became %s", first, got.Node)
	}
	if err := d.machine(dir, ticket, nil).Redeem(t.Context()); err != nil { // the record of the step was lost, too
		t.Fatal(err)
	}
	d.joined(dir)
}

func TestLostAnswerIsGivenAgainToTheSameKey(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	ticket := d.mint()
	d.lose.Store(true)
	if err := d.machine(dir, ticket, nil).Redeem(t.Context()); err == nil {
		t.Fatal("the answer was not lost")
	}
	if err := d.machine(dir, ticket, nil).Redeem(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.joined(dir)
}

func TestSecondMachineWithTheTicketPutsTheFirstInQuarantine(t *testing.T) {
	if !ownSpace(t) {
		return
	}
	d, dir := openDoor(t), t.TempDir()
	ticket := d.mint()
	if err := d.machine(dir, ticket, nil).Redeem(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := d.joined(dir)
	if err := d.machine(t.TempDir(), ticket, nil).Redeem(t.Context()); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("the second one: %v", err)
	}
	if n, _ := d.state.View().Node(m.Node); n.Quarantine == "" {
		t.Error("the first one is trusted still")
	}
}

func TestTicketIsForgottenFromTheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	content := fmt.Sprintf(`{"swarm":"5eed","ticket":%q,"pin":"sha256:00","endpoints":["192.168.42.1:7400"],"segment":"s1","address":"192.168.42.17/24","gateway":"","mac":%q,"name":"m1"}`,
		identity.NewTicket().Reveal(), mac1)
	if err := os.WriteFile(joinPath(dir), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if j, ok, err := loadJoin(dir); err != nil || !ok || j.Name != "m1" {
		t.Fatalf("join %t, %v", ok, err)
	}
	k := &taker{dir: dir}
	for range 2 {
		if err := k.ForgetTicket(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := loadJoin(dir); ok || err != nil {
		t.Errorf("still there: %t, %v", ok, err)
	}
	if err := os.WriteFile(joinPath(dir), []byte(content[:40]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadJoin(dir); err == nil || !strings.Contains(err.Error(), joinPath(dir)) {
		t.Errorf("half a join file: %v", err)
	}
}

// TestForgottenTicketIsNotLeftInTheFile: what has the file open still, as the disk does, finds nothing in it.
func TestForgottenTicketIsNotLeftInTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(joinPath(dir), []byte(`{"ticket":"secretword"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(joinPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	k := &taker{dir: dir}
	for range 2 { // a step may run again
		if err := k.ForgetTicket(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	left, err := io.ReadAll(f)
	if err != nil || len(left) == 0 || len(bytes.Trim(left, "\x00")) > 0 {
		t.Errorf("%q is left, %v", left, err)
	}
}
