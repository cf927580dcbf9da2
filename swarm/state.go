package swarm

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/go-memdb"
)

// Bounds of what the state remembers.
const (
	maxEvents  = 10_000 // the diary of a datacentre's bootstrap; older lines go first
	maxApplied = 4_096  // command ids: far more than can be in flight when a leader is lost
)

// State is the replicated state. Apply is called from one goroutine; views may be taken from any, at any time.
type State struct {
	db *memdb.MemDB

	mu      sync.Mutex
	changed chan struct{}
}

// NewState returns the state of a swarm that has not been founded.
func NewState() *State {
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		panic(fmt.Sprintf("swarm: the schema is wrong: %v", err)) // a mistake in this file, found by any test
	}
	return &State{db: db, changed: make(chan struct{})}
}

// Apply carries out one command. A refused command changes nothing and returns its refusal in the result.
func (s *State) Apply(c Command) Result {
	txn := s.db.Txn(true)
	defer txn.Abort()
	if first, err := txn.First("applied", "id", c.ID); err == nil && first != nil {
		return first.(*applied).Result
	}
	tx := &change{Command: c, txn: txn}
	value, err := c.Op.apply(tx)
	result := resultOf(value, err)
	if err != nil {
		txn.Abort()
		txn = s.db.Txn(true)
		tx = &change{Command: c, txn: txn}
		if on, ok := c.Op.(refusalEffect); ok {
			on.refused(tx, err)
		}
	}
	tx.remember(result)
	txn.Commit()
	s.notify()
	return result
}

// refusalEffect is for operations whose refusal itself must leave a trace: a second redeem is an alarm.
type refusalEffect interface {
	refused(tx *change, why error)
}

// Changed returns a channel that is closed at the next change. Take it before the view that it is to outdate.
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

// index is a memdb indexer made of a key function.
type index[T any] func(*T) string

func (f index[T]) FromObject(raw any) (bool, []byte, error) {
	key := f(raw.(*T))
	if key == "" {
		return false, nil, nil
	}
	return true, append([]byte(key), 0), nil
}

func (f index[T]) FromArgs(args ...any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("one key wanted, got %d", len(args))
	}
	key, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("key is a %T, not a string", args[0])
	}
	return append([]byte(key), 0), nil
}

func by[T any](name string, unique bool, key func(*T) string) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: unique, AllowMissing: name != "id", Indexer: index[T](key)}
}

func table(name string, indexes ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
	for _, i := range indexes {
		t.Indexes[i.Name] = i
	}
	return t
}

func number(n uint64) string { return fmt.Sprintf("%020d", n) }

var schema = func() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, t := range []*memdb.TableSchema{
		table("settings", by("id", true, func(*Settings) string { return "settings" })),
		table("machine", by("id", true, func(m *Machine) string { return string(m.MAC) }),
			by("name", true, func(m *Machine) string { return m.Name })),
		table("node", by("id", true, func(n *Node) string { return string(n.ID) })),
		table("segment", by("id", true, func(s *Segment) string { return s.ID })),
		table("lease", by("id", true, func(l *Lease) string { return leaseKey(l.Segment, l.Addr.String()) }),
			by("mac", true, func(l *Lease) string {
				if l.MAC == "" {
					return ""
				}
				return leaseKey(l.Segment, string(l.MAC))
			}),
			by("nonce", true, func(l *Lease) string { return l.Nonce })),
		table("ticket", by("id", true, func(t *Ticket) string { return t.ID }),
			by("machine", false, func(t *Ticket) string { return string(t.Machine) })),
		table("profile", by("id", true, func(p *Profile) string { return p.Name })),
		table("artifact", by("id", true, func(a *Artifact) string { return a.Digest })),
		table("event", by("id", true, func(e *Event) string { return number(e.Seq) }),
			by("mac", false, func(e *Event) string { return string(e.MAC) })),
		table("applied", by("id", true, func(a *applied) string { return a.ID }),
			by("seq", true, func(a *applied) string { return number(a.Seq) })),
		table("counter", by("id", true, func(c *counter) string { return c.Name })),
	} {
		s.Tables[t.Name] = t
	}
	return s
}()

func leaseKey(segment, what string) string { return segment + "|" + what }

// rows lists the tables with a constructor for each, in the order of a snapshot.
var rows = []struct {
	table string
	fresh func() any
}{
	{"settings", func() any { return new(Settings) }}, {"machine", func() any { return new(Machine) }},
	{"node", func() any { return new(Node) }}, {"segment", func() any { return new(Segment) }},
	{"lease", func() any { return new(Lease) }}, {"ticket", func() any { return new(Ticket) }},
	{"profile", func() any { return new(Profile) }}, {"artifact", func() any { return new(Artifact) }},
	{"event", func() any { return new(Event) }}, {"applied", func() any { return new(applied) }},
	{"counter", func() any { return new(counter) }},
}

// snapshotVersion is the first line of a snapshot.
const snapshotVersion = 1

type snapshotRow struct {
	Table string          `json:"t"`
	Row   json.RawMessage `json:"r"`
}

// Snapshot captures the state as it is now; the function it returns writes it, while Apply goes on.
func (s *State) Snapshot() func(w io.Writer) error {
	txn := s.db.Txn(false)
	return func(w io.Writer) error {
		out := json.NewEncoder(w)
		if err := out.Encode(map[string]int{"offshoot_snapshot": snapshotVersion}); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		for _, r := range rows {
			it, err := txn.Get(r.table, "id")
			if err != nil {
				return fmt.Errorf("write snapshot of %s: %w", r.table, err)
			}
			for raw := it.Next(); raw != nil; raw = it.Next() {
				row, err := json.Marshal(raw)
				if err != nil {
					return fmt.Errorf("write snapshot of %s: %w", r.table, err)
				}
				if err := out.Encode(snapshotRow{r.table, row}); err != nil {
					return fmt.Errorf("write snapshot of %s: %w", r.table, err)
				}
			}
		}
		return nil
	}
}

// Restore replaces the whole state by a snapshot. On error the state is what it was.
func (s *State) Restore(r io.Reader) error {
	in := json.NewDecoder(r)
	var head map[string]int
	if err := in.Decode(&head); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if v := head["offshoot_snapshot"]; v != snapshotVersion {
		return fmt.Errorf("read snapshot: version %d, this offshoot reads %d", v, snapshotVersion)
	}
	fresh := map[string]func() any{}
	txn := s.db.Txn(true)
	defer txn.Abort()
	for _, r := range rows {
		fresh[r.table] = r.fresh
		if _, err := txn.DeleteAll(r.table, "id"); err != nil {
			return fmt.Errorf("read snapshot: clear %s: %w", r.table, err)
		}
	}
	for in.More() {
		var row snapshotRow
		if err := in.Decode(&row); err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		blank, ok := fresh[row.Table]
		if !ok {
			return fmt.Errorf("read snapshot: unknown table %q: upgrade this node", row.Table)
		}
		object := blank()
		if err := decodeStrict(row.Row, object); err != nil {
			return fmt.Errorf("read snapshot of %s: %w", row.Table, err)
		}
		if err := txn.Insert(row.Table, object); err != nil {
			return fmt.Errorf("read snapshot of %s: %w", row.Table, err)
		}
	}
	txn.Commit()
	s.notify()
	return nil
}
