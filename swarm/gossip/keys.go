package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// maxKeys bounds the ring: every packet, a stranger's too, is tried with each key of it.
const maxKeys = 64

// SetKeys makes keys, KeySize bytes each, exactly the ring: the first encrypts, all decrypt. At no moment is this node deaf
// to a key that it had and keeps, and it never speaks with one that it cannot hear. Whether the others are ready for the
// first one is the caller's to know. It may be called before Run and at any time; on an error nothing has changed.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if err := checkKeys(keys); err != nil {
		return fmt.Errorf("set gossip keys: %w", err)
	}
	g.keysMu.Lock()
	defer g.keysMu.Unlock()
	if err := g.setKeys(keys); err != nil {
		return fmt.Errorf("set gossip keys: %w", err) // never: all was checked
	}
	return nil
}

func (g *Gossip) setKeys(keys [][]byte) error {
	if err := g.keys.AddKey(slices.Clone(keys[0])); err != nil {
		return err
	}
	if err := g.keys.UseKey(keys[0]); err != nil {
		return err
	}
	// memberlist's RemoveKey shifts the very slice that its readers go through, who would miss a key. At the end of the
	// ring there is nothing to shift: so that is where the old ones are taken from, before new ones come behind them.
	kept, old := sortKeys(g.keys.GetKeys(), keys)
	if !slices.EqualFunc(slices.Concat(kept, old), g.keys.GetKeys(), bytes.Equal) {
		// Only after several rotations were missed. What is sent in these microseconds has a key that others may lack,
		// and is sent again.
		for _, key := range slices.Backward(kept) {
			if err := g.keys.UseKey(key); err != nil {
				return err
			}
		}
	}
	for _, key := range slices.Backward(old) {
		if err := g.keys.RemoveKey(key); err != nil {
			return err
		}
	}
	for _, key := range keys[1:] {
		if err := g.keys.AddKey(slices.Clone(key)); err != nil {
			return err
		}
	}
	return nil
}

// sortKeys parts a ring by whether wanted has the key.
func sortKeys(ring, wanted [][]byte) (kept, old [][]byte) {
	for _, key := range ring {
		if slices.ContainsFunc(wanted, func(k []byte) bool { return bytes.Equal(k, key) }) {
			kept = append(kept, key)
		} else {
			old = append(old, key)
		}
	}
	return kept, old
}

func checkKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("no key given: gossip is never plain")
	}
	if len(keys) > maxKeys {
		return fmt.Errorf("%d keys, the limit is %d", len(keys), maxKeys)
	}
	for _, key := range keys {
		if len(key) != KeySize {
			return fmt.Errorf("gossip key has %d bytes, want %d", len(key), KeySize)
		}
	}
	return nil
}
