package swarm

import (
	"fmt"

	"github.com/hashicorp/go-memdb"
)

// change is one command being applied: the command, and the transaction that it writes to.
type change struct {
	Command
	txn *memdb.Txn
}

func (c *change) view() View { return View{c.txn} }

// put stores a row, which must be a pointer to one of the table's types. memdb keeps the pointer: callers pass fresh ones.
func (c *change) put(table string, row any) {
	if err := c.txn.Insert(table, row); err != nil {
		panic(fmt.Sprintf("swarm: insert into %s: %v", table, err)) // a row without its key: a mistake in this package
	}
}

func (c *change) remove(table string, row any) {
	if err := c.txn.Delete(table, row); err != nil {
		panic(fmt.Sprintf("swarm: delete from %s: %v", table, err))
	}
}

// next counts up.
func (c *change) next(name string) uint64 {
	now, _ := get[counter](c.txn, "counter", "id", name)
	c.put("counter", &counter{Name: name, Value: now.Value + 1})
	return now.Value + 1
}

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
	c.put("event", &Event{Seq: seq, Time: c.Time, MAC: mac, Node: c.By, Kind: kind, Text: fmt.Sprintf(format, args...), Warn: warn})
	if seq > maxEvents {
		c.drop("event", "id", number(seq-maxEvents))
	}
}

func (c *change) remember(r Result) {
	seq := c.next("applied")
	c.put("applied", &applied{ID: c.ID, Seq: seq, Result: r})
	if seq > maxApplied {
		c.drop("applied", "seq", number(seq-maxApplied))
	}
}

func (c *change) drop(table, index, key string) {
	if old, err := c.txn.First(table, index, key); err == nil && old != nil {
		c.remove(table, old)
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
