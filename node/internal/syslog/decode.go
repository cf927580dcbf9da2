package syslog

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// message is what a packet says. The time in it is not kept: clocks of machines that install themselves are wrong.
type message struct {
	severity int    // 0 to 7, the worst first
	program  string // "" if it does not say
	text     string
}

// severities are RFC 5424's words, as syslog.conf(5) has them.
var severities = [...]string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// defaultSeverity is that of a packet without priority: RFC 3164, 4.3.3.
const defaultSeverity = 5

// Bounds of what is kept of one message, bytes.
const (
	maxText    = 1024 // RFC 3164 has no longer packets
	maxProgram = 48   // RFC 5424, APP-NAME
)

// decode reads a packet in any of the forms that installers send, and takes what it does not understand as text: a line that is
// read wrong is worth more than none. nonce is a secret of the machine, "" for none.
func decode(packet []byte, nonce string) message {
	line := mask(printable(packet), nonce)
	m := message{severity: defaultSeverity}
	rest := line
	if found := priority.FindStringSubmatch(line); found != nil {
		m.severity = number(found[1]) & 7
		rest = line[len(found[0]):]
	}
	if found := header5424.FindStringSubmatch(rest); found != nil {
		if text, ok := skipData(rest[len(found[0]):]); ok {
			m.program, m.text = strings.TrimSuffix(found[1], "-"), text
			return m.bounded()
		}
	}
	if stamp := stamp3164.FindString(rest); stamp != "" {
		rest = rest[len(stamp):]
		// busybox syslogd leaves the host out, all others say it: it is what does not look like a tag.
		if first, after, ok := strings.Cut(rest, " "); ok && !tag.MatchString(rest) && tag.MatchString(after) {
			rest = after
		} else if ok && !tag.MatchString(rest) && !strings.Contains(first, ":") {
			rest = after
		}
	}
	if found := tag.FindStringSubmatch(rest); found != nil {
		m.program, rest = found[1], rest[len(found[0]):]
	}
	m.text = rest
	return m.bounded()
}

func (m message) bounded() message {
	m.text, m.program = clip(strings.TrimSpace(m.text), maxText), clip(m.program, maxProgram)
	return m
}

var (
	priority = regexp.MustCompile(`^<(1[0-8][0-9]|19[01]|[0-9]{1,2})>`)
	// VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID
	header5424 = regexp.MustCompile(`^1 \S+ \S+ (\S+) \S+ \S+ `)
	// "Oct  1 22:14:15 ", or what rsyslog sends where RFC 3164 wants that.
	stamp3164 = regexp.MustCompile(`^(?:[A-Z][a-z]{2} [ 0-3]?[0-9] [0-9]{2}:[0-9]{2}:[0-9]{2}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]{5,6})) +`)
	tag       = regexp.MustCompile(`^([A-Za-z0-9_./()-]{1,64})(?:\[[0-9]{1,10}\])?:(?: |$)`)
)

// number is that of a few digits.
func number(digits string) (n int) {
	for _, d := range digits {
		n = 10*n + int(d-'0')
	}
	return n
}

// skipData goes past the structured data of RFC 5424: "-", or elements in brackets, in whose quoted values a backslash escapes.
func skipData(s string) (text string, ok bool) {
	if rest, nothing := strings.CutPrefix(s, "-"); nothing {
		return rest, rest == "" || rest[0] == ' '
	}
	for strings.HasPrefix(s, "[") {
		end, quoted := -1, false
		for i := 1; i < len(s) && end < 0; i++ {
			switch {
			case quoted && s[i] == '\\':
				i++
			case s[i] == '"':
				quoted = !quoted
			case s[i] == ']' && !quoted:
				end = i
			}
		}
		if end < 0 {
			return "", false
		}
		s, ok = s[end+1:], true
	}
	return s, ok
}

// printable makes one line of anything: nothing in it can command a terminal, or look like several lines.
func printable(packet []byte) string {
	line := strings.Map(func(r rune) rune {
		switch {
		case r == '\ufeff': // the mark of RFC 5424 that UTF-8 follows
			return -1
		case unicode.IsSpace(r), r == 0:
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, string(packet))
	return strings.TrimSpace(line)
}

// clip bounds a text, in bytes, at a character.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}
