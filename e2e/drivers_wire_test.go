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

// TestWhatInstallersAreToldMakesNodes: for distributions whose archives cannot be had here, a stand-in fetches what their installer
// would, from a real seed, and runs it; the system that comes of it joins.
func TestWhatInstallersAreToldMakesNodes(t *testing.T) {
	for _, c := range []struct {
		driver, release string
		mnt             string
		parts           []string
		args            []string
		install         func(standIn, context.Context, *testing.T, string)
	}{
		{"fedora", "43", "/mnt/sysroot", []string{"kernel", "initrd", "stage2"}, []string{"--set", "mirror=mirror", "--set", "partitioning=btrfs"}, standIn.anaconda},
		{"rocky", "9", "/mnt/sysroot", []string{"kernel", "initrd", "stage2"}, []string{"--set", "mirror=mirror"}, standIn.anaconda},
		{"ubuntu", "24.04", "/target", []string{"kernel", "initrd", "iso"}, []string{"--set", "kernel_args=[quiet]"}, standIn.subiquity},
	} {
		t.Run(c.driver, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			lab.Need(t, "curl", "python3", "/usr/bin/systemctl")
			w, small := world(t)
			seed, _, err := w.Seeded(ctx, small)
			if err != nil {
				t.Fatal(err)
			}
			add := append([]string{"profile", "add", "other", "--driver", c.driver, "--release", c.release, "--set", "post=echo done >/etc/post-ran",
				"--set", "packages=[vim]", "--set", "users=[{name: ann, sudo: true}]"}, c.args...)
			for _, part := range c.parts {
				file := filepath.Join(t.TempDir(), part)
				if err := os.WriteFile(file, []byte(part+" of "+c.driver), 0o600); err != nil {
					t.Fatal(err)
				}
				add = append(add, "--"+part, file)
			}
			s, b := standInMachine(ctx, t, w, seed, small, add)
			s.mnt = c.mnt
			script, err := b.Script(ctx)
			if err != nil || !strings.Contains(script, "the installer of "+c.driver) {
				t.Fatalf("boot script: %v\n%s", err, script)
			}
			c.install(s, ctx, t, script)
			joins(ctx, t, w, seed, s)
		})
	}
}

// standInMachine draws a machine that is armed with a profile.
func standInMachine(ctx context.Context, t *testing.T, w *story.World, seed *story.Daemon, small story.Small, add []string) (standIn, *story.Bare) {
	t.Helper()
	b, err := w.NewBare("m1", small)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{add, {"machine", "name", b.MAC.String(), "m1"}, {"machine", "arm", b.MAC.String(), "--profile", "other"}} {
		if out, err := seed.Offshoot(ctx, args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return standIn{host: b.Host, dir: filepath.Join(w.Lab.Dir(), "m1")}, b
}

// joins starts what was installed, and waits until it is a node that carries the duty.
func joins(ctx context.Context, t *testing.T, w *story.World, seed *story.Daemon, s standIn) {
	t.Helper()
	post, err := os.ReadFile(filepath.Join(s.dir, "new.up/etc/post-ran"))
	if err != nil || string(post) != "done\n" {
		t.Errorf("the snippet post did not run in the new system: %v", err)
	}
	installed, err := seed.Status(ctx)
	if err != nil || len(installed.Machines) != 1 || installed.Machines[0].State != "installed" {
		t.Fatalf("the machine is not installed: %v, %+v", err, installed.Machines)
	}
	show, err := seed.Offshoot(ctx, "machine", "show", installed.Machines[0].MAC)
	t.Logf("%v\n%s", err, show)
	log, err := os.Create(filepath.Join(s.dir, "node.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	on, off := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.node(on, log) // it is told to end
	}()
	t.Cleanup(func() {
		off()
		<-ended
	})
	if _, err := w.Until(ctx, seed, "it has joined, and carries the duty", func(s status.Status) string {
		for _, n := range s.Nodes {
			if n.Name == "m1" && len(n.Duties) > 0 {
				return ""
			}
		}
		return "not yet"
	}); err != nil {
		t.Fatal(err)
	}
}

// TestDisklessMachineBootsTheSameEveryTime: it is sent to its root on the network at every boot, has no install config and no ticket,
// and its profile cannot be turned into one that writes disks under it.
func TestDisklessMachineBootsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, small := world(t)
	seed, _, err := w.Seeded(ctx, small)
	if err != nil {
		t.Fatal(err)
	}
	s, b := standInMachine(ctx, t, w, seed, small, []string{
		"profile", "add", "other", "--driver", "diskless", "--set", "root=iscsi:192.168.42.5::3260:1:iqn.2026-11.lab:%h",
	})
	for range 2 {
		script, err := b.Script(ctx)
		if err != nil || !strings.Contains(script, "sanboot iscsi:192.168.42.5::3260:1:iqn.2026-11.lab:m1 ||") {
			t.Fatalf("boot script: %v\n%s", err, script)
		}
		base := regexp.MustCompile(`http://\S+/b/[A-Za-z0-9_-]+`).FindString(script)
		if text, err := s.get(ctx, base+"/install"); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("an install config for a machine that is never installed: %v, %s", err, text)
		}
	}
	if now, err := seed.Status(ctx); err != nil || now.Machines[0].State != "netboot" {
		t.Errorf("%v, %+v", err, now.Machines)
	}
	if out, err := seed.Offshoot(ctx, "profile", "edit", "other", "--driver", "image", "--set", "root=", "--image", small.Image); err == nil {
		t.Errorf("the profile is turned into one that writes disks: %s", out)
	}
}
