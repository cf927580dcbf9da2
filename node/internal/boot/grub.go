package boot

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// EntryNames are where GRUB looks for its first lines, as it asks for them by TFTP and HTTP: Debian's network GRUB in /grub/, builds
// of others in the folder of their distribution or at the top.
func EntryNames() []string { return []string{"grub/grub.cfg", "EFI/debian/grub.cfg", "grub.cfg"} }

// The two questions of EntryConfig, as names of files beside each other. GRUB knows whether its firmware enforces signatures, and
// there is no other way for us to learn it.
const (
	SecureConfig = "secure.cfg" // Secure Boot is on
	OpenConfig   = "open.cfg"
)

// EntryConfig is what every GRUB is told first, whichever machine it runs on: to ask again and again what that machine boots. base
// is the URL of the folder with SecureConfig and OpenConfig; both always end with a pause. The loop is here and not in them,
// because GRUB piles one configuration upon another for as long as they call each other.
func EntryConfig(base string) string {
	device, path, ok := grubDevice(base)
	if !ok {
		return fmt.Sprintf("echo 'offshoot: %s'\nsleep %d\nexit\n", printable("no address to ask: "+base), int(DefaultWait.Seconds()))
	}
	return fmt.Sprintf(`set question=%s
if [ "$lockdown" = y ]; then set question=%s; fi
while true; do
	if source '%s%s'$question; then true; else
		echo 'offshoot: no answer, trying again'
		sleep %d
	fi
done
`, OpenConfig, SecureConfig, device, path, int(DefaultWait.Seconds()))
}

// GRUBConfig is what Script is, for GRUB. It always ends with a pause, after which GRUB asks again.
func GRUBConfig(f Facts) string {
	d := f.Decision
	if err := f.Validate(); err != nil {
		d = Wait{Reason: "no boot script: " + err.Error()}
	}
	switch d := d.(type) {
	case Agent:
		return grubStart(f, "the agent", d)
	case Installer:
		return grubStart(f, "the installer of "+d.Name, Agent{d.Kernel, d.Initrd, d.Args})
	case OwnDisk:
		return grubOwnDisk(f)
	case Wait:
		return grubWait(f, d)
	default:
		return grubWait(f, Wait{Reason: "nothing was decided for this machine"})
	}
}

func grubStart(f Facts, program string, a Agent) string {
	kernel, k, ok1 := grubDevice(a.Kernel)
	initrd, i, ok2 := grubDevice(a.Initrd)
	if !ok1 || !ok2 {
		return grubWait(f, Wait{Reason: "kernel or initrd have no address of numbers"})
	}
	args := ""
	for _, arg := range a.Args {
		args += " '" + arg + "'"
	}
	return fmt.Sprintf(`echo 'offshoot: %s starts %s'
if linux '%s%s'%s; then
	if initrd '%s%s'; then boot; fi
fi
echo 'offshoot: %s could not be started, trying again'
sleep %d
`, who(f), program, kernel, k, args, initrd, i, program, int(DefaultWait.Seconds()))
}

// grubOwnDisk starts the loader on the local disk. To leave GRUB is no way there: it tells the firmware that all went well, and
// EDK2 then opens its menu instead of going on. The distribution's own loader is tried before the one for removable disks,
// which may be a helper that changes the boot order. The disk becomes GRUB's root, because that is where chainloader says that the
// program came from, and where shim looks for GRUB.
func grubOwnDisk(f Facts) string {
	return fmt.Sprintf(`echo 'offshoot: %s starts its own disk'
for file in %s; do
	if search --no-floppy --set=root --file $file; then
		if chainloader ($root)$file; then boot; fi
	fi
done
echo 'offshoot: no disk here has a loader that can be started, asking again'
sleep %d
`, who(f), strings.Join(diskLoaders, " "), int(DefaultWait.Seconds()))
}

// diskLoaders are where systems leave their loader on the EFI system partition. No disk has those of two processors, or the wrong one
// is refused.
var diskLoaders = []string{"/EFI/debian/shimx64.efi", "/EFI/BOOT/BOOTX64.EFI", "/EFI/debian/shimaa64.efi", "/EFI/BOOT/BOOTAA64.EFI"}

func grubWait(f Facts, w Wait) string {
	return fmt.Sprintf("echo 'offshoot: %s waits: %s'\nsleep %d\n", who(f), cmp.Or(printable(w.Reason), "no reason given"), int(w.every().Seconds()))
}

// grubDevice splits an address into what GRUB calls a device and a path on it. It accepts literal addresses only: GRUB has no name
// server, and no other characters can then stand in the device.
func grubDevice(url string) (device, path string, ok bool) {
	rest, ok := strings.CutPrefix(url, "http://")
	if !ok || !isURL(url) {
		return "", "", false
	}
	host, path, _ := strings.Cut(rest, "/")
	at, err := netip.ParseAddrPort(host)
	if err != nil || !at.Addr().Is4() {
		return "", "", false
	}
	return "(http," + at.String() + ")", "/" + path, true
}
