package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"offshoot/node/internal/apt"
)

// Options say what Build makes.
type Options struct {
	Release  string   // "debian:13" or "debian:12", also by code name ("debian:trixie")
	Output   string   // path of the image; its suffix chooses the format: .raw or .raw.zst
	Packages []string // Debian packages beside those that every golden image holds
	Kernel   string   // kernel package, "" = linux-image-amd64
	Mirror   string   // archive URL, "" = the one in the host's own apt sources
	Keyring  string   // file with the archive's keys, "" = the host's Debian archive keyring; signatures are always verified
	Size     int64    // bytes of the whole disk, 0 = as small as its content allows; it grows on first boot anyway

	// Progress, if set, is called from Build's goroutine with each step as it begins.
	Progress func(step string)
}

// ErrHost is in the error chain when this host cannot build images at all: tools are missing, or it is the wrong kind of host.
var ErrHost = errors.New("this host cannot build images; any raw or qcow2 cloud image can be used instead")

// Parts of the disk, in bytes. Everything starts on a 1 MiB boundary, which suits every disk and leaves GRUB's first stage alone.
const (
	mib          = 1 << 20
	biosPartSize = 1 * mib
	espSize      = 64 * mib
	espOffset    = 1*mib + biosPartSize
	rootOffset   = espOffset + espSize
)

// Build makes a bootable golden image: GPT, started by BIOS and by UEFI, with or without Secure Boot, with an ext4 root that grows to
// its disk on first boot, sshd, no host keys, no machine id, a locked root password and no network manager. The output appears whole or not at
// all; when ctx ends, children are killed, scratch is removed and ctx's error is returned.
func Build(ctx context.Context, o Options) error {
	b, err := newBuild(o)
	if err != nil {
		return fmt.Errorf("build %s: %w", o.Release, err)
	}
	if err := b.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("build %s: %w", o.Release, err)
	}
	return nil
}

// build is one run of Build, with everything decided.
type build struct {
	Options
	codename string
	compress bool
	sources  []string // one-line apt sources
	packages []string
	rootUUID string
	espID    string // FAT volume id, eight hexadecimal digits
	scratch  string // directory with everything that is removed at the end
	unshared bool   // an ordinary user: the tree is owned by a user namespace
}

// packageName is Debian policy 5.6.7, with the ":arch", "=version" and "/suite" that apt understands.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?$`)

func newBuild(o Options) (*build, error) {
	b := &build{Options: o, rootUUID: uuid.NewString(), unshared: os.Geteuid() != 0}
	var err error
	if b.codename, err = codename(o.Release); err != nil {
		return nil, err
	}
	switch {
	case o.Output == "":
		return nil, errors.New("no output file named")
	case strings.HasSuffix(o.Output, ".raw.zst"):
		b.compress = true
	case strings.HasSuffix(o.Output, ".raw"):
	default:
		return nil, fmt.Errorf("output %s: the name must end in .raw or .raw.zst", o.Output)
	}
	if b.Kernel == "" {
		b.Kernel = "linux-image-amd64"
	}
	b.packages = append(basePackages(b.codename), b.Kernel)
	for _, p := range append(slices.Clone(o.Packages), b.Kernel) {
		if !packageName.MatchString(p) {
			return nil, fmt.Errorf("%q is not the name of a Debian package", p)
		}
	}
	b.packages = append(b.packages, o.Packages...)
	if err := checkHost(); err != nil {
		return nil, err
	}
	if b.Keyring, err = findKeyring(o.Keyring, b.codename); err != nil {
		return nil, err
	}
	archives, err := apt.Archives(o.Mirror, b.codename, "/")
	if err != nil {
		return nil, err
	}
	for _, a := range archives {
		b.sources = append(b.sources, a.String())
	}
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails, by contract
	b.espID = fmt.Sprintf("%08x", id)
	return b, nil
}

// codename accepts the two releases whose boot was tried.
func codename(release string) (string, error) {
	switch release {
	case "debian:13", "debian:trixie":
		return "trixie", nil
	case "debian:12", "debian:bookworm":
		return "bookworm", nil
	}
	return "", fmt.Errorf("%q is not a release that can be built: choose debian:13 or debian:12", release)
}

// basePackages are what the agent, sshd and the first boot need, and the boot programs, which are purged again once GRUB's
// images are made. No network manager: offshoot sets addresses itself.
func basePackages(codename string) []string {
	p := []string{
		"systemd-sysv", "udev", "dbus", "libpam-systemd", "openssh-server", "iproute2", "iputils-ping", "ca-certificates",
		"e2fsprogs", "kmod", "procps", "initramfs-tools", "zstd", "grub-pc-bin", "grub-efi-amd64-signed", "shim-signed",
	}
	if codename != "bookworm" { // until Debian 12 it is part of package systemd
		p = append(p, "systemd-repart")
	}
	return p
}

// checkHost names all that is missing at once, with the packages that hold it.
func checkHost() error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w (golden images are built on Linux/amd64, this is %s/%s)", ErrHost, runtime.GOOS, runtime.GOARCH)
	}
	return missingTools(exec.LookPath, os.Geteuid() == 0)
}

