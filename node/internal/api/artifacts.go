package api

import (
	"fmt"
	"strings"

	"offshoot/node/status"
	"offshoot/swarm"
)

// minDigest is how much of a digest names an artifact, if no other begins alike.
const minDigest = 6

// named finds the one artifact whose digest begins as the caller says.
func (q *request) named() (status.Artifact, error) {
	begin, found := q.PathValue("digest"), []status.Artifact{}
	for _, a := range q.desk.Artifacts() {
		if len(begin) >= minDigest && strings.HasPrefix(a.Digest, begin) {
			found = append(found, a)
		}
	}
	switch {
	case len(begin) < minDigest:
		return status.Artifact{}, fmt.Errorf("%w: %q names no artifact: want the SHA-256 or its beginning, %d digits at least; see: offshoot artifact list", errBad, begin, minDigest)
	case len(found) == 0:
		return status.Artifact{}, fmt.Errorf("artifact %q is %w: offshoot artifact list", begin, errMissing)
	case len(found) > 1:
		return status.Artifact{}, fmt.Errorf("%w: %d artifacts begin with %s: give more of the SHA-256", errBad, len(found), begin)
	}
	return found[0], nil
}

// onArtifact decides about one artifact.
func onArtifact(op func(digest string) swarm.Op) func(*request) (any, error) {
	return func(q *request) (any, error) {
		return decide(q, func(struct{}) (swarm.Op, error) {
			a, err := q.named()
			return op(a.Digest), err
		})
	}
}

// showArtifact answers with one artifact, and with what is in it if it is an installer's image.
func showArtifact(q *request) (any, error) {
	a, err := q.named()
	if err == nil {
		a.Medium = q.desk.Medium(a.Digest)
	}
	return a, err
}

func verify(q *request) (any, error) {
	a, err := q.named()
	if err != nil {
		return nil, err
	}
	return q.desk.VerifyArtifact(q.Context(), q.caller.Actor(), a)
}
