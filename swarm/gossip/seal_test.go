package gossip

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// TestPacketsOfAnotherSealAreNotHandedOn: memberlist would take off padding that nobody put there, and fall over.
func TestPacketsOfAnotherSealAreNotHandedOn(t *testing.T) {
	t.Parallel()
	label := "\xf4\x04seed"
	for packet, want := range map[string]bool{
		"\x01nonce and the rest": true, label + "\x01nonce and the rest": true,
		"\x00nonce and the rest": false, label + "\x00nonce and the rest": false,
		"\x02nonce": false, label + "\x02nonce": false,
		"": false, label: false, "\xf4": false, "\xf4\x09seed": false, "\xf4\x00\x01": true,
	} {
		if got := wellSealed([]byte(packet)); got != want {
			t.Errorf("%q: %v", packet, got)
		}
	}
}

func TestStreamsOfAnotherSealEndAtTheirVersion(t *testing.T) {
	t.Parallel()
	label, head, rest := "\xf4\x04seed", "\x0a\x00\x00\x00\x20", strings.Repeat("s", 32)
	for stream, want := range map[string]error{
		head + "\x01" + rest: nil, label + head + "\x01" + rest: nil, head: nil, label: nil,
		head + "\x00" + rest: errSeal, label + head + "\x00" + rest: errSeal,
	} {
		for _, step := range []int{1, 3, 1000} { // however it comes in
			here, there := net.Pipe()
			go func() {
				for part := range strings.SplitSeq(cut(stream, step), "|") {
					if _, err := there.Write([]byte(part)); err != nil {
						break // hung up on
					}
				}
				_ = there.Close()
			}()
			got, err := io.ReadAll(&conn{Conn: here, left: -1})
			_ = here.Close()
			if !errors.Is(err, want) || want == nil && (err != nil || string(got) != stream) {
				t.Errorf("%q in steps of %d: %q, %v", stream, step, got, err)
			}
			if want != nil && bytes.Contains(got, []byte("ss")) {
				t.Errorf("%q in steps of %d: %q was handed on", stream, step, got)
			}
		}
	}
}

// cut puts a bar behind every n bytes.
func cut(s string, n int) string {
	var parts []string
	for len(s) > n {
		parts, s = append(parts, s[:n]), s[n:]
	}
	return strings.Join(append(parts, s), "|")
}
