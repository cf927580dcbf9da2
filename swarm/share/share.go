// Package share moves artifacts between the nodes of a swarm: immutable bytes, named by their SHA-256, believed by
// nothing else.
//
// It refuses to know what an artifact is for, who ought to have it and who its peers are: those come in as arguments and
// functions. It never shows a byte under a digest before the whole file has matched it, and it keeps no list of holders:
// a peer has an artifact if it answers with one.
//
// Package node may import it, and through node what needs its types (web, the agent's server side). Of foreign code it
// imports the BitTorrent client, which gets no socket of its own. See DESIGN.md.
package share

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrNotFound: the artifact is not here, or, from Fetch, none of the peers has it.
	ErrNotFound = errors.New("artifact not found")
	// ErrMismatch: the bytes are not what their digest or size promised. They have been thrown away.
	ErrMismatch = errors.New("bytes do not match the digest")
	// ErrDiskFull: the store's file system has no room. Make room, or move the data directory to a larger disk.
	ErrDiskFull = errors.New("no space left for artifacts")
)

// Digest is the name of an artifact: its SHA-256 as 64 lower case hexadecimal digits. Only ParseDigest and DigestOf make
// one from foreign text; a method that is given another string refuses it, so that a digest can stand in a path.
type Digest string

// ParseDigest accepts the one canonical spelling.
func ParseDigest(s string) (Digest, error) {
	if len(s) != 2*sha256.Size {
		return "", fmt.Errorf("not a digest: %d characters, want the 64 hexadecimal digits of a SHA-256", len(s))
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", errors.New("not a digest: want hexadecimal digits in lower case")
		}
	}
	return Digest(s), nil
}

// DigestOf is the digest of data.
func DigestOf(data []byte) Digest {
	sum := sha256.Sum256(data)
	return digestOf(sum[:])
}

func digestOf(sum []byte) Digest { return Digest(hex.EncodeToString(sum)) }

// Artifact names bytes and says how many they are.
type Artifact struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
	// InfoHash names the artifact to BitTorrent, 40 lower case hexadecimal digits. It follows from the bytes. "" below 1 MiB.
	InfoHash string `json:"infohash,omitempty"`
}

// Share is what the rest of a node sees of artifacts; how they travel is the implementation's affair. All methods are
// called from many goroutines. An implementation holds to the rules in package sharetest.
type Share interface {
	// Publish makes the file at path an artifact that peers can fetch. The file itself stays the caller's, who may change
	// or remove it afterwards.
	Publish(ctx context.Context, path string) (Artifact, error)
	// Fetch returns nil once the artifact is here, verified. Callers for the same digest share one transfer, which ends
	// early when the last of them gives up. size is the exact number of bytes. progress, if not nil, is called from
	// any goroutine, one call at a time, with the bytes that are here; never again after Fetch returned; it may go
	// back when bytes had to be thrown away, must not block and must not call Fetch. Errors: ErrNotFound, ErrMismatch,
	// ErrDiskFull, the context's. After success the last call said size.
	Fetch(ctx context.Context, digest Digest, size int64, progress func(done int64)) error
	// Open reads an artifact that is here; else ErrNotFound. The caller closes it.
	Open(digest Digest) (io.ReadSeekCloser, error)
	// Has says whether Open would find it.
	Has(digest Digest) bool
}
