package boot

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"offshoot/swarm"
)

const self = "http://192.168.42.1:7480/b/0123456789012345678901/boot.ipxe"

var agentFacts = Facts{
	MAC: "52:54:00:12:34:56", Hostname: "m1", Firmware: EFIx64, Self: self,
	Decision: Agent{
		Kernel: "http://192.168.42.1:7480/artifact/aa/vmlinuz",
		Initrd: "http://192.168.42.1:7480/artifact/bb/initrd",
		Args:   []string{"offshoot.url=http://192.168.42.1:7480/b/0123456789012345678901", "offshoot.mac=52:54:00:12:34:56", "console=ttyS0,115200"},
	},
}

func TestScriptPerDecision(t *testing.T) {
	with := func(d Decision, fw Firmware) Facts {
		f := agentFacts
		f.Decision, f.Firmware = d, fw
		return f
	}
	for name, c := range map[string]struct {
		facts Facts
		want  string
	}{
		"agent": {agentFacts, `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) starts the agent
kernel --name vmlinuz http://192.168.42.1:7480/artifact/aa/vmlinuz initrd=initrd.img offshoot.url=http://192.168.42.1:7480/b/0123456789012345678901 offshoot.mac=52:54:00:12:34:56 console=ttyS0,115200 || goto failed
initrd --name initrd.img http://192.168.42.1:7480/artifact/bb/initrd || goto failed
boot || goto failed
:failed
echo offshoot: the agent could not be started, trying again
imgfree
:again
sleep 10
chain --replace --autofree ` + self + ` || goto again
`},
		"installer": {with(Installer{
			Name: "debian", Kernel: "http://192.168.42.1:7480/artifact/aa/kernel", Initrd: "http://192.168.42.1:7480/artifact/bb/initrd",
			Args: []string{"auto=true", "ds=nocloud-net;s=http://192.168.42.1/", "domain=", "---"},
		}, BIOS), `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) starts the installer of debian
kernel --name vmlinuz http://192.168.42.1:7480/artifact/aa/kernel initrd=initrd.img auto=true ds=nocloud-net;s=http://192.168.42.1/ domain= --- || goto failed
initrd --name initrd.img http://192.168.42.1:7480/artifact/bb/initrd || goto failed
boot || goto failed
:failed
echo offshoot: the installer of debian could not be started, trying again
imgfree
:again
sleep 10
chain --replace --autofree ` + self + ` || goto again
`},
		"disk on the network": {with(SanBoot{URL: "iscsi:192.168.42.5::3260:1:iqn.2026-11.lab:m1", Initiator: "iqn.2010-04.org.ipxe:m1"}, BIOS), `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) starts a disk on the network
set initiator-iqn iqn.2010-04.org.ipxe:m1
sanboot iscsi:192.168.42.5::3260:1:iqn.2026-11.lab:m1 || goto failed
:failed
echo offshoot: the disk on the network could not be started, trying again
:again
sleep 10
chain --replace --autofree ` + self + ` || goto again
`},
		"own disk by BIOS": {with(OwnDisk{}, BIOS), `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) starts its own disk
sanboot --no-describe --drive 0x80 ||
exit 1
`},
		"own disk by EFI": {with(OwnDisk{}, EFIx64), `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) starts its own disk
exit 1
`},
		"own disk by who knows what": {with(OwnDisk{}, Unknown), `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) starts its own disk
iseq ${platform} efi && goto efi ||
sanboot --no-describe --drive 0x80 ||
exit 1
:efi
exit 1
`},
		"wait": {with(Wait{Reason: "not approved", Every: 3 * time.Second}, BIOS), `#!ipxe
echo offshoot: m1 (52:54:00:12:34:56) waits: not approved
:again
sleep 3
chain --replace --autofree ` + self + ` || goto again
`},
		"nothing decided, nothing known": {Facts{}, `#!ipxe
echo offshoot: this machine waits: nothing was decided for this machine
sleep 10
exit 1
`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Script(c.facts)); diff != "" {
				t.Errorf("script (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoValueEscapesIntoTheScript(t *testing.T) {
	evil := []string{";", "--", "x\nshell", "x\rshell", "${net0/mac}", "a b", `a"b`, "a\\b", "a`b", "", "-x", "||", "a\x00b", "ä", "#"}
	for _, e := range evil {
		for name, change := range map[string]func(*Facts, *Agent){
			"argument": func(_ *Facts, a *Agent) { a.Args = []string{e} },
			"kernel":   func(_ *Facts, a *Agent) { a.Kernel = e },
			"initrd":   func(_ *Facts, a *Agent) { a.Initrd = "http://h/" + e + "$" },
			"hostname": func(f *Facts, _ *Agent) { f.Hostname = e + "$" },
			"self":     func(f *Facts, _ *Agent) { f.Self = e + "$" },
			"mac":      func(f *Facts, _ *Agent) { f.MAC = "52:54:00:12:34:56\n" },
		} {
			f := agentFacts
			a := f.Decision.(Agent)
			change(&f, &a)
			for _, d := range []Decision{a, Installer{"debian", a.Kernel, a.Initrd, a.Args}, Installer{e, a.Kernel, a.Initrd, nil}, SanBoot{"iscsi:" + e + "$", "iqn.x"}} {
				f.Decision = d
				if f.Validate() == nil {
					t.Errorf("%s %q passes validation", name, e)
				}
				checkHarmless(t, Script(f))
			}
		}
	}
}

// checkHarmless holds a script to what a waiting machine may do.
func checkHarmless(t *testing.T, script string) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "#!ipxe", "echo", "sleep", "chain", "exit", ":again":
		default:
			t.Errorf("line %q in a script that must only wait:\n%s", line, script)
		}
		if strings.ContainsAny(line, "$`\\\r\x00") {
			t.Errorf("line %q expands to something", line)
		}
		if word == "echo" && (strings.Contains(line, "|") || strings.Contains(line, "&")) {
			t.Errorf("line %q runs a second command", line)
		}
	}
}

