package ledger

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

// strained is a sieve of a node in term 5, whose snapshot ends at 100 and whose log goes on to 103.
func strained(t *testing.T) *sieve {
	t.Helper()
	logs := raft.NewInmemStore()
	for i := uint64(101); i <= 103; i++ {
		if err := logs.StoreLog(&raft.Log{Index: i, Term: 4}); err != nil {
			t.Fatal(err)
		}
	}
	return &sieve{newest: func() (uint64, uint64) { return 100, 3 }, logs: logs, term: func() uint64 { return 5 }}
}

func entries(from, to, term uint64) []*raft.Log {
	var out []*raft.Log
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: term})
	}
	return out
}

// asked returns whether the sieve answered by itself, and what.
func asked(s *sieve, command any, body io.Reader) (bool, any) {
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: command, Reader: body, RespChan: answer}
	if !s.answered(&rpc) {
		return false, nil
	}
	return true, (<-answer).Response
}

func TestSnapshotOlderThanOursIsTakenAsDone(t *testing.T) {
	t.Parallel()
	s := strained(t)
	body := bytes.NewReader(make([]byte, 1000))
	done, answer := asked(s, &raft.InstallSnapshotRequest{Term: 5, LastLogIndex: 100, LastLogTerm: 3}, body)
	if !done || !answer.(*raft.InstallSnapshotResponse).Success || body.Len() != 0 {
		t.Errorf("answered %t with %+v, %d bytes left in the stream", done, answer, body.Len())
	}
	for name, r := range map[string]*raft.InstallSnapshotRequest{
		"newer than ours": {Term: 5, LastLogIndex: 101}, "of a former leader": {Term: 4, LastLogIndex: 50}, "of a later leader": {Term: 6, LastLogIndex: 50},
	} {
		if done, _ := asked(s, r, bytes.NewReader(nil)); done {
			t.Errorf("%s: raft does not see it", name)
		}
	}
}

func TestEntriesBehindOurSnapshotAreKnown(t *testing.T) {
	t.Parallel()
	s := strained(t)
	all := &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 89, PrevLogTerm: 3, Entries: append(entries(90, 100, 3), entries(101, 103, 4)...)}
	done, answer := asked(s, all, nil)
	if r, ok := answer.(*raft.AppendEntriesResponse); !done || !ok || !r.Success || r.LastLog != 103 {
		t.Errorf("all known: answered %t with %+v", done, answer)
	}
	more := &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 89, PrevLogTerm: 3, Entries: append(entries(90, 100, 3), entries(101, 105, 4)...)}
	if done, _ := asked(s, more, nil); done || more.PrevLogEntry != 103 || more.PrevLogTerm != 4 || len(more.Entries) != 2 || more.Entries[0].Index != 104 {
		t.Errorf("two are new: answered %t, left %+v", done, more)
	}
	other := &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 89, PrevLogTerm: 3, Entries: append(entries(90, 100, 3), entries(101, 103, 5)...)}
	if done, _ := asked(s, other, nil); done || other.PrevLogEntry != 100 || other.PrevLogTerm != 3 || len(other.Entries) != 3 {
		t.Errorf("ours are not the leader's: answered %t, left %+v", done, other)
	}
	for name, r := range map[string]*raft.AppendEntriesRequest{
		"heartbeat": {Term: 5}, "of a former leader": {Term: 4, PrevLogEntry: 89, Entries: entries(90, 91, 3)}, "after our snapshot": {Term: 5, PrevLogEntry: 100, Entries: entries(101, 101, 4)},
	} {
		before := len(r.Entries)
		if done, _ := asked(s, r, nil); done || len(r.Entries) != before {
			t.Errorf("%s: raft does not see it as it is", name)
		}
	}
}
