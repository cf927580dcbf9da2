package lab

import (
	"fmt"
	"net"
	"strconv"
)

// Firmware is what a machine runs first.
type Firmware string

// BIOS is SeaBIOS with QEMU's iPXE as the boot port's option ROM. UEFI is OVMF with its own PXE client, no iPXE in it. UEFIHTTP
// is OVMF without PXE: it boots by HTTP or not at all. UEFISecure is OVMF with Secure Boot on and Microsoft's keys, as most
// machines are sold. UEFIArm64 and UEFIArm64HTTP are the same on emulated machines of arm64.
const (
	BIOS       Firmware = "bios"
	UEFI       Firmware = "uefi"
	UEFIHTTP   Firmware = "uefi-http"
	UEFISecure Firmware = "uefi-secure"
	UEFIArm64  Firmware = "uefi-arm64"

	UEFIArm64HTTP Firmware = "uefi-arm64-http"
)

// ovmf tells whether the firmware is OVMF, or the same for arm64.
func (f Firmware) ovmf() bool { return f == UEFI || f == UEFIHTTP || f == UEFISecure || f.arm64() }

func (f Firmware) arm64() bool { return f == UEFIArm64 || f == UEFIArm64HTTP }

// images are the code of OVMF and what its variable store begins as.
func (f Firmware) images() (code, vars string) {
	switch f {
	case UEFISecure:
		return ovmfSecureCode, ovmfSecureVars
	case UEFIArm64, UEFIArm64HTTP:
		return aavmfCode, aavmfVars
	default:
		return ovmfCode, ovmfVars
	}
}

// emulator is the program, and what it is told of the machine: its board, its screen and its processor.
func (f Firmware) emulator(kvm bool) (program string, board []string) {
	if f.arm64() {
		return "qemu-system-aarch64", []string{"-machine", "virt", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "cortex-a57"}
	}
	// Without graphics SeaBIOS and iPXE speak on the serial line, so the log shows the firmware as well; but without a
	// VGA adapter SeaBIOS 1.16 runs no option ROM at all, so no network boot.
	return "qemu-system-x86_64", append([]string{"-machine", "q35,graphics=off", "-device", "VGA"}, acceleration(kvm)...)
}

// MachineSpec is the hardware of a machine. The zero value of every field but Networks is useful.
type MachineSpec struct {
	Networks []*Network // one virtio port each, in this order
	BootPort int        // the one port, as index into Networks, that the firmware boots from before the disk; -1: none
	Memory   int        // MiB; 0 means 1024
	CPUs     int        // 0 means 1
	Disk     int64      // bytes of the empty disk made on the first Start; 0 without Base means no disk
	Base     string     // image file (qcow2 or raw) that the disk starts as a copy-on-write copy of
	Firmware Firmware   // "" means BIOS
	ROM      string     // file with the boot port's option ROM in place of QEMU's iPXE; BIOS only

	// Direct boot, for tests of what runs in a machine and not of how it gets there: with Kernel set, firmware starts this
	// kernel and looks at neither network nor disk.
	Kernel, Initrd, Append string
}

