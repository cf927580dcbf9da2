package segment

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"go.uber.org/goleak"
	"golang.org/x/net/bpf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is a layer 2 in memory: what one tap writes, all others of the same EtherType read.
type hub struct {
	mu   sync.Mutex
	taps map[*tap]bool
}

func newHub() *hub { return &hub{taps: make(map[*tap]bool)} }

func (h *hub) open(port Port, etherType int, filter []bpf.Instruction, _ bool) (net.PacketConn, error) {
	t := &tap{hub: h, port: port, etherType: uint16(etherType), in: make(chan []byte, 256), closed: make(chan struct{})}
	if filter != nil {
		vm, err := bpf.NewVM(filter)
		if err != nil {
			return nil, err
		}
		t.filter = vm
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taps[t] = true
	return t, nil
}

// tap is one socket on a hub.
type tap struct {
	net.PacketConn // for the methods that nobody calls
	hub            *hub
	port           Port
	etherType      uint16
	filter         *bpf.VM
	in             chan []byte
	once           sync.Once
	closed         chan struct{}
}

func (t *tap) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case f := <-t.in:
		return copy(b, f), &packet.Addr{HardwareAddr: net.HardwareAddr(f[6:12])}, nil
	case <-t.closed:
		return 0, nil, net.ErrClosed
	}
}

func (t *tap) WriteTo(b []byte, _ net.Addr) (int, error) {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	if !t.hub.taps[t] {
		return 0, net.ErrClosed
	}
	for o := range t.hub.taps {
		if o == t || binary.BigEndian.Uint16(b[12:]) != o.etherType {
			continue
		}
		if o.filter != nil {
			if n, err := o.filter.Run(b); err != nil || n == 0 {
				continue
			}
		}
		select {
		case o.in <- append([]byte(nil), b...):
		default: // as a full socket buffer does
		}
	}
	return len(b), nil
}

func (t *tap) Close() error {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	delete(t.hub.taps, t)
	t.once.Do(func() { close(t.closed) })
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// sealer is what a node injects: AES-GCM under a key of the swarm.
func sealer(t testing.TB, key byte) (seal, open func([]byte) ([]byte, error)) {
	t.Helper()
	k := make([]byte, 32)
	k[0] = key
	block, err := aes.NewCipher(k)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	seal = func(plain []byte) ([]byte, error) {
		nonce := make([]byte, aead.NonceSize())
		_, _ = rand.Read(nonce)
		return aead.Seal(nonce, nonce, plain, nil), nil
	}
	open = func(b []byte) ([]byte, error) {
		if len(b) < aead.NonceSize() {
			return nil, errors.New("short")
		}
		return aead.Open(nil, b[:aead.NonceSize()], b[aead.NonceSize():], nil)
	}
	return seal, open
}

// eventually waits until check returns nil, asked again after each wake and twenty times a second; it reports the last
// error.
func eventually(t *testing.T, limit time.Duration, wake <-chan struct{}, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %v", limit, err)
		case <-tick.C:
		case <-wake:
		}
	}
}

func expect[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}
