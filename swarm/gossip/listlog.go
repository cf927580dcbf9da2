package gossip

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// newMemberlistLogger lets memberlist speak through slog. It writes lines such as "[WARN] memberlist: text".
func newMemberlistLogger(logger *slog.Logger) *log.Logger {
	return log.New(&lineWriter{log: logger.With("from", "memberlist"), said: map[string]time.Time{}, now: time.Now}, "", 0)
}

// lineWriter turns lines into records. memberlist calls a host that is switched off, and a stranger's packet, errors,
// each time: so levels go down by one, and words that begin alike are a warning once a minute at most.
type lineWriter struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	said map[string]time.Time
}

const (
	repeatAfter = time.Minute
	alike       = 20 // characters; enough to tell memberlist's texts apart, too few to reach the addresses in them
	maxSaid     = 64 // memberlist has fewer texts
)

// Write is called by log.Logger with one line at a time.
func (w *lineWriter) Write(line []byte) (int, error) {
	tag, text := splitLine(string(line))
	level := slog.LevelDebug
	switch tag {
	case "ERR", "ERROR":
		level = slog.LevelWarn
	case "WARN":
		level = slog.LevelInfo
	}
	if level > slog.LevelDebug && w.again(text[:min(len(text), alike)]) {
		level = slog.LevelDebug
	}
	w.log.Log(context.Background(), level, "memberlist says", "text", text)
	return len(line), nil
}

func (w *lineWriter) again(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if last, ok := w.said[text]; ok && now.Sub(last) < repeatAfter {
		return true
	}
	if len(w.said) >= maxSaid {
		clear(w.said)
	}
	w.said[text] = now
	return false
}

// splitLine takes "[WARN] memberlist: text\n" apart; a line of another form is all text.
func splitLine(line string) (tag, text string) {
	text = strings.TrimSpace(line)
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if t, after, ok := strings.Cut(rest, "] "); ok {
			tag, text = t, after
		}
	}
	return tag, strings.TrimPrefix(text, "memberlist: ")
}
