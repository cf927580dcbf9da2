package swarm

import (
	"encoding/base64"
	"slices"
)

// KeyStage is how far a rotation of the gossip keys has come. Each step waits until every node has taken the one before, so
// that at no moment two nodes lack a common key.
type KeyStage string

// The stages of a rotation; the empty one is none.
const (
	KeysSpreading KeyStage = "spread" // everybody learns the new key, which does not encrypt yet
	KeysInUse     KeyStage = "use"    // the new key encrypts, the old ones still decrypt
)

// maxKeys bounds the keyring, as redeem responses do.
const maxKeys = 8

// RotateKeys begins a rotation to a fresh gossip key, as identity.Key encodes it. During another rotation it adds its key
// to that one, and the newest is what the swarm ends with.
type RotateKeys struct {
	Key string `json:"key"`
}

func (o RotateKeys) words() string { return "rotate the gossip key" }

func (o RotateKeys) apply(c *change) (any, error) {
	return nil, c.rotate(o.Key, "an operator asked for it")
}

func (c *change) rotate(key, why string) error {
	// A key that nodes cannot read would leave every one of them without any.
	if raw, err := base64.RawURLEncoding.Strict().DecodeString(key); err != nil || len(raw) != 32 {
		return refuse(ErrInvalid, "the new gossip key is not 43 characters of base64url")
	}
	s, ok := c.view().Settings()
	if !ok {
		return refuse(ErrNotFound, "the swarm's settings")
	}
	if slices.Contains(s.GossipKeys, key) {
		return refuse(ErrConflict, "the new gossip key is one of the present ones")
	}
	keys := slices.Clone(s.GossipKeys)
	if len(keys) >= maxKeys {
		// The last one is the present target, which does not encrypt yet, or the stalest of all.
		keys = keys[:maxKeys-1]
	}
	s.GossipKeys, s.KeyStage, s.KeyGeneration = append(keys, key), KeysSpreading, s.KeyGeneration+1
	c.put("settings", &s)
	c.event("", "keys", "a new gossip key is brought to every node (generation %d): %s", s.KeyGeneration, why)
	return nil
}

// AdvanceKeys takes a rotation one step on, once every node has the present generation. Only the leader, who can see that,
// proposes it.
type AdvanceKeys struct {
	Generation uint64 `json:"generation"` // the present one
}

func (o AdvanceKeys) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || s.KeyStage == "" || s.KeyGeneration != o.Generation || len(s.GossipKeys) == 0 {
		return nil, refuse(ErrConflict, "gossip keys are in generation %d, stage %q, not in %d", s.KeyGeneration, s.KeyStage, o.Generation)
	}
	s.KeyGeneration++
	if s.KeyStage == KeysSpreading {
		last := len(s.GossipKeys) - 1
		s.GossipKeys = append([]string{s.GossipKeys[last]}, s.GossipKeys[:last]...)
		s.KeyStage = KeysInUse
		c.event("", "keys", "the new gossip key is in use (generation %d)", s.KeyGeneration)
	} else {
		s.GossipKeys = s.GossipKeys[:1:1]
		s.KeyStage = ""
		c.event("", "keys", "only the new gossip key is good now (generation %d)", s.KeyGeneration)
	}
	c.put("settings", &s)
	return nil, nil
}

// KeysSpread says whether a rotation is under way and may go on: every eligible living node reports the present generation.
// Who is away learns the keys from the ledger when it returns.
func KeysSpread(v View, alive func(NodeID) bool) bool {
	s, ok := v.Settings()
	if !ok || s.KeyStage == "" {
		return false
	}
	for n := range each[Node](v.txn, "node", "id") {
		if n.Eligible() && alive(n.ID) && n.Keys != s.KeyGeneration {
			return false
		}
	}
	return true
}
