package main

import (
	"bytes"
	"testing"
	"time"

	"offshoot/node/status"
)

func TestProgressIsOneLineOnATerminalAndSomeElsewhere(t *testing.T) {
	t.Parallel()
	steps := []status.Prefetch{
		{What: "kernel", Done: 20e6, Had: 20e6, Total: 420e6},
		{What: "image", Done: 120e6, Had: 20e6, Total: 420e6},
		{What: "an image\x1b[2J", Done: 220e6, Had: 20e6, Total: 420e6},
		{What: "set", Done: 420e6, Had: 20e6, Total: 420e6},
		{What: "set", Done: 420e6, Had: 20e6, Total: 420e6, Ended: true},
	}
	for _, c := range []struct {
		live bool
		want string
	}{
		{false, `
fetching    4 %  20.0 MB of 420.0 MB  kernel
fetching   52 %  220.0 MB of 420.0 MB  33.3 MB/s  6s left  an image [2J
`},
		{true, "\n" + clearLine + `fetching    4 %  20.0 MB of 420.0 MB  kernel` +
			clearLine + `fetching   28 %  120.0 MB of 420.0 MB  33.3 MB/s  9s left  image` +
			clearLine + `fetching   52 %  220.0 MB of 420.0 MB  33.3 MB/s  6s left  an image [2J` +
			clearLine + `fetching  100 %  420.0 MB of 420.0 MB  44.4 MB/s  set` + clearLine},
	} {
		var out bytes.Buffer
		now := noon
		m := meter{progress: &progress{out: &out, terminal: c.live}, now: func() time.Time { return now }}
		for _, p := range steps {
			m.step(p)
			now = now.Add(3 * time.Second)
		}
		m.draw(now, "")
		same(t, out.String(), c.want)
	}
	if got := progressLine(status.Prefetch{}, time.Minute); got != "fetching  100 %  0.0 MB of 0.0 MB  " {
		t.Errorf("nothing to fetch: %q", got)
	}
}
