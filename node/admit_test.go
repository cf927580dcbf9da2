package node

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/identity"
)

// inAgent is a machine in its agent.
func inAgent(t *testing.T) *identity.Identity {
	t.Helper()
	id, err := identity.Open(identity.Options{Dir: t.TempDir(), Role: identity.RoleInstall})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func admission(t *testing.T, ticket identity.Ticket, id *identity.Identity) []byte {
	t.Helper()
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	request, err := identity.AdmitRequest{Ticket: ticket, CSR: csr}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func TestAdmissionIsForTheInstallationOfTheTicketAndLeavesItGood(t *testing.T) {
	t.Parallel()
	l := founded(t)
	ticket, id := l.mint(), inAgent(t)
	for range 2 { // an answer may get lost
		answer, err := l.admit(t.Context(), admission(t, ticket, id))
		if err != nil {
			t.Fatal(err)
		}
		a, err := identity.DecodeAdmitResponse(bytes.NewReader(answer))
		if err != nil {
			t.Fatal(err)
		}
		settings, _ := l.state.View().Settings()
		if err := id.Enroll(settings.Pin, a.Certificate, a.CA); err != nil {
			t.Fatal(err)
		}
	}
	m, _ := l.state.View().Machine(mac1)
	if want := swarm.InstallerID(m.Install); id.Node() != want || time.Until(id.NotAfter()) > time.Hour {
		t.Errorf("it is %s until %v, want %s for an hour", id.Node(), id.NotAfter(), want)
	}
	if kept, _ := l.state.View().Ticket(ticket.ID()); kept.State != swarm.TicketMinted {
		t.Errorf("the ticket is %s", kept.State)
	}
	former := id.Self()
	former.CA = "another"
	if why := refusedInstaller(l.state.View(), former); why == "" {
		t.Error("a certificate of an authority that was replaced is accepted")
	}
	if why := refusedInstaller(l.state.View(), id.Self()); why != "" {
		t.Error(why)
	}
	l.must(swarm.HoldMachine{MAC: mac1, Reason: "test"})
	if why := refusedInstaller(l.state.View(), id.Self()); why == "" {
		t.Error("a held machine still exchanges")
	}
}

func TestAdmissionIsRefusedWithoutAGoodTicket(t *testing.T) {
	t.Parallel()
	l := founded(t)
	_, err := l.Admit(t.Context(), []byte("{}"))
	refused(t, err, "admission request")
	ask := func(ticket identity.Ticket) error {
		answer, err := l.Admit(t.Context(), admission(t, ticket, inAgent(t)))
		if err != nil && answer != nil {
			t.Error("an answer beside a refusal")
		}
		return err
	}
	refused(t, ask(identity.NewTicket()), "not known to this swarm")
	good := l.mint()
	guessed, err := identity.ParseTicket("os1." + good.ID() + "." + "AAAAAAAAAAAAAAAAAAAAAA")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, ask(guessed), "secret is wrong")
	again := l.mint()
	refused(t, ask(good), "revoked")
	l.must(swarm.RedeemTicket{ID: again.ID(), Hash: again.Hash(), Key: "its key", MACs: []swarm.MAC{mac1}, Node: nodeID, Address: "192.168.42.17:7400"})
	refused(t, ask(again), "redeemed")
}

// Nobody exchanges from an address that is not the machine's own, or with a node of another segment.
func TestInstallingMachineIsLetInFromItsOwnAddressOnly(t *testing.T) {
	t.Parallel()
	l := founded(t)
	l.must(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{{Addr: addr1, MAC: mac1, Class: "os", Expires: time.Now().Add(time.Hour)}}})
	l.mint()
	m, _ := l.state.View().Machine(mac1)
	id := swarm.InstallerID(m.Install)
	view := l.state.View()
	for name, c := range map[string]struct {
		self, id swarm.NodeID
		addr     netip.Addr
		want     bool
	}{
		"its own":             {seedID, id, addr1, true},
		"another address":     {seedID, id, addr1.Next(), false},
		"another arming":      {seedID, swarm.InstallerID("another"), addr1, false},
		"a node not of there": {nodeID, id, addr1, false},
	} {
		if got := nearby(view, c.self, c.id, c.addr); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
