//go:build metal && full

package e2e

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestDebianInstallerLeavesANode: Debian 13 comes onto a bare machine by its own installer, through our mirror, with our preseed;
// the machine joins when it first starts from its disk, and takes over.
func TestDebianInstallerLeavesANode(t *testing.T) {
	for _, c := range []struct {
		firmware lab.Firmware
		need     string
		set      []string
	}{
		{lab.BIOS, lab.Metal, nil},
		{lab.UEFI, lab.MetalUEFI, []string{"--set", "partitioning=lvm"}},
	} {
		t.Run(string(c.firmware), func(t *testing.T) {
			lab.Need(t, c.need, "python3", "dpkg-deb")
			up := upstream(t)
			kernel, initrd := up.netboot(t)
			w := metalWorld(t)
			up.openOn(t, w.Operator)
			report, m1, err := story.InstalledBy(t.Context(), w, c.firmware, story.Installer{
				Profile: "debian", Upstream: "http://" + archiveHost + "/debian", Disk: 8 << 30, Memory: 1536,
				Add: append([]string{
					"--driver", "debian", "--release", "trixie", "--kernel", kernel, "--initrd", initrd,
					"--set", "packages=[less]", "--set", "kernel_args=[console=ttyS0]", "--set", "timezone=Europe/Berlin", "--set", "post=touch /root/post",
					"--set", "users=[{name: alice, sudo: true, groups: [adm]}]",
					// The lab's upstream signs nothing; nobody else needs these.
					"--set", "installer_args=[debian-installer/allow_unauthenticated=true]",
					"--set", `pre=mkdir -p /usr/lib/post-base-installer.d && printf '#!/bin/sh\necho "Acquire::AllowInsecureRepositories 1;" >/target/etc/apt/apt.conf.d/99lab\n' >/usr/lib/post-base-installer.d/00lab && chmod 755 /usr/lib/post-base-installer.d/00lab`,
				}, c.set...),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("\n%s", report.Timelines["m1"])
			checkDebian(t, m1, c.firmware, len(c.set) > 0)
		})
	}
}

// checkDebian looks at what the profile asked for.
func checkDebian(t *testing.T, m1 *story.Shell, firmware lab.Firmware, lvm bool) {
	t.Helper()
	for command, want := range map[string]string{
		". /etc/os-release && echo $VERSION_CODENAME":                              "trixie",
		"dpkg-query -W -f '${db:Status-Status}' less":                              "installed",
		"readlink /etc/localtime || cat /etc/timezone":                             "Europe/Berlin",
		"test -e /root/post && echo there":                                         "there",
		"id -nG alice":                                                             "adm",
		"id -nG alice | tr ' ' '\\n' | grep sudo":                                  "sudo",
		"cat /proc/cmdline":                                                        "console=ttyS0",
		"hostname":                                                                 "m1",
		"cat /etc/apt/sources.list; ip -4 -o addr":                                 "/repo/debian",
		"apt-get -q -o Acquire::AllowInsecureRepositories=true update 2>&1":        "Reading package lists",
		"test -e /var/lib/offshoot/join.json && echo there || echo gone":           "gone",
		"test -d /sys/firmware/efi && echo uefi || echo bios":                      string(firmware),
		"findmnt -no SOURCE / | grep -c mapper || true":                            map[bool]string{true: "1", false: "0"}[lvm],
		"grep -c inet /etc/network/interfaces /etc/network/interfaces.d/* || true": "1", // lo
	} {
		if got, err := m1.Run(t.Context(), command); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %q, %v; want %q", command, strings.TrimSpace(got), err, want)
		}
	}
}

// upstreamServer stands in for what the archive that can be reached lacks; it is no part of this project.
type upstreamServer struct{ url string }

const archiveHost = "192.168.42.5:8000"

// upstream starts the stand-in. Where it is, OFFSHOOT_DI_UPSTREAM says.
func upstream(t *testing.T) *upstreamServer {
	t.Helper()
	program := os.Getenv("OFFSHOOT_DI_UPSTREAM")
	if program == "" {
		program = filepath.Join(root, "..", "shared", "lab", "debian-installer-upstream")
	}
	lab.Need(t, program)
	free, err := net.Listen("tcp", "127.0.0.1:0") // it says no port that it chose itself
	if err == nil {
		err = free.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--listen", free.Addr().String(), "--work", filepath.Join(root, "build", "di-upstream"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	at, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		t.Fatalf("%s says %q: %v", program, line, err)
	}
	return &upstreamServer{strings.TrimSuffix(at, "/debian")}
}

// get fetches a file of the archive.
func (u *upstreamServer) get(t *testing.T, path string) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.url+"/debian/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	return resp.Body
}

// netboot takes kernel and initrd out of the package that holds Debian's installer.
func (u *upstreamServer) netboot(t *testing.T) (kernel, initrd string) {
	t.Helper()
	packed := u.get(t, "dists/trixie/main/binary-amd64/Packages.xz")
	defer func() { _ = packed.Close() }() // only read
	plain, err := xz.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	list, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)\nPackage: debian-installer-13-netboot-amd64\n.*?\nFilename: (\S+)\n`).FindSubmatch(list)
	if found == nil {
		t.Fatal("the archive has no debian-installer-13-netboot-amd64")
	}
	dir := t.TempDir()
	deb := filepath.Join(dir, "netboot.deb")
	f, err := os.Create(deb)
	if err != nil {
		t.Fatal(err)
	}
	body := u.get(t, string(found[1]))
	_, err = io.Copy(f, body)
	if err := errors.Join(err, body.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	boot := filepath.Join(dir, "usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64")
	return filepath.Join(boot, "linux"), filepath.Join(boot, "initrd.gz")
}

// openOn lets a host of the lab, and whoever reaches it, ask the stand-in, which runs outside.
func (u *upstreamServer) openOn(t *testing.T, h *lab.Host) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", archiveHost)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { u.pass(ctx, from) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
}

// pass carries one connection.
func (u *upstreamServer) pass(ctx context.Context, from net.Conn) {
	defer func() { _ = from.Close() }()
	var d net.Dialer
	to, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(u.url, "http://"))
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = from.Close(), to.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, to)
		_ = from.Close()
	})
	_, _ = io.Copy(to, from)
	_ = to.Close()
	back.Wait()
}
