//go:build full

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestMachineWithSecureBootIsInstalledAndTakesOver boots through an OVMF that enforces Microsoft's keys, as a machine of which
// nothing is known: its firmware refuses snponly.efi by PXE, gets shim by HTTP, and once it is installed shim by PXE at once, from
// where GRUB starts its own disk.
func TestMachineWithSecureBootIsInstalledAndTakesOver(t *testing.T) {
	lab.Need(t, lab.MetalSecure)
	report, m1 := secureMachine(t, "", "file=snponly.efi", "shimx64.efi", "file=http://192.168.42.1:7480/boot/shimx64.efi", "GET grub/secure.cfg", "the agent", "file=shimx64.efi", "its own disk")
	if !strings.Contains(report.Timelines["m1"], "secure-boot") {
		t.Errorf("the timeline does not name Secure Boot:\n%s", report.Timelines["m1"])
	}
	checkSecureBoot(t, m1)
}

// TestMachineOfWhichAnOperatorSaysSecureBootIsRefusedNothing: it gets shim by PXE at once, and GRUB loads the agent with its own
// TCP.
func TestMachineOfWhichAnOperatorSaysSecureBootIsRefusedNothing(t *testing.T) {
	lab.Need(t, lab.MetalSecure)
	_, m1 := secureMachine(t, "signed", "file=shimx64.efi", "GET grubx64.efi", "GET /grub/grub.cfg", "GET grub/secure.cfg", "the agent", "file=shimx64.efi", "its own disk")
	checkSecureBoot(t, m1)
}

// secureMachine installs a machine with Secure Boot, and wants its traces in this order. programs is the operator's choice, if any.
func secureMachine(t *testing.T, programs string, traces ...string) (story.Report, *story.Shell) {
	t.Helper()
	w := metalWorld(t)
	w.Boot = programs
	report, m1, err := story.OneMachine(t.Context(), w, lab.UEFISecure)
	if err != nil {
		t.Fatal(err)
	}
	rest := whyOf(t, report, m1)
	for _, want := range traces {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("the machine did not leave %q, or not in its turn", want)
		}
		rest = after
	}
	console, err := os.ReadFile(filepath.Join(w.Lab.Dir(), "m1", "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(console), "secureboot: Secure boot enabled") {
		t.Error("the agent's kernel did not say on the console that Secure Boot is on")
	}
	if refused := strings.Contains(string(console), "Access Denied"); refused != (programs == "") {
		t.Errorf("the firmware refused a program: %v", refused)
	}
	return report, m1
}

// checkSecureBoot asks the installed machine.
func checkSecureBoot(t *testing.T, m *story.Shell) {
	t.Helper()
	for command, want := range map[string]string{
		"dmesg":                             "secureboot: Secure boot enabled",
		"cat /sys/kernel/security/lockdown": "[integrity]",
		// Four bytes of attributes, then the value (UEFI 2.10, 3.3).
		"od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "1",
	} {
		out, err := m.Run(t.Context(), command)
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(out, want) {
			t.Errorf("%s on the installed machine: %q has no %q", command, strings.TrimSpace(out), want)
		}
		if command != "dmesg" {
			t.Logf("%s: %s", command, strings.TrimSpace(out))
		}
	}
}
