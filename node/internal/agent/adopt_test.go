package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"offshoot/node/internal/install"
)

// foreignNode serves a machine whose profile has an installer of its own.
func foreignNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t, []byte("x"), install.FormatRaw, 1)
	n.cfg.Image = install.Image{}
	return n
}

// system is a folder with just enough of an installed system.
func system(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/os-release": "ID=debian\n", "etc/shadow": "root:!:20000:0:99999:7:::\n", "etc/hosts": "127.0.0.1 localhost\n", "etc/systemd/system/.keep": "",
		"usr/bin/systemctl": "", "root/.profile": "",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func adopting(n *node) (Adoption, *bytes.Buffer) {
	var console bytes.Buffer
	return Adoption{URL: n.URL + "/b/nonce", Logger: slog.New(slog.DiscardHandler), Console: &console}, &console
}

func TestAdoptedSystemHasWhatTheAgentLeavesInAnImage(t *testing.T) {
	n, root := foreignNode(t), system(t)
	a, console := adopting(n)
	if err := Adopt(deadline(t), a, root); err != nil {
		t.Fatal(err)
	}
	if want := "configure installed"; n.phases() != want {
		t.Errorf("phases %q, want %q", n.phases(), want)
	}
	for name, want := range map[string]string{
		"etc/hostname": n.cfg.Hostname + "\n", "etc/hosts": "127.0.1.1 " + n.cfg.Hostname, "etc/shadow": "root:" + n.cfg.RootHash + ":",
		"root/.ssh/authorized_keys": n.cfg.SSHKeys[0], "etc/systemd/system/multi-user.target.wants/offshoot.service": "ExecStart=/usr/local/bin/offshoot node",
		"var/lib/offshoot/join.json": n.cfg.Join.Ticket,
	} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s: %q, %v; want %q", name, data, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "usr/local/bin/offshoot")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v, %v", info, err)
	}
	if strings.Contains(console.String(), "secretword") {
		t.Errorf("the console shows a secret: %s", console)
	}
}

func TestFolderThatHoldsNoSystemIsNotAdopted(t *testing.T) {
	for _, lacks := range []string{"etc/os-release", "etc/shadow", "etc/systemd", "usr/bin/systemctl", ""} {
		n, root := foreignNode(t), system(t)
		if lacks != "" {
			if err := os.RemoveAll(filepath.Join(root, lacks)); err != nil {
				t.Fatal(err)
			}
		} else if err := errors.Join(os.MkdirAll(filepath.Join(root, "var/lib/offshoot"), 0o700), os.WriteFile(filepath.Join(root, "var/lib/offshoot/node.json"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		a, _ := adopting(n)
		if err := Adopt(deadline(t), a, root); !errors.Is(err, ErrNoSystem) {
			t.Errorf("without %q: %v", lacks, err)
		}
		if _, err := os.Stat(filepath.Join(root, "usr/local/bin/offshoot")); err == nil {
			t.Errorf("without %q: something was left in it", lacks)
		}
		if last := n.last(); !last.Final || last.Phase != install.PhaseFailed || !strings.Contains(last.Text, "no installed system") {
			t.Errorf("without %q: the node was told %+v", lacks, last)
		}
	}
}

func TestAdoptionEndsWithoutInstalledWhenItFails(t *testing.T) {
	n, root := foreignNode(t), system(t)
	n.cfg.Binary = strings.Repeat("0", 64)
	a, _ := adopting(n)
	if err := Adopt(deadline(t), a, root); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("a program with another digest: %v", err)
	}
	if last := n.last(); last.Phase != install.PhaseFailed || !last.Final {
		t.Errorf("the node was told %+v", last)
	}
	n = foreignNode(t)
	n.event = func(e install.Event) int {
		if e.Phase == install.PhaseInstalled {
			return http.StatusConflict // armed again meanwhile
		}
		return 0
	}
	a, _ = adopting(n)
	if err := Adopt(deadline(t), a, system(t)); err == nil || !strings.Contains(err.Error(), "does not acknowledge") {
		t.Errorf("an installation that is over: %v", err)
	}
}

// TestInstallersOfImagesAndOthersAreNotMistakenForEachOther: the agent needs an image, and adopts nothing.
func TestInstallersOfImagesAndOthersAreNotMistakenForEachOther(t *testing.T) {
	a, _ := adopting(newNode(t, []byte("x"), install.FormatRaw, 1))
	if err := Adopt(deadline(t), a, system(t)); err == nil || !strings.Contains(err.Error(), "the agent installs that") {
		t.Errorf("adopted: %v", err)
	}
	n := foreignNode(t)
	r := &run{o: Options{Console: new(bytes.Buffer), Logger: slog.New(slog.DiscardHandler)}}
	var err error
	if r.client, err = newClient(n.URL+"/b/nonce", r.o.Logger); err != nil {
		t.Fatal(err)
	}
	if done, err := r.arming(deadline(t)); done || err == nil || !strings.Contains(err.Error(), "names no image") {
		t.Errorf("the agent goes on: %v, %v", done, err)
	}
}

// TestClaimedDiskIsTakenUpByTheSameArmingOnly, whatever the installer has written since.
func TestClaimedDiskIsTakenUpByTheSameArmingOnly(t *testing.T) {
	path := blankDisk(t, minSystem)
	disks := []install.Disk{{Path: path, Size: minSystem}}
	first := install.Config{Install: "first"}
	if _, err := claim(disks, first); err != nil {
		t.Fatal(err)
	}
	second := install.Config{Install: "second"}
	if _, err := claim(disks, second); err != nil {
		t.Errorf("nothing was written yet: %v", err)
	}
	need(t, false, "sfdisk")
	sh(t, "label: gpt\nstart=2048, type=linux\n", "sfdisk", "-q", path)
	if _, err := claim(disks, second); err != nil {
		t.Errorf("the same arming, after the table was written: %v", err)
	}
	sh(t, "label: gpt\nstart=2048, type=linux\n", "sfdisk", "-q", path)
	if _, err := claim(disks, first); !errors.Is(err, ErrForeignData) {
		t.Errorf("another arming: %v", err)
	}
	if head := readAt(t, path, 512, 8); string(head) != "EFI PART" {
		t.Error("a disk that was refused was written to")
	}
	first.Wipe = true
	if _, err := claim(disks, first); err != nil {
		t.Errorf("with --wipe: %v", err)
	}
	if head := readAt(t, path, 0, 1024); !zero(head) {
		t.Error("the old partition table is still there")
	}
	if _, err := claim(append(disks, install.Disk{Path: "/dev/other", Size: minSystem}), first); err == nil || !strings.Contains(err.Error(), "2 disks fit") {
		t.Errorf("two disks: %v", err)
	}
	if _, err := claim([]install.Disk{{Path: path, Size: minSystem - 1}}, first); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("a small disk: %v", err)
	}
}

// last is what the node was told last.
func (n *node) last() install.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.events) == 0 {
		return install.Event{}
	}
	return n.events[len(n.events)-1]
}
