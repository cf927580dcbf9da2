//go:build wire

package e2e

import (
	"context"
	"testing"
	"time"
)

// TestNodesFetchArtifactsInPieces: three machines become nodes at the same time, and get what the profile needs by BitTorrent, from the
// seed and from each other; HTTP is for what has no pieces, and for when they do not come.
func TestNodesFetchArtifactsInPieces(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	_, _, trio := threeVoters(ctx, t)
	served := int64(0)
	for _, b := range trio.Machines {
		s, err := b.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", b.Host, s.Exchange)
		if s.Exchange.Fetched < 1<<20 || s.Exchange.BadPieces > 0 {
			t.Errorf("%s is warm, and has fetched %d bytes in pieces, %d of them wrong", b.Host, s.Exchange.Fetched, s.Exchange.BadPieces)
		}
		served += s.Exchange.Served
	}
	if served == 0 {
		t.Error("the seed alone has sent pieces")
	}
}
