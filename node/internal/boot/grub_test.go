package boot

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGRUBConfigPerDecision(t *testing.T) {
	with := func(d Decision) Facts {
		f := agentFacts
		f.Decision = d
		return f
	}
	for name, c := range map[string]struct {
		facts Facts
		want  string
	}{
		"agent": {agentFacts, `echo 'offshoot: m1 (52:54:00:12:34:56) starts the agent'
if linux '(http,192.168.42.1:7480)/artifact/aa/vmlinuz' 'offshoot.url=http://192.168.42.1:7480/b/0123456789012345678901' 'offshoot.mac=52:54:00:12:34:56' 'console=ttyS0,115200'; then
	if initrd '(http,192.168.42.1:7480)/artifact/bb/initrd'; then boot; fi
fi
echo 'offshoot: the agent could not be started, trying again'
sleep 10
`},
		"installer": {with(Installer{Name: "debian", Kernel: "http://192.168.42.1:7480/artifact/cc/linux", Initrd: "http://192.168.42.1:7480/artifact/dd/initrd.gz", Args: []string{"auto=true", "a;b", "---", "quiet"}}), `echo 'offshoot: m1 (52:54:00:12:34:56) starts the installer of debian'
if linux '(http,192.168.42.1:7480)/artifact/cc/linux' 'auto=true' 'a;b' '---' 'quiet'; then
	if initrd '(http,192.168.42.1:7480)/artifact/dd/initrd.gz'; then boot; fi
fi
echo 'offshoot: the installer of debian could not be started, trying again'
sleep 10
`},
		"own disk": {with(OwnDisk{}), `echo 'offshoot: m1 (52:54:00:12:34:56) starts its own disk'
for file in /EFI/debian/shimx64.efi /EFI/BOOT/BOOTX64.EFI /EFI/debian/shimaa64.efi /EFI/BOOT/BOOTAA64.EFI; do
	if search --no-floppy --set=root --file $file; then
		if chainloader ($root)$file; then boot; fi
	fi
done
echo 'offshoot: no disk here has a loader that can be started, asking again'
sleep 10
`},
		"wait": {with(Wait{Reason: "it's held", Every: 3 * time.Second}), `echo 'offshoot: m1 (52:54:00:12:34:56) waits: it?s held'
sleep 3
`},
		"nothing decided, nothing known": {Facts{}, `echo 'offshoot: this machine waits: nothing was decided for this machine'
sleep 10
`},
		"address with a name": {with(Agent{Kernel: "http://node/vmlinuz", Initrd: "http://192.168.42.1:7480/initrd"}), `echo 'offshoot: m1 (52:54:00:12:34:56) waits: kernel or initrd have no address of numbers'
sleep 10
`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, GRUBConfig(c.facts)); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEntryConfigAsksForEver(t *testing.T) {
	want := `set question=open.cfg
if [ "$lockdown" = y ]; then set question=secure.cfg; fi
while true; do
	if source '(http,192.168.42.1:7480)/grub/'$question; then true; else
		echo 'offshoot: no answer, trying again'
		sleep 10
	fi
done
`
	if diff := cmp.Diff(want, EntryConfig("http://192.168.42.1:7480/grub/")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	checkHarmlessGRUB(t, EntryConfig("http://x/'; reboot; '"))
}

func TestNoValueEscapesIntoTheGRUBConfig(t *testing.T) {
	for _, e := range []string{"x\nreboot", "x'; reboot; '", "$prefix", "a b", `a"b`, `a\b`, "a`b", "", "-x", "||", "a\x00b", "ä", "#", "http://1.2.3.4:5/')/x"} {
		for name, change := range map[string]func(*Facts, *Agent){
			"argument": func(_ *Facts, a *Agent) { a.Args = []string{e + "'"} },
			"kernel":   func(_ *Facts, a *Agent) { a.Kernel = e },
			"initrd":   func(_ *Facts, a *Agent) { a.Initrd = "http://h/" + e + "'" },
			"hostname": func(f *Facts, _ *Agent) { f.Hostname = e + "'" },
			"mac":      func(f *Facts, _ *Agent) { f.MAC = "52:54:00:12:34:56'" },
		} {
			f := agentFacts
			a := f.Decision.(Agent)
			change(&f, &a)
			f.Decision = a
			t.Run(name, func(t *testing.T) { checkHarmlessGRUB(t, GRUBConfig(f)) })
		}
	}
}

// harmlessGRUB is all that a configuration that must only wait consists of: one quoted text, one pause.
var harmlessGRUB = regexp.MustCompile(`^echo 'offshoot: [^'\n\\$]*'\nsleep [0-9]+\n(exit\n)?$`)

func checkHarmlessGRUB(t *testing.T, config string) {
	t.Helper()
	if !harmlessGRUB.MatchString(config) {
		t.Errorf("more than a pause:\n%s", config)
	}
}

func FuzzWaitConfigOnlyWaits(f *testing.F) {
	f.Add("not approved", "m1")
	f.Add("a'\nreboot; $x", "-")
	f.Fuzz(func(t *testing.T, reason, host string) {
		checkHarmlessGRUB(t, GRUBConfig(Facts{Hostname: host, Decision: Wait{Reason: reason}}))
	})
}

func TestEveryGRUBConfigEndsWithAPause(t *testing.T) {
	for _, d := range []Decision{agentFacts.Decision, OwnDisk{}, Wait{Reason: "x"}, nil} {
		f := agentFacts
		f.Decision = d
		lines := strings.Split(strings.TrimSpace(GRUBConfig(f)), "\n")
		if last := lines[len(lines)-1]; last != "sleep 10" {
			t.Errorf("%T ends with %q: GRUB would ask without a pause", d, last)
		}
	}
}
