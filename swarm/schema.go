package swarm

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/hashicorp/go-memdb"
)

// index is a memdb indexer made of a key function.
type index[T any] func(*T) string

func (f index[T]) FromObject(raw any) (bool, []byte, error) {
	key := f(raw.(*T))
	if key == "" {
		return false, nil, nil
	}
	return true, terminated(key), nil
}

// terminated ends a key with a zero, so that no key begins another.
func terminated(key string) []byte {
	b := make([]byte, len(key)+1)
	copy(b, key)
	return b
}

// PrefixFromArgs is for iterating over all keys that begin alike.
func (f index[T]) PrefixFromArgs(args ...any) ([]byte, error) {
	key, err := f.FromArgs(args...)
	if err != nil {
		return nil, err
	}
	return key[:len(key)-1], nil
}

func (f index[T]) FromArgs(args ...any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("one key wanted, got %d", len(args))
	}
	key, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("key is a %T, not a string", args[0])
	}
	return terminated(key), nil
}

// multi is a memdb indexer of rows that have several keys.
type multi[T any] func(*T) []string

func (f multi[T]) FromObject(raw any) (bool, [][]byte, error) {
	var keys [][]byte
	for _, key := range f(raw.(*T)) {
		keys = append(keys, terminated(key))
	}
	return len(keys) > 0, keys, nil
}

func (f multi[T]) FromArgs(args ...any) ([]byte, error) { return index[T](nil).FromArgs(args...) }

func by[T any](name string, unique bool, key func(*T) string) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: unique, AllowMissing: name != "id", Indexer: index[T](key)}
}

func table(name string, indexes ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
	for _, i := range indexes {
		t.Indexes[i.Name] = i
	}
	return t
}

// number makes keys that sort like their numbers.
func number(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

var schema = func() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, t := range []*memdb.TableSchema{
		table("settings", by("id", true, func(*Settings) string { return "settings" })),
		table("machine", by("id", true, func(m *Machine) string { return string(m.MAC) }),
			by("name", true, func(m *Machine) string { return m.Name }),
			by("stranger", false, func(m *Machine) string { // by segment: machines that nobody ever asked for
				if m.State != MachineKnown && m.State != MachineFree || m.Install != "" || m.Node != "" {
					return ""
				}
				return m.Segment
			}),
			by("installing", false, func(m *Machine) string { // all of them under one key
				if m.State != MachineInstalling {
					return ""
				}
				return string(m.State)
			})),
		table("node", by("id", true, func(n *Node) string { return string(n.ID) }),
			&memdb.IndexSchema{Name: "segment", AllowMissing: true, Indexer: multi[Node]((*Node).segments)}),
		table("segment", by("id", true, func(s *Segment) string { return s.ID })),
		table("lease", by("id", true, func(l *Lease) string { return addrKey(l.Segment, l.Addr) }),
			by("mac", true, func(l *Lease) string {
				if l.MAC == "" {
					return ""
				}
				return macKey(l.Segment, l.MAC)
			}),
			by("nonce", true, func(l *Lease) string { return l.Nonce })),
		table("reservation", by("id", true, func(r *Reservation) string { return addrKey(r.Segment, r.Addr) }),
			by("mac", true, func(r *Reservation) string { return macKey(r.Segment, r.MAC) })),
		table("ticket", by("id", true, func(t *Ticket) string { return t.ID }),
			by("machine", false, func(t *Ticket) string { return string(t.Machine) }),
			by("addr", false, func(t *Ticket) string { return addrKey(t.Segment, t.Addr) })),
		table("operator", by("id", true, func(o *Operator) string { return o.Name })),
		table("audit", by("id", true, func(e *AuditEntry) string { return number(e.Seq) })),
		table("profile", by("id", true, func(p *Profile) string { return p.Name })),
		table("repo", by("id", true, func(r *Repo) string { return r.Name })),
		table("set", by("id", true, func(s *WorkingSet) string { return s.Profile })),
		table("artifact", by("id", true, func(a *Artifact) string { return a.Digest })),
		table("event", by("id", true, func(e *Event) string { return number(e.Seq) }),
			by("mac", false, func(e *Event) string { return string(e.MAC) })),
		table("applied", by("id", true, func(a *applied) string { return a.ID }),
			by("seq", true, func(a *applied) string { return number(a.Seq) })),
		table("counter", by("id", true, func(c *counter) string { return c.Name })),
	} {
		s.Tables[t.Name] = t
	}
	return s
}()

// leasePrefix begins the keys of everything on a segment. Names of segments have no bar.
func leasePrefix(segment string) string { return segment + "|" }

func addrKey(segment string, a netip.Addr) string {
	raw := a.As16()
	return leasePrefix(segment) + string(raw[:])
}

func macKey(segment string, mac MAC) string { return leasePrefix(segment) + string(mac) }

// idOf are the primary indexers.
var idOf = func() map[string]memdb.SingleIndexer {
	all := map[string]memdb.SingleIndexer{}
	for name, t := range schema.Tables {
		all[name] = t.Indexes["id"].Indexer.(memdb.SingleIndexer)
	}
	return all
}()
