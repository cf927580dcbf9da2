package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offshoot/node/internal/install"
)

var discard = slog.New(slog.DiscardHandler)

func TestForeignDataIsNamed(t *testing.T) {
	type bytesAt struct {
		off  int
		text string
	}
	for _, c := range []struct {
		head, tail []bytesAt
		want       string
	}{
		{nil, nil, ""},
		{[]bytesAt{{0, markRunning + "another arming\n"}, {1080, "\x53\xef"}}, nil, ""},
		{[]bytesAt{{stampAt, markFinished + testInstall + "\n"}, {512, "EFI PART"}}, nil, ""},
		{[]bytesAt{{stampAt, markFinished + "another\n"}, {512, "EFI PART"}}, nil, "offshoot installed earlier"},
		{[]bytesAt{{512, "EFI PART"}}, nil, "GPT"},
		{[]bytesAt{{4096, "EFI PART"}}, nil, "GPT"},
		{nil, []bytesAt{{headSize - 512, "EFI PART"}}, "GPT"},
		{[]bytesAt{{510, "\x55\xaa"}}, nil, "MBR"},
		{[]bytesAt{{1080, "\x53\xef"}}, nil, "ext2/3/4"},
		{[]bytesAt{{0, "XFSB"}}, nil, "XFS"},
		{[]bytesAt{{0x10040, "_BHRfS_M"}}, nil, "btrfs"},
		{[]bytesAt{{512, "LABELONE"}}, nil, "LVM"},
		{[]bytesAt{{0, "LUKS\xba\xbe"}}, nil, "LUKS"},
		{[]bytesAt{{4096, "\xfc\x4e\x2b\xa9"}}, nil, "Linux RAID"},
		{nil, []bytesAt{{headSize - 65536, "\xfc\x4e\x2b\xa9"}}, "Linux RAID"},
		{nil, []bytesAt{{headSize - 1024, "Intel Raid ISM Cfg"}}, "firmware RAID"},
		{[]bytesAt{{4086, "SWAPSPACE2"}}, nil, "swap"},
		{[]bytesAt{{700000, "x"}}, nil, "unknown kind"},
		{nil, []bytesAt{{5, "x"}}, "unknown kind"},
	} {
		head, tail := make([]byte, headSize), make([]byte, headSize)
		for _, b := range c.head {
			copy(head[b.off:], b.text)
		}
		for _, b := range c.tail {
			copy(tail[b.off:], b.text)
		}
		got := foreign(head, tail, testInstall)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v %v: %q, want %q", c.head, c.tail, got, c.want)
		}
	}
}

func TestGlobMatchesLikeFnmatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"pci:v00001AF4d00001000sv*sd*bc*sc*i*", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", true},
		{"pci:v00001AF4d00001001sv*", "pci:v00001AF4d00001000sv1", false},
		{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv0sd1bc01sc06i01", true},
		{"cpu:type:x86,ven*fam*mod*:feature:*0099*", "cpu:type:x86,ven0000fam0006mod003D:feature:,0000,0099,00AA", true},
		{"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5581d0100dc00dsc00dp00ic08isc06ip50in00", true},
		{"scsi:t-0x00*", "scsi:t-0x00", true},
		{"dmi:*:svn[A-C]*:*", "dmi:bvn:svnAcer/Labs:pn", true},
		{"dmi:*:svn[!A-C]*:*", "dmi:bvn:svnAcer:pn", false},
		{"*", "", true}, {"", "", true}, {"?", "", false}, {"a*b", "aXbc", false}, {"[", "[", true},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("%q on %q: %t", c.pattern, c.s, got)
		}
	}
}

