// Package boot decides what a machine that boots from the network runs next, and writes it down as an iPXE script.
//
// It is pure: no socket, no clock, no state. It knows the architectures that firmware announces, the boot program that
// fits each of them (the programs themselves are embedded here), and the three things that iPXE may be told: start the
// agent, start the machine's own disk, wait. It refuses to put a value into a script that could end the line or expand to
// something else. It may be imported by dhcp, tftp, web and node; it imports only swarm.
package boot

import (
	"embed"
	"fmt"
	"io/fs"
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
	default:
		return "unknown firmware"
	}
}

// EFI tells whether f is a UEFI firmware.
func (f Firmware) EFI() bool { return f >= EFIx32 && f <= EFIarm64 }

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
	default:
		return Unknown
	}
}

// Names of the boot programs, as served by TFTP and HTTP and named in DHCP answers.
const (
	undionly = "undionly.kpxe" // BIOS: drives the card through the UNDI code that the firmware left in memory
	snponly  = "snponly.efi"   // EFI: drives the card through the firmware's own network protocol
	ipxeEFI  = "ipxe.efi"      // EFI: iPXE's own drivers, for firmware whose network protocol is broken

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

// The folder, not the files, is embedded, so that the package compiles on a fresh clone, where only README is there.
//
//go:embed ipxe
var embedded embed.FS

// Programs holds every file that Program and Alternate can name. It fails if this binary was built without them.
func Programs() (fs.FS, error) {
	sub, err := fs.Sub(embedded, "ipxe")
	if err != nil {
		return nil, fmt.Errorf("open embedded boot programs: %w", err)
	}
	if err := checkPrograms(sub); err != nil {
		return nil, err
	}
	return sub, nil
}

// ProgramNames lists the names in Programs, in a fixed order.
func ProgramNames() []string { return []string{undionly, snponly, ipxeEFI} }

// LoadedByHTTP tells whether a file of ProgramNames is one that firmware loads by HTTP: only EFI firmware does.
func LoadedByHTTP(name string) bool {
	for f := Unknown; f <= EFIarm64; f++ {
		usual, _ := Program(f)
		other, _ := Alternate(f)
		if f.EFI() && name != "" && (name == usual || name == other) {
			return true
		}
	}
	return false
}

func checkPrograms(programs fs.FS) error {
	for _, name := range ProgramNames() {
		info, err := fs.Stat(programs, name)
		if err != nil || info.Size() == 0 {
			return fmt.Errorf("boot program %s is not in this binary: it was built by plain `go build`; "+
				"run `make build`, which takes the programs from Debian's package ipxe", name)
		}
	}
	return nil
}
