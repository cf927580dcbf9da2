package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// monitor speaks QMP, QEMU's machine protocol (qemu/docs/interop/qmp-spec), over the standard input and output of the
// process: no socket whose path could be too long or that anyone else could reach.
type monitor struct {
	out   io.WriteCloser
	log   *slog.Logger
	ready chan struct{} // closed on the greeting
	gone  chan struct{} // closed when QEMU closes its side

	mu      sync.Mutex
	next    int
	waiting map[int]chan qmpReply
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

type qmpReply struct {
	Greeting *json.RawMessage `json:"QMP"`
	Event    string           `json:"event"`
	ID       int              `json:"id"`
	Return   *json.RawMessage `json:"return"`
	Error    *qmpError        `json:"error"`
}

var errMachineOff = errors.New("machine is off")

func newMonitor(in io.Reader, out io.WriteCloser, log *slog.Logger) *monitor {
	m := &monitor{out: out, log: log, ready: make(chan struct{}), gone: make(chan struct{}), waiting: map[int]chan qmpReply{}}
	go m.read(in)
	return m
}

// read ends when QEMU does, since QEMU holds the other end of in.
func (m *monitor) read(in io.Reader) {
	defer close(m.gone)
	dec := json.NewDecoder(in)
	greeted := false
	for {
		var r qmpReply
		if err := dec.Decode(&r); err != nil {
			return
		}
		switch {
		case r.Greeting != nil && !greeted:
			greeted = true
			close(m.ready)
		case r.Event != "":
			m.log.Debug("machine event", "event", r.Event)
		case r.Return != nil || r.Error != nil:
			m.mu.Lock()
			answer := m.waiting[r.ID]
			delete(m.waiting, r.ID)
			m.mu.Unlock()
			if answer != nil {
				answer <- r // buffered
			}
		}
	}
}

// handshake waits for QEMU to answer and leaves the protocol's negotiation mode.
func (m *monitor) handshake(ctx context.Context) error {
	select {
	case <-m.ready:
		return m.execute(ctx, "qmp_capabilities", nil)
	case <-m.gone:
		return errMachineOff
	case <-ctx.Done():
		return fmt.Errorf("wait for QEMU: %w", ctx.Err())
	}
}

// execute runs one command to its end. args may be nil.
func (m *monitor) execute(ctx context.Context, command string, args any) error {
	m.mu.Lock()
	m.next++
	id, answer := m.next, make(chan qmpReply, 1)
	m.waiting[id] = answer
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, args, id})
	if err == nil {
		// Under the lock, so that two commands are not mixed. The pipe takes a line at once: QEMU reads it while it lives.
		_, err = m.out.Write(append(line, '\n'))
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case r := <-answer:
		if r.Error != nil {
			return fmt.Errorf("qmp %s: %s: %s", command, r.Error.Class, r.Error.Desc)
		}
		return nil
	case <-m.gone:
		return fmt.Errorf("qmp %s: %w", command, errMachineOff)
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, ctx.Err())
	}
}
