package gossip

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"offshoot/swarm"
)

// State of a member. memberlist does not tell whom it suspects, so there is no such state: a suspect is alive until it
// is dead.
type State string

const (
	Alive State = "alive"
	Left  State = "left" // said goodbye
	Dead  State = "dead" // stopped answering
)

// Member is a node as gossip knows it.
type Member struct {
	ID      swarm.NodeID
	Address netip.AddrPort // gossip's own
	Meta    []byte         // what Options.Meta of that node returned; not to be changed
	State   State
	Since   time.Time // when this node learned of State; a restart counts, even if it went unnoticed
}

// maxGone bounds how many dead and left members are remembered: enough to look back on a datacentre's replacement, and
// about a megabyte at most.
const maxGone = 1024

// table is what memberlist told us, kept longer than memberlist does. Its Notify methods are called by memberlist
// under memberlist's own lock and must not call it.
type table struct {
	self swarm.NodeID
	now  func() time.Time

	mu      sync.Mutex
	rows    map[swarm.NodeID]*row
	hosts   map[netip.Addr]int // rows by address, for knownAt
	changed chan struct{}
}

type row struct {
	Member
	session uint64
	leaving bool // it said goodbye in this session
}

var _ memberlist.EventDelegate = (*table)(nil)

func newTable(self swarm.NodeID, now func() time.Time) *table {
	return &table{self: self, now: now, rows: map[swarm.NodeID]*row{}, hosts: map[netip.Addr]int{}}
}

// NotifyJoin is called for a member that is new, or alive again.
func (t *table) NotifyJoin(n *memberlist.Node) { t.seen(n) }

// NotifyUpdate is called when a member's meta data changed.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.seen(n) }

func (t *table) seen(n *memberlist.Node) {
	session, meta, err := parseMeta(n.Meta)
	if err != nil {
		return // it has the key and the label, but is not one of us: not worth a place in the table
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id := swarm.NodeID(n.Name)
	r, ok := t.rows[id]
	if !ok {
		r = &row{}
		t.rows[id] = r
	} else {
		t.departLocked(r)
	}
	if !ok || r.State != Alive || r.session != session {
		r.Since = t.now()
	}
	if r.session != session {
		r.leaving = false
	}
	r.session = session
	r.Member = Member{ID: id, Address: addressOf(n), Meta: bytes.Clone(meta), State: Alive, Since: r.Since}
	t.hosts[r.Address.Addr()]++
	t.announceLocked()
}

// NotifyLeave is called when a member is declared dead, or has left; memberlist does not say which.
func (t *table) NotifyLeave(n *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.rows[swarm.NodeID(n.Name)]
	if !ok || r.State != Alive {
		return
	}
	r.State, r.Since = Dead, t.now()
	if r.leaving || r.ID == t.self { // we only hear of our own end when we leave
		r.State = Left
	}
	t.forgetLocked()
	t.announceLocked()
}

// farewell notes that a member said goodbye, which may come before or after its end was noticed. It returns whether
// that was news.
func (t *table) farewell(f farewell) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.rows[f.id]
	if !ok || r.session != f.session || r.leaving {
		return false
	}
	r.leaving = true
	if r.State == Dead {
		r.State = Left
		t.announceLocked()
	}
	return true
}

// forgetLocked drops those who are longest gone if there are too many.
func (t *table) forgetLocked() {
	var gone []*row
	for _, r := range t.rows {
		if r.State != Alive {
			gone = append(gone, r)
		}
	}
	if len(gone) <= maxGone {
		return
	}
	oldest := slices.MinFunc(gone, func(a, b *row) int { return a.Since.Compare(b.Since) })
	t.departLocked(oldest)
	delete(t.rows, oldest.ID)
}

// departLocked takes a row's address out of hosts.
func (t *table) departLocked(r *row) {
	host := r.Address.Addr()
	if t.hosts[host]--; t.hosts[host] <= 0 {
		delete(t.hosts, host)
	}
}

func (t *table) list() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	members := make([]Member, 0, len(t.rows))
	for _, r := range t.rows {
		members = append(members, r.Member)
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return members
}

func (t *table) get(id swarm.NodeID) (Member, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.rows[id]
	if !ok {
		return Member{}, false
	}
	return r.Member, true
}

func (t *table) alive() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, r := range t.rows {
		if r.State == Alive {
			n++
		}
	}
	return n
}

// missing are the addresses, of seeds and of dead members, at which nobody alive is known. Those who left are not
// missed, unless they are seeds.
func (t *table) missing(seeds []string, own string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := slices.Clone(seeds)
	here := map[string]bool{own: true}
	for _, r := range t.rows {
		switch r.State {
		case Alive:
			here[r.Address.String()] = true
		case Dead:
			wanted = append(wanted, r.Address.String())
		}
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	return slices.DeleteFunc(wanted, func(a string) bool { return here[a] })
}

// knownAt says whether a member, living or not, is or was last at this address.
func (t *table) knownAt(a netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hosts[a] > 0
}

func (t *table) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

func (t *table) announce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.announceLocked()
}

func (t *table) announceLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

func addressOf(n *memberlist.Node) netip.AddrPort {
	a, _ := netip.AddrFromSlice(n.Addr) // the zero address if it is none
	return netip.AddrPortFrom(a.Unmap(), n.Port)
}

// Meta data on the wire: 8 bytes session number (big endian), then what the node says about itself. The session tells
// a node from its own former life.
const sessionSize = 8

func makeMeta(session uint64, meta []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, sessionSize+len(meta)), session), meta...)
}

func parseMeta(b []byte) (session uint64, meta []byte, err error) {
	if len(b) < sessionSize {
		return 0, nil, fmt.Errorf("meta data has %d bytes, want at least %d", len(b), sessionSize)
	}
	return binary.BigEndian.Uint64(b), b[sessionSize:], nil
}
