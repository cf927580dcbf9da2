package swarm

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"
)

// Bounds of what the state remembers.
const (
	maxEvents  = 10_000 // the diary of a datacentre's bootstrap; older lines go first
	maxApplied = 4_096  // command ids: far more than can be in flight when a leader is lost
)

// State is the replicated state. Apply and Restore are called from one goroutine; views may be taken from any, at any time.
type State struct {
	db atomic.Pointer[memdb.MemDB]

	mu      sync.Mutex
	changed chan struct{}
}

// NewState returns the state of a swarm that has not been founded.
func NewState() *State {
	s := &State{changed: make(chan struct{})}
	s.db.Store(empty())
	return s
}

func empty() *memdb.MemDB {
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		panic(fmt.Sprintf("swarm: the schema is wrong: %v", err)) // a mistake in this package, found by any test
	}
	return db.Snapshot() // which can be written, and does not spend half of its time on watches that nobody has
}

// Apply carries out one command. A refused command changes nothing but the audit log, and returns its refusal in the result.
func (s *State) Apply(c Command) Result {
	db := s.db.Load()
	tx := newChange(c, db)
	defer func() { tx.txn.Abort() }()
	if first, err := tx.base.txn.First("applied", "id", c.ID); err == nil && first != nil {
		return first.(*applied).Result
	}
	value, err := c.Op.apply(tx)
	result := resultOf(value, err)
	if err != nil {
		tx.txn.Abort()
		tx = newChange(c, db)
		if on, ok := c.Op.(refusalEffect); ok {
			on.refused(tx, err)
		}
	}
	tx.audit(result)
	tx.remember(result)
	tx.flush()
	tx.txn.Commit()
	if tx.loud {
		s.notify()
	}
	return result
}

// refusalEffect is for operations whose refusal itself must leave a trace: a second redeem is an alarm.
type refusalEffect interface {
	refused(tx *change, why error)
}

// Changed returns a channel that is closed at the next change of anything but leases, the diary, the audit log, remembered
// results, and when a machine was last seen. Take it before the view that it is to outdate.
func (s *State) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *State) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// applied remembers the result of a command, so that a retry is answered and not applied.
type applied struct {
	ID     string
	Seq    uint64
	Result Result
}

// counter keeps the numbers that grow: events, applied commands, segments, duty terms.
type counter struct {
	Name  string
	Value uint64
}
