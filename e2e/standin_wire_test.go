//go:build wire

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
)

// standIn is an installer that is none: it fetches what a real one would, and really runs the sections that we ship in a system
// that is a copy on write of this machine's own. It brings no packages and parts no disk.
type standIn struct {
	host *lab.Host
	dir  string // what is written to the two systems lies here
	mnt  string // where the installer finds the new system: /mnt/sysroot, /target
}

// The disk that it shows to our program is a file, and nothing of this machine's own /sys and /dev is to be seen.
const standInRoot = `set -eu
mkdir -p "$D/live.up" "$D/live.work" "$D/new.up" "$D/new.work" "$D/live"
mount -t overlay overlay -o "lowerdir=/,upperdir=$D/live.up,workdir=$D/live.work" "$D/live"
L=$D/live
mkdir -p "$L$MNT"
mount -t overlay overlay -o "lowerdir=/,upperdir=$D/new.up,workdir=$D/new.work" "$L$MNT"
for d in tmp run dev sys; do mount -t tmpfs none "$L/$d"; done
mount -t proc proc "$L/proc"
mkdir -p "$L/sys/block/sda/device"
echo 16777216 >"$L/sys/block/sda/size"
truncate -s 8G "$D/disk"
touch "$L/dev/sda"
mount --bind "$D/disk" "$L/dev/sda"
for d in null zero urandom; do touch "$L/dev/$d"; mount --bind "/dev/$d" "$L/dev/$d"; done
[ ! -d "$D/tmp" ] || cp -a "$D/tmp/." "$L/tmp/"
rc=0
chroot "$L" /bin/sh -c "$SCRIPT" || rc=$?
mkdir -p "$D/tmp" && cp -a "$L/tmp/." "$D/tmp/"
[ ! -e "$L/autoinstall.yaml" ] || cp "$L/autoinstall.yaml" "$D/"
exit $rc
`

