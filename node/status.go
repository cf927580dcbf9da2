package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// picture builds the status document from what this node knows: the ledger says what was decided, gossip who is there.
type picture struct {
	*replica
	version string
	sees    func(swarm.NodeID) sight
}

// sight is what gossip knows of a node.
type sight int

const (
	unseen sight = iota // gossip has never heard of it
	seen                // it is there
	lost                // it was there
)

// quorumProof is how old the last proof may be that a majority follows the leader.
const quorumProof = 10 * time.Second

// Status describes the whole swarm.
func (p *picture) Status(context.Context) status.Status {
	view := p.state.View()
	settings, _ := view.Settings()
	s := status.Status{Swarm: settings.Swarm, Pin: settings.Pin, Version: p.version, Time: time.Now(), Problems: []status.Problem{}}
	s.Settings = status.Settings{
		Voters: settings.Voters, UplinkLimit: int64(settings.UplinkLimit), Boot: settings.Loader.String(), StallAfter: settings.StallAfter,
		Unknown: string(settings.UnknownMachines()), ConsoleInstalls: settings.ConsoleInstalls,
		Domain: settings.NameDomain(), DNS: addrTexts(settings.DNS), DNSOff: settings.DNSOff, NTP: addrTexts(settings.NTP),
	}
	names := namesOf(view)
	s.Asked = names[p.self()]
	leader, _, hasLeader := p.ledger.Leader()
	s.Leader = names[leader]
	s.Quorum = hasLeader && p.ledger.LeaderContact() < quorumProof
	roles := p.roles(view, leader)
	for _, n := range view.Nodes() {
		s.Nodes = append(s.Nodes, p.node(view, n, roles))
	}
	for _, seg := range view.Segments() {
		s.Segments = append(s.Segments, segmentStatus(view, seg, names))
	}
	for _, m := range view.Machines() {
		s.Machines = append(s.Machines, machineStatus(view, m))
	}
	s.CA = p.caChange(view)
	s.Problems = append(s.Problems, problems(s)...)
	return s
}

// caChange is how far the replacement of the CA has come, nil if none is under way.
func (p *picture) caChange(view swarm.View) *status.CAChange {
	settings, _ := view.Settings()
	if settings.CAStage == "" {
		return nil
	}
	out := &status.CAChange{Missing: []string{}}
	for _, n := range view.CABehind() {
		out.Missing = append(out.Missing, n.Name)
	}
	for _, n := range view.Nodes() {
		if n.Eligible() {
			out.Nodes++
		}
	}
	out.Know, out.Renewed = out.Nodes, out.Nodes-len(out.Missing)
	if settings.CAStage == swarm.CASpreading {
		out.Know, out.Renewed = out.Renewed, 0
	}
	return out
}

func namesOf(view swarm.View) map[swarm.NodeID]string {
	names := map[swarm.NodeID]string{}
	for _, n := range view.Nodes() {
		names[n.ID] = n.Name
	}
	return names
}

// roles is the part of every node in the ledger. Raft tells followers nothing: they know who leads, and what they are themselves.
func (p *picture) roles(view swarm.View, leader swarm.NodeID) map[swarm.NodeID]string {
	roles, others := map[swarm.NodeID]string{}, status.RoleFollower
	member := p.ledger.Member()
	if !member {
		others = status.RoleUnknown
	}
	for _, n := range view.Nodes() {
		if !n.Left {
			roles[n.ID] = others
		}
	}
	if !member {
		roles[p.self()] = status.RoleFollower
		roles[leader] = status.RoleLeader
		return roles
	}
	for _, m := range p.ledger.Members() {
		switch {
		case m.ID == leader:
			roles[m.ID] = status.RoleLeader
		case m.Voter:
			roles[m.ID] = status.RoleVoter
		default:
			roles[m.ID] = status.RoleLearner
		}
	}
	return roles
}

func (p *picture) node(view swarm.View, n swarm.Node, roles map[swarm.NodeID]string) status.Node {
	out := status.Node{
		ID: string(n.ID), Name: n.Name, MAC: string(n.Machine), Durable: !n.Ephemeral, Warm: n.Warm, Address: n.Address, Version: n.Version,
		Quarantine: n.Quarantine, Ended: n.Ended, Protocol: n.Protocol, Joined: n.Joined, Role: cmp.Or(roles[n.ID], status.RoleNone), Duties: []string{},
	}
	switch sight := p.sees(n.ID); {
	case n.Left:
		out.State = status.NodeLeft
	case sight == unseen && time.Since(n.Joined) < time.Minute:
		out.State = status.NodeJoining
	case sight != seen:
		out.State = status.NodeGone
	default:
		out.State = status.NodeAlive
	}
	for _, s := range view.Segments() {
		if s.Duty.Holder == n.ID {
			out.Duties = append(out.Duties, s.ID)
		}
	}
	return out
}

func segmentStatus(view swarm.View, s swarm.Segment, names map[swarm.NodeID]string) status.Segment {
	out := status.Segment{
		ID: s.ID, Network: s.Network.String(), Holder: names[s.Duty.Holder], Term: s.Duty.Term, Since: s.Duty.Since, Next: names[s.Duty.Next],
		Blocked: s.Blocked, Relay: relayStatus(s), Mode: s.Mode.String(), Beside: s.Beside, Nodes: []string{}, Pools: []string{},
	}
	if s.Mode == swarm.ModeFull {
		for _, pool := range s.Pools() {
			out.Pools = append(out.Pools, pool.String())
		}
	}
	for _, n := range view.Nodes() {
		_, on := n.On(s.ID)
		if _, reached := n.PortFor(s); (on || reached) && !n.Left {
			out.Nodes = append(out.Nodes, n.Name)
		}
	}
	now := time.Now()
	for l := range view.LeasesOn(s.ID) {
		if l.MAC != "" && l.Live(now) {
			out.Leases++
		}
	}
	return out
}

