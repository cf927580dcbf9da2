package syslog

import (
	"regexp"
	"strings"
)

// masks take secrets out of a line. Installers log the addresses that they fetch from, and what they were told.
var masks = []struct {
	is   *regexp.Regexp
	with string
}{
	// The nonce of a boot: its first letters tell boots apart, the whole fetches what is meant for the machine alone.
	{regexp.MustCompile(`((?i:/|%2f)b(?i:/|%2f)[A-Za-z0-9_-]{4})[A-Za-z0-9_-]{10,}`), "$1..."},
	// A ticket, or part of one: only its id is no secret.
	{regexp.MustCompile(`(os1\.(?:[0-9a-f]{16}\.)?)[A-Za-z0-9_.-]+`), "$1..."},
	// The hash of a password, crypt(5).
	{regexp.MustCompile(`(\$(?:1|2[abxy]|5|6|7|y|gy)\$)[^\s'",;]+`), "$1..."},
	// Name and password of a proxy or mirror.
	{regexp.MustCompile(`(://)[^/\s@]+@`), "$1...@"},
}

// shownNonce is how much of a nonce tells boots apart.
const shownNonce = 4

// mask takes secrets out of a line: what looks like one, and this nonce wherever it stands.
func mask(line, nonce string) string {
	if len(nonce) > shownNonce {
		line = strings.ReplaceAll(line, nonce, nonce[:shownNonce]+"...")
	}
	for _, m := range masks {
		line = m.is.ReplaceAllString(line, m.with)
	}
	return line
}
