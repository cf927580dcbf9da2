package gossip

import (
	"errors"

	"github.com/hashicorp/memberlist"
)

// What memberlist puts before a message: the swarm's label, and on a stream its kind and its length. Behind that stands the
// version of the seal, which nothing protects, and memberlist (v0.7.0) believes it: of version 0 it takes padding off, by a
// length that stands in the message's last byte, and falls over if that was never there. So whoever repeats a message of ours
// with another version would end this process. We write version 1 only, and hand nothing else on.
const (
	labelled    = 244 // hasLabelMsg: then come its length and the label
	streamHead  = 5   // encryptMsg, and four bytes of length
	sealVersion = 1
)

// afterLabel is where a message begins behind the label that it may have; -1 if that takes more bytes than there are.
func afterLabel(b []byte) int {
	switch {
	case len(b) == 0:
		return -1
	case b[0] != labelled:
		return 0
	case len(b) < 2:
		return -1
	}
	return 2 + int(b[1])
}

// wellSealed says whether a packet may be handed on.
func wellSealed(packet []byte) bool {
	at := afterLabel(packet)
	return at >= 0 && at < len(packet) && packet[at] == sealVersion
}

var errSeal = errors.New("a message is sealed in a way that is not ours")

// sealCheck looks at the beginning of a stream as it is read.
type sealCheck struct {
	head []byte
	done bool
}

// pass takes the next bytes of the stream, and fails as soon as they show a seal that is not ours.
func (s *sealCheck) pass(b []byte) error {
	if s.done {
		return nil
	}
	s.head = append(s.head, b[:min(len(b), 2+255+streamHead+1-len(s.head))]...)
	at := afterLabel(s.head)
	if at < 0 || at+streamHead >= len(s.head) {
		return nil
	}
	s.done = true
	if s.head[at+streamHead] != sealVersion {
		return errSeal
	}
	s.head = nil
	return nil
}

// PacketCh replaces the one below.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// sift hands on the packets whose seal is ours.
func (t *transport) sift() {
	for {
		select {
		case p := <-t.NodeAwareTransport.PacketCh():
			if p == nil || !wellSealed(p.Buf) {
				continue
			}
			select {
			case t.packets <- p:
			case <-t.closing: // and on, since what is below may wait to be rid of the next one
			}
		case <-t.done:
			return
		}
	}
}
