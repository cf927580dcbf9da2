//go:build wire

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// What the scenarios of bad input have in common: the built program, and a disk image and a kernel that are just good enough
// for a seed to serve them. Nobody boots them here.
type badKit struct {
	dir                                    string // readable by everybody
	binary, image, kernel, modules, sshPub string
}

const badRelease = "6.1.0-offshoot"

func newBadKit(t *testing.T) badKit {
	t.Helper()
	dir, err := os.MkdirTemp("", "offshoot-bad-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	k := badKit{
		dir: dir, binary: filepath.Join(dir, "offshoot"), image: filepath.Join(dir, "disk.raw"), kernel: filepath.Join(dir, "vmlinuz"),
		modules: filepath.Join(dir, "lib/modules", badRelease), sshPub: filepath.Join(dir, "id.pub"),
	}
	if built := os.Getenv("OFFSHOOT_BIN"); built != "" {
		data, err := os.ReadFile(built)
		if err != nil {
			t.Fatal(err)
		}
		badWrite(t, k.binary, data, 0o755)
	} else {
		c := exec.CommandContext(t.Context(), "go", "build", "-o", k.binary, "../cmd/offshoot")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build offshoot: %v: %s", err, out)
		}
	}
	badWrite(t, k.image, badDisk(2<<20), 0o644)
	head := make([]byte, 4096) // the header of a bzImage, Documentation/arch/x86/boot.rst
	copy(head[0x202:], "HdrS")
	head[0x20f] = 0x04
	copy(head[0x600:], badRelease+" (nobody) #1\x00")
	badWrite(t, k.kernel, head, 0o644)
	if err := os.MkdirAll(filepath.Join(k.modules, "kernel"), 0o755); err != nil {
		t.Fatal(err)
	}
	badWrite(t, filepath.Join(k.modules, "kernel/nothing.ko"), nil, 0o644)
	badWrite(t, k.sshPub, []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhhcmRseSBhIGtleSBidXQgdGhpcnR5LXR3byBi operator\n"), 0o644)
	return k
}

