package iso

import (
	"errors"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"offshoot/node/internal/archive"
)

// Medium is what an image is for.
type Medium struct {
	Volume       string // its name
	Distribution string // "Debian", "Ubuntu-Server", "Fedora"; empty: none that is known here
	Release      string
	Arch         string // as the distribution calls it
	Kernel       string // paths of what the installer boots from
	Initrd       string
}

// maxInfo bounds the small files that say what an image is.
const maxInfo = 256 << 10

// Recognise finds out what an image is for: Debian and Ubuntu say so in .disk/info, Fedora and its relatives in .treeinfo, or
// shorter in .discinfo. Of an image that says neither only the volume's name is returned.
func Recognise(m *Image) Medium {
	medium := Medium{Volume: m.Volume()}
	if info, err := m.small(".disk/info"); err == nil {
		medium.debian(m, string(info))
	} else if info, err := m.small(".treeinfo"); err == nil {
		medium.treeinfo(m, info)
	}
	if medium.Distribution == "" {
		if info, err := m.small(".discinfo"); err == nil {
			medium.discinfo(m, string(info))
		}
	}
	for _, text := range []*string{&medium.Distribution, &medium.Release, &medium.Arch} {
		*text = printable(*text)
	}
	return medium
}

// small reads a file that says what the image is.
func (m *Image) small(name string) ([]byte, error) {
	f, err := m.Open(name)
	if err != nil {
		return nil, err
	}
	r, ok := f.(*file)
	if !ok {
		return nil, errors.New("not a file")
	}
	return archive.ReadAll(io.Reader(r), maxInfo)
}

// diskInfo is `Debian GNU/Linux 13.1.0 "Trixie" - Official amd64 NETINST …`, `Ubuntu-Server 24.04.1 LTS "Noble Numbat" - Release amd64 (…)`.
var diskInfo = regexp.MustCompile(`^(Debian|Ubuntu[A-Za-z-]*)\s(?:\D*\s)?([0-9][0-9.]*).* - (?:.*\s)?(amd64|arm64|i386|armhf|riscv64|ppc64el|s390x)\b`)

func (d *Medium) debian(m *Image, info string) {
	found := diskInfo.FindStringSubmatch(info)
	if found == nil {
		return
	}
	d.Distribution, d.Release, d.Arch = found[1], strings.TrimSuffix(found[2], "."), found[3]
	short := map[string]string{"amd64": "amd", "arm64": "a64", "i386": "386", "armhf": "ahf"}[d.Arch]
	for _, pair := range [][2]string{
		{"install." + short + "/vmlinuz", "install." + short + "/initrd.gz"},
		{"install/vmlinuz", "install/initrd.gz"},
		{"casper/vmlinuz", "casper/initrd"}, {"casper/hwe-vmlinuz", "casper/hwe-initrd"},
	} {
		if d.boots(m, pair[0], pair[1]) {
			return
		}
	}
}

// treeinfo finds the paths in the sections of the image's own architecture.
func (d *Medium) treeinfo(m *Image, text []byte) {
	info, err := archive.ParseTreeinfo(text)
	if err != nil {
		return
	}
	d.Distribution, d.Release, d.Arch = info.Family, info.Version, info.Arch
	if !d.boots(m, info.Kernel, info.Initrd) {
		d.pxeboot(m)
	}
}

// volumeName is Fedora-S-dvd-x86_64-42, AlmaLinux-9-5-x86_64-dvd, CentOS-Stream-10-BaseOS-x86_64.
var volumeName = regexp.MustCompile(`^(Fedora|AlmaLinux|Rocky|CentOS-Stream|RHEL|OracleLinux|OL)-`)

// discinfo has a time, a release, an architecture; which distribution it is only the volume's name tells.
func (d *Medium) discinfo(m *Image, text string) {
	lines := strings.Split(text, "\n")
	found := volumeName.FindStringSubmatch(d.Volume)
	if len(lines) < 3 || found == nil {
		return
	}
	d.Distribution, d.Arch = found[1], strings.TrimSpace(lines[2])
	words := strings.Fields(lines[1])
	if len(words) > 0 {
		d.Release = words[len(words)-1]
	}
	d.pxeboot(m)
}

func (d *Medium) pxeboot(m *Image) { d.boots(m, "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img") }

// boots takes a kernel and an initrd if both are there.
func (d *Medium) boots(m *Image, kernel, initrd string) bool {
	for _, name := range []string{kernel, initrd} {
		if info, err := fs.Stat(m, name); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	d.Kernel, d.Initrd = kernel, initrd
	return true
}
