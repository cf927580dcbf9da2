// Package boot decides what a machine that boots from the network runs next, and writes it down as a script: for iPXE, and for
// GRUB where firmware starts signed programs only.
//
// It is pure: no socket, no clock, no state. It knows the architectures that firmware announces, the boot programs that
// fit each of them (the programs themselves are embedded here), and the three things that a boot program may be told: start the
// agent, start the machine's own disk, wait. It refuses to put a value into a script that could end the line or expand to
// something else. It may be imported by dhcp, tftp, web and node; it imports only swarm.
package boot

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"

	"offshoot/swarm"
)

// Class is what kind of program on a machine asks.
type Class uint8

// The kinds of programs that ask by DHCP in the life of one machine, in the order in which they run.
const (
	Ordinary Class = iota // an installer, the agent, or an operating system: wants an address only
	PXE                   // firmware that boots by DHCP and TFTP
	HTTPBoot              // UEFI firmware that boots by HTTP
	IPXE                  // iPXE, whether in ROM or started by us
)

// Firmware tells whether c is the firmware of a machine, which loads one of our boot programs.
func (c Class) Firmware() bool { return c == PXE || c == HTTPBoot }

func (c Class) String() string {
	switch c {
	case PXE:
		return "firmware"
	case HTTPBoot:
		return "HTTP firmware"
	case IPXE:
		return "iPXE"
	default:
		return "client"
	}
}

// Firmware is the processor and firmware interface that a boot program must fit.
type Firmware uint8

// Firmware families, as far as anyone asks by DHCP today.
const (
	Unknown Firmware = iota
	BIOS
	EFIx32
	EFIx64
	EFIarm32
	EFIarm64
	UBootArm32
	UBootArm64
)

func (f Firmware) String() string {
	switch f {
	case BIOS:
		return "BIOS"
	case EFIx32:
		return "EFI ia32"
	case EFIx64:
		return "EFI x64"
	case EFIarm32:
		return "EFI arm32"
	case EFIarm64:
		return "EFI arm64"
	case UBootArm32:
		return "U-Boot arm32"
	case UBootArm64:
		return "U-Boot arm64"
	default:
		return "unknown firmware"
	}
}

// EFI tells whether f is a UEFI firmware.
func (f Firmware) EFI() bool { return f >= EFIx32 && f <= EFIarm64 }

// UBoot tells whether f is U-Boot that says so. It loads by TFTP what the header of the answer names.
func (f Firmware) UBoot() bool { return f == UBootArm32 || f == UBootArm64 }

// Arch is the architecture of what f starts, in Debian's word; "" if it is not known.
func (f Firmware) Arch() string {
	switch f {
	case BIOS, EFIx32, EFIx64:
		return "amd64"
	case EFIarm32, UBootArm32:
		return "armhf"
	case EFIarm64, UBootArm64:
		return "arm64"
	default:
		return ""
	}
}

// FirmwareOf maps a code of DHCP option 93 (RFC 4578 and IANA's list of processor architecture types) to its family. Codes
// 15 to 20 are the HTTP variants of the same machines. 7 and 9 both mean EFI x64: RFC 4578 printed 9, its errata 7, and
// firmware of both kinds is in the field.
func FirmwareOf(arch uint16) Firmware {
	switch arch {
	case 0, 20:
		return BIOS
	case 6, 15:
		return EFIx32
	case 7, 9, 16:
		return EFIx64
	case 10, 18:
		return EFIarm32
	case 11, 19:
		return EFIarm64
	case 21:
		return UBootArm32
	case 22:
		return UBootArm64
	default:
		return Unknown
	}
}

// Names of the boot programs, as served by TFTP and HTTP and named in DHCP answers.
const (
	undionly = "undionly.kpxe" // BIOS: drives the card through the UNDI code that the firmware left in memory
	snponly  = "snponly.efi"   // EFI: drives the card through the firmware's own network protocol
	ipxeEFI  = "ipxe.efi"      // EFI: iPXE's own drivers, for firmware whose network protocol is broken

	shimX64 = "shimx64.efi" // EFI with Secure Boot: signed by Microsoft, loads the GRUB that Debian has signed
	grubX64 = "grubx64.efi" // what shim asks for beside itself; never named by DHCP

	shimAA64 = "shimaa64.efi"
	grubAA64 = "grubaa64.efi" // needs no shim where nobody checks signatures

	// Autoexec is the script that iPXE 2 asks for beside its boot program before it asks DHCP.
	Autoexec = "autoexec.ipxe"
)

