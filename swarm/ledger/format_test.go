package ledger

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func TestSnapshotCarriesItsIndex(t *testing.T) {
	from := newFSM(&journal{})
	from.Apply(&raft.Log{Index: 7, Data: []byte("1=x")})
	s, err := from.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	from.Apply(&raft.Log{Index: 8, Data: []byte("2=x")}) // after the capture: must not be in it
	var b bytes.Buffer
	if err := s.(*snapshot).writeTo(&b); err != nil {
		t.Fatal(err)
	}
	machine := &journal{}
	to := newFSM(machine)
	if err := to.Restore(io.NopCloser(&b)); err != nil {
		t.Fatal(err)
	}
	if got := machine.all(); to.applied.Load() != 7 || len(got) != 1 {
		t.Errorf("restored %q at %d, want one entry at 7", got, to.applied.Load())
	}
}

func TestSnapshotOfAnotherFormatIsRefused(t *testing.T) {
	err := newFSM(&journal{}).Restore(io.NopCloser(strings.NewReader("OFFSNAP2........[]")))
	if !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte(snapshotMagic + "\x00\x00\x00\x00\x00\x00\x00\x07[\"1=x\"]"))
	f.Add([]byte("OFF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		to := newFSM(&journal{})
		if err := to.Restore(io.NopCloser(bytes.NewReader(b))); err != nil && to.applied.Load() != 0 {
			t.Error("a refused snapshot moved the index")
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(makeAnswer(outcome{index: 7, result: []byte("x")}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		index, result, err := parseAnswer(b)
		if err == nil && !bytes.Equal(makeAnswer(outcome{index: index, result: result}), b) {
			t.Errorf("%x does not survive a round trip", b)
		}
	})
}

func TestConnectionsAreCutOnStop(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialer net.Dialer
	s := newStream("example:1", listener, func(ctx context.Context, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", address)
	})
	if got := s.Addr().String(); got != "example:1" {
		t.Errorf("stream tells %q as its address, want the advertised one", got)
	}
	out, err := s.Dial(raft.ServerAddress(listener.Addr().String()), ioTimeout)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.cut()
	for _, conn := range []net.Conn{in, out} {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlived the cut")
		}
	}
	if _, err := s.Dial(raft.ServerAddress(listener.Addr().String()), ioTimeout); err == nil {
		t.Error("dialled after the cut")
	}
	if err := s.wait(); err == nil {
		t.Error("did not notice that an accepted connection is still held")
	}
	_ = in.Close()
	if err := errors.Join(s.wait(), s.Close()); err != nil {
		t.Error(err)
	}
}

func relisten(c *cluster, address string) net.Listener {
	c.t.Helper()
	var listener net.Listener
	c.eventually("port is free", func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener
}
