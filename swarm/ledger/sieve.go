package ledger

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// sieve stands between the streams and raft, for two kinds of request that raft 1.8 cannot bear. A snapshot older than our
// own takes raft's applied index back, behind entries that it has cut from its log: it panics, "log not found". And
// entries that begin behind our own snapshot are refused, because the one before them is gone, so that the leader goes
// further and further back until it sends such a snapshot. Everything in a snapshot is committed, so the leader has the
// same: what comes before its end needs no second look.
type sieve struct {
	*raft.NetworkTransport
	newest func() (index, term uint64) // of our own snapshots
	logs   raft.LogStore
	term   func() uint64 // raft's
	out    chan raft.RPC
	done   chan struct{}
	closed sync.Once
	all    sync.WaitGroup
}

var (
	_ raft.Transport   = (*sieve)(nil)
	_ raft.WithPreVote = (*sieve)(nil)
	_ raft.WithClose   = (*sieve)(nil)
)

func newSieve(t *raft.NetworkTransport, logs raft.LogStore, newest func() (index, term uint64), term func() uint64) *sieve {
	s := &sieve{NetworkTransport: t, newest: newest, logs: logs, term: term, out: make(chan raft.RPC), done: make(chan struct{})}
	s.all.Go(s.run)
	return s
}

// Consumer is where raft takes requests from.
func (s *sieve) Consumer() <-chan raft.RPC { return s.out }

// Close is called by raft when it has stopped.
func (s *sieve) Close() error {
	s.closed.Do(func() { close(s.done) })
	s.all.Wait()
	return s.NetworkTransport.Close()
}

func (s *sieve) run() {
	in := s.NetworkTransport.Consumer()
	for {
		select {
		case <-s.done:
			return
		case rpc := <-in:
			if s.answered(&rpc) {
				continue
			}
			select {
			case s.out <- rpc:
			case <-s.done:
				return
			}
		}
	}
}

// answered deals with a request that raft must not see, or changes it to one that raft can bear.
func (s *sieve) answered(rpc *raft.RPC) bool {
	index, term := s.newest()
	switch request := rpc.Command.(type) {
	case *raft.InstallSnapshotRequest:
		if request.LastLogIndex > index || request.Term != s.term() {
			return false
		}
		if _, err := io.Copy(io.Discard, rpc.Reader); err != nil {
			rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: request.ProtocolVersion}, Term: request.Term}, err)
			return true
		}
		rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: request.ProtocolVersion}, Term: request.Term, Success: true}, nil)
		return true
	case *raft.AppendEntriesRequest:
		if request.PrevLogEntry == 0 || request.PrevLogEntry >= index || len(request.Entries) == 0 || request.Term != s.term() {
			return false
		}
		skipped := s.known(request.Entries, index)
		if skipped == 0 {
			return false
		}
		last := request.Entries[skipped-1]
		if skipped == len(request.Entries) {
			rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: request.ProtocolVersion}, Term: request.Term, LastLog: max(last.Index, index), Success: true}, nil)
			return true
		}
		request.PrevLogEntry, request.PrevLogTerm = last.Index, last.Term
		if last.Index == index {
			request.PrevLogTerm = term
		}
		request.Entries = request.Entries[skipped:]
	}
	return false
}

// known is how many of the entries, from the first one on, this node has for certain: those in its snapshot, and then
// those that its log has, too.
func (s *sieve) known(entries []*raft.Log, snapshot uint64) int {
	for i, e := range entries {
		if e.Index <= snapshot {
			continue
		}
		var own raft.Log
		if err := s.logs.GetLog(e.Index, &own); err != nil || own.Term != e.Term {
			return i
		}
	}
	return len(entries)
}

// newestSnapshot remembers the newest snapshot of a store, which is read from disk otherwise.
type newestSnapshot struct {
	raft.SnapshotStore
	mu          sync.Mutex
	index, term uint64
}

func newNewest(store raft.SnapshotStore) (*newestSnapshot, error) {
	list, err := store.List()
	if err != nil {
		return nil, err
	}
	n := &newestSnapshot{SnapshotStore: store}
	if len(list) > 0 {
		n.index, n.term = list[0].Index, list[0].Term
	}
	return n, nil
}

func (n *newestSnapshot) get() (index, term uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.index, n.term
}

// Create begins a snapshot, which counts once it is complete.
func (n *newestSnapshot) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := n.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	return &countedSink{SnapshotSink: sink, store: n, index: index, term: term}, nil
}

type countedSink struct {
	raft.SnapshotSink
	store       *newestSnapshot
	index, term uint64
}

func (c *countedSink) Close() error {
	if err := c.SnapshotSink.Close(); err != nil {
		return err
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.index > c.store.index {
		c.store.index, c.store.term = c.index, c.term
	}
	return nil
}
