package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"offshoot/node/internal/api"
	"offshoot/node/internal/archive"
	"offshoot/node/internal/peer"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

var _ api.Desk = (*desk)(nil)

// decideTime bounds what an operator waits for one decision.
const decideTime = 15 * time.Second

// Propose writes an operator's decision down.
func (d *desk) Propose(ctx context.Context, actor string, op swarm.Op) (swarm.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	return d.s.replica.proposeAs(ctx, actor, op)
}

// decide writes an operator's decision down, and makes a refusal of the ledger an error.
func (d *desk) decide(ctx context.Context, actor string, op swarm.Op) error {
	result, err := d.Propose(ctx, actor, op)
	if err != nil {
		return err
	}
	if err := result.Err(); err != nil {
		return api.Refused(fmt.Errorf("the swarm refuses: %w", err))
	}
	return nil
}

// Leave hands everything over and stops the node. Leaving is the node's own word, so who asked for it is noted first.
func (d *desk) Leave(ctx context.Context, actor string) error {
	if err := d.s.leaver.check(); err != nil {
		return api.Refused(err)
	}
	if err := d.s.decideAs(ctx, actor, swarm.Note{Kind: "leave", Text: "this node was asked to leave"}); err != nil {
		return err
	}
	return d.s.leave(ctx)
}

// Evict puts a node out for good.
func (d *desk) Evict(ctx context.Context, actor string, id swarm.NodeID, rotateCA bool) (pin string, err error) {
	return d.s.evict(ctx, actor, id, rotateCA)
}

// AddOperator makes an operator's certificate.
func (d *desk) AddOperator(ctx context.Context, actor, name, role string) ([]byte, error) {
	file, err := d.s.addOperator(ctx, actor, name, role)
	if errors.Is(err, peer.ErrRefused) {
		err = api.Refused(err)
	}
	return file, err
}

// PutRepo has a repository mirrored.
func (d *desk) PutRepo(ctx context.Context, actor string, repo swarm.Repo) error {
	_, unreadable := archive.ReadKeyring(repo.Keyring, nil)
	if err := cmp.Or(repo.Check(), unreadable); err != nil {
		return api.Refused(err)
	}
	result, err := d.Propose(ctx, actor, swarm.PutRepo{Repo: repo})
	if err != nil {
		return err
	}
	return result.Err()
}

// Mirror is this node's mirror of package repositories.
func (d *desk) Mirror() status.Mirror {
	m := d.s.repos.picture()
	m.Sets = d.s.sets.picture(d.s.state.View())
	return m
}

// RotateKeys begins to change the gossip key.
func (d *desk) RotateKeys(ctx context.Context, actor string) error { return d.s.rotateKeys(ctx, actor) }

// SaveSnapshot writes the whole state.
func (d *desk) SaveSnapshot(_ context.Context, w io.Writer) error {
	return d.s.replica.ledger.SaveSnapshot(w)
}

// RestoreSnapshot replaces the whole state.
func (d *desk) RestoreSnapshot(ctx context.Context, actor string, r io.Reader) error {
	return d.s.restoreSnapshot(ctx, actor, r)
}

// Leases are the addresses that are spoken for.
func (d *desk) Leases() []status.Lease { return leaseList(d.s.state.View(), time.Now()) }

// Tickets are all tickets.
func (d *desk) Tickets() []status.Ticket { return ticketList(d.s.state.View(), time.Now()) }

// Operators are those who may ask over the network.
func (d *desk) Operators() []status.Operator { return operatorList(d.s.state.View()) }

// Audit is what operators decided, the oldest first.
func (d *desk) Audit() []status.AuditEntry { return auditList(d.s.state.View()) }

// Artifacts are all that the swarm knows of.
func (d *desk) Artifacts() []status.Artifact {
	all := artifactList(d.s.state.View(), d.s.memory.Node, d.s.alive, func(digest string) bool { return d.s.share.Has(share.Digest(digest)) })
	d.s.share.Stats() // counts what has come until now
	fetches := d.s.fetches()
	for i := range all {
		a := &all[i]
		a.Bytes = d.s.freight.of(a.Digest)
		if at := slices.IndexFunc(fetches, func(f status.Fetch) bool { return f.Digest == a.Digest }); at >= 0 {
			a.Fetch = &fetches[at]
		}
	}
	return all
}

