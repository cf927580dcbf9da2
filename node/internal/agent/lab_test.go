package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"offshoot/node/internal/install"
)

// The test binary is also the program under test: as PID 1 of a virtual machine it is the agent.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		Main(context.Background(), nil)
	}
	os.Exit(m.Run())
}

// need skips a test that lacks a right or a tool; in CI that is a failure.
func need(t *testing.T, root bool, tools ...string) {
	t.Helper()
	missing := ""
	if root && os.Geteuid() != 0 {
		missing = "root"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = tool
		}
	}
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must have %s", missing)
	default:
		t.Skipf("needs %s", missing)
	}
}

const (
	testMAC     = "52:54:00:00:00:01"
	testInstall = "1122334455667788"
	rootOffset  = 2 << 20
	rootSize    = 64 << 20
	imageSize   = rootOffset + rootSize + 1<<20
)

// testImage is a disk with a GPT and one ext4 root that has just enough of a system to be configured.
func testImage(t *testing.T) []byte {
	t.Helper()
	need(t, false, "mke2fs", "sfdisk")
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for name, text := range map[string]string{
		"etc/shadow":         "daemon:*:1::::::\nroot:!:20000:0:99999:7:::\n",
		"etc/hosts":          "127.0.0.1 localhost\n127.0.1.1 build\n",
		"etc/systemd/x.conf": "",
		"root/.profile":      "",
		"big":                strings.Repeat("offshoot ", 2<<20),
	} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, imageSize); err != nil {
		t.Fatal(err)
	}
	table := fmt.Sprintf("label: gpt\nstart=%d, size=%d, type=linux, bootable\n", rootOffset/512, rootSize/512)
	sh(t, table, "sfdisk", "-q", file)
	sh(t, "", "mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", fmt.Sprintf("offset=%d", rootOffset), file, fmt.Sprintf("%dk", rootSize>>10))
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func compress(t *testing.T, raw []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(raw, nil)
}

func sh(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// node is the other side: it serves one machine, and can misbehave.
type node struct {
	*httptest.Server
	cfg install.Config

	mu     sync.Mutex
	events []install.Event
	refuse func() (int, string)                                     // of /install; 0 serves
	event  func(install.Event) int                                  // answer to an event; nil or 0: 200
	image  func(w http.ResponseWriter, r *http.Request) (done bool) // before the image is served
}

// newNode serves image under the given format. host is the address that the machine sees the node at ("" = its own).
func newNode(t *testing.T, stored []byte, format string, disk int64) *node {
	t.Helper()
	n := &node{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /b/nonce/install", func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.refuse != nil {
			if code, why := n.refuse(); code != 0 {
				http.Error(w, why, code)
				return
			}
		}
		_ = json.NewEncoder(w).Encode(n.cfg)
	})
	mux.HandleFunc("POST /b/nonce/event", func(w http.ResponseWriter, r *http.Request) {
		e, err := install.DecodeEvent(r.Body)
		if err != nil {
			t.Errorf("the agent sent a bad event: %v", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.event != nil {
			if code := n.event(e); code != 0 {
				http.Error(w, "as the test wants", code)
				return
			}
		}
		n.events = append(n.events, e)
	})
	mux.HandleFunc("GET /image", func(w http.ResponseWriter, r *http.Request) {
		if n.image != nil && n.image(w, r) {
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(stored))
	})
	n.Server = httptest.NewServer(mux)
	t.Cleanup(n.Close)
	sum := sha256.Sum256(stored)
	self := selfSum(t)
	n.cfg = install.Config{
		Install: testInstall, Machine: testMAC, Hostname: "m1.example",
		Image:    install.Image{URL: n.URL + "/image", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(stored)), Format: format, DiskSize: disk},
		RootHash: "$6$salt$hashhashhash", SSHKeys: []string{"ssh-ed25519 AAAA me@laptop"}, Binary: self,
		Join: install.Join{
			Swarm: "s1", Ticket: "os1.id.secretword", Pin: "pin", Endpoints: []string{"192.168.42.1:7400"}, Segment: "lan0",
			Address: netip.MustParsePrefix("192.168.42.17/24"), Gateway: netip.MustParseAddr("192.168.42.1"), MAC: testMAC, Name: "m1",
		},
	}
	return n
}

func (n *node) phases() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, e := range n.events {
		if len(out) == 0 || out[len(out)-1] != string(e.Phase) {
			out = append(out, string(e.Phase))
		}
	}
	return strings.Join(out, " ")
}

func selfSum(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// checkInstalled looks at a disk with the eyes of others: sfdisk, e2fsck, debugfs.
func checkInstalled(t *testing.T, disk string) {
	t.Helper()
	need(t, false, "sfdisk", "e2fsck", "debugfs")
	if out := sh(t, "", "sfdisk", "--verify", disk); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk says: %s", out)
	}
	part := filepath.Join(t.TempDir(), "root.ext4")
	src, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	raw := make([]byte, rootSize)
	if _, err := src.ReadAt(raw, rootOffset); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "", "e2fsck", "-fn", part)
	for path, want := range map[string]string{
		"/etc/hostname":                        "m1.example\n",
		"/etc/hosts":                           "127.0.1.1 m1.example m1\n",
		"/etc/shadow":                          "root:$6$salt$hashhashhash:20000:",
		"/root/.ssh/authorized_keys":           "ssh-ed25519 AAAA me@laptop\n",
		"/etc/systemd/system/offshoot.service": "ExecStart=/usr/local/bin/offshoot node\n",
		"/var/lib/offshoot/join.json":          `"ticket": "os1.id.secretword"`,
	} {
		if got := sh(t, "", "debugfs", "-R", "cat "+path, part); !strings.Contains(got, want) {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"/var/lib/offshoot":           "Mode:  0700",
		"/var/lib/offshoot/join.json": "Mode:  0600",
		"/root/.ssh/authorized_keys":  "Mode:  0600",
		"/etc/shadow":                 "Mode:  0640",
		"/usr/local/bin/offshoot":     "Mode:  0755",
		"/etc/systemd/system/multi-user.target.wants/offshoot.service": `Fast link dest: "../offshoot.service"`,
	} {
		if got := sh(t, "", "debugfs", "-R", "stat "+path, part); !strings.Contains(got, want) {
			t.Errorf("%s: %q not in %q", path, want, got)
		}
	}
	sum := filepath.Join(t.TempDir(), "binary")
	sh(t, "", "debugfs", "-R", "dump /usr/local/bin/offshoot "+sum, part)
	bin, err := os.ReadFile(sum)
	if err != nil {
		t.Fatal(err)
	}
	if got := sha256.Sum256(bin); hex.EncodeToString(got[:]) != selfSum(t) {
		t.Error("the program on the disk is not the one that runs")
	}
}

func blankDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}
