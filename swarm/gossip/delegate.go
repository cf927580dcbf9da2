package gossip

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/memberlist"

	"offshoot/swarm"
)

// delegate answers memberlist's questions. memberlist calls it from its own goroutines; nothing here may block.
type delegate struct{ g *Gossip }

var _ memberlist.Delegate = (*delegate)(nil)

// NodeMeta is called at the start and by UpdateNode.
func (d *delegate) NodeMeta(limit int) []byte {
	meta := d.g.opt.Meta()
	if len(meta) > min(MaxMeta, limit-sessionSize) {
		// memberlist would panic. To say nothing is wrong as well, but can be seen and mended.
		d.g.log.Warn("this node has too much to say about itself and says nothing", "bytes", len(meta), "most", MaxMeta)
		meta = nil
	}
	return makeMeta(d.g.session, meta)
}

// NotifyMsg is called with what another member broadcasts. It comes from who has the key, which is not yet a reason to
// trust its form.
func (d *delegate) NotifyMsg(b []byte) {
	f, err := parseFarewell(b)
	if err != nil {
		d.g.log.Debug("gossip message ignored", "error", err)
		return
	}
	if f.id != d.g.opt.ID && d.g.table.farewell(f) {
		d.g.queue.QueueBroadcast(f.broadcast()) // pass it on, once
	}
}

// GetBroadcasts is called when there is room in a packet.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState and MergeRemoteState: we exchange nothing beside memberlist's own state.
func (d *delegate) LocalState(bool) []byte        { return nil }
func (d *delegate) MergeRemoteState([]byte, bool) {}

// farewell is broadcast by a node that leaves in good order, so that the others can tell left from dead.
//
//	1 byte   'L'
//	8 bytes  session number, big endian
//	n bytes  node id, 1 to maxID
type farewell struct {
	id      swarm.NodeID
	session uint64
}

const (
	farewellKind = 'L'
	maxID        = 64 // ids are 16 digits; some room for tests and what may come
)

func (f farewell) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{farewellKind}, f.session)
	return append(b, f.id...)
}

func parseFarewell(b []byte) (farewell, error) {
	const head = 1 + sessionSize
	if len(b) <= head || len(b) > head+maxID {
		return farewell{}, fmt.Errorf("message has %d bytes, want %d to %d", len(b), head+1, head+maxID)
	}
	if b[0] != farewellKind {
		return farewell{}, fmt.Errorf("message of kind %q is unknown", b[0])
	}
	return farewell{id: swarm.NodeID(b[head:]), session: binary.BigEndian.Uint64(b[1:])}, nil
}

func (f farewell) broadcast() memberlist.Broadcast { return broadcast(f.encode()) }

type broadcast []byte

// Invalidates: the same news twice are once.
func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(broadcast)
	return ok && bytes.Equal(o, b)
}
func (b broadcast) Message() []byte { return b }
func (b broadcast) Finished()       {}
