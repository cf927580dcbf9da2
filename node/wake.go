package node

import (
	"context"
	"fmt"

	"offshoot/node/internal/api"
	"offshoot/node/internal/peer"
	"offshoot/node/internal/segment"
	"offshoot/swarm"
)

// Wake has the holder of a machine's segment send it a magic packet.
func (d *desk) Wake(ctx context.Context, actor string, mac swarm.MAC) (on string, err error) {
	view := d.s.state.View()
	m, known := view.Machine(mac)
	if !known || m.Segment == "" {
		return "", api.Refused(fmt.Errorf("machine %s was never seen: nobody knows which segment it is on. Switch it on by hand once", mac))
	}
	s, _ := view.Segment(m.Segment)
	holder, ok := view.Node(s.Duty.Holder)
	if !ok {
		return "", api.Refused(fmt.Errorf("nobody serves segment %s, on which %s was seen", m.Segment, m.Name))
	}
	if err := d.s.decideAs(ctx, actor, swarm.Note{MAC: mac, Kind: "wake", Text: fmt.Sprintf("%s sends a magic packet on segment %s", holder.Name, s.ID)}); err != nil {
		return "", err
	}
	if holder.ID == d.s.memory.Node {
		return s.ID, d.s.service.Wake(ctx, holder.ID, s.ID, mac)
	}
	return s.ID, d.s.client.Wake(ctx, holder.Address, s.ID, mac)
}

// Wake sends a magic packet on a segment that this node serves.
func (s *service) Wake(_ context.Context, from swarm.NodeID, id string, mac swarm.MAC) error {
	view := s.state.View()
	if n, ok := view.Node(from); !ok || !n.Eligible() {
		return fmt.Errorf("%w: node %s is not in good standing", peer.ErrRefused, from)
	}
	self, _ := view.Node(s.self())
	on, ok := self.On(id)
	if !ok {
		return fmt.Errorf("%w: node %s has no port on segment %q", peer.ErrRefused, self.Name, id)
	}
	port, err := portByMAC(on.MAC, on.VLAN)
	if err != nil {
		return err
	}
	return segment.Wake(port, mac)
}
