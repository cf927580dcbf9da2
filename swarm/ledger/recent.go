package ledger

import "sort"

// What a node keeps of the commands that it applied last, for those that it feeds.
const (
	recentEntries = 4096    // enough for a follower that was away while others booted
	recentBytes   = 8 << 20 // what a node can spare; a snapshot serves those that need more
)

// command is one that was applied. prev is the index of the one before it, which raft's indexes do not tell: entries of
// raft's own lie between commands.
type command struct {
	prev, index uint64
	data        []byte
}

// recent holds the commands that were applied last, oldest first, without a gap. The zero value is empty.
type recent struct {
	commands []command
	bytes    int
}

func (r *recent) add(c command) {
	r.commands = append(r.commands, c)
	r.bytes += len(c.data)
	for len(r.commands) > recentEntries || (r.bytes > recentBytes && len(r.commands) > 1) {
		r.bytes -= len(r.commands[0].data)
		r.commands[0] = command{} // lets go of the bytes before the slice is moved
		r.commands = r.commands[1:]
	}
}

func (r *recent) clear() { *r = recent{} }

// after returns the first commands that follow the one at index, at most batch of them and not many more bytes than one
// command may have. ok is false if there is none that follows it.
func (r *recent) after(index uint64, batch int) (some []command, ok bool) {
	i := sort.Search(len(r.commands), func(i int) bool { return r.commands[i].prev >= index })
	if i == len(r.commands) || r.commands[i].prev != index {
		return nil, false
	}
	end, bytes := i, 0
	for end < len(r.commands) && end-i < batch && bytes < MaxCommand {
		bytes += len(r.commands[end].data)
		end++
	}
	return append([]command(nil), r.commands[i:end]...), true
}
