package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
)

const (
	seedID = swarm.NodeID("5eed5eed5eed5eed")
	mac1   = swarm.MAC("52:54:00:00:00:01")
	mac2   = swarm.MAC("52:54:00:00:00:02")
)

var addr1 = netip.MustParseAddr("192.168.42.17")

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// leader is the one node of a swarm, as far as other nodes and machines with a ticket see it: a real authority, a real
// ledger of one voter, a real state.
type leader struct {
	*service
	t         testing.TB
	authority *identity.CA
	end       func() // stops its ledger
}

// stopped is a node whose ledger does not run.
func stopped(t testing.TB) *leader { return stoppedIn(t, scratch(t)) }

func stoppedIn(t testing.TB, dir string) *leader {
	t.Helper()
	ca, err := identity.NewCA("5eed", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	alone := errors.New("there is nobody else")
	r := &replica{
		state: swarm.NewState(), self: func() swarm.NodeID { return seedID }, log: quiet(),
		broken: func(err error) { t.Errorf("state machine: %v", err) }, now: time.Now, ages: newAges(uptime, maxLease),
	}
	r.ledger, err = ledger.Open(ledger.Options{
		Dir: dir, ID: seedID, Address: l.Addr().String(), Listener: l, FSM: r, Logger: quiet(),
		Dial: func(context.Context, swarm.NodeID, string) (net.Conn, error) { return nil, alone },
		Peers: ledger.Peers{
			Forward: func(context.Context, string, []byte) ([]byte, error) { return nil, alone },
			Pulse:   func(context.Context, string) (ledger.Pulse, error) { return ledger.Pulse{}, alone },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &service{
		replica: r, authorities: &authorities{dir: t.TempDir()}, renewals: newRenewals(uptime), journal: newJournal(), log: quiet(),
		gossip: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.168.42.1:7401")} },
	}
	if err := s.authorities.add(ca); err != nil {
		t.Fatal(err)
	}
	return &leader{service: s, t: t, authority: ca}
}

// scratch is a directory in memory if there is one: no test here is about disks.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "offshoot-node-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run runs the ledger until the test ends, or end is called.
func (l *leader) run() *leader {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.ledger.Run(ctx) }()
	l.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("ledger ended with %v", err)
		}
	})
	l.t.Cleanup(l.end)
	return l
}

// foundedIn is a node that leads a swarm with an empty state, on a directory.
func foundedIn(t testing.TB, dir string) *leader {
	t.Helper()
	l := stoppedIn(t, dir)
	if err := l.ledger.Found(); err != nil {
		t.Fatal(err)
	}
	return l.run()
}

// resumedIn is the same node after a restart.
func resumedIn(t testing.TB, dir string) *leader {
	t.Helper()
	return stoppedIn(t, dir).run()
}

// founded is a node that leads a swarm which it founded: segment s1 is its own, machine mac1 is armed and has an address.
func founded(t testing.TB) *leader {
	t.Helper()
	l := foundedIn(t, scratch(t))
	l.must(swarm.Found{
		Settings: swarm.Settings{
			Swarm: "5eed", CA: string(l.authority.Certificate()), Pin: l.authority.Pin(), Voters: 5, Profile: "p",
			GossipKeys: []string{identity.NewGossipKey().Encode()}, Range: netip.MustParsePrefix("10.42.0.0/16"),
		},
		Node: swarm.Node{ID: seedID, Name: "seed", Key: "the seed's key", Ephemeral: true, Address: "192.168.42.1:7400", Ports: []swarm.Port{
			{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true, Address: netip.MustParsePrefix("192.168.42.1/24")},
		}},
		Network: netip.MustParsePrefix("192.168.42.0/24"),
		Profile: &swarm.Profile{Name: "p", Driver: "image"},
	})
	l.must(swarm.SeeMachine{MAC: mac1, Segment: "s1"})
	l.must(swarm.ArmMachine{MAC: mac1})
	return l
}

func (l *leader) must(op swarm.Op) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	if err := l.decide(ctx, op); err != nil {
		l.t.Fatal(err)
	}
}

// mint draws a ticket for mac1, as an install config does.
func (l *leader) mint() identity.Ticket {
	l.t.Helper()
	ticket := identity.NewTicket()
	l.must(swarm.MintTicket{ID: ticket.ID(), Hash: ticket.Hash(), MAC: mac1, Segment: "s1", Addr: addr1, Expires: time.Now().Add(time.Hour)})
	return ticket
}

// member makes mac1 a node.
func (l *leader) member(id swarm.NodeID) identity.Ticket { return l.memberWith(id, "its key") }

// memberWith makes mac1 a node that joins with a certain key.
func (l *leader) memberWith(id swarm.NodeID, key string) identity.Ticket {
	l.t.Helper()
	ticket := l.mint()
	l.must(swarm.RedeemTicket{ID: ticket.ID(), Hash: ticket.Hash(), Key: key, MACs: []swarm.MAC{mac1}, Node: id, Address: "192.168.42.17:7400"})
	return ticket
}

// quarantine lets somebody else show the ticket that a node redeemed.
func (l *leader) quarantine(ticket identity.Ticket) {
	l.t.Helper()
	err := l.decide(l.t.Context(), swarm.RedeemTicket{ID: ticket.ID(), Hash: ticket.Hash(), Key: "another key", MACs: []swarm.MAC{mac1}, Node: "00000000000000ff"})
	if !errors.Is(err, swarm.ErrTicketUsed) {
		l.t.Fatalf("second redeem: %v", err)
	}
}
