package image

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// The hooks run as root of the new tree, on this host, with the tree's path as their argument.
var (
	//go:embed hook-essential.sh
	hookEssential string
	//go:embed hook-customize.sh
	hookCustomize string
)

// killGrace is how long mmdebstrap gets to unmount and go after SIGTERM.
const killGrace = 10 * time.Second

// bootstrap leaves the root tree in tree/root and GRUB's images in boot, below the scratch directory.
func (b *build) bootstrap(ctx context.Context) error {
	dir := b.scratch
	for name, mode := range map[string]os.FileMode{"tree": 0o777, "fs": 0o777, "tmp": 0o777 | os.ModeSticky, "boot": 0o755} {
		p := filepath.Join(dir, name)
		if err := os.Mkdir(p, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(p, mode); err != nil { // whatever the umask is
			return err
		}
	}
	for name, text := range map[string]string{"essential": hookEssential, "customize": hookCustomize} {
		if err := b.writeHook(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	mode := "root"
	if b.unshared {
		mode = "unshare"
	}
	args := []string{
		"--mode=" + mode, "--variant=minbase", "--format=directory", "--keyring=" + b.Keyring,
		"--architectures=amd64", "--include=" + strings.Join(b.packages, ","),
		// The hook empties what must not be shared, and mmdebstrap would leave this host's own name and resolvers.
		"--skip=cleanup/reproducible",
		// Manuals and translations are a third of the files and nobody reads them on a node.
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		`--aptopt=Acquire::Languages "none"`,
		"--essential-hook=" + filepath.Join(dir, "essential"),
		"--customize-hook=" + filepath.Join(dir, "customize"),
	}
	for _, f := range []string{"boot.img", "core.img", "bootx64.efi", "grubx64.efi", "grub.cfg"} {
		args = append(args, "--customize-hook=download /boot/.image/"+f+" "+filepath.Join(dir, "boot", f))
	}
	args = append(args, `--customize-hook=rm -r "$1/boot/.image"`, b.codename, filepath.Join(dir, "tree", "root"))
	args = append(args, b.sources...)
	return b.tool(ctx, "mmdebstrap", args...)
}

func (b *build) writeHook(path, text string) error {
	t, err := template.New(filepath.Base(path)).Delims("{{", "}}").Parse(text)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := t.Execute(&buf, map[string]string{"RootUUID": b.rootUUID, "ESP": fatUUID(b.espID)}); err != nil {
		return err
	}
	// Not os.WriteFile alone: the umask would take the namespace's right to execute it.
	if err := os.WriteFile(path, buf.Bytes(), 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

// fatUUID is how blkid and fstab write a FAT volume id.
func fatUUID(id string) string { return strings.ToUpper(id[:4] + "-" + id[4:]) }

// mkfsRoot makes the root file system. Block size and inode ratio are given, because mke2fs picks 1 KiB blocks for a small file
// system, which would then stay for life on a large disk; and a journal of the size that a large disk wants. orphan_file and
// metadata_csum_seed are left out, since older kernels and fsck do not know them. $1 tree, $2 file, $3 UUID, $4 bytes (0: fit).
const mkfsRoot = `set -eu
size=$4
if [ "$size" = 0 ]; then
	used=$(du -s --block-size=1M "$1" | cut -f1)
	size=$(( (used + used / 6 + 160) * 1048576 ))
fi
rm -f "$2"
truncate -s "$size" "$2"
features=
if mkfs.ext4 -n -q -F -O ^orphan_file "$2" >/dev/null 2>&1; then
	features=',^orphan_file'
fi
mkfs.ext4 -q -F -L root -U "$3" -b 4096 -I 256 -i 16384 -J size=64 -m 1 -O "^metadata_csum_seed$features" \
	-E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d "$1" "$2"
chmod 0644 "$2"
`

// makeFilesystems makes fs/root.ext4 and esp.fat.
func (b *build) makeFilesystems(ctx context.Context) error {
	dir := b.scratch
	var rootSize int64
	if b.Size > 0 {
		rootSize = (b.Size - rootOffset - mib) &^ (mib - 1)
		if rootSize < 256*mib {
			return fmt.Errorf("size of %d bytes is too small for any system", b.Size)
		}
	}
	tree, root := filepath.Join(dir, "tree", "root"), filepath.Join(dir, "fs", "root.ext4")
	err := b.runInside(ctx, "sh", "-c", mkfsRoot, "sh", tree, root, b.rootUUID, fmt.Sprint(rootSize))
	if err != nil {
		return err
	}
	esp := filepath.Join(dir, "esp.fat")
	f, err := os.Create(esp)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(espSize), f.Close()); err != nil {
		return err
	}
	// One sector per cluster: with more, 64 MiB would be too few clusters for FAT32, which firmware is promised.
	if err := b.tool(ctx, "mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", b.espID, esp); err != nil {
		return err
	}
	return b.fillESP(ctx, esp)
}

// fillESP puts shim where firmware looks on any disk, GRUB where shim looks, and GRUB's first lines where the signed one looks.
func (b *build) fillESP(ctx context.Context, esp string) error {
	if err := b.tool(ctx, "mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"); err != nil {
		return err
	}
	for _, f := range [][2]string{{"bootx64.efi", "BOOT/BOOTX64.EFI"}, {"grubx64.efi", "BOOT/grubx64.efi"}, {"grub.cfg", "debian/grub.cfg"}} {
		if err := b.tool(ctx, "mcopy", "-i", esp, filepath.Join(b.scratch, "boot", f[0]), "::/EFI/"+f[1]); err != nil {
			return err
		}
	}
	return nil
}

// runInside runs a command as the owner of the tree.
func (b *build) runInside(ctx context.Context, name string, args ...string) error {
	if b.unshared {
		return b.tool(ctx, "mmdebstrap", append([]string{"--unshare-helper", name}, args...)...)
	}
	return b.tool(ctx, name, args...)
}

// removeScratch needs the tree's owner too, and must work after the build's context ended.
func (b *build) removeScratch() error {
	dir := b.scratch
	if b.unshared {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = b.runInside(ctx, "rm", "-rf", filepath.Join(dir, "tree"), filepath.Join(dir, "fs"), filepath.Join(dir, "tmp"))
	}
	return os.RemoveAll(dir)
}

// tool runs one tool in a process group and a mount namespace of its own: a cancelled build kills the whole group, and what
// was mounted in the tree is gone with its last process, so that removing the tree cannot reach this host's /dev.
// Its temporary files lie in the scratch that is removed, whatever happens to it.
func (b *build) tool(ctx context.Context, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	cmd := exec.CommandContext(ctx, path, args...)
	said := &tail{max: 2048}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "DEBIAN_FRONTEND=noninteractive",
		"TMPDIR="+filepath.Join(b.scratch, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killGrace
	err = cmd.Run()
	if cmd.Process != nil { // whatever outlived its parent; most often there is nobody
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, said.lines())
	}
	return nil
}

// tail keeps the end of what a tool said, which is where the reason stands.
type tail struct {
	max int
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) lines() string { return strings.TrimSpace(string(t.buf)) }
