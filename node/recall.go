package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// recallTime bounds how long an operator waits for a node that does not answer.
const recallTime = 3 * time.Second

// Why gathers what every reachable node saw of a machine, in order of time.
func (d *desk) Why(ctx context.Context, mac swarm.MAC) []status.Trace {
	all := recall(ctx, d.picture(), func(ctx context.Context, n swarm.Node) ([]status.Trace, error) {
		if n.ID == d.s.memory.Node {
			return d.s.journal.of(mac), nil
		}
		return d.s.client.Traces(ctx, n.Address, mac)
	}, func(t *status.Trace, node string, err error) {
		if t.Node = node; err != nil {
			t.Time, t.What, t.Reason = time.Now(), couldNotAsk, err.Error()
		}
	})
	slices.SortStableFunc(all, func(a, b status.Trace) int { return a.Time.Compare(b.Time) })
	return all
}

// Log gathers the lines that every reachable node heard of a machine by syslog, in order of time. Those of nodes that could not be
// asked come first, without a time.
func (d *desk) Log(ctx context.Context, mac swarm.MAC) []status.LogLine {
	all := recall(ctx, d.picture(), func(ctx context.Context, n swarm.Node) ([]status.LogLine, error) {
		if n.ID == d.s.memory.Node {
			return d.s.hearing.book.Of(mac), nil
		}
		return d.s.client.Log(ctx, n.Address, mac)
	}, func(l *status.LogLine, node string, err error) {
		if l.Node = node; err != nil {
			l.Text = couldNotAsk + ": " + err.Error()
		}
	})
	slices.SortStableFunc(all, func(a, b status.LogLine) int { return a.Time.Compare(b.Time) })
	return all
}

const couldNotAsk = "this node could not be asked"

// recall asks all nodes that gossip sees at the same time what they remember. mark is called for each entry with the name of its
// node, and for a blank one with the error of a node that does not answer.
func recall[T any](ctx context.Context, p *picture, ask func(context.Context, swarm.Node) ([]T, error), mark func(entry *T, node string, err error)) []T {
	ctx, cancel := context.WithTimeout(ctx, recallTime)
	defer cancel()
	var (
		mu  sync.Mutex
		all = []T{}
		wg  sync.WaitGroup
	)
	for _, n := range p.state.View().Nodes() {
		if n.Left || n.ID != p.self() && p.sees(n.ID) != seen {
			continue
		}
		wg.Go(func() {
			entries, err := ask(ctx, n)
			if err != nil {
				entries = make([]T, 1)
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range entries {
				mark(&entries[i], n.Name, err)
			}
			all = append(all, entries...)
		})
	}
	wg.Wait()
	return all
}