func FuzzWaitScriptOnlyWaits(f *testing.F) {
	f.Add("not approved", "m1", self)
	f.Add("a\nshell ${x} || reboot", "-", "http://x/\n")
	f.Fuzz(func(t *testing.T, reason, host, url string) {
		checkHarmless(t, Script(Facts{Hostname: host, Self: url, Decision: Wait{Reason: reason}}))
	})
}

func TestFirmwareOfEveryKnownCode(t *testing.T) {
	want := map[uint16]Firmware{
		0: BIOS, 20: BIOS, 6: EFIx32, 15: EFIx32, 7: EFIx64, 9: EFIx64, 16: EFIx64, 10: EFIarm32, 18: EFIarm32, 11: EFIarm64, 19: EFIarm64,
		21: UBootArm32, 22: UBootArm64,
	}
	for code := range uint16(64) {
		if got := FirmwareOf(code); got != want[code] {
			t.Errorf("code %d: %s, want %s", code, got, want[code])
		}
	}
}

func TestMissingProgramNamesTheRemedy(t *testing.T) {
	err := checkPrograms(fstest.MapFS{undionly: {Data: []byte("x")}, snponly: {}})
	if err == nil || !strings.Contains(err.Error(), "make build") || !strings.Contains(err.Error(), snponly) {
		t.Errorf("error %v does not name the file and `make build`", err)
	}
}

func TestEveryProgramIsServed(t *testing.T) {
	served := make(map[string]bool)
	for _, name := range ProgramNames() {
		served[name] = true
	}
	for fw := Unknown; fw <= UBootArm64; fw++ {
		for vain := range 2 * InVain {
			for _, l := range []swarm.Loader{swarm.LoaderAuto, swarm.LoaderIPXE, swarm.LoaderSigned} {
				if name, ok := Choose(fw, l, vain); ok && !served[name] {
					t.Errorf("%s, %s, %d in vain: %q is not served", fw, l, vain, name)
				}
			}
		}
		first, ok := Program(fw)
		second, ok2 := Alternate(fw)
		if ok != ok2 || ok && (!served[first] || !served[second]) {
			t.Errorf("%s: program %q, alternate %q, served are %v", fw, first, second, ProgramNames())
		}
	}
}

func TestFirmwareLoadsEFIProgramsOnlyByHTTP(t *testing.T) {
	for name, want := range map[string]bool{snponly: true, ipxeEFI: true, shimX64: true, grubX64: true, shimAA64: true, grubAA64: true, undionly: false, Autoexec: false, "": false} {
		if got := LoadedByHTTP(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestAutoexecEndsSomewhere(t *testing.T) {
	const base = "http://192.168.42.1:7480/boot/"
	s := AutoexecScript(base)
	for _, name := range append(ProgramNames(), Autoexec) {
		for _, file := range []string{name, base + name} {
			if !strings.Contains(s, "iseq ${filename} "+file+" && goto later") {
				t.Errorf("autoexec would chain %s, which brings it back to itself", file)
			}
		}
	}
	if !strings.Contains(s, "iseq ${attempt} 5 && exit 1") {
		t.Error("autoexec never gives up")
	}
}

func TestBootProgramPerFirmwareAndChoice(t *testing.T) {
	type row [InVain + 2]string // by how many were loaded in vain
	all := func(name string) row { return row{name, name, name, name, name} }
	for _, c := range []struct {
		fw   Firmware
		l    swarm.Loader
		want row
	}{
		{EFIx64, swarm.LoaderAuto, row{snponly, shimX64, shimX64, ipxeEFI, ipxeEFI}},
		{EFIx64, swarm.LoaderIPXE, row{snponly, snponly, snponly, ipxeEFI, ipxeEFI}},
		{EFIx64, swarm.LoaderSigned, all(shimX64)},
		{BIOS, swarm.LoaderAuto, all(undionly)},
		{BIOS, swarm.LoaderSigned, all(undionly)},
		{EFIarm64, swarm.LoaderAuto, all(shimAA64)},
		{EFIarm64, swarm.LoaderSigned, all(shimAA64)},
		{EFIarm64, swarm.LoaderIPXE, all(grubAA64)},
		{UBootArm64, swarm.LoaderAuto, all(grubAA64)},
		{UBootArm64, swarm.LoaderSigned, all(grubAA64)},
		{UBootArm32, swarm.LoaderAuto, row{}},
		{EFIarm32, swarm.LoaderAuto, row{}},
		{Unknown, swarm.LoaderAuto, row{}},
	} {
		for vain, want := range c.want {
			if got, ok := Choose(c.fw, c.l, vain); got != want || ok != (want != "") {
				t.Errorf("%s, %s, %d in vain: %q, want %q", c.fw, c.l, vain, got, want)
			}
		}
	}
}

func TestNothingButProgramsIsListed(t *testing.T) {
	all := folders{
		fstest.MapFS{"README": {Data: []byte("x")}, undionly: {Data: []byte("u")}, snponly: {Data: []byte("s")}, ipxeEFI: {Data: []byte("i")}},
		fstest.MapFS{"README": {Data: []byte("x")}, shimX64: {Data: []byte("m")}, grubX64: {Data: []byte("g")}, shimAA64: {Data: []byte("m")}, grubAA64: {Data: []byte("g")}},
	}
	entries, err := fs.ReadDir(all, ".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff(ProgramNames(), names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := checkPrograms(all); err != nil {
		t.Error(err)
	}
}
