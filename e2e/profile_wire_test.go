//go:build wire

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestForeignInstallerHandsItsSystemOver plays a machine that runs Debian's installer: it reads what it is told to do, reports by
// the shell that it was given, with both programs that an installer may have, and has its system adopted. That joins, and takes
// over. The installer itself, and the choice of the disk, are the full tier's.
func TestForeignInstallerHandsItsSystemOver(t *testing.T) {
	t.Parallel()
	lab.Need(t, "curl", "wget")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, small := world(t)
	seed, err := w.StartSeed(ctx, "--live-kernel", small.Kernel, "--live-modules", small.Modules)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Until(ctx, seed, "the seed serves", serving); err != nil {
		t.Fatal(err)
	}
	m1, err := w.NewBare("m1", small)
	if err != nil {
		t.Fatal(err)
	}
	mac, dir := m1.MAC.String(), t.TempDir()
	addProfile(ctx, t, seed, dir, mac)
	script, err := m1.Script(ctx)
	url := regexp.MustCompile(`url=(\S+)/preseed\.cfg`).FindStringSubmatch(script)
	if err != nil || url == nil {
		t.Fatalf("%v: %s", err, script)
	}
	rendered, err := seed.Offshoot(ctx, "profile", "render", mac, "preseed.cfg")
	got, fetched := m1.Host.Run(ctx, "curl", "-fsS", url[1]+"/preseed.cfg")
	if err != nil || fetched != nil || got != rendered || !strings.Contains(got, "mirror/http/directory string /repo/inhouse") {
		t.Errorf("the machine got %q (%v), and this was shown: %q (%v)", got, fetched, rendered, err)
	}
	if out, err := m1.Host.Run(ctx, "curl", "-fsS", "-o", filepath.Join(dir, "offshoot.sh"), url[1]+"/offshoot.sh"); err != nil {
		t.Fatal(err, out)
	}
	root := emptySystem(t)
	hooks := func(path, lines string) (string, error) {
		// What restarts a machine must not be called on this one.
		return m1.Host.Run(ctx, "env", "PATH="+path, "sh", "-c", "cd "+dir+" && . ./offshoot.sh && offshoot_stop() { exit 9; } && offshoot_dir="+dir+" && offshoot_bin="+dir+"/offshoot && "+lines)
	}
	for tool, call := range map[string]struct{ lacks, phase string }{"curl": {"wget", "packages"}, "wget": {"curl", "configure"}} {
		if out, err := hooks(without(t, call.lacks), `offshoot_report `+call.phase+` "by `+tool+`: \"quoted\" \\ text"`); err != nil {
			t.Fatal(err, out)
		}
		text := machineOf(ctx, t, seed, mac).Text
		if want := "by " + tool + ": 'quoted' ' text"; text != want {
			t.Errorf("reported %q, want %q", text, want)
		}
	}
	if out, err := hooks(os.Getenv("PATH"), "offshoot_adopt "+filepath.Join(dir, "nothing")); err == nil {
		t.Fatal("a folder without a system was adopted: ", out)
	}
	if m := machineOf(ctx, t, seed, mac); m.State != "held" || !strings.Contains(m.Reason, "no installed system") {
		t.Errorf("the machine is %s: %s", m.State, m.Reason)
	}
	if out, err := seed.Offshoot(ctx, "machine", "arm", mac); err != nil {
		t.Fatal(err, out)
	}
	if out, err := hooks(os.Getenv("PATH"), "offshoot_adopt "+root); err != nil {
		t.Fatal(err, out)
	}
	if script, err := m1.Script(ctx); err != nil || !strings.Contains(script, "sanboot") {
		t.Errorf("%v: %s", err, script)
	}
	secondBoot(ctx, t, w, seed, m1, root)
}

func serving(s status.Status) string {
	if len(s.Segments) != 1 || s.Segments[0].Holder != "seed" || !s.Quorum || !s.Nodes[0].Warm {
		return "no segment held by a warm seed"
	}
	return ""
}

// addProfile adds a profile whose installer is two small files, and arms the machine with it. What is wrong is refused before
// anything is sent.
func addProfile(ctx context.Context, t *testing.T, seed *story.Daemon, dir, mac string) {
	t.Helper()
	for name, text := range map[string]string{"linux": "a kernel", "initrd.gz": "an initrd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add := []string{"profile", "add", "web", "--driver", "debian", "--release", "trixie", "--kernel", filepath.Join(dir, "linux"), "--initrd", filepath.Join(dir, "initrd.gz")}
	for _, wrong := range [][]string{{"--set", "packges=[curl]"}, {"--set", "luks=true"}, {"--release", "sarge"}, {"--arch", "m68k"}} {
		if out, err := seed.Offshoot(ctx, append(add, wrong...)...); err == nil {
			t.Errorf("%v was taken: %s", wrong, out)
		}
	}
	if out, err := seed.Offshoot(ctx, "artifact", "list"); err != nil || strings.Contains(out, "linux") {
		t.Errorf("%v: something of a refused profile was sent: %s", err, out)
	}
	for _, args := range [][]string{
		append(add, "--set", "mirror=inhouse"), {"profile", "lint", "web"}, {"machine", "name", mac, "m1"}, {"machine", "arm", mac, "--profile", "web"},
	} {
		if out, err := seed.Offshoot(ctx, args...); err != nil {
			t.Fatal(args, err, out)
		}
	}
	if out, err := seed.Offshoot(ctx, "profile", "remove", "web"); err == nil {
		t.Errorf("the profile of an armed machine was removed: %s", out)
	}
}

// emptySystem has what adopt looks for.
func emptySystem(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/os-release": "ID=debian\n", "etc/shadow": "root:!:20000:0:99999:7:::\n", "etc/systemd/system/empty": "", "usr/bin/systemctl": "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// without is a PATH that lacks one program.
func without(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	for _, bin := range []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"} {
		all, err := os.ReadDir(bin)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if to := filepath.Join(dir, e.Name()); e.Name() != program && e.Name() != "reboot" {
				_ = os.Symlink(filepath.Join(bin, e.Name()), to) // there from another folder
			}
		}
	}
	return dir
}

func machineOf(ctx context.Context, t *testing.T, seed *story.Daemon, mac string) status.Machine {
	t.Helper()
	s, err := seed.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Machines {
		if m.MAC == mac {
			return m
		}
	}
	t.Fatalf("machine %s is not known", mac)
	return status.Machine{}
}

// secondBoot starts what was left in the system, as its unit would.
func secondBoot(ctx context.Context, t *testing.T, w *story.World, seed *story.Daemon, m1 *story.Bare, root string) {
	t.Helper()
	if out, err := m1.Host.Run(ctx, "ip", "addr", "flush", "dev", "lan0"); err != nil {
		t.Fatal(err, out)
	}
	if _, err := w.Start(ctx, m1.Host, filepath.Join(root, "var/lib/offshoot"), "node"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Until(ctx, seed, "m1 holds lan0", func(s status.Status) string {
		if s.Segments[0].Holder != "m1" {
			return "lan0 is held by " + s.Segments[0].Holder
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
}
