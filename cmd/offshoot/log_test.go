package main

import (
	"bytes"
	"testing"
	"time"

	"offshoot/node/status"
)

func TestStallAfterIsRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"default": 0, "30s": 30, "15m": 900, "24h": 86_400, "1h30m": 5400} {
		if got, err := stallAfter(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "15", "29s", "25h", "-15m", "30.5s", "soon"} {
		if got, err := stallAfter(text); err == nil {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}

func TestLogLinesCommandNoTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := printLog(&out, []status.LogLine{
		{Node: "seed", Text: "this node could not be asked: x"},
		{Node: "seed", Seq: 1, Time: time.Date(2026, 11, 21, 3, 0, 0, 0, time.Local), Severity: "err", Program: "kernel", Text: "a\x1b[2Jb"},
	})
	want := "-             seed           this node could not be asked: x\n03:00:00.000  seed  err      kernel: a [2Jb\n"
	if err != nil || out.String() != want {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