func TestDriversLoadInOrderOfTheirNeeds(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep":     "k/net/virtio_net.ko: k/net/net_failover.ko k/net/failover.ko\nk/net/net_failover.ko: k/net/failover.ko\nk/net/failover.ko:\nk/fs/ext4.ko: k/fs/jbd2.ko\nk/fs/jbd2.ko:\nk/c/crc32c-intel.ko:\n",
		"modules.alias":   "# comment\nalias virtio:d00000001v* virtio_net\nalias crypto-crc32c crc32c_intel\nalias fs-ext4 ext4\n",
		"modules.softdep": "softdep ext4 pre: crypto-crc32c\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x, err := readIndex(dir)
	if err != nil {
		t.Fatal(err)
	}
	for ask, want := range map[string][]string{
		"virtio:d00000001v00001AF4": {"failover", "net_failover", "virtio_net"},
		"fs-ext4":                   {"crc32c_intel", "jbd2", "ext4"},
		"ext4":                      {"crc32c_intel", "jbd2", "ext4"},
		"virtio:d00000009v00001AF4": nil,
	} {
		var got []string
		for _, m := range x.match(ask) {
			got = append(got, x.order(m)...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", ask, got, want)
		}
	}
}

func TestUeventIsRead(t *testing.T) {
	action, alias := parseUevent([]byte("add@/devices/pci0\x00ACTION=add\x00MODALIAS=pci:v1\x00SEQNUM=7\x00"))
	if action != "add" || alias != "pci:v1" {
		t.Errorf("%q %q", action, alias)
	}
	if action, _ := parseUevent([]byte("libudev\x00\xfe\xed")); action != "" {
		t.Errorf("udev's own message is taken for the kernel's")
	}
}

func TestCommandLineMustNameNodeAndPort(t *testing.T) {
	url, mac, verbose, err := parseCmdline("quiet console=ttyS0 offshoot.url=http://192.168.42.1:7480/b/n offshoot.mac=52:54:00:00:00:01 offshoot.debug\n")
	if err != nil || url != "http://192.168.42.1:7480/b/n" || mac.String() != testMAC || !verbose {
		t.Errorf("%s %s %t %v", url, mac, verbose, err)
	}
	for _, line := range []string{"", "offshoot.url=http://x/b/n", "offshoot.url=http://x/b/n offshoot.mac=1"} {
		if _, _, _, err := parseCmdline(line); err == nil {
			t.Errorf("%q accepted", line)
		}
	}
}

func TestInventoryComesFromSysfs(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, to string) {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, to), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	put("sys/class/dmi/id/sys_vendor", "Dell Inc.\n")
	put("sys/class/dmi/id/product_name", "PowerEdge R640  \n")
	put("sys/class/dmi/id/product_uuid", "4C4C4544-0033\n")
	put("sys/firmware/efi/runtime", "")
	put("proc/cpuinfo", "processor\t: 0\nmodel name\t: Xeon\n\nprocessor\t: 1\nmodel name\t: Xeon\n")
	put("proc/meminfo", "MemTotal:       1024 kB\n")
	put("sys/devices/ata1/model", "Samsung SSD\n")
	put("sys/devices/ata1/wwid", "naa.5002\n")
	put("sys/devices/ata1/vpd_pg80", "\x00\x80\x00\x06S3Z8  ")
	put("sys/block/sda/size", "2000\n")
	put("sys/block/sda/queue/rotational", "0\n")
	link("sys/block/sda/device", "sys/devices/ata1")
	put("sys/devices/usb1/1-1/x", "")
	put("sys/block/sdb/size", "4000\n")
	link("sys/block/sdb/device", "sys/devices/usb1/1-1")
	put("sys/block/loop0/size", "4000\n") // hangs on nothing
	put("sys/devices/pci/nic0/x", "")
	put("sys/class/net/eth0/type", "1\n")
	put("sys/class/net/eth0/address", "52:54:00:AA:00:01\n")
	put("sys/class/net/eth0/carrier", "1\n")
	put("sys/class/net/eth0/speed", "-1\n")
	link("sys/class/net/eth0/device", "sys/devices/pci/nic0")
	put("sys/class/net/lo/address", "00:00:00:00:00:00\n")
	got, err := scan(root)
	if err != nil {
		t.Fatal(err)
	}
	want := install.Inventory{
		Vendor: "Dell Inc.", Product: "PowerEdge R640", UUID: "4c4c4544-0033", EFI: true, CPU: "Xeon", CPUs: 2, Memory: 1 << 20,
		Disks: []install.Disk{
			{Path: "/dev/sda", Size: 2000 * 512, Model: "Samsung SSD", Serial: "S3Z8", WWN: "naa.5002"},
			{Path: "/dev/sdb", Size: 4000 * 512, Removable: true},
		},
		NICs: []install.NIC{{Name: "eth0", MAC: "52:54:00:aa:00:01", Link: true}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFilesArePlacedTwiceLikeOnce(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"etc/shadow": "root:*:1:\n", "etc/systemd/x": "", "etc/hosts": ""} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	cfg := install.Config{Hostname: "m1", RootHash: "$6$a$b", SSHKeys: []string{"k"}, Binary: selfSum(t)}
	var first map[string]string
	for range 2 {
		if err := place(dir, cfg, "/proc/self/exe", nil); err != nil {
			t.Fatal(err)
		}
		now := make(map[string]string)
		for _, name := range []string{"etc/shadow", "etc/hosts", "etc/hostname", "root/.ssh/authorized_keys"} {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			now[name] = string(raw)
		}
		if first == nil {
			first = now
		}
		if d := cmp.Diff(first, now); d != "" {
			t.Error(d)
		}
	}
}

func TestProgramWithAnotherDigestIsNotLeft(t *testing.T) {
	dir := t.TempDir()
	err := place(dir, install.Config{Hostname: "m1", Binary: strings.Repeat("0", 64)}, "/proc/self/exe", nil)
	if err == nil || !strings.Contains(err.Error(), "different versions") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "usr/local/bin/*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestLinksInTheImageDoNotLeadOut(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	if err := place(dir, install.Config{Hostname: "m1", Binary: selfSum(t)}, "/proc/self/exe", nil); err == nil {
		t.Error("accepted")
	}
	if left, _ := filepath.Glob(filepath.Join(outside, "*")); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}

func TestRootHashReplacesOnlyRoots(t *testing.T) {
	got, err := setRootHash([]byte("rooty:x:1:\nroot:!:2:0:\nlast:*:3:"), "$6$a$b")
	if err != nil || string(got) != "rooty:x:1:\nroot:$6$a$b:2:0:\nlast:*:3:" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := setRootHash([]byte("x:*:1:\n"), "y"); err == nil {
		t.Error("no root, and no error")
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*[b-c]?", "axbz")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 100 || len(s) > 100 {
			t.Skip()
		}
		glob(pattern, s)
		if !glob("*", s) || !strings.ContainsAny(s, "*?[") && !glob(s, s) {
			t.Errorf("%q does not match itself", s)
		}
	})
}