func (s MachineSpec) withDefaults() (MachineSpec, error) {
	if s.Memory == 0 {
		s.Memory = 1024
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	if s.Firmware == "" {
		s.Firmware = BIOS
	}
	switch {
	case s.Firmware != BIOS && !s.Firmware.ovmf():
		return s, fmt.Errorf("firmware %q: want %s, %s, %s, %s, %s or %s", s.Firmware, BIOS, UEFI, UEFIHTTP, UEFISecure, UEFIArm64, UEFIArm64HTTP)
	case s.ROM != "" && s.Firmware != BIOS:
		return s, fmt.Errorf("option ROM %s: %s starts none", s.ROM, s.Firmware)
	case s.BootPort < -1 || s.BootPort > 0 && s.BootPort >= len(s.Networks):
		return s, fmt.Errorf("boot port %d: the machine has %d", s.BootPort, len(s.Networks))
	case s.Memory < 0 || s.CPUs < 0 || s.Disk < 0:
		return s, fmt.Errorf("memory %d MiB, %d CPUs, disk %d bytes: none may be negative", s.Memory, s.CPUs, s.Disk)
	case s.Kernel == "" && (s.Initrd != "" || s.Append != ""):
		return s, fmt.Errorf("initrd and append need a kernel")
	}
	return s, nil
}

func (s MachineSpec) hasDisk() bool { return s.Disk > 0 || s.Base != "" }

// nic is one port as QEMU sees it.
type nic struct {
	tap string
	mac net.HardwareAddr
}

// files are the paths that a machine uses.
type files struct {
	disk, console, vars string
}

// arguments is the whole command line after the program's name. QEMU starts paused (-S), its monitor on stdio.
func (s MachineSpec) arguments(name string, kvm bool, f files, nics []nic) []string {
	_, board := s.Firmware.emulator(kvm)
	args := append([]string{"-name", name, "-nodefaults", "-no-user-config", "-S", "-display", "none"}, board...)
	args = append(args,
		"-m", strconv.Itoa(s.Memory), "-smp", strconv.Itoa(s.CPUs),
		"-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=console,append=on,path="+escape(f.console), "-serial", "chardev:console",
		"-rtc", "base=utc",
		// OVMF without a random number generator has no network (its DHCP wants random bytes).
		"-device", "virtio-rng-pci",
	)
	if s.Firmware == UEFISecure {
		// Who could write to the variable store without system management mode could switch Secure Boot off.
		args = append(args, "-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	// A machine without anything to boot from tries again after a second, as servers do, instead of halting.
	args = append(args, "-boot", "menu=off,reboot-timeout=1000")
	if s.Firmware.ovmf() {
		code, _ := s.Firmware.images()
		args = append(args,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code,
			"-drive", "if=pflash,format=raw,unit=1,file="+escape(f.vars),
			// Without this OVMF tries IPv6 PXE in full time-outs before it goes on.
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	if s.Firmware == UEFIHTTP || s.Firmware == UEFIArm64HTTP {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	for i, n := range nics {
		boots := s.Kernel == "" && i == s.BootPort
		device := fmt.Sprintf("virtio-net-pci,id=nic%d,netdev=net%d,mac=%s", i, i, n.mac)
		if boots {
			device += ",bootindex=1"
		}
		// The boot port of a BIOS machine has QEMU's default ROM, unnamed: only a default ROM gets the port's PCI ids written
		// into it (hw/pci/pci.c, pci_patch_ids), and SeaBIOS skips a ROM with others, such as the same file by name. One that is
		// named must be made for the port (1af4:1000).
		// Everywhere else no ROM: SeaBIOS skips the port, OVMF uses its own driver.
		if !boots || s.Firmware != BIOS || s.ROM != "" {
			device += ",romfile="
		}
		if boots {
			device += escape(s.ROM)
		}
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.tap), "-device", device)
	}
	if s.hasDisk() {
		// cache=unsafe: nobody needs the disk after a crash of this computer. A killed QEMU still loses nothing that the
		// guest had flushed (block/io.c, bdrv_co_flush: flushed to the OS, not to the medium).
		args = append(args,
			"-drive", "if=none,id=disk0,format=qcow2,cache=unsafe,discard=unmap,file="+escape(f.disk),
			"-device", "virtio-blk-pci,drive=disk0,bootindex=2,serial="+name+"-disk0")
	}
	if s.Kernel != "" {
		args = append(args, "-kernel", s.Kernel, "-append", s.Append)
	}
	if s.Initrd != "" {
		args = append(args, "-initrd", s.Initrd)
	}
	return args
}

// tcgCPU is what boots Debian 13's cloud kernel 6.12 to its login prompt reliably under QEMU 7.2's TCG:
//
//   - Without CMPXCHG16B, which the kernel's allocator uses where it can. The one trace that was read showed EFLAGS full of
//     garbage after that instruction (trap flag: a debug exception in kmalloc; nested task: a protection fault on IRET).
//     With it, seven of eleven boots panicked or hung, over several models, both machine types, one CPU and two; without it,
//     none of thirteen. Price: it is no x86-64-v2, which some distributions demand.
//   - SSE and AES, which TLS wants, but no AVX: TCG is not faster with it (a P-256 signature took 0.9 ms, with -cpu max
//     1.3 ms; AES-GCM 14 MB/s, with -cpu max 12 to 13).
//   - One CPU is what MachineSpec defaults to, for the same reason: with two, a kernel that patches its own code (static keys)
//     was seen to die of an int3 that the other CPU still executed.
//   - No SVM, for which the guest would load KVM.
//
// For the time to boot no model and no number of CPUs stood out from the noise of a busy computer: 43 to 63 s of
// processor time to the login prompt.
const tcgCPU = "qemu64,-cx16,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq"

func acceleration(kvm bool) []string {
	if kvm {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=512", "-cpu", tcgCPU}
}

// escape doubles the commas of a path inside a QEMU option.
func escape(path string) string {
	var out []byte
	for i := range len(path) {
		if path[i] == ',' {
			out = append(out, ',')
		}
		out = append(out, path[i])
	}
	return string(out)
}
