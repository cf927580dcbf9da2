package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"offshoot/node/internal/api"
	"offshoot/node/internal/iso"
	"offshoot/node/internal/origin"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// AddArtifact stores what an operator sends. Until the last byte is here nothing is written down, and nobody sees any of it.
func (d *desk) AddArtifact(ctx context.Context, actor string, u api.Upload, size int64, r io.Reader) (status.Artifact, error) {
	a := swarm.Artifact{Digest: u.SHA256, Name: u.Name, Origin: cmp.Or(u.Origin, "sent by an operator"), Verified: cmp.Or(u.Verified, origin.Given)}
	if err := a.Check(); err != nil {
		return status.Artifact{}, api.Refused(err)
	}
	if err := d.s.garbage.makeRoom(max(size, 0)); err != nil {
		d.s.node.log.Warn("no room is made", "artifact", a.Name, "error", err)
	}
	got, err := d.s.store.PublishExpected(ctx, r, size, share.Digest(u.SHA256))
	if errors.Is(err, share.ErrMismatch) || errors.Is(err, share.ErrDiskFull) {
		return status.Artifact{}, api.Refused(err)
	}
	if err != nil {
		return status.Artifact{}, err
	}
	a.Digest, a.Size, a.InfoHash = string(got.Digest), got.Size, got.InfoHash
	if have, known := d.s.state.View().Artifact(a.Digest); known && !better(a, have) {
		a = have // it keeps its name, and what is known of its origin
	} else if err := d.s.decideAs(ctx, actor, swarm.PutArtifact{Artifact: a}); err != nil {
		return status.Artifact{}, err
	}
	d.s.node.log.Info("artifact stored", "artifact", a.Name, "digest", a.Digest, "bytes", a.Size, "verified", a.Verified, "by", actor)
	return status.Artifact{
		Digest: a.Digest, Name: a.Name, Size: a.Size, Origin: a.Origin, Verified: a.Verified, InfoHash: a.InfoHash, Here: true, Pinned: a.Pinned,
		Profiles: []string{}, Warm: map[string]int{}, Nodes: []string{},
	}, nil
}

// better says whether more vouches for an artifact than is known of it.
func better(a, known swarm.Artifact) bool {
	return strings.HasPrefix(a.Verified, "signed by ") && !strings.HasPrefix(known.Verified, "signed by ")
}

// VerifyArtifact hashes this node's bytes again. Damaged ones are gone afterwards, and what a profile needs is fetched from others.
func (d *desk) VerifyArtifact(ctx context.Context, actor string, a status.Artifact) (status.Verification, error) {
	v := status.Verification{Artifact: a}
	digest, err := share.ParseDigest(a.Digest)
	if err != nil {
		return v, err
	}
	switch err := d.s.store.Verify(ctx, digest); {
	case err == nil:
		v.Good = true
	case errors.Is(err, share.ErrMismatch):
		d.s.node.log.Warn("the bytes of an artifact were damaged, and are thrown away", "artifact", a.Name, "digest", a.Digest, "asked by", actor)
		v.Problem, v.Here = "its bytes on this node's disk were damaged, and are thrown away: look at the disk; then offshoot artifact prefetch PROFILE, or add it again", false
	case errors.Is(err, share.ErrNotFound):
		v.Problem = "it is not on this node: ask one that has it (offshoot artifact show)"
	default:
		return v, err
	}
	return v, nil
}

// Medium looks into an artifact.
func (d *desk) Medium(digest string) *status.Medium {
	f, err := d.s.store.Open(share.Digest(digest))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	m, err := lookInto(f)
	if err != nil {
		return nil
	}
	return &m
}

// lookInto says what an ISO image is for.
func lookInto(f io.ReadSeeker) (status.Medium, error) {
	at, ok := f.(io.ReaderAt)
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || !ok {
		return status.Medium{}, errors.Join(err, iso.ErrFormat)
	}
	image, err := iso.Open(at, size)
	if err != nil {
		return status.Medium{}, err
	}
	return status.Medium(iso.Recognise(image)), nil
}

// sayUnverified names what nothing vouches for, and machines would get nevertheless.
func (s *services) sayUnverified() {
	for _, a := range artifactList(s.state.View(), s.memory.Node, s.alive, func(string) bool { return true }) {
		if a.Unverified() && len(a.Profiles) > 0 {
			s.node.o.Say(fmt.Sprintf("unverified %s, which profile %s needs: %s (offshoot artifact show %s)", a.Name, strings.Join(a.Profiles, ", "), a.Verified, a.Digest[:min(len(a.Digest), 12)]))
		}
	}
}
