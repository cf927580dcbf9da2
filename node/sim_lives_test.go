package node

import (
	"context"
	"time"

	"offshoot/swarm/swarmtest"
)

var _ swarmtest.Nodes = (*simRun)(nil)

// Crash ends the node that ran on a host, without waiting for it.
func (r *simRun) Crash(h *swarmtest.Host) {
	r.life <- struct{}{}
	defer func() { <-r.life }()
	n := r.world.nodeAt(h.Addr())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.core = nil
	if n.stop != nil {
		n.stop()
	}
}

// Start begins the next life. A machine that lost its disk is installed anew: another node at the same address.
func (r *simRun) Start(h *swarmtest.Host, wiped bool) {
	r.life <- struct{}{}
	defer func() { <-r.life }()
	n := r.world.nodeAt(h.Addr())
	n.end()
	if wiped {
		n.mu.Lock()
		n.id += "w"
		n.mu.Unlock()
	}
	h.Restart()
	if err := n.begin(false); err != nil {
		r.world.oracle.report("%s does not start again: %v", n.name, err)
		return
	}
	if wiped {
		r.lives.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), simFaults+simCalm)
			defer cancel()
			r.enlist(ctx, n)
		})
	}
}

// restart does what systemd does for a node that ended by itself, for example because its disk was full at a bad moment.
func (r *simRun) restart(n *simNode, life int) {
	r.lives.Go(func() {
		select {
		case <-time.After(2 * time.Second):
		case <-r.over:
			return
		}
		r.life <- struct{}{}
		defer func() { <-r.life }()
		n.mu.Lock()
		same := n.lives == life && n.core != nil
		n.mu.Unlock()
		if !same {
			return // the whole machine went down meanwhile
		}
		n.host.Crash() // what it held open ends with the process
		n.end()
		n.host.Restart()
		if err := n.begin(false); err != nil {
			r.world.oracle.report("%s does not start again: %v", n.name, err)
		}
	})
}
