package node

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"net"
	"sync"
	"time"

	"offshoot/node/internal/dhcp"
)

// mailbox stands between a segment and the DHCP server of a post, so that no packet is lost when the duty moves: what
// arrives after the last answer of the former holder is kept there, and put into the mailbox of the new one.
type mailbox struct {
	letters chan letter   // from the former holder
	heard   chan struct{} // closed once this node hears the segment itself
	ended   chan struct{} // closed by keep
	closed  chan struct{}

	mu      sync.Mutex
	keeping bool
	kept    [][]byte
	met     map[uint64]time.Time // the first packets, so that none is answered twice: when it was delivered; zero if heard here
	seed    maphash.Seed
	card    dhcp.Link
	pump    sync.WaitGroup
	opened  sync.Once
	once    sync.Once
}

// letter is a packet. unicast: it was sent to this node's own address.
type letter struct {
	raw     []byte
	unicast bool
	err     error // of the link: the last letter
}

// Bounds of a mailbox: a handover takes well under a second, in which a thousand machines may ask.
const (
	mailMost = 1024
	metMost  = 4096
)

// echoTime is how late a packet may come out of the link that was delivered before. No client repeats itself that soon.
const echoTime = 500 * time.Millisecond

func newMailbox() *mailbox {
	return &mailbox{
		letters: make(chan letter, mailMost), heard: make(chan struct{}), ended: make(chan struct{}), closed: make(chan struct{}),
		seed: maphash.MakeSeed(), met: map[uint64]time.Time{},
	}
}

// listen opens a link whose packets go through the mailbox.
func (m *mailbox) listen(open func(dhcp.Config) (dhcp.Link, error)) func(dhcp.Config) (dhcp.Link, error) {
	return func(c dhcp.Config) (dhcp.Link, error) {
		card, err := open(c)
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.card = card
		m.opened.Do(func() { close(m.heard) })
		d := &slot{box: m, in: make(chan letter, mailMost), done: make(chan struct{})}
		m.pump.Go(func() { m.carry(card, d) })
		return d, nil
	}
}

// carry reads the link until it is closed.
func (m *mailbox) carry(card dhcp.Link, d *slot) {
	buf := make([]byte, maxMail)
	for {
		n, unicast, err := card.Receive(buf)
		if err != nil {
			select {
			case d.in <- letter{err: err}:
			case <-d.done:
			}
			return
		}
		m.sort(letter{raw: bytes.Clone(buf[:n]), unicast: unicast}, d)
	}
}

// maxMail is the largest Ethernet payload without jumbo frames.
const maxMail = 1500

// sort gives a packet to the server of this post, or keeps it for the next holder once this one has stopped answering. What
// was sent to this node by its address is not for others. Too many packets are lost, as they are in a socket.
func (m *mailbox) sort(l letter, d *slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keeping {
		if !l.unicast {
			m.store(l.raw)
		}
		return
	}
	if met, again := m.meet(l.raw, time.Time{}); again && time.Since(met) < echoTime {
		return
	}
	select {
	case d.in <- l:
	default:
	}
}

// store keeps a packet for the next holder. The caller holds mu.
func (m *mailbox) store(raw []byte) {
	if len(m.kept) < mailMost {
		m.kept = append(m.kept, raw)
	}
}

// meet remembers a packet with a time, or says with which time it was met before. The caller holds mu.
func (m *mailbox) meet(raw []byte, at time.Time) (met time.Time, again bool) {
	sum := maphash.Bytes(m.seed, raw)
	if met, again = m.met[sum]; !again && len(m.met) < metMost {
		m.met[sum] = at
	}
	return met, again
}

// keep makes the mailbox keep what arrives from now on. The server gets what came before, and then io.EOF.
func (m *mailbox) keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.keeping {
		m.keeping = true
		close(m.ended)
	}
}

// isKeeping says whether the server of this post has got its last packet.
func (m *mailbox) isKeeping() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keeping
}

// take empties it.
func (m *mailbox) take() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.kept
	m.kept = nil
	return out
}

// errPostLeft: there is nobody who could answer.
var errPostLeft = errors.New("the post is left")

// put hands packets to the server of this post, but for those that it has heard itself. It waits until this node hears the
// segment, so that whoever delivers knows from when on it need not listen any more.
func (m *mailbox) put(ctx context.Context, packets [][]byte) error {
	select {
	case <-m.heard:
	case <-m.closed:
		return errPostLeft
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		return errPostLeft
	default:
	}
	for _, raw := range packets {
		if _, again := m.meet(raw, time.Now()); again {
			continue
		}
		if m.keeping { // the duty moves on already
			m.store(raw)
			continue
		}
		select {
		case m.letters <- letter{raw: raw}:
		default:
		}
	}
	return nil
}

// close ends the post: nothing can be put into its mailbox any more.
func (m *mailbox) close() {
	m.once.Do(func() { close(m.closed) })
	m.release()
}

// release lets go of the link.
func (m *mailbox) release() {
	m.mu.Lock()
	card := m.card
	m.card = nil
	m.mu.Unlock()
	if card != nil {
		_ = card.Close() // nothing is lost with it
	}
	m.pump.Wait()
}

// slot is the link as the server sees it.
type slot struct {
	box  *mailbox
	in   chan letter
	done chan struct{}
	once sync.Once
}

var _ dhcp.Link = (*slot)(nil)

func (d *slot) Receive(buf []byte) (int, bool, error) {
	var l letter
	select {
	case <-d.done:
		return 0, false, net.ErrClosed
	case l = <-d.in:
	case l = <-d.box.letters:
	case <-d.box.ended:
		select {
		case l = <-d.in:
		case l = <-d.box.letters:
		default:
			return 0, false, io.EOF
		}
	}
	return copy(buf, l.raw), l.unicast, l.err
}

func (d *slot) Send(b []byte, to dhcp.Destination, client net.HardwareAddr) error {
	d.box.mu.Lock()
	card := d.box.card
	d.box.mu.Unlock()
	if card == nil {
		return net.ErrClosed
	}
	return card.Send(b, to, client)
}

// Close ends the server's use of the link. While packets are kept for the next holder, the link itself stays open.
func (d *slot) Close() error {
	d.once.Do(func() { close(d.done) })
	if !d.box.isKeeping() {
		d.box.release()
	}
	return nil
}