// Program names the boot program for f; false if there is none for that firmware.
func Program(f Firmware) (string, bool) {
	switch f {
	case BIOS:
		return undionly, true
	case EFIx64:
		return snponly, true
	case EFIarm64, UBootArm64: // Debian has no iPXE for them; U-Boot starts EFI programs, but has no network protocol that shim could use
		return grubAA64, true
	default:
		return "", false
	}
}

// Alternate names the program for machines on which Program does not get as far as iPXE's own DHCP request. It is the same
// program where there is no other.
func Alternate(f Firmware) (string, bool) {
	if f == EFIx64 {
		return ipxeEFI, true
	}
	return Program(f)
}

// Signed names the program for f that firmware with Secure Boot starts; false if there is none. It loads a second one, which is
// served beside it, and that is told what to do by EntryConfig.
func Signed(f Firmware) (string, bool) {
	switch f {
	case EFIx64:
		return shimX64, true
	case EFIarm64:
		return shimAA64, true
	default:
		return "", false
	}
}

// signedNames are the files that the programs of Signed consist of.
var signedNames = []string{shimX64, grubX64, shimAA64, grubAA64}

// StartsGRUB tells whether a file of ProgramNames ends in GRUB, and not in iPXE: it lives on the address that its firmware was given.
func StartsGRUB(name string) bool { return slices.Contains(signedNames, name) }

// Choose names the boot program for a machine that has been sent to load so many in vain: none of them has asked for anything
// afterwards. Firmware with Secure Boot refuses what is not signed and says so to nobody, so the signed programs come next; they
// do no harm where it is off. Each gets two chances, since firmware may try both PXE and HTTP, before it is the turn of the
// program for broken firmware. An operator, or what was seen of the machine earlier, may leave less to try. Where there is GRUB only,
// shim comes first.
func Choose(f Firmware, l swarm.Loader, vain int) (string, bool) {
	usual, _ := Program(f)
	signed, ok := Signed(f)
	switch {
	case ok && l == swarm.LoaderSigned:
		return signed, true
	case ok && l == swarm.LoaderAuto && (StartsGRUB(usual) || vain > 0 && vain < InVain):
		return signed, true
	case vain >= InVain:
		return Alternate(f)
	}
	return Program(f)
}

// InVain is how many programs a machine is sent to load in vain before it gets Alternate.
const InVain = 3

// The folders, not the files, are embedded, so that the package compiles on a fresh clone, where only a README is in each.
//
//go:embed ipxe signed
var embedded embed.FS

// Programs holds every file of ProgramNames. It fails if this binary was built without them.
func Programs() (fs.FS, error) {
	var all folders
	for _, name := range []string{"ipxe", "signed"} {
		sub, err := fs.Sub(embedded, name)
		if err != nil {
			return nil, fmt.Errorf("open embedded boot programs: %w", err)
		}
		all = append(all, sub)
	}
	if err := checkPrograms(all); err != nil {
		return nil, err
	}
	return all, nil
}

// folders shows the files of several folders as those of one.
type folders []fs.FS

// Open opens the file of that name in whichever folder has it.
func (all folders) Open(name string) (f fs.File, err error) {
	err = fs.ErrNotExist
	for _, one := range all {
		if f, err = one.Open(name); err == nil {
			break
		}
	}
	return f, err
}

// ReadDir lists the boot programs, and nothing else that lies beside them.
func (all folders) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var out []fs.DirEntry
	for _, name := range ProgramNames() {
		info, err := fs.Stat(all, name)
		if err != nil {
			return nil, err
		}
		out = append(out, fs.FileInfoToDirEntry(info))
	}
	return out, nil
}

// ProgramNames lists all boot programs, in a fixed order.
func ProgramNames() []string { return append([]string{undionly, snponly, ipxeEFI}, signedNames...) }

// LoadedByHTTP tells whether a file of ProgramNames is one that is loaded by HTTP: only EFI firmware does that.
func LoadedByHTTP(name string) bool {
	for f := Unknown; f <= EFIarm64; f++ {
		usual, _ := Program(f)
		other, _ := Alternate(f)
		if f.EFI() && name != "" && (name == usual || name == other) {
			return true
		}
	}
	return StartsGRUB(name)
}

func checkPrograms(programs fs.FS) error {
	for _, name := range ProgramNames() {
		info, err := fs.Stat(programs, name)
		if err != nil || info.Size() == 0 {
			return fmt.Errorf("boot program %s is not in this binary: it was built by plain `go build`; "+
				"run `make build`, which takes the programs from Debian's packages", name)
		}
	}
	return nil
}
