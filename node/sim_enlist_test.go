package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"offshoot/swarm"
)

// foundSwarm brings up the founder, which is a seed, and four installed nodes, until three of them vote.
func (r *simRun) foundSwarm(ctx context.Context) {
	w := r.world
	for i, n := range w.nodes {
		if err := n.begin(i == 0); err != nil {
			w.oracle.report("%s does not start: %v", n.name, err)
			return
		}
	}
	first := w.nodes[0]
	found := swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Voters: 3, Profile: "p", GossipKeys: []string{w.key.Encode()}, AutoApprove: true},
		Node:     swarm.Node{ID: first.id, Name: first.name, Ephemeral: true, Address: first.host.Address(simPeer), Ports: []swarm.Port{first.port}, Warm: true},
		Network:  netip.MustParsePrefix(simNetwork), Profile: &swarm.Profile{Name: "p", Driver: "image"},
	}
	decide := func(op swarm.Op) {
		if err := first.running().replica.decide(ctx, op); err != nil {
			w.oracle.report("%T: %v", op, err)
		}
	}
	decide(found)
	// Ten clients share six addresses, so that addresses change hands.
	decide(swarm.SetPools{Segment: "s1", Pools: []swarm.AddrRange{{First: netip.MustParseAddr("10.42.0.20"), Last: netip.MustParseAddr("10.42.0.22")}, {First: netip.MustParseAddr("10.42.0.30"), Last: netip.MustParseAddr("10.42.0.32")}}})
	for _, n := range w.nodes[1:] {
		r.enlist(ctx, n)
	}
	r.until("three durable nodes vote and one of them holds the duty", time.Minute, func() bool {
		c := w.leader()
		if c == nil {
			return false
		}
		s, _ := c.replica.state.View().Segment("s1")
		return voters(c) == 3 && c.id != first.id && s.Duty.Holder != first.id
	})
}

func voters(c *core) int {
	count := 0
	for _, m := range c.replica.ledger.Members() {
		if m.Voter {
			count++
		}
	}
	return count
}

// enlist makes a machine a node: armed and given a ticket by whoever leads, which it redeems once.
func (r *simRun) enlist(ctx context.Context, n *simNode) {
	w := r.world
	ticket := fmt.Sprintf("ticket-%s-%s", n.name, n.id)
	step := func(op swarm.Op) bool {
		for ctx.Err() == nil {
			if c := w.leader(); c != nil {
				bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
				result, err := c.replica.propose(bounded, op)
				cancel()
				if err == nil {
					if result.Err() != nil {
						w.log.Info("enlisting", "op", fmt.Sprintf("%T", op), "refused", result.Err())
					}
					return result.Err() == nil
				}
			}
			<-time.After(200 * time.Millisecond)
		}
		return false
	}
	step(swarm.SeeMachine{MAC: n.port.MAC, Segment: "s1"})
	step(swarm.ArmMachine{MAC: n.port.MAC, Profile: "p"})
	step(swarm.MintTicket{ID: ticket, Hash: "hash", MAC: n.port.MAC, Segment: "s1", Addr: n.port.Address.Addr(), Expires: n.host.Wall().Add(48 * time.Hour)})
	for ctx.Err() == nil {
		asked := time.Now()
		if node, ok := r.redeem(ctx, n, ticket, n.nodeID()); ok {
			w.oracle.redeemed(ticket, node)
			w.oracle.history.add(claim{what: ticket, who: string(n.nodeID()), verb: take}, asked, time.Now())
			r.steal(ctx, n, ticket)
			return
		}
		<-time.After(300 * time.Millisecond)
	}
}

// redeem asks every node in turn, as a machine does.
func (r *simRun) redeem(ctx context.Context, n *simNode, ticket string, as swarm.NodeID) (swarm.NodeID, bool) {
	op := swarm.RedeemTicket{ID: ticket, Hash: "hash", Key: "key of " + string(as), MACs: []swarm.MAC{n.port.MAC}, Node: as, Address: n.host.Address(simPeer)}
	for _, other := range r.world.nodes {
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		answer, err := n.host.Call(bounded, other.host.Address(simPeer), simRedeem{op})
		cancel()
		if err != nil {
			continue
		}
		result := answer.(swarm.Result)
		var node swarm.Node
		if err := result.Decode(&node); err == nil {
			return node.ID, true
		}
	}
	return "", false
}

// steal shows a redeemed ticket again with another key, under whatever faults there are. The thief must be refused; an
// operator then trusts the node that was put into quarantine for it.
func (r *simRun) steal(ctx context.Context, n *simNode, ticket string) {
	if !strings.HasSuffix(string(n.nodeID()), "w") {
		return // the founding of the swarm is quick
	}
	thief := swarm.NodeID("thief of " + n.name)
	op := swarm.RedeemTicket{ID: ticket, Hash: "hash", Key: "key of a thief", MACs: []swarm.MAC{n.port.MAC}, Node: thief, Address: n.host.Address(simPeer)}
	for _, other := range r.world.nodes {
		asked := time.Now()
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		answer, err := n.host.Call(bounded, other.host.Address(simPeer), simRedeem{op})
		cancel()
		if err != nil {
			continue
		}
		result := answer.(swarm.Result)
		switch {
		case result.Err() == nil:
			r.world.oracle.redeemed(ticket, thief)
		case errors.Is(result.Err(), swarm.ErrTicketUsed):
			r.world.oracle.history.add(claim{what: ticket, who: string(thief), verb: denied}, asked, time.Now())
		}
		break
	}
	for ctx.Err() == nil {
		c := r.world.leader()
		if c == nil {
			<-time.After(200 * time.Millisecond)
			continue
		}
		if node, ok := c.replica.state.View().Node(n.nodeID()); ok && node.Quarantine == "" {
			return
		}
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		_ = c.replica.decide(bounded, swarm.TrustNode{Node: n.nodeID()}) // asked again until it is so
		cancel()
	}
}
