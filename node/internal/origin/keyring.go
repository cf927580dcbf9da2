package origin

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"offshoot/node/internal/archive"
)

// maxKeyring bounds one file with keys; Debian's of all developers has 30 MB, and is none of those that count here.
const maxKeyring = 4 << 20

// publisher is who signs, and where a host has his keys: that of one distribution vouches for its own files only.
type publisher struct {
	name  string
	files *regexp.Regexp // names of what he publishes
	// keyrings are patterns below the root, those of one set in alternative spellings; the first set that is there counts.
	keyrings []string
	install  string // what brings the keys
	// lists are where his checksum files stand beside a file: $0 is its name, $1… what files found in it.
	lists []string
}

// debianArchive signs Release files. The keyring of removed keys lies beside it, and must not count.
var debianArchive = publisher{
	name: "Debian's archive", keyrings: []string{"usr/share/keyrings/debian-archive-keyring.[gp][gp][gp]", "etc/apt/trusted.gpg.d/debian-archive-*"},
	install: "apt-get install debian-archive-keyring",
}

const distributionKeys = "usr/share/distribution-gpg-keys/"

// publishers sign checksum files of images.
var publishers = []publisher{
	{
		"Debian", regexp.MustCompile(`^debian-.*$`),
		[]string{"usr/share/keyrings/debian-role-keys.[gp][gp][gp]", distributionKeys + "debian/*"}, "apt-get install debian-keyring", []string{"SHA256SUMS", "SHA512SUMS"},
	},
	{
		"Ubuntu's cloud images", regexp.MustCompile(`^.*-cloudimg-.*$`),
		[]string{"usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"}, "apt-get install ubuntu-keyring", []string{"SHA256SUMS"},
	},
	{
		"Ubuntu", regexp.MustCompile(`^ubuntu-.*$`),
		[]string{"usr/share/keyrings/ubuntu-archive-keyring.gpg"}, "apt-get install ubuntu-keyring", []string{"SHA256SUMS"},
	},
	{ // Fedora-Server-netinst-x86_64-42-1.1.iso stands in Fedora-Server-42-1.1-x86_64-CHECKSUM
		"Fedora", regexp.MustCompile(`^(Fedora-[A-Za-z]+)-.*(x86_64|aarch64)-([0-9]+-[0-9.]+)\..*$`),
		[]string{"etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-*", distributionKeys + "fedora/RPM-GPG-KEY-fedora-*"}, "apt-get install distribution-gpg-keys", []string{"$1-$3-$2-CHECKSUM"},
	},
	{
		"AlmaLinux", regexp.MustCompile(`^AlmaLinux-.*$`),
		[]string{"etc/pki/rpm-gpg/RPM-GPG-KEY-AlmaLinux*", distributionKeys + "alma/RPM-GPG-KEY-AlmaLinux*"}, "apt-get install distribution-gpg-keys", []string{"CHECKSUM"},
	},
	{
		"Rocky Linux", regexp.MustCompile(`^Rocky-.*$`),
		[]string{"etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky*", distributionKeys + "rocky/RPM-GPG-KEY-Rocky*"}, "apt-get install distribution-gpg-keys", []string{"CHECKSUM", "$0.CHECKSUM"},
	},
	{
		"CentOS Stream", regexp.MustCompile(`^CentOS-Stream-.*$`),
		[]string{"etc/pki/rpm-gpg/RPM-GPG-KEY-centosofficial*", distributionKeys + "centos/RPM-GPG-KEY-CentOS-Official*"}, "apt-get install distribution-gpg-keys", []string{"$0.SHA256SUM"},
	},
}

// unknown is who publishes what no name tells.
var unknown = publisher{name: "its publisher", files: regexp.MustCompile(`^.*$`), lists: []string{"SHA256SUMS", "CHECKSUM", "$0.SHA256SUM", "$0.sha256", "SHA512SUMS"}}

// publisherOf tells by a file's name who signs for it.
func publisherOf(file string) publisher {
	for _, p := range publishers {
		if p.files.MatchString(file) {
			return p
		}
	}
	return unknown
}

// listsOf are the names of checksum files that a file may stand in.
func (p publisher) listsOf(file string) (out []string) {
	for _, l := range p.lists {
		l = strings.ReplaceAll(l, "$0", file)
		out = append(out, p.files.ReplaceAllString(file, l))
	}
	return out
}

// keys are those that count for a publisher.
func (f *Fetcher) keys(p publisher) (*archive.Keyring, error) {
	if f.Keyring != nil {
		return f.Keyring, nil
	}
	for _, pattern := range p.keyrings {
		found, err := filepath.Glob(filepath.Join(f.Root, pattern))
		if err != nil {
			return nil, err
		}
		var all *archive.Keyring
		for _, name := range found {
			k, err := f.readKeys(name)
			if err != nil {
				return nil, err
			}
			all = all.With(k)
		}
		if all != nil {
			return all, nil
		}
	}
	next := "give one with --keyring FILE"
	if p.install != "" {
		next = p.install + ", or " + next
	}
	return nil, fmt.Errorf("%w of %s on this host: %s", ErrNoKeys, p.name, next)
}

func (f *Fetcher) readKeys(name string) (*archive.Keyring, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := archive.ReadAll(file, maxKeyring)
	if err == nil {
		var k *archive.Keyring
		if k, err = archive.ReadKeyring(data, f.Now); err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}
