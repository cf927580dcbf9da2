//go:build full

package mirror

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// machineArchive is the Debian archive that this machine's own apt uses: its mirror and its release.
func machineArchive(t *testing.T) (uri, codename string) {
	t.Helper()
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages", "Component: main").Output()
	if err != nil {
		t.Skip("no apt-get here: ", err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 2 && strings.HasSuffix(strings.TrimSuffix(f[0], "/"), "/debian") && !strings.Contains(f[1], "-") {
			return f[0], f[1]
		}
	}
	t.Skip("this machine's apt has no Debian archive")
	return "", ""
}

// foreign runs a program of others.
func foreign(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.Contains(strings.ToLower(e), "_proxy=") }), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// cut makes every source of a mirror unreachable.
func (h *house) cut() {
	for i := range h.o.Repos {
		h.o.Repos[i].Upstreams = []string{"http://127.0.0.1:1/"}
	}
	h.restart()
}

// aptInstall does what an installer does, with lists and cache of its own: update, then download packages with all that
// they depend on. As a proxy it names the archive as the machine does.
func aptInstall(t *testing.T, source, proxy string, pkgs ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/sources.list": source + "\n", "state/status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	opts := []string{
		"-o", "Dir::Etc=" + dir + "/etc", "-o", "Dir::State=" + dir + "/state", "-o", "Dir::Cache=" + dir + "/cache",
		"-o", "Dir::State::status=" + dir + "/state/status", "-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Proxy=" + proxy,
		"-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Languages=none",
	}
	foreign(t, "apt-get", append(slices.Clone(opts), "update")...)
	foreign(t, "apt-get", append(append(slices.Clone(opts), "-y", "--download-only", "install"), pkgs...)...)
	debs, _ := filepath.Glob(dir + "/cache/archives/*.deb")
	t.Logf("%d packages", len(debs))
	if len(debs) == 0 {
		t.Error("nothing was downloaded")
	}
}

// TestAptAndMmdebstrapInstallThroughTheMirror lets the machine's own apt and mmdebstrap work through the mirror, first
// with the archive behind it, then with the archive cut off.
func TestAptAndMmdebstrapInstallThroughTheMirror(t *testing.T) {
	uri, codename := machineArchive(t)
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	ring, err := os.ReadFile(keyring)
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	h := newHouse(t, Repo{Upstreams: []string{uri}, Keyring: ring}, func(o *Options, _ *limits) {
		o.Now, o.Served = nil, func(Served) { served.Add(1) }
	})
	h.l = defaultLimits
	h.restart()
	source := func() string {
		return fmt.Sprintf("deb [signed-by=%s] %s/repo/debian %s main", keyring, h.web.URL, codename)
	}
	debootstrap := func() {
		if _, err := exec.LookPath("mmdebstrap"); err != nil {
			t.Log("mmdebstrap is not here")
			return
		}
		foreign(t, "mmdebstrap", "--variant=essential", "--mode=root", "--format=null", codename, "-", source())
	}
	aptInstall(t, source(), "false", "nginx", "curl")
	debootstrap()
	first := h.Status().Repos[0]
	t.Logf("%d files given out; %d bytes from upstream, %d from the store", served.Load(), first.FromUpstreams, first.FromStore)

	h.cut()
	aptInstall(t, source(), "false", "nginx", "curl")
	debootstrap()

	h.o.Repos[0].Upstreams = []string{strings.Replace(uri, "https://", "http://", 1)}
	h.restart()
	proxied := fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, strings.Replace(uri, "https://", "http://", 1), codename)
	aptInstall(t, proxied, h.web.URL, "curl")
	if st := h.Status(); len(st.Problems) != 0 || st.Repos[0].Mismatches != 0 {
		t.Errorf("%+v", st)
	}
}
