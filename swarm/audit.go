package swarm

import (
	"strings"
	"time"
)

// AuditEntry is one thing that an operator asked of the swarm, done or refused.
type AuditEntry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	By      NodeID    `json:"by"`    // the node that was asked, and that vouches for Actor
	Actor   string    `json:"actor"` // who asked, and from where
	Op      string    `json:"op"`    // its name on the wire
	Text    string    `json:"text"`  // what, in words, without secrets
	Refused string    `json:"refused,omitempty"`
}

// Bounds of what is written for people, bytes: whoever writes it may be hostile, and everybody keeps it.
const (
	maxAudit = 10_000 // entries; the oldest go first
	maxActor = 200
	maxText  = 1024
	maxWord  = 200
)

// worded is an operation that operators ask for. It must not say secrets.
type worded interface{ words() string }

// audit writes down what an operator asked for. Commands that nodes decide by themselves leave no entry.
func (c *change) audit(result Result) {
	if c.Actor == "" {
		return
	}
	name := opName(c.Op)
	text := name
	if op, ok := c.Op.(worded); ok {
		text = op.words()
	}
	seq := c.next("audit")
	c.put("audit", &AuditEntry{
		Seq: seq, Time: c.Time, By: c.By, Actor: clip(c.Actor, maxActor), Op: name, Text: clip(text, maxText), Refused: clip(result.Text, maxText),
	})
	if seq > maxAudit {
		c.drop("audit", &AuditEntry{Seq: seq - maxAudit})
	}
}

// clip bounds a text, in bytes, at a character.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}
