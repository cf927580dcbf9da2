package ledger

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"offshoot/swarm"
)

// A feed is feedMagic, then frames without end. A frame is one byte that says what it is, four bytes of length, and so
// many bytes; numbers are big endian.
//
//	'S'  part of a snapshot: 1 to partBytes bytes of what snapshot.writeTo wrote
//	'E'  end of the snapshot: 8 bytes of its size. Between the first part and the end nothing else comes.
//	'C'  a command: 8 bytes index of the one before it, 8 bytes its own index, the command
//	'B'  a beat: 8 bytes index up to which the reader has everything, 8 bytes age of the word about the leader in
//	     nanoseconds, then id and address of the leader and of the node that feeds, each with 2 bytes of length in front
const (
	feedMagic    = "OFFFEED1"
	framePart    = 'S'
	frameEnd     = 'E'
	frameCommand = 'C'
	frameBeat    = 'B'

	partBytes = 64 << 10
	wordBytes = 300 // of an id or an address; a DNS name has at most 253
	beatBytes = 8 + 8 + 4*(2+wordBytes)
)

// beat says that a feed lives, and who leads.
type beat struct {
	applied uint64
	age     time.Duration // since the source heard of the leader from raft; 0 if there is none
	leader  peer          // nobody if the source knows none
	source  peer
}

// peer is a node and where it can be asked.
type peer struct {
	ID      swarm.NodeID
	Address string
}

// frame is what a decoder returns: one of them is set.
type frame struct {
	part     bool   // of a snapshot that is not complete yet
	snapshot []byte // whole
	command  *command
	beat     *beat
}

func appendFrame(to []byte, kind byte, size int) []byte {
	return binary.BigEndian.AppendUint32(append(to, kind), uint32(size))
}

func appendPart(to, part []byte) []byte {
	return append(appendFrame(to, framePart, len(part)), part...)
}

func appendEnd(to []byte, size int) []byte {
	return binary.BigEndian.AppendUint64(appendFrame(to, frameEnd, 8), uint64(size))
}

func appendCommand(to []byte, c command) []byte {
	to = appendFrame(to, frameCommand, 16+len(c.data))
	to = binary.BigEndian.AppendUint64(to, c.prev)
	to = binary.BigEndian.AppendUint64(to, c.index)
	return append(to, c.data...)
}

func appendBeat(to []byte, b beat) []byte {
	words := []string{string(b.leader.ID), b.leader.Address, string(b.source.ID), b.source.Address}
	size := 16
	for i, w := range words {
		words[i] = w[:min(len(w), wordBytes)] // longer ones do not exist: see the constant
		size += 2 + len(words[i])
	}
	to = appendFrame(to, frameBeat, size)
	to = binary.BigEndian.AppendUint64(to, b.applied)
	to = binary.BigEndian.AppendUint64(to, uint64(max(b.age, 0)))
	for _, w := range words {
		to = binary.BigEndian.AppendUint16(to, uint16(len(w)))
		to = append(to, w...)
	}
	return to
}

// feedDecoder reads a feed. It believes no length: memory grows with what has really arrived.
type feedDecoder struct {
	r        *bufio.Reader
	begun    bool
	snapshot []byte // parts so far; nil between snapshots
}

func newFeedDecoder(r io.Reader) *feedDecoder {
	return &feedDecoder{r: bufio.NewReaderSize(r, partBytes)}
}