func missingTools(look func(string) (string, error), root bool) error {
	type tool struct{ tool, pkg string }
	var tools, packages []string
	needed := []tool{
		{"mmdebstrap", "mmdebstrap"}, {"apt-get", "apt"}, {"mkfs.ext4", "e2fsprogs"}, {"mkfs.vfat", "dosfstools"},
		{"mmd", "mtools"}, {"mcopy", "mtools"},
	}
	if !root {
		needed = append(needed, tool{"newuidmap", "uidmap"}) // mmdebstrap's user namespace
	}
	for _, t := range needed {
		if _, err := look(t.tool); err == nil {
			continue
		}
		if _, err := look("/usr/sbin/" + t.tool); err == nil { // an ordinary user's PATH lacks it
			continue
		}
		tools = append(tools, t.tool)
		if !slices.Contains(packages, t.pkg) {
			packages = append(packages, t.pkg)
		}
	}
	if len(tools) == 0 {
		return nil
	}
	return fmt.Errorf("%w: missing %s; on Debian or Ubuntu: apt-get install %s",
		ErrHost, strings.Join(tools, ", "), strings.Join(packages, " "))
}

// findKeyring prefers the file that holds all of Debian's keys, then the release's own.
func findKeyring(named, codename string) (string, error) {
	tries := []string{named}
	if named == "" {
		tries = []string{
			"/usr/share/keyrings/debian-archive-keyring.gpg",
			"/usr/share/keyrings/debian-archive-" + codename + "-stable.gpg",
		}
	}
	for _, p := range tries {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
			return p, nil
		}
	}
	if named != "" {
		return "", fmt.Errorf("keyring %s is not a file with keys", named)
	}
	return "", fmt.Errorf("%w: no Debian archive keyring; on Debian or Ubuntu: apt-get install debian-archive-keyring", ErrHost)
}

func (b *build) step(s string) {
	if b.Progress != nil {
		b.Progress(s)
	}
}

func (b *build) run(ctx context.Context) (err error) {
	out, err := os.CreateTemp(filepath.Dir(b.Output), "."+filepath.Base(b.Output)+".*")
	if err != nil {
		return err
	}
	defer func() {
		_ = out.Close()
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	dir, err := os.MkdirTemp("", "offshoot-image-")
	if err != nil {
		return err
	}
	b.scratch = dir
	defer func() { err = errors.Join(err, b.removeScratch()) }()
	// The user namespace's root is another user out here: it must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}

	b.step("bootstrap " + b.codename)
	if err := b.bootstrap(ctx); err != nil {
		return err
	}
	b.step("make file systems")
	if err := b.makeFilesystems(ctx); err != nil {
		return err
	}
	b.step("assemble disk")
	if err := b.assemble(ctx, out); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return os.Rename(out.Name(), b.Output)
}

// assemble writes the disk to out, straight from its parts, so that no second copy of the disk lies around.
func (b *build) assemble(ctx context.Context, out *os.File) error {
	disk, size, closeParts, err := b.disk()
	if err != nil {
		return err
	}
	defer closeParts()
	src := untilDone(ctx, disk)
	if !b.compress {
		return copySparse(out, src)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return err
	}
	enc.ResetContentSize(out, size) // lets Inspect know the disk's size without decoding it
	if _, err := io.CopyBuffer(struct{ io.Writer }{enc}, src, make([]byte, mib)); err != nil {
		_ = enc.Close()
		return err
	}
	return enc.Close()
}

// disk is the whole disk as one stream of size bytes.
func (b *build) disk() (disk io.Reader, size int64, closeParts func(), err error) {
	boot, core, err := readGRUB(filepath.Join(b.scratch, "boot"))
	if err != nil {
		return nil, 0, nil, err
	}
	var parts [2]*os.File
	closeParts = func() {
		for _, f := range parts {
			_ = f.Close() // nil is an error, not a panic
		}
	}
	for i, name := range []string{"esp.fat", "fs/root.ext4"} {
		if parts[i], err = os.Open(filepath.Join(b.scratch, name)); err != nil {
			closeParts()
			return nil, 0, nil, err
		}
	}
	st, err := parts[1].Stat()
	if err == nil {
		var head, tail io.Reader
		if head, tail, err = diskFrame(st.Size(), boot, core); err == nil {
			return io.MultiReader(head, parts[0], parts[1], tail), rootOffset + st.Size() + mib, closeParts, nil
		}
	}
	closeParts()
	return nil, 0, nil, err
}

// readerFunc is a Read method.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// untilDone reads r and ends with ctx, so that a long copy does.
func untilDone(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

// copySparse writes r to an empty file and leaves runs of zeros as holes.
func copySparse(w *os.File, r io.Reader) error {
	buf := make([]byte, mib)
	var off int64
	for {
		n, err := fill(r, buf)
		for p := 0; p < n; p += sparseUnit {
			part := buf[p:min(p+sparseUnit, n)]
			if isZero(part) {
				continue
			}
			if _, err := w.WriteAt(part, off+int64(p)); err != nil {
				return err
			}
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return w.Truncate(off)
		}
		if err != nil {
			return err
		}
	}
}
