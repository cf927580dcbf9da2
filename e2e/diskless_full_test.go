//go:build metal && full

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

const storageAddr = "192.168.42.5"

// TestDisklessMachinesStartTheirRootOnTheNetwork: from a real NFS server and real iSCSI targets, with a kernel of the profile's
// and without one. The machines have no disk.
func TestDisklessMachinesStartTheirRootOnTheNetwork(t *testing.T) {
	lab.Need(t, lab.MetalUEFI, "ganesha.nfsd", "rpcbind", "tgtd", "tgtadm", "sfdisk")
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	w := metalWorld(t)
	s := newStorage(ctx, t, w)
	seed, _, err := w.Serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	kernel := []string{"--kernel", s.kernel, "--initrd", s.initrd, "--set", "kernel_args=[console=ttyS0]"}
	for _, c := range []struct {
		machine  string
		firmware lab.Firmware
		root     string
		add      []string
		want     string // what the system says that its root is
	}{
		{"m1", lab.BIOS, "nfs:" + storageAddr + ":" + s.dir + "/%h", kernel, `nfs ` + storageAddr + ":" + s.dir + "/m1"},
		{"m2", lab.BIOS, "iscsi:" + storageAddr + ":::1:iqn.2026-11.lab:%h", nil, `ext4 /dev/sda3 iqn.2026-11.lab:m2`},
		{"m3", lab.BIOS, "iscsi:" + storageAddr + ":::1:iqn.2026-11.lab:%h", kernel, `ext4 /dev/sda3 iqn.2026-11.lab:m3`},
		{"m4", lab.UEFI, "nfs:" + storageAddr + ":" + s.dir + "/%h", kernel, `nfs ` + storageAddr + ":" + s.dir + "/m4"},
		{"m5", lab.UEFI, "iscsi:" + storageAddr + ":::1:iqn.2026-11.lab:%h", nil, `ext4 /dev/sda3 iqn.2026-11.lab:m5`},
		{"m6", lab.UEFI, "iscsi:" + storageAddr + ":::1:iqn.2026-11.lab:%h", kernel, `ext4 /dev/sda3 iqn.2026-11.lab:m6`},
	} {
		s.provide(ctx, c.machine, strings.HasPrefix(c.root, "nfs:"))
		m, err := w.Lab.Machine(c.machine, lab.MachineSpec{Networks: []*lab.Network{w.Lan0}, Firmware: c.firmware})
		if err != nil {
			t.Fatal(err)
		}
		mac := m.MAC(0).String()
		for _, args := range [][]string{
			append([]string{"profile", "add", c.machine, "--driver", "diskless", "--set", "root=" + c.root}, c.add...),
			{"machine", "name", mac, c.machine},
			{"machine", "arm", mac, "--profile", c.machine},
		} {
			if out, err := seed.Offshoot(ctx, args...); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
		begun := time.Now()
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		said, err := m.WaitConsole(ctx, regexp.MustCompile(`the root is on (.*)\.`))
		if err != nil {
			t.Fatal(err)
		}
		if said[1] != c.want {
			t.Errorf("%s started with its root on %q, want %q", c.machine, said[1], c.want)
		}
		t.Logf("%s  %s, %s: %s, %.0f s after power-on", c.machine, c.firmware, c.root, said[1], time.Since(begun).Seconds())
		m.Kill()
	}
	s2, err := seed.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s2.Machines {
		if m.State != "netboot" || m.Stalled {
			t.Errorf("%+v", m)
		}
	}
	if i := len(s2.Nodes); i != 1 || s2.Nodes[0].State != status.NodeAlive {
		t.Errorf("nodes %+v", s2.Nodes)
	}
}

// storage is a host with an NFS server and iSCSI targets.
type storage struct {
	t              *testing.T
	host           *lab.Host
	dir            string // what it exports; below it a folder for each machine
	image          string // raw
	tree           string // where the image's root is mounted
	kernel, initrd string // the image's
	targets        int
}

func newStorage(ctx context.Context, t *testing.T, w *story.World) *storage {
	t.Helper()
	h, err := w.Lab.Host("storage", w.Lan0)
	if err != nil {
		t.Fatal(err)
	}
	s := &storage{t: t, host: h, dir: filepath.Join(w.Lab.Dir(), "srv"), image: filepath.Join(w.Lab.Dir(), "diskless.raw"), tree: filepath.Join(w.Lab.Dir(), "tree")}
	s.prepare(ctx)
	for _, dir := range []string{s.dir, "/var/run/tgtd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.there(ctx, "ip", "addr", "add", storageAddr+"/24", "dev", "lan0")
	s.serve(ctx, "tgtd", "-f", "-C", "7")
	conf := filepath.Join(w.Lab.Dir(), "ganesha.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `NFS_CORE_PARAM { Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; }
EXPORT { Export_Id = 1; Path = %[1]s; Pseudo = %[1]s; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3; Transports = TCP; FSAL { Name = VFS; } }
`, s.dir), 0o644); err != nil {
		t.Fatal(err)
	}
	// What both keep below /run would be this machine's.
	s.serve(ctx, "unshare", "--mount", "sh", "-c", `mount -t tmpfs none /run && mkdir /run/ganesha || exit
rpcbind -f -w &
trap 'kill $!' EXIT
ganesha.nfsd -F -L "$1.log" -f "$1" -p /run/ganesha/pid`, "sh", conf)
	s.await(ctx, "the servers listen", func() bool {
		out, err := h.Run(ctx, "ss", "-Hlnt")
		return err == nil && strings.Contains(out, ":2049") && strings.Contains(out, ":3260")
	})
	return s
}

// prepare makes the image: Debian, whose initrd finds the target that firmware booted from, and which says where its root is.
func (s *storage) prepare(ctx context.Context) {
	s.t.Helper()
	s.here(ctx, os.Getenv("OFFSHOOT_BIN"), "image", "build", "debian:13", "--kernel", "linux-image-cloud-amd64", "--packages", "open-iscsi", "-o", s.image)
	s.mount(ctx, s.image, s.tree)
	for path, text := range map[string]string{
		"etc/iscsi/iscsi.initramfs": "ISCSI_AUTO=true\n", // what firmware has left in its table (iBFT)
		"etc/fstab":                 "",
		"etc/systemd/system/root-is-on.service": `[Unit]
DefaultDependencies=no
After=systemd-udevd.service systemd-tmpfiles-setup.service
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'echo "the root is on $$(findmnt -no FSTYPE,SOURCE / | tr -s " ") $$(cat /sys/class/iscsi_session/*/targetname 2>/dev/null)" | sed "s/ *$$/./"'
`,
	} {
		if err := os.WriteFile(filepath.Join(s.tree, path), []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	wants := filepath.Join(s.tree, "etc/systemd/system/multi-user.target.wants")
	if err := os.Symlink("../root-is-on.service", filepath.Join(wants, "root-is-on.service")); err != nil {
		s.t.Fatal(err)
	}
	s.here(ctx, "chroot", s.tree, "update-initramfs", "-u")
	for link, to := range map[string]*string{"vmlinuz": &s.kernel, "initrd.img": &s.initrd} {
		*to = filepath.Join(filepath.Dir(s.image), "diskless-"+link)
		s.here(ctx, "cp", "--dereference", filepath.Join(s.tree, link), *to)
	}
}

// mount mounts the root of an image for as long as the test runs.
func (s *storage) mount(ctx context.Context, image, at string) {
	s.t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		s.t.Fatal(err)
	}
	var table struct {
		Table struct {
			Partitions []struct{ Start int64 } // sectors of 512 bytes
		} `json:"partitiontable"`
	}
	err := json.Unmarshal([]byte(s.here(ctx, "sfdisk", "--json", image)), &table)
	if parts := table.Table.Partitions; err != nil || len(parts) != 3 {
		s.t.Fatalf("partitions %+v: %v", parts, err)
	}
	s.here(ctx, "mount", "-o", fmt.Sprintf("loop,offset=%d", table.Table.Partitions[2].Start*512), image, at)
	s.t.Cleanup(func() { s.here(context.WithoutCancel(ctx), "umount", at) })
}

// provide makes the root of a machine: a folder, or a target with a disk of its own.
func (s *storage) provide(ctx context.Context, machine string, nfs bool) {
	s.t.Helper()
	s.here(ctx, "sync", "--file-system", s.tree)
	own := filepath.Join(s.dir, machine)
	if nfs {
		s.here(ctx, "cp", "--archive", "--one-file-system", s.tree, own)
		return
	}
	s.here(ctx, "cp", "--sparse=always", s.image, own)
	s.targets++
	id := fmt.Sprint(s.targets)
	for _, args := range [][]string{
		{"--mode", "target", "--op", "new", "--targetname", "iqn.2026-11.lab:" + machine},
		{"--mode", "logicalunit", "--op", "new", "--lun", "1", "--backing-store", own},
		{"--mode", "target", "--op", "bind", "--initiator-address", "ALL"},
	} {
		s.there(ctx, "tgtadm", append([]string{"-C", "7", "--lld", "iscsi", "--tid", id}, args...)...)
	}
}

// here runs a program of this machine.
func (s *storage) here(ctx context.Context, name string, args ...string) string {
	s.t.Helper()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// there runs a program on the host that stores.
func (s *storage) there(ctx context.Context, name string, args ...string) {
	s.t.Helper()
	if out, err := s.host.Run(ctx, name, args...); err != nil {
		s.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// serve starts a server on the host. It ends with the lab.
func (s *storage) serve(ctx context.Context, name string, args ...string) {
	s.t.Helper()
	c := s.host.Command(context.WithoutCancel(ctx), name, args...)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = c.Wait() }() // killed with the lab
}

func (s *storage) await(ctx context.Context, what string, holds func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			s.t.Fatalf("not seen: %s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
