package swarm

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/hashicorp/go-memdb"
)

// change is one command being applied: the command, and the transaction that it writes to.
//
// Reading from a transaction that has written is slow: memdb clones the index, and the next write copies its path again.
// What a command has not written itself can be read from base instead, and numbers are counted in memory until flush.
type change struct {
	Command
	txn     *memdb.Txn
	base    View // the state before the command
	numbers map[string]uint64
	loud    bool // something changed that those who wait for State.Changed want to know
}

func newChange(c Command, db *memdb.MemDB) *change {
	return &change{Command: c, txn: db.Txn(true), base: View{db.Txn(false)}, numbers: map[string]uint64{}}
}

// view is the state with what the command has written so far.
func (c *change) view() View { return View{c.txn} }

// flush writes the numbers down. It is the last step.
func (c *change) flush() {
	for name, value := range c.numbers {
		c.write("counter", &counter{Name: name, Value: value})
	}
}

// quiet are the tables whose changes wake nobody: they change with every packet, and nobody decides by them.
var quiet = map[string]bool{"lease": true, "event": true, "audit": true, "applied": true, "counter": true}

// put stores a row, which must be a pointer to one of the table's types. memdb keeps the pointer: callers pass fresh ones.
func (c *change) put(table string, row any) {
	if !quiet[table] && !c.loud {
		c.loud = !reflect.DeepEqual(c.before(table, row), row)
	}
	c.write(table, row)
}

// before is the row that had the same key before the command, nil if there is none.
func (c *change) before(table string, row any) any {
	_, key, err := idOf[table].FromObject(row)
	if err != nil || len(key) == 0 {
		return nil
	}
	old, err := c.base.txn.First(table, "id", string(key[:len(key)-1]))
	if err != nil {
		return nil
	}
	return old
}

// write stores a row and wakes nobody.
func (c *change) write(table string, row any) {
	if err := c.txn.Insert(table, row); err != nil {
		panic(fmt.Sprintf("swarm: insert into %s: %v", table, err)) // a row without its key: a mistake in this package
	}
}

func (c *change) remove(table string, row any) {
	c.loud = c.loud || !quiet[table]
	if err := c.txn.Delete(table, row); err != nil {
		panic(fmt.Sprintf("swarm: delete from %s: %v", table, err))
	}
}

// next counts up.
func (c *change) next(name string) uint64 {
	c.numbers[name] = c.number(name) + 1
	return c.numbers[name]
}

func (c *change) number(name string) uint64 {
	if now, ok := c.numbers[name]; ok {
		return now
	}
	now, _ := get[counter](c.base.txn, "counter", "id", name)
	return now.Value
}

// machineCount is the name of the number of machines.
const machineCount = "machines"

// event writes a line into the diary and forgets the oldest one beyond the bound.
func (c *change) event(mac MAC, kind, format string, args ...any) {
	c.record(false, mac, kind, format, args...)
}

// alarm is an event that someone may have to act on.
func (c *change) alarm(mac MAC, kind, format string, args ...any) {
	c.record(true, mac, kind, format, args...)
}

func (c *change) record(warn bool, mac MAC, kind, format string, args ...any) {
	seq := c.next("event")
	text := clip(fmt.Sprintf(format, args...), maxText)
	c.put("event", &Event{Seq: seq, Time: c.Time, MAC: mac, Node: c.By, Kind: clip(kind, maxWord), Text: text, Warn: warn})
	if seq > maxEvents {
		c.drop("event", &Event{Seq: seq - maxEvents})
	}
}

func (c *change) remember(r Result) {
	seq := c.next("applied")
	c.put("applied", &applied{ID: c.ID, Seq: seq, Result: r})
	if seq <= maxApplied {
		return
	}
	if old, err := c.base.txn.First("applied", "seq", number(seq-maxApplied)); err == nil && old != nil {
		c.drop("applied", old)
	}
}

// drop removes a row that may be gone already, known by its key.
func (c *change) drop(table string, row any) {
	if err := c.txn.Delete(table, row); err != nil && !errors.Is(err, memdb.ErrNotFound) {
		panic(fmt.Sprintf("swarm: drop from %s: %v", table, err))
	}
}

func (c *change) segment(id string) (Segment, error) {
	s, ok := c.view().Segment(id)
	if !ok {
		return s, refuse(ErrNotFound, "segment %s", id)
	}
	return s, nil
}

func (c *change) node(id NodeID) (Node, error) {
	n, ok := c.view().Node(id)
	if !ok {
		return n, refuse(ErrNotFound, "node %s", id)
	}
	return n, nil
}

func (c *change) machine(mac MAC) (Machine, error) {
	m, ok := c.view().Machine(mac)
	if !ok {
		return m, refuse(ErrNotFound, "machine %s", mac)
	}
	return m, nil
}

// onDuty refuses unless the proposer holds duty on the segment.
func (c *change) onDuty(id string) (Segment, error) {
	s, err := c.segment(id)
	if err == nil && s.Duty.Holder != c.By {
		err = refuse(ErrNotHolder, "node %s on segment %s, held by %q in term %d", c.By, id, s.Duty.Holder, s.Duty.Term)
	}
	return s, err
}
