//go:build metal

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// bootTimeout is several times what firmware takes under TCG on a busy computer.
const bootTimeout = 4 * time.Minute

type metal struct {
	lab        *Lab
	lan0, lan1 *Network
	capture    *Capture
}

func twoNetworks(t *testing.T, wants ...string) metal {
	t.Helper()
	l := testLab(t, append(wants, Metal)...)
	m := metal{lab: l, lan0: must[*Network](t)(l.Network("lan0")), lan1: must[*Network](t)(l.Network("lan1"))}
	m.capture = must[*Capture](t)(m.lan0.Capture(filepath.Join(l.Dir(), "lan0.pcap")))
	return m
}

func start(t *testing.T, l *Lab, name string, spec MachineSpec) *Machine {
	t.Helper()
	m := must[*Machine](t)(l.Machine(name, spec))
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(m.Console()); t.Failed() && err == nil {
			t.Logf("console of %s ends:\n%s", m, strings.Join(lastLines(plain(text), 20), "\n"))
		}
	})
	return m
}

func (m metal) waitDiscover(t *testing.T, from *Machine, vendor string) {
	t.Helper()
	eventually(t, bootTimeout, func() error {
		messages, err := ReadDHCP(m.capture.Path())
		if err != nil {
			return err
		}
		for _, d := range messages {
			if d.Type == dhcpv4.MessageTypeDiscover && d.MAC.String() == from.MAC(0).String() &&
				strings.HasPrefix(d.Packet.ClassIdentifier(), vendor) {
				return nil
			}
		}
		return fmt.Errorf("no DISCOVER from %s among %v", from.MAC(0), messages)
	})
}

func waitConsole(t *testing.T, m *Machine, re string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	if _, err := m.WaitConsole(ctx, regexp.MustCompile(re)); err != nil {
		t.Fatal(err)
	}
}

// bootSector makes a disk whose first sector says a word on the serial port and then runs end (machine code).
func bootSector(t *testing.T, dir, word string, end ...byte) string {
	t.Helper()
	code := []byte{0xfa} // cli
	for _, c := range []byte(word + "\r\n") {
		code = append(code, 0xba, 0xf8, 0x03, 0xb0, c, 0xee) // mov dx,3f8h; mov al,c; out dx,al
	}
	code = append(code, end...)
	disk := make([]byte, 1<<20)
	copy(disk, code)
	copy(disk[510:], []byte{0x55, 0xaa})
	path := filepath.Join(dir, word+".img")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	halt     = []byte{0xf4, 0xeb, 0xfd}             // hlt; jmp hlt
	resetNow = []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4} // mov al,feh; out 64h,al (keyboard controller: reset); hlt
)

func TestABareMachineAsksItsBootPortOnlyAndAsksAgain(t *testing.T) {
	net := twoNetworks(t)
	other := must[*Capture](t)(net.lan1.Capture(filepath.Join(net.lab.Dir(), "lan1.pcap")))
	m := start(t, net.lab, "m1", MachineSpec{Networks: []*Network{net.lan0, net.lan1}, Disk: 1 << 30})
	net.waitDiscover(t, m, "PXEClient:Arch:00000")
	waitConsole(t, m, `iPXE`)
	waitConsole(t, m, `No bootable device`)
	waitConsole(t, m, `iPXE`)
	if got, err := ReadDHCP(other.Path()); err != nil || len(got) > 0 {
		t.Errorf("the second port asked as well: %v %v", got, err)
	}
}

// serveExit is a network that answers, and sends the machine on to its disk.
func serveExit(t *testing.T, net metal) {
	t.Helper()
	seed := must[*Host](t)(net.lab.Host("seed", net.lan0))
	mustRun(t, seed, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan0")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "exit.ipxe"), []byte("#!ipxe\necho going home\nexit\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dnsmasq := seed.Command(context.Background(), "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root",
		"--interface=lan0", "--bind-interfaces", "--dhcp-range=192.0.2.10,192.0.2.20", "--dhcp-leasefile="+filepath.Join(dir, "leases"),
		"--enable-tftp", "--tftp-root="+dir, "--dhcp-boot=exit.ipxe")
	if err := dnsmasq.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dnsmasq.Process.Kill()
		_ = dnsmasq.Wait()
	})
}

func TestAfterIPXEExitTheDiskBootsAndARebootBeginsWithTheNetworkAgain(t *testing.T) {
	net := twoNetworks(t, "dnsmasq")
	serveExit(t, net)
	disk := bootSector(t, t.TempDir(), "DISK-SPEAKS", resetNow...)
	m := start(t, net.lab, "m1", MachineSpec{Networks: []*Network{net.lan0, net.lan1}, Base: disk, Memory: 256})
	for range 2 {
		waitConsole(t, m, `going home`)
		waitConsole(t, m, `DISK-SPEAKS`)
	}
	if !m.Running() {
		t.Error("the guest's reboot switched the machine off")
	}
}

func TestAMachineIsPausedResetPulledKilledAndStartedAgain(t *testing.T) {
	net := twoNetworks(t)
	disk := bootSector(t, t.TempDir(), "DISK-SPEAKS", halt...)
	m := start(t, net.lab, "m1", MachineSpec{Networks: []*Network{net.lan0}, BootPort: -1, Base: disk, Memory: 256})
	waitConsole(t, m, `DISK-SPEAKS`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, step := range []func() error{
		func() error { return m.Pause(ctx) },
		func() error { return m.Resume(ctx) },
		func() error { return m.SetLink(ctx, net.lan0, false) },
		func() error { return m.Reset(ctx) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	waitConsole(t, m, `DISK-SPEAKS`)
	if err := m.Start(ctx); err == nil {
		t.Error("a running machine was started")
	}
	m.Kill()
	if m.Running() {
		t.Error("a killed machine runs")
	}
	if err := m.Wait(ctx); err != nil {
		t.Errorf("a killed machine ended with %v", err)
	}
	if err := m.Reset(ctx); !errors.Is(err, errMachineOff) {
		t.Errorf("reset of a machine that is off: %v", err)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	waitConsole(t, m, `DISK-SPEAKS`)
}

func TestQEMUsRefusalIsTold(t *testing.T) {
	net := twoNetworks(t)
	m := must[*Machine](t)(net.lab.Machine("m1", MachineSpec{Networks: []*Network{net.lan0}, Kernel: "/no/such/kernel"}))
	err := m.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/no/such/kernel") {
		t.Errorf("got %v", err)
	}
	if m.Running() {
		t.Error("it runs")
	}
}

func TestAUEFIMachineAsksForItsBootProgram(t *testing.T) {
	net := twoNetworks(t, MetalUEFI)
	m := start(t, net.lab, "m1", MachineSpec{Networks: []*Network{net.lan0, net.lan1}, Firmware: UEFI, Disk: 1 << 30})
	net.waitDiscover(t, m, "PXEClient:Arch:00007")
}
