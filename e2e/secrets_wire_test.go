//go:build wire

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// ticketForm is a ticket with its secret.
var ticketForm = regexp.MustCompile(`os1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{22}`)

// TestSecretsStayWhereTheyBelong watches an installation from the seed to the node, with -v everywhere: no ticket, no key
// of the swarm and no private key is on a command line, in an environment, in a URL, in a log, in what the operator is shown, or in a
// datagram on the wire; of a ticket nothing is left on the installed disk, and keys are there where only root reads.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	t.Parallel()
	lab.Need(t, "debugfs")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w, small := world(t)
	spy := watchProcesses(ctx, t, w.Lab.Dir())
	seed, bare, _ := begin(ctx, t, w, small)
	if _, err := w.Until(ctx, seed, "m1 is on duty", onDuty); err != nil {
		t.Fatal(err)
	}
	// A ticket that is known here: that of a machine whose orders the test fetches.
	k := &siege{World: w, t: t, m1: bare, small: small}
	puppet, orders := k.puppet(ctx, "p1")
	ticket := k.ticket(ctx, puppet, orders)
	if !ticketForm.MatchString(ticket) {
		t.Fatalf("%q is not a ticket: what is looked for is not what there is", ticket)
	}
	if strings.Contains(orders, ticket[20:]) {
		t.Error("the URL of the orders holds the ticket")
	}
	secrets := secretsOf(ctx, t, seed, bare)
	secrets["the ticket of p1"] = ticket[len(ticket)-22:]
	processes := spy()
	if processes < 3 {
		t.Errorf("%d processes of the story were seen: this proves nothing", processes)
	}
	for _, args := range [][]string{{"status", "-o", "json"}, {"machine", "show", bare.MAC.String(), "-o", "json"}, {"machine", "why", bare.MAC.String()}} {
		out, err := bare.Offshoot(ctx, args...)
		if err != nil {
			t.Error(err)
		}
		reveal(t, strings.Join(args, " "), []byte(out), secrets)
	}
	logs := 0
	for _, pattern := range []string{"*.log", "*/*.log"} {
		files, err := filepath.Glob(filepath.Join(w.Lab.Dir(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			logs++
			reveal(t, path, data, secrets)
		}
	}
	wire, err := os.ReadFile(w.Captures["lan0"].Path())
	if err != nil {
		t.Fatal(err)
	}
	reveal(t, "the capture of lan0", wire, secrets)
	if logs < 3 {
		t.Errorf("%d logs: this proves nothing", logs)
	}
	checkInstalled(ctx, t, bare, secrets)
}

// reveal fails for each secret in what is written in the open.
func reveal(t *testing.T, where string, data []byte, secrets map[string]string) {
	t.Helper()
	for name, secret := range secrets {
		if at := bytes.Index(data, []byte(secret)); at >= 0 {
			t.Errorf("%s holds %s: ...%q...", where, name, data[max(0, at-80):at])
		}
	}
	if at := ticketForm.FindIndex(data); at != nil {
		t.Errorf("%s holds a ticket: ...%q...", where, data[max(0, at[0]-80):at[0]])
	}
	if at := bytes.Index(data, []byte("PRIVATE KEY-----")); at >= 0 {
		t.Errorf("%s holds a private key: ...%q...", where, data[max(0, at-80):at])
	}
}

// secretsOf are the keys that the two nodes keep: whatever their private files hold.
func secretsOf(ctx context.Context, t *testing.T, seed *story.Daemon, m1 *story.Bare) map[string]string {
	t.Helper()
	out := map[string]string{}
	var memory map[string]any
	found := false
	err := filepath.WalkDir(seed.DataDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.HasSuffix(path, ".json") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &memory) != nil {
			return err
		}
		keys, _ := memory["keys"].([]any)
		for _, key := range keys {
			if text, ok := key.(string); ok && len(text) > 20 {
				out[fmt.Sprintf("gossip key %d", len(out))] = text
				found = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Error("no gossip key in the seed's memory: what is looked for is not what there is")
	}
	// The key of the authority, line by line: one line of its base64 is enough.
	keys := 0
	err = filepath.WalkDir(seed.DataDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() > 64<<10 {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, rest, ok := bytes.Cut(data, []byte("PRIVATE KEY-----\n"))
		if !ok {
			return nil
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		out["the key in "+filepath.Base(path)] = string(line)
		keys++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s holds a private key and has mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if keys < 2 {
		t.Errorf("%d private keys in the seed's directory, want its own and that of the authority", keys)
	}
	return out
}

// watchProcesses reads the command lines and environments of all processes that have to do with the folder, until the function
// that it returns is called: that one tells how many there were.
func watchProcesses(ctx context.Context, t *testing.T, dir string) func() int {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	seen := map[string]bool{}
	all.Go(func() {
		for lapse(ctx, 30*time.Millisecond) == nil {
			entries, err := os.ReadDir("/proc")
			if err != nil {
				t.Error(err)
				return
			}
			for _, e := range entries {
				line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
				if err != nil || !bytes.Contains(line, []byte(dir)) {
					continue
				}
				environment, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
				seen[e.Name()] = true
				if what := ticketForm.Find(append(line, environment...)); what != nil {
					t.Errorf("process %s has a ticket on its command line or in its environment: %.200q", e.Name(), line)
				}
			}
		}
	})
	stop := func() int {
		cancel()
		all.Wait()
		return len(seen)
	}
	t.Cleanup(func() { stop() })
	return stop
}

// checkInstalled looks at the disk of a machine that has joined: whoever finds it later finds no ticket, not even in what was
// deleted, and its keys in files that only root reads.
func checkInstalled(ctx context.Context, t *testing.T, b *story.Bare, secrets map[string]string) {
	t.Helper()
	if _, err := b.OnDisk(ctx, "sh", "-c", "echo "+control+" >root/control; sync"); err != nil {
		t.Fatal(err)
	}
	found := ticketsOn(t, b.Disk)
	if !found[control] {
		t.Error("a ticket that the test left on the disk was not found: this proves nothing")
	}
	delete(found, control)
	if len(found) > 0 {
		t.Errorf("%d tickets are left on the installed disk", len(found))
	}
	if _, err := b.OnDisk(ctx, "rm", "root/control"); err != nil {
		t.Fatal(err)
	}
	out, err := b.OnDisk(ctx, "find", ".", "-xdev", "-type", "f", "-size", "-64k", "-perm", "/077", "-print0")
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Split(strings.TrimRight(out, "\x00"), "\x00")
	if len(files) < 3 {
		t.Errorf("%d files on the disk: this proves nothing", len(files))
	}
	for _, path := range files {
		text, err := b.OnDisk(ctx, "cat", path)
		if err != nil {
			continue // gone meanwhile
		}
		reveal(t, "on the installed disk, readable by others: "+path, []byte(text), secrets)
	}
}

// control is a ticket that nobody ever minted.
const control = "os1.0123456789abcdef.ControlControlControlC"

// ticketsOn reads a whole disk, what was deleted included.
func ticketsOn(t *testing.T, path string) map[string]bool {
	t.Helper()
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	found := map[string]bool{}
	const overlap = 64
	buffer := make([]byte, overlap+4<<20)
	kept := 0
	for {
		n, err := io.ReadFull(disk, buffer[kept:])
		part := buffer[:kept+n]
		for _, ticket := range ticketForm.FindAll(part, -1) {
			found[string(ticket)] = true
		}
		if err != nil {
			return found
		}
		kept = copy(buffer, part[len(part)-overlap:])
	}
}