func artifactList(view swarm.View, self swarm.NodeID, alive func(swarm.NodeID) bool, here func(digest string) bool) []status.Artifact {
	needs := map[string][]string{}
	for _, p := range view.Profiles() {
		for _, digest := range p.Needs() {
			if !slices.Contains(needs[digest], p.Name) {
				needs[digest] = append(needs[digest], p.Name)
			}
		}
	}
	warm, own := map[string]int{}, string(self) // until it stands in the ledger
	var others []string                         // that are warm
	for _, n := range view.Nodes() {
		if n.ID == self {
			own = n.Name
		}
		if !n.Warm || n.Left || !alive(n.ID) {
			continue
		}
		if n.ID != self {
			others = append(others, n.Name)
		}
		for _, p := range n.Ports {
			if p.Segment != "" {
				warm[p.Segment]++
			}
		}
	}
	out := []status.Artifact{}
	for _, a := range view.Artifacts() {
		line := status.Artifact{
			Digest: a.Digest, Name: a.Name, Size: a.Size, Origin: a.Origin, Verified: a.Verified, InfoHash: a.InfoHash, Profiles: []string{}, Here: here(a.Digest), Pinned: a.Pinned,
			Warm: map[string]int{}, Nodes: []string{},
		}
		if line.Here {
			line.Nodes = append(line.Nodes, own)
		}
		if len(needs[a.Digest]) > 0 {
			line.Profiles, line.Warm = needs[a.Digest], warm
			line.Nodes = append(line.Nodes, others...)
		}
		slices.Sort(line.Nodes)
		out = append(out, line)
	}
	slices.SortFunc(out, func(a, b status.Artifact) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Digest, b.Digest))
	})
	return out
}

// leaseList is one line for each address, reservations that nobody has claimed yet included.
func leaseList(view swarm.View, now time.Time) []status.Lease {
	names := map[swarm.MAC]string{}
	for _, m := range view.Machines() {
		names[m.MAC] = m.Name
	}
	type place struct {
		segment string
		addr    netip.Addr
	}
	kept := map[place]swarm.MAC{}
	for _, r := range view.Reservations() {
		kept[place{r.Segment, r.Addr}] = r.MAC
	}
	out := []status.Lease{}
	for _, l := range view.Leases() {
		at := place{l.Segment, l.Addr}
		line := status.Lease{
			Segment: l.Segment, Address: l.Addr.String(), MAC: string(l.MAC), Name: names[l.MAC], Class: l.Class, Hostname: l.Hostname, Expires: l.Expires,
			State: leaseState(l, now), Reserved: l.MAC != "" && kept[at] == l.MAC,
		}
		if line.Reserved {
			delete(kept, at)
		}
		out = append(out, line)
	}
	for at, mac := range kept { // not used yet, or somebody else still has it
		out = append(out, status.Lease{Segment: at.segment, Address: at.addr.String(), MAC: string(mac), Name: names[mac], State: status.LeaseReserved, Reserved: true})
	}
	return sortLeases(out)
}

func leaseState(l swarm.Lease, now time.Time) string {
	switch {
	case !l.Live(now):
		return status.LeaseExpired
	case l.Class == swarm.LeaseQuarantined:
		return status.LeaseQuarantined
	case l.Class == swarm.LeaseLeft:
		return status.LeaseLeft
	case l.Expires.IsZero():
		return status.LeasePermanent
	}
	return status.LeaseBound
}

// sortLeases puts addresses in the order of their numbers, not of their letters.
func sortLeases(all []status.Lease) []status.Lease {
	number := func(l status.Lease) netip.Addr {
		a, _ := netip.ParseAddr(l.Address) // written by Addr.String
		return a
	}
	slices.SortFunc(all, func(a, b status.Lease) int {
		return cmp.Or(strings.Compare(a.Segment, b.Segment), number(a).Compare(number(b)), strings.Compare(a.State, b.State))
	})
	return all
}

// ticketList is all tickets with the names of their machines and nodes.
func ticketList(view swarm.View, now time.Time) []status.Ticket {
	names := namesOf(view)
	out := []status.Ticket{}
	for _, t := range view.AllTickets() {
		line := status.Ticket{
			ID: t.ID, Machine: string(t.Machine), Segment: t.Segment, Address: t.Addr.String(), State: string(t.State), Expires: t.Expires, Node: names[t.Node],
		}
		if m, ok := view.Machine(t.Machine); ok {
			line.Name = m.Name
		}
		if (t.State == swarm.TicketMinted || t.State == swarm.TicketFetched) && !now.Before(t.Expires) {
			line.State = status.TicketExpired
		}
		out = append(out, line)
	}
	return out
}

func operatorList(view swarm.View) []status.Operator {
	out := []status.Operator{}
	for _, o := range view.Operators() {
		out = append(out, status.Operator{Name: o.Name, Role: o.Role, Serial: o.Serial, NotAfter: o.NotAfter, Revoked: !o.Revoked.IsZero(), Outdated: view.Outdated(o)})
	}
	return out
}

func auditList(view swarm.View) []status.AuditEntry {
	names := namesOf(view)
	out := []status.AuditEntry{}
	for _, e := range view.Audit() {
		out = append(out, status.AuditEntry{Seq: e.Seq, Time: e.Time, Node: names[e.By], Actor: e.Actor, Op: e.Op, Text: e.Text, Refused: e.Refused})
	}
	return out
}