func relayStatus(s swarm.Segment) *status.Relay {
	if !s.Relayed() {
		return nil
	}
	return &status.Relay{There: s.Relay.There.String(), Here: s.Relay.Here.String(), Segment: s.Relay.Segment}
}

func machineStatus(view swarm.View, m swarm.Machine) status.Machine {
	out := status.Machine{
		MAC: string(m.MAC), Name: m.Name, State: string(m.State), Reason: m.Reason, Segment: m.Segment, Profile: m.Profile, Phase: m.Phase, Text: m.Text,
		Percent: m.Percent, Boot: string(m.Loader), Arch: m.Arch, Node: string(m.Node), LastSeen: m.LastSeen, User: m.Remarks.User, Labels: m.Remarks.Labels, OwnDisk: m.Remarks.OwnDisk,
		Heard: m.Life.Heard, Said: m.Life.Said, Stalled: m.Life.Stalled,
	}
	if l, ok := view.LeaseOf(m.Segment, m.MAC); ok {
		out.Address = l.Addr.String()
	}
	if s, ok := view.Segment(m.Segment); ok && s.Foreign() { // its system may have another address than its agent had
		if n, ok := view.Node(m.Node); ok {
			if p, on := n.On(s.ID); on {
				out.Address = p.Address.Addr().String()
			}
		}
	}
	return out
}

// problems is what stands on top: what is wrong, and the next step.
func problems(s status.Status) []status.Problem {
	var out []status.Problem
	add := func(next, format string, args ...any) {
		out = append(out, status.Problem{What: fmt.Sprintf(format, args...), Next: next})
	}
	if !s.Quorum {
		var silent []string
		for _, n := range s.Nodes {
			if (n.Role == "voter" || n.Role == "leader") && n.State != status.NodeAlive {
				silent = append(silent, n.Name)
			}
		}
		add("bring back enough of the voters that are gone; what is bound and cached goes on being served",
			"the swarm cannot decide anything: no majority of the voters answers (silent: %v)", silent)
	}
	for _, seg := range s.Segments {
		switch {
		case seg.Blocked != "":
			add("switch that server off or unplug it; the segment is served again within minutes", "segment %s is not served: %s", seg.ID, seg.Blocked)
		case seg.Beside != "":
			add("switch that server off or unplug it; within minutes addresses are given again. Until then machines start their own disks, and none is installed",
				"segment %s is served by proxy for now: %s", seg.ID, seg.Beside)
		case seg.Holder == "":
			add("bring a node on that segment back", "segment %s is served by nobody", seg.ID)
		default:
			for _, n := range s.Nodes {
				if n.Name == seg.Holder && n.State == status.NodeGone {
					add("another node on the segment takes over within seconds; if there is none, bring it back",
						"%s, which serves segment %s, is gone", n.Name, seg.ID)
				}
			}
		}
	}
	if s.CA != nil {
		for _, n := range s.Nodes {
			if n.State == status.NodeGone && slices.Contains(s.CA.Missing, n.Name) {
				add("bring it back, or put it out: offshoot swarm evict "+n.Name, "the swarm's CA is not replaced yet, because %s is gone", n.Name)
			}
		}
	}
	for _, m := range s.Machines {
		if m.Stalled {
			add(fmt.Sprintf("offshoot machine log %[1]s, offshoot machine why %[1]s, and its console; to begin again: offshoot machine arm %[1]s, and switch it off and on", m.MAC),
				"machine %s is stalled: no progress for %s %s; the last that it said: %s", m.Name, s.Time.Sub(m.Heard).Round(time.Second), whereIs(m), cmp.Or(m.Said, "nothing"))
		}
		if m.State == string(swarm.MachineHeld) {
			add("offshoot machine why "+m.MAC+", then: offshoot machine arm "+m.MAC, "machine %s is held: %s", m.Name, m.Reason)
		}
	}
	for _, n := range s.Nodes {
		if n.Quarantine != "" && n.State != status.NodeLeft {
			add("find out which of the two machines is ours, then arm it again: offshoot machine arm "+n.MAC, "%s is in quarantine: %s", n.Name, n.Quarantine)
		}
	}
	return out
}

// Machine is one machine with its timeline.
func (p *picture) Machine(mac swarm.MAC) (status.Machine, bool) {
	view := p.state.View()
	m, ok := view.Machine(mac)
	if !ok {
		return status.Machine{}, false
	}
	out := machineStatus(view, m)
	if len(m.Inventory) > 0 {
		out.Inventory = new(status.Inventory)
		if json.Unmarshal(m.Inventory, out.Inventory) != nil { // what machines say passed web's own checks
			out.Inventory = nil
		}
	}
	names := namesOf(view)
	for _, e := range view.Events(mac) {
		out.Timeline = append(out.Timeline, status.Event{Time: e.Time, Node: names[e.Node], Kind: e.Kind, Text: e.Text, Warn: e.Warn})
	}
	return out, true
}

// whereIs is how far a machine's installation is.
func whereIs(m status.Machine) string {
	switch {
	case m.Phase == "":
		return "since it fetched its install config"
	case m.Percent > 0:
		return fmt.Sprintf("in phase %s, at %d %%", m.Phase, m.Percent)
	}
	return "in phase " + m.Phase
}

func addrTexts(all []netip.Addr) []string {
	out := []string{}
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}