// run runs a script in the installer's system. What it leaves in /tmp the next one finds there.
func (s standIn) run(ctx context.Context, script string) (string, error) {
	c := s.host.Command(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-c", standInRoot)
	c.Env = append(os.Environ(), "D="+s.dir, "MNT="+s.mnt, "SCRIPT="+script)
	out, err := c.CombinedOutput()
	return string(out), err
}

// node runs the command of the unit that was left in the new system, in that system, until ctx ends.
func (s standIn) node(ctx context.Context, log io.Writer) error {
	const script = `set -eu
mkdir -p "$D/boot"
mount -t overlay overlay -o "lowerdir=/,upperdir=$D/new.up,workdir=$D/new.work" "$D/boot"
for d in tmp run; do mount -t tmpfs none "$D/boot/$d"; done
for d in dev sys; do mount --rbind "/$d" "$D/boot/$d"; done
mount -t proc proc "$D/boot/proc"
ip addr flush dev lan0
[ -L "$D/boot/etc/systemd/system/multi-user.target.wants/offshoot.service" ]
command=$(sed -n 's/^ExecStart=//p' "$D/boot/etc/systemd/system/offshoot.service")
exec chroot "$D/boot" $command --verbose
`
	c := s.host.Command(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	c.Env = append(os.Environ(), "D="+s.dir)
	c.Stdout, c.Stderr = log, log
	return c.Run()
}

// get fetches one file as the machine.
func (s standIn) get(ctx context.Context, url string) (string, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.host.Dial(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// ksSection is a section of a kickstart.
type ksSection struct{ name, options, body string }

// ksSections reads a kickstart as Anaconda does, which is to say by lines.
func ksSections(text string) (commands []string, out []ksSection) {
	open := false
	for line := range strings.Lines(text) {
		bare := strings.TrimSpace(line)
		switch {
		case bare == "%end":
			open = false
		case open:
			out[len(out)-1].body += line
		case strings.HasPrefix(bare, "%") && !strings.HasPrefix(bare, "%include"):
			name, options, _ := strings.Cut(bare, " ")
			out = append(out, ksSection{name, options, ""})
			open = true
		case bare != "" && bare[0] != '#':
			commands = append(commands, bare)
		}
	}
	return commands, out
}

// anaconda installs as Anaconda would, as far as the kickstart's own scripts go.
func (s standIn) anaconda(ctx context.Context, t *testing.T, script string) {
	t.Helper()
	ks, err := s.firstThatAnswers(ctx, regexp.MustCompile(`inst\.ks=(\S+)`).FindAllStringSubmatch(script, -1))
	if err != nil {
		t.Fatal(err)
	}
	stage2 := regexp.MustCompile(`inst\.stage2=(\S+)`).FindStringSubmatch(script)
	if text, err := s.get(ctx, stage2[1]+"/images/install.img"); err != nil || !strings.HasPrefix(text, "stage2 of") {
		t.Fatalf("stage2: %v, %.80q", err, text)
	}
	if _, err := s.get(ctx, stage2[1]+"/.treeinfo"); err == nil {
		t.Fatal("Anaconda would take stage2 itself for .treeinfo")
	}
	commands, sections := ksSections(ks)
	for _, name := range []string{"%pre", "%pre-install", "%post"} {
		if name == "%pre-install" {
			s.commands(ctx, t, commands)
		}
		for _, section := range sections {
			if section.name != name {
				continue
			}
			body := section.body
			if name == "%post" && !strings.Contains(section.options, "--nochroot") {
				body = "exec chroot " + s.mnt + " /bin/sh -c " + quoted(body)
			}
			out, err := s.run(ctx, body)
			t.Logf("%s %s: %v\n%s", section.name, section.options, err, out)
			if err != nil && strings.Contains(section.options, "--erroronfail") {
				t.Fatalf("%s ended with an error", section.name)
			}
		}
	}
}

// commands looks at what the sections of %pre have left for %include: Anaconda would install onto that disk, from that list.
func (s standIn) commands(ctx context.Context, t *testing.T, commands []string) {
	t.Helper()
	all := ""
	for _, c := range commands {
		if file, ok := strings.CutPrefix(c, "%include "); ok {
			text, err := os.ReadFile(filepath.Join(s.dir, file))
			if err != nil {
				t.Fatalf("%s: %v", c, err)
			}
			all += string(text)
		}
	}
	if want := "ignoredisk --only-use=sda\nclearpart --all --initlabel --drives=sda\n"; !strings.Contains(all, want) {
		t.Errorf("the disk is not chosen: %s", all)
	}
	list := regexp.MustCompile(`url --mirrorlist=(\S+)`).FindStringSubmatch(all)
	if list == nil {
		t.Fatalf("no packages: %s", all)
	}
	if text, err := s.get(ctx, list[1]); err != nil || !strings.Contains(text, ":7480/repo/mirror/") {
		t.Errorf("list of mirrors: %v, %s", err, text)
	}
}

func (s standIn) firstThatAnswers(ctx context.Context, urls [][]string) (text string, err error) {
	err = fmt.Errorf("no URL")
	for _, u := range urls {
		if text, err = s.get(ctx, u[1]); err == nil {
			return text, nil
		}
	}
	return "", err
}

// subiquity installs as Subiquity would, as far as the commands of autoinstall go.
func (s standIn) subiquity(ctx context.Context, t *testing.T, script string) {
	t.Helper()
	seed := regexp.MustCompile(`ds=nocloud-net;s=(\S+)`).FindStringSubmatch(script)
	if seed == nil {
		t.Fatalf("no seed in %s", script)
	}
	files := map[string]string{}
	for _, name := range []string{"meta-data", "user-data", "vendor-data"} {
		text, err := s.get(ctx, seed[1]+name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
	}
	if err := os.WriteFile(filepath.Join(s.dir, "user-data"), []byte(files["user-data"]), 0o600); err != nil {
		t.Fatal(err)
	}
	// What Subiquity's own reader of YAML would make of it: Python's.
	const list = `import json, shlex, sys, yaml
auto = yaml.safe_load(open(sys.argv[1]))["autoinstall"]
for c in auto.get(sys.argv[2], []):
    print(c.replace("\n", "\0") if isinstance(c, str) else shlex.join(c).replace("\n", "\0"))
`
	for _, step := range []string{"early-commands", "late-commands"} {
		out, err := exec.CommandContext(ctx, "python3", "-c", list, filepath.Join(s.dir, "user-data"), step).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", step, err, out)
		}
		script := subiquityTools
		if step == "early-commands" {
			script += "cat >/autoinstall.yaml <<'END-OF-IT'\n" + files["user-data"] + "\nEND-OF-IT\n"
		}
		for line := range strings.Lines(string(out)) {
			script += "sh -c " + quoted(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\x00", "\n")) + " || exit 1\n"
		}
		said, err := s.run(ctx, script)
		t.Logf("%s: %v\n%s", step, err, said)
		if err != nil {
			t.Fatalf("%s ended with an error", step)
		}
	}
	auto, err := os.ReadFile(filepath.Join(s.dir, "autoinstall.yaml"))
	if err != nil || !strings.Contains(string(auto), "match: {path: /dev/sda}") {
		t.Errorf("the disk is not written into /autoinstall.yaml: %v", err)
	}
}

// subiquityTools is as much of curtin as the commands call, and a boot loader's tool for a system that may have none.
const subiquityTools = `mkdir -p /usr/local/bin
printf '#!/bin/sh\n[ "$1 $2 $3" = "in-target --target=/target --" ] || exit 9\nshift 3\nexec chroot /target "$@"\n' >/usr/local/bin/curtin
chmod 755 /usr/local/bin/curtin
chroot /target sh -c 'command -v update-grub' >/dev/null || { printf '#!/bin/sh\nexec sh -n /etc/default/grub.d/99-offshoot.cfg\n' >/target/usr/sbin/update-grub; chmod 755 /target/usr/sbin/update-grub; }
`

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
