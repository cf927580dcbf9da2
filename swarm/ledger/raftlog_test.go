package ledger

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestRaftSpeaksThroughSlogAndDoesNotRepeatItself(t *testing.T) {
	var out bytes.Buffer
	l := newRaftLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	l.Error("failed to heartbeat to", "peer", "10.0.0.1:7400")
	l.With("peer", "10.0.0.1:7400").Named("net").Error("failed to heartbeat to") // the same again
	l.Warn("heartbeat timeout reached", "servers", hclog.Fmt("%d of %d", 1, 3))
	l.Info("entering follower state")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[1], "level=INFO") ||
		!strings.Contains(lines[1], `servers="1 of 3"`) {
		t.Errorf("got %q", lines)
	}
}