func FuzzUevent(f *testing.F) {
	f.Add([]byte("add@/devices\x00MODALIAS=x\x00"))
	f.Fuzz(func(_ *testing.T, raw []byte) { parseUevent(raw) })
}

func FuzzForeign(f *testing.F) {
	f.Add([]byte("EFI PART"), 512)
	f.Fuzz(func(t *testing.T, text []byte, off int) {
		head, tail := make([]byte, headSize), make([]byte, headSize)
		if off < 0 || off > headSize {
			t.Skip()
		}
		copy(head[off:], text)
		if foreign(head, tail, "") == "" && !zero(head) && !bytes.HasPrefix(head, []byte(markRunning)) {
			t.Error("data was taken for nothing")
		}
	})
}

func TestMachineThatHearsNothingMoreEndsLost(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	o := Options{URL: gone.URL + "/b/nonce", System: Process{Disk: "/dev/null"}, Lost: 50 * time.Millisecond}
	if err := Install(t.Context(), o); !errors.Is(err, ErrLost) {
		t.Fatalf("got %v", err)
	}
	// One that refuses is heard: the machine waits for it.
	there := httptest.NewServer(http.NotFoundHandler())
	defer there.Close()
	o.URL, o.Lost, o.Hold = there.URL+"/b/nonce", 500*time.Millisecond, 20*time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := Install(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestFilesForCloudInitAreLeftWhereItLooks(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p, files := placer{in}, map[string]string{"user-data": "#cloud-config\n", "meta-data": "instance-id: i\n"}
	if err := p.cloudInit(files); err == nil {
		t.Error("a system without cloud-init is taken")
	}
	put("etc/cloud/cloud.cfg", "")
	put("etc/selinux/config", "# SELINUX=disabled\nSELINUX=enforcing\n")
	if err := errors.Join(p.cloudInit(files), p.relabel()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"var/lib/cloud/seed/nocloud/user-data":  "#cloud-config\n",
		"var/lib/cloud/seed/nocloud/meta-data":  "instance-id: i\n",
		"etc/cloud/cloud.cfg.d/99-offshoot.cfg": "datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n",
		".autorelabel":                          "-F\n",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	put("etc/selinux/config", "SELINUX=disabled\n")
	if err := errors.Join(os.Remove(filepath.Join(root, ".autorelabel")), p.relabel()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, ".autorelabel")); err == nil {
		t.Error("a system whose SELinux is off is to be labelled")
	}
}

func TestWhatHidesVarIsSeen(t *testing.T) {
	for fstab, want := range map[string]struct {
		subvolume string
		apart     bool
	}{
		"UUID=1 / btrfs subvol=root 0 0\nUUID=1 /home btrfs subvol=home 0 0\n":               {"", false},
		"UUID=1 / btrfs subvol=root 0 0\nUUID=1 /var btrfs compress=zstd:1,subvol=var 0 0\n": {"var", true},
		"# UUID=1 /var ext4 defaults 0 0\n":                                                  {"", false},
		"UUID=1 /var ext4 defaults 0 0\n":                                                    {"", true},
		"UUID=1 /var/lib btrfs subvol=lib 0 0\n":                                             {"", true},
	} {
		if subvolume, apart := varOf([]byte(fstab)); subvolume != want.subvolume || apart != want.apart {
			t.Errorf("%q: %q, %t", fstab, subvolume, apart)
		}
	}
}
