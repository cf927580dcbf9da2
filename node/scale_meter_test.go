package node

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// What goes in and out at a node.
const (
	replicating = iota
	feeding
	gossiping
	calling
)

var kinds = [...]string{replicating: "raft", feeding: "feeds", gossiping: "gossip", calling: "calls"}

type traffic struct{ bytes, count [len(kinds)]atomic.Int64 }

type reading struct{ bytes, count [len(kinds)]int64 }

func (t *traffic) read() (r reading) {
	for i := range kinds {
		r.bytes[i], r.count[i] = t.bytes[i].Load(), t.count[i].Load()
	}
	return r
}

// count notes what travels between this node and an address, at both.
func (n *scaleNode) count(address string, kind, bytes int) {
	for _, at := range []*scaleNode{n, n.swarm.byHost[hostOf(address)]} {
		if at != nil {
			at.traffic.bytes[kind].Add(int64(bytes))
			at.traffic.count[kind].Add(1)
		}
	}
}

// metered counts both directions of a connection at the side that dialed.
func (n *scaleNode) metered(conn net.Conn, address string, kind int) net.Conn {
	return &meteredConn{conn, func(bytes int) { n.count(address, kind, bytes) }}
}

type meteredConn struct {
	net.Conn
	count func(bytes int)
}

func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.count(n)
	return n, err
}

func (c *meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.count(n)
	return n, err
}

// meteredGossip counts datagrams and streams at the side that sends or dials.
type meteredGossip struct {
	memberlist.NodeAwareTransport
	node *scaleNode
}

func (g *meteredGossip) WriteTo(b []byte, to string) (time.Time, error) {
	g.node.count(to, gossiping, len(b))
	return g.NodeAwareTransport.WriteTo(b, to)
}

func (g *meteredGossip) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	g.node.count(to.Addr, gossiping, len(b))
	return g.NodeAwareTransport.WriteToAddress(b, to)
}

func (g *meteredGossip) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	conn, err := g.NodeAwareTransport.DialTimeout(to, timeout)
	if err != nil {
		return nil, err
	}
	return g.node.metered(conn, to, gossiping), nil
}

func (g *meteredGossip) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(to.Addr, timeout)
}

// cpuProfile is what runtime/pprof wrote, as far as it matters here: how long which labels were seen.
// https://github.com/google/pprof/blob/main/proto/profile.proto
type cpuProfile struct {
	samples []cpuSample
	strings []string
}

type cpuSample struct {
	nanoseconds uint64
	labels      [][2]uint64 // key and value, by their places in strings
}

func readProfile(r io.Reader) (*cpuProfile, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	p := &cpuProfile{}
	err = eachField(data, func(field int, value uint64, bytes []byte) error {
		switch field {
		case 2:
			s, err := readSample(bytes)
			p.samples = append(p.samples, s)
			return err
		case 6:
			p.strings = append(p.strings, string(bytes))
		}
		return nil
	})
	return p, err
}

func readSample(data []byte) (s cpuSample, err error) {
	err = eachField(data, func(field int, value uint64, bytes []byte) error {
		switch field {
		case 2: // twice: how often, then how long
			s.nanoseconds = value
		case 3:
			var label [2]uint64
			s.labels = append(s.labels, label)
			return eachField(bytes, func(field int, value uint64, _ []byte) error {
				if field == 1 || field == 2 {
					s.labels[len(s.labels)-1][field-1] = value
				}
				return nil
			})
		}
		return nil
	})
	return s, err
}

// eachField walks over a message of protocol buffers that has only numbers and bytes.
func eachField(data []byte, visit func(field int, value uint64, bytes []byte) error) error {
	for len(data) > 0 {
		key, n := binary.Uvarint(data)
		value, m := binary.Uvarint(data[max(n, 0):])
		if n <= 0 || m <= 0 {
			return errors.New("the profile is damaged")
		}
		data = data[n+m:]
		var bytes []byte
		switch {
		case key&7 == 2 && value <= uint64(len(data)):
			bytes, data = data[:value], data[value:]
		case key&7 != 0:
			return errors.New("the profile has a field of another kind")
		}
		if err := visit(int(key>>3), value, bytes); err != nil {
			return err
		}
	}
	return nil
}

func (p *cpuProfile) total() (d time.Duration) {
	for _, s := range p.samples {
		d += time.Duration(s.nanoseconds)
	}
	return d
}

func (p *cpuProfile) labelled(key, value string) (d time.Duration) {
	for _, s := range p.samples {
		for _, l := range s.labels {
			if p.strings[l[0]] == key && p.strings[l[1]] == value {
				d += time.Duration(s.nanoseconds)
			}
		}
	}
	return d
}
