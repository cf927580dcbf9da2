//go:build wire

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

const seedSyslog = "192.168.42.1"

// TestInstallersAreHeardAndStalledMachinesAreNamed: what foreign senders say reaches the operator, whichever node they speak to and
// he asks; nobody else is heard; and a machine that falls silent is named with its last words.
func TestInstallersAreHeardAndStalledMachinesAreNamed(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.Wire, "logger", "busybox")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	k := besiege(ctx, t)
	if out, err := k.m1.Offshoot(ctx, "swarm", "set", "stall-after", "30s"); err != nil || !strings.Contains(out, "stands still for 30s") {
		t.Fatal(err, out)
	}
	m2, orders := k.puppet(ctx, "m2")
	install := k.begin(ctx, m2, orders)
	mac := m2.MAC.String()
	nonce := orders[strings.LastIndex(orders, "/")+1:]

	// The seed has no duty any more, and is who an installer was told that began before that; m1 is asked.
	secret := "os1.0123456789abcdef.AbCdEfGhIjKlMnOpQrStUv"
	k.logger(ctx, m2.Host, seedSyslog, "--rfc5424", "-t", "wget", orders+"/install says "+secret)
	k.logger(ctx, m2.Host, k.home, "--rfc3164", "-t", "main-menu", "INFO: Menu item 'partman-base' selected")
	k.logger(ctx, k.stranger, seedSyslog, "--rfc3164", "-t", "evil", "said by a stranger")
	k.busybox(ctx, m2, "debootstrap", "the last line that m2 says")
	lines := k.logHas(ctx, mac, "wget", "main-menu", "debootstrap")
	out, err := k.m1.Offshoot(ctx, "machine", "log", mac)
	if err != nil {
		t.Fatal(err, out)
	}
	t.Logf("machine log:\n%s", out)
	for _, hidden := range []string{nonce, "AbCdEfGh", "stranger"} {
		if strings.Contains(out, hidden) {
			t.Errorf("%q is in the log of m2", hidden)
		}
	}
	if by := lines["wget"].Node; by != "seed" {
		t.Errorf("what the seed heard is said to be heard by %q", by)
	}
	if by := lines["main-menu"].Node; by != "m1" {
		t.Errorf("what m1 heard is said to be heard by %q", by)
	}
	if heard, err := os.ReadFile(k.seed.Log); err != nil || !bytes.Contains(heard, []byte("syslog packet of a stranger dropped")) || bytes.Contains(heard, []byte("said by a stranger")) {
		t.Errorf("the stranger's packet was not dropped: %v", err)
	}

	if _, err := k.Until(ctx, k.seed, "m2 is stalled", func(s status.Status) string {
		for _, p := range s.Problems {
			if strings.Contains(p.What, "machine m2 is stalled") && strings.Contains(p.What, "debootstrap: the last line that m2 says") && strings.Contains(p.Next, "offshoot machine log "+mac) {
				t.Logf("PROBLEM  %s\n   next: %s", p.What, p.Next)
				return ""
			}
		}
		return "no problem says so"
	}); err != nil {
		t.Fatal(err)
	}
	// Or it would be stalled again, on a machine that is busy, before anybody has looked.
	if out, err := k.m1.Offshoot(ctx, "swarm", "set", "stall-after", "default"); err != nil {
		t.Fatal(err, out)
	}
	k.follow(ctx, m2, mac)
	if _, err := k.Until(ctx, k.m1, "m2 gets on", func(s status.Status) string {
		for _, p := range s.Problems { // the small disk of m1 may be one
			if strings.Contains(p.What, "m2") {
				return p.What
			}
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	k.report(ctx, m2, orders, install, "disk")
	out, err = k.m1.Offshoot(ctx, "machine", "show", mac)
	t.Logf("machine show:\n%s", out)
	kinds := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{"log by its log: partitioning", "!stalled m2 has not got on for 30s", "resumed m2 gets on again: pkgsel: here again", "install disk:"} {
		if err != nil || strings.Count(kinds, want) != 1 {
			t.Errorf("%q is there %d times, %v", want, strings.Count(kinds, want), err)
		}
	}
}

// logger sends a line by syslog with the program of util-linux.
func (k *siege) logger(ctx context.Context, from *lab.Host, to string, args ...string) {
	k.t.Helper()
	if out, err := from.Run(ctx, "logger", append([]string{"--udp", "--server", to, "--port", "514", "--socket-errors=on"}, args...)...); err != nil {
		k.t.Fatalf("logger: %v: %s", err, out)
	}
}

// busybox sends a line by the syslogd that debian-installer runs. Its socket is in a /dev of its own.
func (k *siege) busybox(ctx context.Context, from *story.Bare, program, line string) {
	k.t.Helper()
	script := `mount -t tmpfs none /dev && mknod /dev/null c 1 3 && touch /dev/messages || exit
busybox syslogd -n -O /dev/messages -L -R ` + k.home + `:514 &
daemon=$!
trap 'kill $daemon' EXIT
while ! [ -S /dev/log ]; do kill -0 $daemon || exit; sleep 0.05; done
busybox logger -t "$0" "$1"
while ! grep -q "$1" /dev/messages; do kill -0 $daemon || exit; sleep 0.05; done`
	if out, err := from.Host.Run(ctx, "unshare", "--mount", "sh", "-c", script, program, line); err != nil {
		k.t.Fatalf("busybox syslogd: %v: %s", err, out)
	}
}

// logHas waits until the log of a machine has lines of these programs, and returns the last of each.
func (k *siege) logHas(ctx context.Context, mac string, programs ...string) map[string]status.LogLine {
	k.t.Helper()
	for {
		var lines []status.LogLine
		out, err := k.m1.Offshoot(ctx, "machine", "log", "-o", "json", mac)
		if err == nil {
			err = json.Unmarshal([]byte(out), &lines)
		}
		if err != nil {
			k.t.Fatal(err, out)
		}
		found := map[string]status.LogLine{}
		for _, l := range lines {
			found[l.Program] = l
		}
		missing := ""
		for _, p := range programs {
			if found[p].Seq == 0 {
				missing = p
			}
		}
		if missing == "" {
			return found
		}
		select {
		case <-ctx.Done():
			k.t.Fatalf("nothing of %s in the log: %+v", missing, lines)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// follow lets a machine say something while an operator follows its log, who must see it.
func (k *siege) follow(ctx context.Context, m *story.Bare, mac string) {
	k.t.Helper()
	following, end := context.WithCancel(ctx)
	defer end()
	c := k.seed.Host.Command(following, os.Getenv("OFFSHOOT_BIN"), "machine", "log", "-f", mac, "--data-dir", k.seed.DataDir)
	out, err := c.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = c.Wait() }() // it is killed
	defer end()
	said, seen := false, map[string]int{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		seen[lines.Text()]++
		if strings.Contains(lines.Text(), "debootstrap") { // it has begun to follow
			k.logger(ctx, m.Host, k.home, "--rfc5424", "-t", "pkgsel", "here again")
		}
		if said = strings.Contains(lines.Text(), "pkgsel: here again"); said {
			break
		}
	}
	if !said {
		k.t.Error("a line that came while the log was followed was not shown")
	}
	for line, n := range seen {
		if n > 1 {
			k.t.Errorf("shown %d times: %s", n, line)
		}
	}
}

// begin fetches a machine's orders as its installer does, and returns the id of the installation.
func (k *siege) begin(ctx context.Context, m *story.Bare, orders string) (install string) {
	k.t.Helper()
	code, body, err := get(ctx, m.Host, orders+"/install")
	var config struct {
		Install string `json:"install"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &config)
	}
	if err != nil || code != http.StatusOK || config.Install == "" {
		k.t.Fatalf("orders: %d %s %v", code, body, err)
	}
	return config.Install
}

// report says how far an installation is.
func (k *siege) report(ctx context.Context, m *story.Bare, orders, install, phase string) {
	k.t.Helper()
	body, err := json.Marshal(map[string]any{"install": install, "phase": phase, "text": "as told"})
	if err != nil {
		k.t.Fatal(err)
	}
	if out, err := m.Host.Run(ctx, "curl", "-sSf", "-X", "POST", "--data-binary", string(body), orders+"/event"); err != nil {
		k.t.Fatalf("event: %v: %s", err, out)
	}
}
