package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"offshoot/node/internal/install"
)

// unit starts the node. It sets addresses and routes, opens raw sockets and writes sysctls, so the kernel's knobs and the
// network stay open to it; nothing else does. It waits for no network: on its segment it is the network.
const unit = `[Unit]
Description=offshoot node
Documentation=man:offshoot(1)
After=local-fs.target systemd-sysctl.service
Before=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/bin/offshoot node
Restart=always
RestartSec=1
LimitNOFILE=65536
OOMScoreAdjust=-500
StateDirectory=offshoot
StateDirectoryMode=0700
RuntimeDirectory=offshoot
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`

// place leaves our files in the root file system mounted at dir. No link inside of it leads out (os.Root). Files appear
// whole, by rename, so that place can be done again over a half-done one.
func place(dir string, cfg install.Config, binary string, left *install.Gathered) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	p := placer{root}
	if err := p.binary(binary, cfg.Binary); err != nil {
		return err
	}
	if err := p.identity(cfg.Hostname); err != nil {
		return err
	}
	if cfg.RootHash != "" {
		if err := p.edit("etc/shadow", func(old []byte) ([]byte, error) { return setRootHash(old, cfg.RootHash) }); err != nil {
			return err
		}
	}
	if len(cfg.SSHKeys) > 0 {
		if err := p.keys(cfg.SSHKeys); err != nil {
			return err
		}
	}
	if err := p.service(); err != nil {
		return err
	}
	if err := p.cloudInit(cfg.CloudInit); err != nil {
		return err
	}
	if err := p.relabel(); err != nil {
		return err
	}
	join, err := json.MarshalIndent(cfg.Join, "", "  ")
	if err != nil {
		return err
	}
	if err := p.dir("var/lib/offshoot", 0o700); err != nil {
		return err
	}
	if left != nil {
		note, err := json.Marshal(left)
		if err != nil {
			return err
		}
		if err := p.write("var/lib/offshoot/"+install.GatheredFile, 0o600, note); err != nil {
			return err
		}
	}
	return p.write("var/lib/offshoot/join.json", 0o600, append(join, '\n'))
}

type placer struct{ root *os.Root }

