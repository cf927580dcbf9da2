package lab

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What a scenario may need besides single tools.
const (
	Wire        = "wire"         // namespaces and bridges: New, Network, Host, Capture
	Metal       = "metal"        // machines that boot by BIOS or with a kernel of the test's choice
	MetalUEFI   = "metal-uefi"   // machines that boot by UEFI as well
	MetalSecure = "metal-secure" // machines that boot by UEFI with Secure Boot
	MetalArm64  = "metal-arm64"  // machines of arm64, that boot by UEFI
)

const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	// The variables hold the keys that Microsoft has machines sold with, and Secure Boot is on.
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
	aavmfCode      = "/usr/share/AAVMF/AAVMF_CODE.fd"
	aavmfVars      = "/usr/share/AAVMF/AAVMF_VARS.fd"
	biosROM        = "/usr/lib/ipxe/qemu/efi-virtio.rom"
)

// TB is the part of testing.TB that Need uses.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Need skips the test when something is missing that it needs, and says what. Under CI=true it fails instead, since CI
// promises this tier. Wants are as in Missing.
func Need(t TB, wants ...string) {
	t.Helper()
	missing := Missing(wants...)
	if len(missing) == 0 {
		return
	}
	text := "missing: " + strings.Join(missing, "; ")
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s", text)
	} else {
		t.Skipf("%s", text)
	}
}

// Missing says, in words for an operator, what is not here of: Wire, Metal, MetalUEFI, MetalSecure, MetalArm64, the name of a program, or the absolute
// path of a file.
func Missing(wants ...string) []string {
	var missing []string
	for _, want := range wants {
		var lacks []string
		switch want {
		case Wire:
			lacks = Missing("ip", "ethtool")
			if !mayMakeNamespaces() {
				lacks = append(lacks, "root (CAP_SYS_ADMIN and CAP_NET_ADMIN): namespaces and interfaces cannot be made without")
			}
		case Metal:
			lacks = Missing(Wire, "qemu-system-x86_64", "qemu-img", biosROM, "/dev/net/tun")
		case MetalUEFI:
			lacks = Missing(Metal, ovmfCode, ovmfVars)
		case MetalSecure:
			lacks = Missing(Metal, ovmfSecureCode, ovmfSecureVars)
		case MetalArm64:
			lacks = Missing(Metal, "qemu-system-aarch64", aavmfCode, aavmfVars)
		default:
			if !present(want) {
				lacks = []string{want + packageHint(want)}
			}
		}
		for _, m := range lacks {
			if !slices.Contains(missing, m) {
				missing = append(missing, m)
			}
		}
	}
	return missing
}

func present(want string) bool {
	if strings.HasPrefix(want, "/") {
		_, err := os.Stat(want)
		return err == nil
	}
	_, err := exec.LookPath(want)
	return err == nil
}

// packageHint names the Debian package where the program's name does not.
func packageHint(want string) string {
	for _, p := range [][2]string{
		{"ip", "iproute2"}, {"tc", "iproute2"}, {"ping", "iputils-ping"}, {"qemu-system-x86_64", "qemu-system-x86"},
		{"qemu-img", "qemu-utils"}, {biosROM, "ipxe-qemu"}, {ovmfCode, "ovmf"}, {ovmfVars, "ovmf"}, {ovmfSecureCode, "ovmf"}, {ovmfSecureVars, "ovmf"},
		{"qemu-system-aarch64", "qemu-system-arm"}, {aavmfCode, "qemu-efi-aarch64"}, {aavmfVars, "qemu-efi-aarch64"},
		{"dnsmasq", "dnsmasq-base"}, {"perfdhcp", "kea-admin"}, {"dhclient", "isc-dhcp-client"}, {"tftp", "tftp-hpa"}, {"logger", "bsdutils"},
		{"kea-dhcp4", "kea-dhcp4-server"}, {"ss", "iproute2"},
	} {
		if p[0] == want {
			return fmt.Sprintf(" (Debian package %s)", p[1])
		}
	}
	return ""
}

// mayMakeNamespaces looks at our effective capabilities instead of the user id: a container's root may lack them.
func mayMakeNamespaces() bool {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	const want = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&want == want
}

// KVM says whether hardware virtualisation works. The device may exist where it cannot be opened or makes no machine, or,
// with the kvm_pvm module, makes machines that run kernels made for it only: OVMF and a stock Linux ended in "KVM internal
// error. Suberror: 1" there. Hence the processor must have the feature as well.
func KVM() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !virtualises(string(info)) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	const ( // linux/kvm.h: _IO(KVMIO, 0x00), _IO(KVMIO, 0x01); the API has been at version 12 since Linux 2.6.22
		getAPIVersion = 0xae00
		createVM      = 0xae01
	)
	if version, err := unix.IoctlRetInt(int(f.Fd()), getAPIVersion); err != nil || version != 12 {
		return false
	}
	vm, err := unix.IoctlRetInt(int(f.Fd()), createVM)
	if err != nil {
		return false
	}
	return unix.Close(vm) == nil
}

// virtualises says whether the processor of a /proc/cpuinfo has VMX (Intel) or SVM (AMD).
func virtualises(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			features := strings.Fields(flags)
			return slices.Contains(features, "vmx") || slices.Contains(features, "svm")
		}
	}
	return false
}
