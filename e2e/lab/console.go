package lab

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// consolePoll is how often the serial log is looked at: a file tells nobody that it grew.
const consolePoll = 100 * time.Millisecond

// consoleTail is how many lines an error of WaitConsole shows.
const consoleTail = 15

// WaitConsole waits until the serial console shows a match of re, and returns the match and its groups. It works like
// expect(1): what was printed before the end of the last match is not looked at again, so that one can wait for the same
// prompt twice. Escape sequences are taken out before matching. It ends early when the machine switches off.
func (m *Machine) WaitConsole(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	m.expect.Lock()
	defer m.expect.Unlock()
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return nil, fmt.Errorf("wait for %s on the console of %s: %w", re, m.name, errMachineOff)
	}
	poll := time.NewTicker(consolePoll)
	defer poll.Stop()
	for {
		off := r.ended() // before reading, so that the last words are read
		raw, err := os.ReadFile(m.Console())
		if err != nil {
			return nil, fmt.Errorf("console of %s: %w", m.name, err)
		}
		text := plain(raw)[m.read:]
		if loc := re.FindSubmatchIndex(text); loc != nil {
			found := make([]string, len(loc)/2)
			for i := range found {
				if loc[2*i] >= 0 {
					found[i] = string(text[loc[2*i]:loc[2*i+1]])
				}
			}
			m.read += loc[1]
			return found, nil
		}
		why := errMachineOff
		if !off {
			select {
			case <-poll.C:
				continue
			case <-r.done:
				continue // once more, for its last words
			case <-ctx.Done():
				why = ctx.Err()
			}
		}
		return nil, fmt.Errorf("wait for %s on the console of %s: %w; last lines:\n\t%s",
			re, m.name, why, strings.Join(lastLines(text, consoleTail), "\n\t"))
	}
}

// escapeSequence is the length of the escape sequence (ECMA-48) that text begins with: CSI sequences and two-byte ones, as
// firmware and systemd write them. 0 if there is none or it is not complete yet.
func escapeSequence(text []byte) int {
	if len(text) < 2 || text[0] != 0x1b {
		return 0
	}
	if text[1] != '[' {
		return 2
	}
	for i, c := range text[2:] {
		if c >= 0x40 && c <= 0x7e {
			return i + 3
		}
	}
	return 0
}

// plain is a serial log without escape sequences and carriage returns.
func plain(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		if n := escapeSequence(text); n > 0 {
			text = text[n:]
			continue
		}
		if text[0] != '\r' {
			out = append(out, text[0])
		}
		text = text[1:]
	}
	return out
}

// lastLines returns the last n lines that are not blank.
func lastLines(text []byte, n int) []string {
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}