// binary copies the program that runs now. The copy's digest is what counts.
func (p placer) binary(from, want string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := p.root.MkdirAll("usr/local/bin", 0o755); err != nil {
		return err
	}
	sum := sha256.New()
	err = p.create("usr/local/bin/offshoot", 0o755, func(f *os.File) error {
		if _, err := io.Copy(io.MultiWriter(f, sum), src); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != want {
			return fmt.Errorf("the program that runs has SHA-256 %s, the config wants %s: boot environment and node are of different versions", got, want)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("leave the program: %w", err)
	}
	return nil
}

func (p placer) identity(hostname string) error {
	if err := p.write("etc/hostname", 0o644, []byte(hostname+"\n")); err != nil {
		return err
	}
	return p.edit("etc/hosts", func(old []byte) ([]byte, error) { return setHosts(old, hostname), nil })
}

func (p placer) keys(keys []string) error {
	if err := p.dir("root/.ssh", 0o700); err != nil {
		return err
	}
	return p.edit("root/.ssh/authorized_keys", func(old []byte) ([]byte, error) { return addLines(old, keys), nil })
}

// cloudInit leaves what cloud-init is told, where its datasource NoCloud looks first. It asks nobody else then, and leaves the
// network alone, which is the node's.
func (p placer) cloudInit(files map[string]string) error {
	if len(files) == 0 {
		return nil
	}
	if _, err := p.root.Stat("etc/cloud/cloud.cfg"); err != nil {
		return fmt.Errorf("the image has no cloud-init, and the profile says cloud_init: %w", err)
	}
	const seed = "var/lib/cloud/seed/nocloud"
	if err := p.root.MkdirAll(seed, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := p.write(seed+"/"+name, 0o600, []byte(files[name])); err != nil {
			return err
		}
	}
	if err := p.root.MkdirAll("etc/cloud/cloud.cfg.d", 0o755); err != nil {
		return err
	}
	return p.write("etc/cloud/cloud.cfg.d/99-offshoot.cfg", 0o644, []byte("datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n"))
}

// relabel asks a system with SELinux to label what was left here: files that another kernel wrote have no labels, and services do
// not start from such. It does so when it first starts, and restarts once.
func (p placer) relabel() error {
	config, err := p.root.ReadFile("etc/selinux/config")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(config)) {
		if state, ok := strings.CutPrefix(strings.TrimSpace(line), "SELINUX="); ok && state != "disabled" {
			return p.write(".autorelabel", 0o644, []byte("-F\n"))
		}
	}
	return nil
}

func (p placer) service() error {
	const name = "offshoot.service"
	wants := "etc/systemd/system/multi-user.target.wants"
	if _, err := p.root.Stat("etc/systemd"); err != nil {
		return fmt.Errorf("the image has no systemd: %w", err)
	}
	if err := p.root.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	if err := p.write("etc/systemd/system/"+name, 0o644, []byte(unit)); err != nil {
		return err
	}
	err := p.root.Symlink("../"+name, wants+"/"+name)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// dir makes a directory with just this mode, also if it was there.
func (p placer) dir(name string, mode os.FileMode) error {
	if err := p.root.MkdirAll(name, mode); err != nil {
		return err
	}
	return p.root.Chmod(name, mode)
}

// edit rewrites a file, keeping owner and mode. A missing one counts as empty; authorized_keys and shadow stay private.
func (p placer) edit(name string, change func([]byte) ([]byte, error)) error {
	mode, owner := os.FileMode(0o644), (*syscall.Stat_t)(nil)
	if strings.HasPrefix(name, "root/") || name == "etc/shadow" {
		mode = 0o600
	}
	old, err := p.root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if st, err := p.root.Stat(name); err == nil {
		mode = st.Mode().Perm()
		owner, _ = st.Sys().(*syscall.Stat_t)
	}
	changed, err := change(old)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	return p.create(name, mode, func(f *os.File) error {
		if owner != nil {
			if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
		_, err := f.Write(changed)
		return err
	})
}

func (p placer) write(name string, mode os.FileMode, data []byte) error {
	return p.create(name, mode, func(f *os.File) error { _, err := f.Write(data); return err })
}

func (p placer) create(name string, mode os.FileMode, fill func(*os.File) error) (err error) {
	tmp := path.Join(path.Dir(name), ".offshoot-new")
	f, err := p.root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // may be closed already
			_ = p.root.Remove(tmp)
			err = fmt.Errorf("write /%s: %w", name, err)
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	// Chmod after Chown, and past the umask.
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return p.root.Rename(tmp, name)
}

// setRootHash replaces the second field of root's line, shadow(5).
func setRootHash(shadow []byte, hash string) ([]byte, error) {
	lines := strings.SplitAfter(string(shadow), "\n")
	for i, l := range lines {
		fields := strings.Split(l, ":")
		if fields[0] == "root" && len(fields) >= 3 {
			fields[1] = hash
			lines[i] = strings.Join(fields, ":")
			return []byte(strings.Join(lines, "")), nil
		}
	}
	return nil, errors.New("no line for root")
}

// setHosts gives the host its own name on 127.0.1.1, as Debian's installer does, in place of what stood there.
func setHosts(old []byte, hostname string) []byte {
	var out bytes.Buffer
	for l := range strings.Lines(string(old)) {
		if f := strings.Fields(l); len(f) > 0 && f[0] == "127.0.1.1" {
			continue
		}
		out.WriteString(strings.TrimSuffix(l, "\n") + "\n")
	}
	if len(old) == 0 {
		out.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	}
	names := hostname
	if short, _, dotted := strings.Cut(hostname, "."); dotted {
		names += " " + short
	}
	out.WriteString("127.0.1.1 " + names + "\n")
	return out.Bytes()
}

// addLines appends what is not there yet.
func addLines(old []byte, add []string) []byte {
	have := make(map[string]bool)
	for l := range strings.Lines(string(old)) {
		have[strings.TrimSpace(l)] = true
	}
	out := bytes.Clone(old)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	for _, l := range add {
		if l = strings.TrimSpace(l); !have[l] {
			have[l] = true
			out = append(out, l+"\n"...)
		}
	}
	return out
}