// next returns the next frame. io.EOF means that the feed ended between two frames; every other error that it is damaged
// or broke off. After an error there is nothing more to read.
func (d *feedDecoder) next() (frame, error) {
	if !d.begun {
		magic := make([]byte, len(feedMagic))
		if _, err := io.ReadFull(d.r, magic); err != nil {
			return frame{}, err
		}
		if string(magic) != feedMagic {
			return frame{}, fmt.Errorf("%w: it begins with %q", ErrFormat, magic)
		}
		d.begun = true
	}
	head := make([]byte, 5)
	if _, err := io.ReadFull(d.r, head); err != nil {
		if err == io.EOF && d.snapshot != nil {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	kind, size := head[0], binary.BigEndian.Uint32(head[1:])
	if err := d.allowed(kind, size); err != nil {
		return frame{}, err
	}
	body := make([]byte, size) // at most a command: allowed has seen to it
	if _, err := io.ReadFull(d.r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return d.decode(kind, body)
}

// allowed checks a frame's head before memory is taken for its body.
func (d *feedDecoder) allowed(kind byte, size uint32) error {
	least, most := uint32(1), uint32(partBytes)
	switch kind {
	case framePart:
	case frameEnd:
		least, most = 8, 8
	case frameCommand:
		least, most = 16, 16+MaxCommand
	case frameBeat:
		least, most = 24, beatBytes
	default:
		return fmt.Errorf("%w: frame of unknown kind %q", ErrFormat, kind)
	}
	if size < least || size > most {
		return fmt.Errorf("%w: frame %q of %d bytes, want %d to %d", ErrFormat, kind, size, least, most)
	}
	if inside := kind == framePart || kind == frameEnd; d.snapshot != nil && !inside {
		return fmt.Errorf("%w: frame %q inside a snapshot", ErrFormat, kind)
	}
	return nil
}

func (d *feedDecoder) decode(kind byte, body []byte) (frame, error) {
	switch kind {
	case framePart:
		if len(d.snapshot)+len(body) > MaxSnapshot {
			return frame{}, fmt.Errorf("%w: snapshot of more than %d bytes", ErrTooLarge, MaxSnapshot)
		}
		d.snapshot = append(d.snapshot, body...)
		return frame{part: true}, nil
	case frameEnd:
		if size := binary.BigEndian.Uint64(body); d.snapshot == nil || size != uint64(len(d.snapshot)) {
			return frame{}, fmt.Errorf("%w: snapshot of %d bytes ends after %d", ErrFormat, size, len(d.snapshot))
		}
		whole := d.snapshot
		d.snapshot = nil
		return frame{snapshot: whole}, nil
	case frameCommand:
		c := command{prev: binary.BigEndian.Uint64(body), index: binary.BigEndian.Uint64(body[8:]), data: body[16:]}
		if c.prev >= c.index {
			return frame{}, fmt.Errorf("%w: command at %d is said to follow the one at %d", ErrFormat, c.index, c.prev)
		}
		return frame{command: &c}, nil
	default:
		b, err := decodeBeat(body)
		return frame{beat: b}, err
	}
}

func decodeBeat(body []byte) (*beat, error) {
	age := binary.BigEndian.Uint64(body[8:])
	if age > math.MaxInt64 {
		return nil, fmt.Errorf("%w: beat with an impossible age", ErrFormat)
	}
	b := &beat{applied: binary.BigEndian.Uint64(body), age: time.Duration(age)}
	rest := body[16:]
	words := make([]string, 4)
	for i := range words {
		if len(rest) < 2 {
			return nil, fmt.Errorf("%w: beat is too short", ErrFormat)
		}
		size := int(binary.BigEndian.Uint16(rest))
		if size > wordBytes || size > len(rest)-2 {
			return nil, fmt.Errorf("%w: beat with a word of %d bytes", ErrFormat, size)
		}
		words[i], rest = string(rest[2:2+size]), rest[2+size:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: beat with %d bytes too many", ErrFormat, len(rest))
	}
	b.leader = peer{swarm.NodeID(words[0]), words[1]}
	b.source = peer{swarm.NodeID(words[2]), words[3]}
	if (b.leader.ID == "") != (b.leader.Address == "") || b.source.ID == "" || b.source.Address == "" {
		return nil, errors.Join(ErrFormat, errors.New("beat names a node by half"))
	}
	if b.leader.ID == "" && b.age != 0 {
		return nil, fmt.Errorf("%w: beat with an age of nobody", ErrFormat)
	}
	return b, nil
}