func badWrite(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

// badDisk has an MBR with boot code and one partition that fills 2 MiB, cut to size.
func badDisk(size int) []byte {
	disk := make([]byte, 2<<20)
	copy(disk, "\xfa\x31\xc0 boot code")
	entry := disk[446:]
	entry[0], entry[4] = 0x80, 0x83
	entry[9], entry[13] = 8, 8 // sectors 2048 to 4095
	disk[510], disk[511] = 0x55, 0xaa
	return disk[:size]
}

// badWorld is a lab with one network and a host that shall become a seed there.
type badWorld struct {
	badKit
	t    *testing.T
	lab  *lab.Lab
	lan  *lab.Network
	host *lab.Host
	data string
}

func (k badKit) world(t *testing.T) *badWorld {
	t.Helper()
	l, err := lab.New(lab.Options{Dir: t.TempDir(), Name: "bad", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	w := &badWorld{badKit: k, t: t, lab: l, data: filepath.Join(l.Dir(), "data")}
	if w.lan, err = l.Network("lan0"); err != nil {
		t.Fatal(err)
	}
	w.host = w.another("seed", w.lan)
	return w
}

func (w *badWorld) another(name string, on ...*lab.Network) *lab.Host {
	w.t.Helper()
	h, err := w.lab.Host(name, on...)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// lans are three networks: the world's, lan1 and lan2.
func (w *badWorld) lans() []*lab.Network {
	w.t.Helper()
	lans := []*lab.Network{w.lan}
	for _, name := range []string{"lan1", "lan2"} {
		lan, err := w.lab.Network(name)
		if err != nil {
			w.t.Fatal(err)
		}
		lans = append(lans, lan)
	}
	return lans
}

func (w *badWorld) run(h *lab.Host, args ...string) string {
	w.t.Helper()
	out, err := h.Run(w.t.Context(), args[0], args[1:]...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// port is how the host's port looks: what a seed must leave as it found it. Of IPv6 nothing is said: the kernel changes that
// by itself.
func (w *badWorld) port() string {
	w.t.Helper()
	state := "down"
	err := w.host.Do(func() error {
		ifi, err := net.InterfaceByName("lan0")
		if err == nil && ifi.Flags&net.FlagUp != 0 {
			state = "up"
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return state + "\n" + w.run(w.host, "ip", "-4", "-o", "addr", "show", "dev", "lan0") + w.run(w.host, "ip", "-4", "route")
}

// badRun is one run of offshoot.
type badRun struct {
	t     *testing.T
	cmd   *lab.Cmd
	ended chan struct{}

	mu   sync.Mutex
	said bytes.Buffer
}

// Write collects what it says.
func (r *badRun) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Write(p)
}

func (r *badRun) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

// start runs a program on a host; words and results come together.
func (w *badWorld) start(h *lab.Host, program string, args ...string) *badRun {
	w.t.Helper()
	r := &badRun{t: w.t, cmd: h.Command(context.WithoutCancel(w.t.Context()), program, args...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		_ = r.cmd.Wait() // its exit code says all
	}()
	return r
}

// seedArgs are those of a seed that would start; what comes later counts.
func (w *badWorld) seedArgs(more ...string) []string {
	args := []string{
		"seed", "--data-dir", w.data, "--image", w.image, "--live-kernel", w.kernel, "--live-modules", w.modules,
		"--ssh-key", w.sshPub, "--name", "seed", "--probe", "1s",
	}
	if !slices.Contains(more, "--interface") { // a second one would be another port
		args = append(args, "--interface", "lan0")
	}
	return append(args, more...)
}

func (w *badWorld) seed(more ...string) *badRun {
	w.t.Helper()
	return w.start(w.host, w.binary, w.seedArgs(more...)...)
}

// badPatience is for machines on which everything else runs as well. Nothing waits that long when all is well.
const badPatience = 60 * time.Second

// await waits until a condition holds, and says what the run said when it does not.
func (r *badRun) await(what string, holds func() bool) {
	r.t.Helper()
	deadline, poll := time.NewTimer(badPatience), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer poll.Stop()
	for !holds() {
		select {
		case <-poll.C:
		case <-deadline.C:
			r.t.Fatalf("%s: not after %s; it said:\n%s", what, badPatience, r)
		}
	}
}

// says waits until it has said something.
func (r *badRun) says(text string) {
	r.t.Helper()
	r.await(fmt.Sprintf("it says %q", text), func() bool {
		select {
		case <-r.ended:
			if !strings.Contains(r.String(), text) {
				r.t.Fatalf("it ended without saying %q, but:\n%s", text, r)
			}
		default:
		}
		return strings.Contains(r.String(), text)
	})
}

func (r *badRun) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// ends wants an exit code, and all of these texts.
func (r *badRun) ends(code int, texts ...string) {
	r.t.Helper()
	r.await("it ends", func() bool {
		select {
		case <-r.ended:
			return true
		default:
			return false
		}
	})
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.t.Errorf("exit code %d, want %d; it said:\n%s", got, code, r)
	}
	for _, text := range texts {
		if !strings.Contains(r.String(), text) {
			r.t.Errorf("it did not say %q, but:\n%s", text, r)
		}
	}
	if strings.Contains(r.String(), "goroutine ") {
		r.t.Errorf("it crashed:\n%s", r)
	}
}

func (w *badWorld) status() status.Status {
	w.t.Helper()
	var s status.Status
	out := w.run(w.host, w.binary, "status", "-o", "json", "--data-dir", w.data)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		w.t.Fatalf("%v in %s", err, out)
	}
	return s
}

// dnsmasq gives addresses from .200 on unless it is told others, on a host that it first gives .254.
func (w *badWorld) dnsmasq(h *lab.Host, more ...string) *badRun {
	w.t.Helper()
	if !slices.ContainsFunc(more, func(flag string) bool { return strings.HasPrefix(flag, "--dhcp-range=") }) {
		more = append(more, "--dhcp-range=192.168.42.200,192.168.42.220,120")
	}
	w.run(h, "ip", "addr", "replace", "192.168.42.254/24", "dev", "lan0")
	r := w.start(h, "dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--log-facility=-",
		"--interface=lan0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
		"--dhcp-leasefile=" + filepath.Join(w.t.TempDir(), "leases"),
	}, more...)...)
	r.says("DHCP, sockets bound")
	return r
}
