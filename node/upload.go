package node

import (
	"context"
	"fmt"
	"io"

	"offshoot/node/internal/api"
	"offshoot/node/status"
	"offshoot/swarm"
)

// AddArtifact stores what an operator sends. Until the last byte is here nothing is written down, and nobody sees any of it.
func (d *desk) AddArtifact(ctx context.Context, actor, name string, size int64, r io.Reader) (status.Artifact, error) {
	var none status.Artifact
	if err := d.s.garbage.makeRoom(max(size, 0)); err != nil {
		d.s.node.log.Warn("no room is made", "artifact", name, "error", err)
	}
	got, err := d.s.store.PublishReader(ctx, r)
	if err != nil {
		return none, err
	}
	a := swarm.Artifact{Digest: string(got.Digest), Size: got.Size, Name: name, Origin: "sent by an operator", Verified: "given by the operator", InfoHash: got.InfoHash}
	if have, known := d.s.state.View().Artifact(a.Digest); known {
		a = have // it keeps its name, and what is known of its origin
	} else if err := d.decide(ctx, actor, swarm.PutArtifact{Artifact: a}); err != nil {
		return none, err
	}
	d.s.node.log.Info("artifact stored", "artifact", a.Name, "digest", a.Digest, "bytes", a.Size, "by", actor)
	return status.Artifact{Digest: a.Digest, Name: a.Name, Size: a.Size, Origin: a.Origin, Verified: a.Verified, InfoHash: a.InfoHash, Here: true}, nil
}

// decide writes an operator's decision down, and makes a refusal of the ledger an error.
func (d *desk) decide(ctx context.Context, actor string, op swarm.Op) error {
	result, err := d.Propose(ctx, actor, op)
	if err != nil {
		return err
	}
	if err := result.Err(); err != nil {
		return api.Refused(fmt.Errorf("the swarm refuses: %w", err))
	}
	return nil
}
