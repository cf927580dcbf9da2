package swarm

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/hashicorp/go-memdb"
)

// View is the state as it was at one moment. It is cheap, never changes, and may be used from any goroutine.
type View struct{ txn *memdb.Txn }

// View takes one.
func (s *State) View() View { return View{s.db.Load().Txn(false)} }

func get[T any](txn *memdb.Txn, table, index, key string) (T, bool) {
	raw, err := txn.First(table, index, key)
	if err != nil || raw == nil { // an error would be a wrong table name: a mistake in this package, found by any test
		var zero T
		return zero, false
	}
	return *raw.(*T), true
}

// each goes through rows where they are: they must not be changed.
func each[T any](txn *memdb.Txn, table, index string, keys ...any) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		it, err := txn.Get(table, index, keys...)
		if err != nil { // a mistake in this package as well
			return
		}
		for raw := it.Next(); raw != nil && yield(raw.(*T)); raw = it.Next() {
		}
	}
}

func list[T any](txn *memdb.Txn, table, index string, keys ...any) []T {
	var out []T
	for row := range each[T](txn, table, index, keys...) {
		out = append(out, *row)
	}
	return out
}

// Settings returns the swarm's settings; ok is false before Found.
func (v View) Settings() (s Settings, ok bool) {
	return get[Settings](v.txn, "settings", "id", "settings")
}

// Protocol is what every node understands: the least that a node reports which has neither left nor ended, 1 at least.
func (v View) Protocol() int {
	least := 0
	for n := range each[Node](v.txn, "node", "id") {
		if spoken := max(n.Protocol, 1); !n.Left && n.Ended == "" && (least == 0 || spoken < least) {
			least = spoken
		}
	}
	return max(least, 1)
}

// Node finds a node by id.
func (v View) Node(id NodeID) (Node, bool) { return get[Node](v.txn, "node", "id", string(id)) }

// Nodes lists all nodes, the oldest first.
func (v View) Nodes() []Node {
	all := list[Node](v.txn, "node", "id")
	slices.SortStableFunc(all, func(a, b Node) int { return a.Joined.Compare(b.Joined) })
	return all
}

// Segment finds a segment by id.
func (v View) Segment(id string) (Segment, bool) { return get[Segment](v.txn, "segment", "id", id) }

// Segments lists all segments.
func (v View) Segments() []Segment { return list[Segment](v.txn, "segment", "id") }

// Machine finds a machine by MAC.
func (v View) Machine(mac MAC) (Machine, bool) {
	return get[Machine](v.txn, "machine", "id", string(mac))
}

// Machines lists all machines by MAC.
func (v View) Machines() []Machine { return list[Machine](v.txn, "machine", "id") }

// Lease finds who an address of a segment is bound to.
func (v View) Lease(segment string, addr netip.Addr) (Lease, bool) {
	return get[Lease](v.txn, "lease", "id", addrKey(segment, addr))
}

// LeaseOf finds the binding of a machine on a segment.
func (v View) LeaseOf(segment string, mac MAC) (Lease, bool) {
	return get[Lease](v.txn, "lease", "mac", macKey(segment, mac))
}

// LeaseByNonce finds the binding that a boot nonce was given to.
func (v View) LeaseByNonce(nonce string) (Lease, bool) {
	if nonce == "" {
		return Lease{}, false
	}
	return get[Lease](v.txn, "lease", "nonce", nonce)
}

// Leases lists all bindings.
func (v View) Leases() []Lease { return list[Lease](v.txn, "lease", "id") }

// LeasesOn goes through the bindings of one segment, those that are over included, without copying them all.
func (v View) LeasesOn(segment string) iter.Seq[Lease] {
	return func(yield func(Lease) bool) {
		for l := range each[Lease](v.txn, "lease", "id_prefix", leasePrefix(segment)) {
			if !yield(*l) {
				return
			}
		}
	}
}

// ReservedFor finds who an address of a segment is reserved for.
func (v View) ReservedFor(segment string, addr netip.Addr) (Reservation, bool) {
	return get[Reservation](v.txn, "reservation", "id", addrKey(segment, addr))
}

// ReservationOf finds the address that is reserved for a machine on a segment.
func (v View) ReservationOf(segment string, mac MAC) (Reservation, bool) {
	return get[Reservation](v.txn, "reservation", "mac", macKey(segment, mac))
}

// Reservations lists all reservations.
func (v View) Reservations() []Reservation { return list[Reservation](v.txn, "reservation", "id") }

// Operator finds an operator by name, revoked ones as well.
func (v View) Operator(name string) (Operator, bool) {
	return get[Operator](v.txn, "operator", "id", name)
}

// Operators lists all operators by name, revoked ones as well.
func (v View) Operators() []Operator { return list[Operator](v.txn, "operator", "id") }

// Audit lists what operators asked for, the oldest first.
func (v View) Audit() []AuditEntry { return list[AuditEntry](v.txn, "audit", "id") }

// AllTickets lists the tickets of all machines, the oldest first.
func (v View) AllTickets() []Ticket {
	all := list[Ticket](v.txn, "ticket", "id")
	slices.SortStableFunc(all, func(a, b Ticket) int { return a.Minted.Compare(b.Minted) })
	return all
}

// Ticket finds a ticket by id.
func (v View) Ticket(id string) (Ticket, bool) { return get[Ticket](v.txn, "ticket", "id", id) }

// Tickets lists the tickets of a machine.
func (v View) Tickets(mac MAC) []Ticket { return list[Ticket](v.txn, "ticket", "machine", string(mac)) }

// Profile finds a profile by name.
func (v View) Profile(name string) (Profile, bool) { return get[Profile](v.txn, "profile", "id", name) }

// Profiles lists all profiles.
func (v View) Profiles() []Profile { return list[Profile](v.txn, "profile", "id") }

// Artifact finds an artifact by digest.
func (v View) Artifact(digest string) (Artifact, bool) {
	return get[Artifact](v.txn, "artifact", "id", digest)
}

// Artifacts lists all artifacts.
func (v View) Artifacts() []Artifact { return list[Artifact](v.txn, "artifact", "id") }

// Events lists the timeline of a machine, or of everything for the empty MAC, the oldest first.
func (v View) Events(mac MAC) []Event {
	if mac == "" {
		return list[Event](v.txn, "event", "id")
	}
	all := list[Event](v.txn, "event", "mac", string(mac))
	slices.SortFunc(all, func(a, b Event) int { return int(a.Seq) - int(b.Seq) })
	return all
}

// PinnedArtifacts are the digests of those that no node throws away.
func (v View) PinnedArtifacts() (out []string) {
	for _, a := range v.Artifacts() {
		if a.Pinned {
			out = append(out, a.Digest)
		}
	}
	return out
}

// Needs lists the digests that every node must hold to be warm: those of all profiles.
func (v View) Needs() []string {
	var out []string
	for _, p := range v.Profiles() {
		for _, d := range p.Needs() {
			if d != "" && !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	return out
}
