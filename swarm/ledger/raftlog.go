package ledger

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger lets raft speak through slog. raft is talkative and excited: it calls a peer that is switched off an
// error, every few seconds. So its levels go down by one, and the same words are a warning once a minute at most.
type raftLogger struct {
	log    *slog.Logger
	name   string
	args   []any
	spoken *spoken
}

var _ hclog.Logger = (*raftLogger)(nil)

func newRaftLogger(logger *slog.Logger) *raftLogger {
	return &raftLogger{log: logger.With("from", "raft"), spoken: &spoken{said: map[string]time.Time{}}}
}

// spoken remembers when a message was last said aloud. raft's messages are constants, so it stays small.
type spoken struct {
	mu   sync.Mutex
	said map[string]time.Time
}

const repeatAfter = time.Minute

func (r *spoken) again(msg string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.said[msg]; ok && now.Sub(last) < repeatAfter {
		return true
	}
	r.said[msg] = now
	return false
}

// level maps raft's idea of importance to ours.
func (l *raftLogger) level(level hclog.Level, msg string) slog.Level {
	switch {
	case level >= hclog.Error && !l.spoken.again(msg, time.Now()):
		return slog.LevelWarn
	case level == hclog.Warn && !l.spoken.again(msg, time.Now()):
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	to := l.level(level, msg)
	if !l.log.Enabled(ctx, to) {
		return
	}
	attrs := make([]any, 0, len(args)+2)
	attrs = append(attrs, "text", msg)
	for _, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				a = fmt.Sprintf(format, f[1:]...)
			}
		}
		attrs = append(attrs, a)
	}
	l.log.Log(ctx, to, "raft says", attrs...)
}

func (l *raftLogger) Trace(string, ...any)          {} // raft's traces are for its authors
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) IsTrace() bool { return false }
func (l *raftLogger) IsDebug() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool  { return l.IsDebug() }
func (l *raftLogger) IsWarn() bool  { return true }
func (l *raftLogger) IsError() bool { return true }

func (l *raftLogger) ImpliedArgs() []any { return l.args }
func (l *raftLogger) Name() string       { return l.name }

func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{
		log: l.log.With(args...), name: l.name, spoken: l.spoken,
		args: append(l.args[:len(l.args):len(l.args)], args...),
	}
}

func (l *raftLogger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	return &raftLogger{log: l.log, name: name, args: l.args, spoken: l.spoken}
}

func (l *raftLogger) SetLevel(hclog.Level)  {} // the handler decides
func (l *raftLogger) GetLevel() hclog.Level { return hclog.NoLevel }

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.log.Handler(), slog.LevelDebug)
}

func (l *raftLogger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(opts).Writer()
}
