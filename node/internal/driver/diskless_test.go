package driver_test

import (
	"strings"
	"testing"

	"offshoot/node/internal/driver"
	"offshoot/swarm"
)

func TestRootOnTheNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		params driver.Params
		kernel bool
		want   string // arguments, or the disk that is started
	}{
		{driver.Params{Root: "nfs:192.168.42.5:/srv/root,vers=3"}, true, "ro root=/dev/nfs nfsroot=192.168.42.5:/srv/root,vers=3"},
		{driver.Params{Root: "nfs:192.168.42.5:/srv/%h"}, true, "rw root=/dev/nfs nfsroot=192.168.42.5:/srv/node-123456"},
		{driver.Params{Root: "nfs:192.168.42.5:/srv/%m,vers=4", Flavour: "dracut", KernelArgs: []string{"quiet"}}, true, "rw root=nfs:192.168.42.5:/srv/52-54-00-12-34-56:vers=4 quiet"},
		{
			driver.Params{Root: "iscsi:192.168.42.5::3260:1:iqn.2026-11.lab:%h", KernelArgs: []string{"root=/dev/sda1"}}, true,
			"rw iscsi_initiator=iqn.2010-04.org.ipxe:node-123456 iscsi_target_ip=192.168.42.5 iscsi_target_name=iqn.2026-11.lab:node-123456 iscsi_target_port=3260 root=/dev/sda1",
		},
		{
			driver.Params{Root: "iscsi:192.168.42.5::::iqn.2026-11.lab:%h", Flavour: "dracut"}, true,
			"rw root=LABEL=root netroot=iscsi:192.168.42.5::::iqn.2026-11.lab:node-123456 rd.iscsi.initiator=iqn.2010-04.org.ipxe:node-123456 rd.iscsi.ibft=1",
		},
		{driver.Params{Root: "iscsi:192.168.42.5::::iqn.2026-11.lab:%h"}, false, "iscsi:192.168.42.5::::iqn.2026-11.lab:node-123456"},
	} {
		p := profile(t, swarm.DriverDiskless, "", c.params)
		if !c.kernel {
			p.Installer = nil
		}
		if err := driver.Check(p); err != nil {
			t.Errorf("%s: %v", c.params.Root, err)
			continue
		}
		d, err := driver.See(p, machine(), 7480)
		if err != nil {
			t.Fatal(err)
		}
		b, err := driver.BootOf(p, d)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.TrimPrefix(b.San+strings.Join(b.Args, " "), "ip=dhcp BOOTIF=01-52-54-00-12-34-56 ")
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.params.Root, got, c.want)
		}
		if files := driver.FilesOf(p); len(files) > 0 {
			t.Errorf("a machine that is not installed is given %q", files)
		}
	}
}

func TestRootsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		params driver.Params
		kernel bool
		want   string
	}{
		{driver.Params{}, true, "want nfs:SERVER"},
		{driver.Params{Root: "nfs:host:/a b"}, true, "want nfs:SERVER"},
		{driver.Params{Root: "nfs:host:/srv/%x"}, true, "before h (host name)"},
		{driver.Params{Root: "nfs:host:/srv"}, false, "kernel and initrd are missing"},
		{driver.Params{Root: "iscsi:host::::iqn.x:y"}, false, "written by several"},
		{driver.Params{Root: "iscsi:host::::iqn.x:%h", KernelArgs: []string{"quiet"}}, false, "stand on the iSCSI disk"},
		{driver.Params{Root: "nfs:host:/srv", Flavour: "busybox"}, true, "initramfs-tools or dracut"},
		{driver.Params{Root: "nfs:host:/srv", Disk: "smallest"}, true, "disk: driver diskless does not do that"},
	} {
		p := profile(t, swarm.DriverDiskless, "", c.params)
		if !c.kernel {
			p.Installer = nil
		}
		if err := driver.Check(p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.params, err, c.want)
		}
	}
}
