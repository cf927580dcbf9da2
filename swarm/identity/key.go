package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

const keySize = 32 // AES-256

// ErrSealed: no key of ours opens the frame. It was sent by someone else, or before or after a rotation that we missed.
var ErrSealed = errors.New("no key opens this frame")

// Key is a secret that the members of a swarm share. Whatever prints, logs or marshals it shows a fingerprint; Reveal is
// the one way to the bytes.
type Key struct {
	b func() [keySize]byte // a function for the reason given at Ticket; nil for the zero Key
}

// NewGossipKey draws a key for the gossip keyring.
func NewGossipKey() Key {
	var b [keySize]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return Key{b: hide(b)}
}

// ParseKey accepts what Encode writes.
func ParseKey(s string) (Key, error) {
	if len(s) != base64.RawURLEncoding.EncodedLen(keySize) {
		return Key{}, errors.New("not a key: want 43 characters of base64url")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != keySize {
		return Key{}, errors.New("not a key: want 43 characters of base64url") // err would quote a part of it
	}
	return Key{b: hide([keySize]byte(b))}, nil
}

// Reveal is a copy of the 32 bytes, nil for the zero Key.
func (k Key) Reveal() []byte {
	if k.b == nil {
		return nil
	}
	b := k.b()
	return b[:]
}

// Encode is the secret as text, for the node's directory and the answer to a join.
func (k Key) Encode() string {
	if k.b == nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(k.Reveal())
}

// String is "key " and the first 32 bits of the key's SHA-256: enough to see which of two keys it is.
func (k Key) String() string {
	if k.b == nil {
		return "no key"
	}
	sum := sha256.Sum256(k.Reveal())
	return "key " + hex.EncodeToString(sum[:4])
}

// GoString shows the fingerprint only.
func (k Key) GoString() string { return k.String() }

// LogValue shows the fingerprint only.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText shows the fingerprint only: a key inside something that is logged as JSON must not leak.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Box seals short frames, such as layer-2 hellos, with AES-256-GCM under keys derived from a keyring: the first key
// seals, every key opens, so that a rotation needs no common moment. Each purpose has keys of its own (HKDF, RFC 5869):
// what gossip encrypts cannot be replayed as a hello. A Box does not know replays; the frame's content has to carry
// freshness. It is safe for concurrent use.
//
// Nonces are drawn at random: a keyring is good for 2^32 frames (NIST SP 800-38D, 8.3), decades of hellos.
type Box struct {
	aeads []cipher.AEAD
}

// NewBox needs at least one key.
func NewBox(purpose string, keys ...Key) (*Box, error) {
	if len(keys) == 0 {
		return nil, errors.New("box for " + purpose + ": no key")
	}
	box := &Box{}
	for _, k := range keys {
		if k.b == nil {
			return nil, errors.New("box for " + purpose + ": an empty key")
		}
		derived, err := hkdf.Key(sha256.New, k.Reveal(), nil, "offshoot "+purpose, keySize)
		if err != nil {
			return nil, fmt.Errorf("box for %s: %w", purpose, err)
		}
		block, err := aes.NewCipher(derived)
		if err != nil {
			return nil, fmt.Errorf("box for %s: %w", purpose, err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("box for %s: %w", purpose, err)
		}
		box.aeads = append(box.aeads, aead)
	}
	return box, nil
}

// Seal encrypts plain and binds it to context, which is not part of the frame and has to be the same at Open (for
// instance the sender's MAC). The frame is 28 bytes longer than plain.
func (b *Box) Seal(plain, context []byte) []byte { return b.aeads[0].Seal(nil, nil, plain, context) }

// Open returns the plain bytes, or ErrSealed.
func (b *Box) Open(frame, context []byte) ([]byte, error) {
	for _, aead := range b.aeads {
		if plain, err := aead.Open(nil, nil, frame, context); err == nil {
			return plain, nil
		}
	}
	return nil, ErrSealed
}
