package boot

import (
	"fmt"
	"strings"
	"time"

	"offshoot/swarm"
)

// Facts are all that the choice and the text of a boot script depend on.
type Facts struct {
	MAC      swarm.MAC
	Hostname string   // "" if the machine has no name yet
	Firmware Firmware // as announced by DHCP; Unknown gives a script that finds out by itself
	Self     string   // URL of this very script; a waiting machine asks there again
	Decision Decision // nil waits
}

// Decision is one of Agent, Installer, SanBoot, OwnDisk, Wait.
type Decision interface{ decision() }

// Agent starts the network-boot environment.
type Agent struct {
	Kernel string   // URL
	Initrd string   // URL
	Args   []string // kernel arguments; `initrd=` is added here
}

// Installer starts the installer of a distribution.
type Installer struct {
	Name   string // of its driver, for who stands before the machine
	Kernel string // URL
	Initrd string // URL
	Args   []string
}

// SanBoot starts a disk on the network.
type SanBoot struct {
	URL       string // iscsi:…, RFC 4173
	Initiator string // the machine's iSCSI name
}

// OwnDisk leaves the machine to the system on its own disk, in the way that its firmware understands.
type OwnDisk struct {
	Method string // "exit", "sanboot", or "" for what firmware of its kind understands as a rule
}

// Wait keeps the machine in iPXE. It shows Reason on the screen and asks again.
type Wait struct {
	Reason string
	Every  time.Duration // between two questions; less than a second means DefaultWait
}

func (Agent) decision()     {}
func (Installer) decision() {}
func (SanBoot) decision()   {}
func (OwnDisk) decision()   {}
func (Wait) decision()      {}

// DefaultWait is the pause between two questions of a waiting machine: short enough for someone who stands before it and
// approves it, long enough for a rack of them.
const DefaultWait = 10 * time.Second

// initrdName is what the kernel's EFI stub asks iPXE's virtual file system for.
const initrdName = "initrd.img"

// Script is the iPXE script for a machine. It never fails: if a value cannot stand in a script, the machine is told to wait
// and shown which one, since not to touch a disk is always right. Validate tells the same beforehand.
func Script(f Facts) string {
	var body string
	if err := f.Validate(); err != nil {
		body = wait(f, Wait{Reason: "no boot script: " + err.Error()})
	} else {
		switch d := f.Decision.(type) {
		case Agent:
			body = start(f, "the agent", d)
		case Installer:
			body = start(f, "the installer of "+d.Name, Agent{d.Kernel, d.Initrd, d.Args})
		case SanBoot:
			body = sanBoot(f, d)
		case OwnDisk:
			body = ownDisk(f, d)
		case Wait:
			body = wait(f, d)
		default:
			body = wait(f, Wait{Reason: "nothing was decided for this machine"})
		}
	}
	return "#!ipxe\n" + body
}

// Validate reports the first value that cannot stand in a script.
func (f Facts) Validate() error {
	if f.MAC != "" && f.MAC.Hardware() == nil {
		return fmt.Errorf("machine %q is not an Ethernet address", f.MAC)
	}
	if f.Hostname != "" && !isHostname(f.Hostname) {
		return fmt.Errorf("host name %q has other characters than letters, digits, dots and dashes", f.Hostname)
	}
	if f.Self != "" && !isURL(f.Self) {
		return fmt.Errorf("script address %q cannot stand in a script", f.Self)
	}
	var a Agent
	switch d := f.Decision.(type) {
	case Agent:
		a = d
	case Installer:
		if !isHostname(d.Name) {
			return fmt.Errorf("driver %q cannot stand in a script", d.Name)
		}
		a = Agent{d.Kernel, d.Initrd, d.Args}
	case SanBoot:
		if !strings.HasPrefix(d.URL, "iscsi:") || len(d.URL) > 255 || !isWord(d.URL) || !isWord(d.Initiator) {
			return fmt.Errorf("disk on the network %q cannot stand in a script", d.URL)
		}
		return nil
	default:
		return nil
	}
	if !isURL(a.Kernel) {
		return fmt.Errorf("kernel address %q cannot stand in a script", a.Kernel)
	}
	if !isURL(a.Initrd) {
		return fmt.Errorf("initrd address %q cannot stand in a script", a.Initrd)
	}
	for _, arg := range a.Args {
		if !isArg(arg) {
			return fmt.Errorf("kernel argument %q cannot stand in a script", arg)
		}
	}
	return nil
}

// start loads a kernel with its initrd; program is what people call it.
func start(f Facts, program string, a Agent) string {
	var b strings.Builder
	fmt.Fprintf(&b, "echo offshoot: %s starts %s\n", who(f), program)
	// BIOS kernels get the initrd handed over and ignore the argument; EFI kernels find it by this name only.
	args := append([]string{"initrd=" + initrdName}, a.Args...)
	fmt.Fprintf(&b, "kernel --name vmlinuz %s %s || goto failed\n", a.Kernel, strings.Join(args, " "))
	fmt.Fprintf(&b, "initrd --name %s %s || goto failed\n", initrdName, a.Initrd)
	b.WriteString("boot || goto failed\n")
	b.WriteString(":failed\n")
	fmt.Fprintf(&b, "echo offshoot: %s could not be started, trying again\n", program)
	b.WriteString("imgfree\n")
	b.WriteString(again(f, DefaultWait))
	return b.String()
}

// sanBoot starts a disk on the network, and leaves its description (iBFT) to the system on it. The machine's own disks keep their
// numbers behind it.
func sanBoot(f Facts, s SanBoot) string {
	return fmt.Sprintf("echo offshoot: %s starts a disk on the network\nset initiator-iqn %s\nsanboot %s || goto failed\n:failed\n", who(f), s.Initiator, s.URL) +
		"echo offshoot: the disk on the network could not be started, trying again\n" + again(f, DefaultWait)
}

// ownDisk leaves iPXE towards the local disk. On BIOS `exit` would do after a boot from ROM only where the firmware has the
// disk next in its order, which many have not: sanboot starts the first disk's boot sector itself, and `exit` is what
// remains. On EFI the firmware knows its own boot entries, and goes on to the next only if this one ended with an error:
// EDK2 opens its menu after a boot option that ended well (UEFI 2.10, 3.1.7), where a machine without a keyboard stays.
//
// Some models want the other way: Quirk knows them, and operators can say so.
func ownDisk(f Facts, d OwnDisk) string {
	head := fmt.Sprintf("echo offshoot: %s starts its own disk\n", who(f))
	const bios = "sanboot --no-describe --drive 0x80 ||\nexit 1\n"
	const efi = "exit 1\n"
	switch {
	case d.Method == "sanboot":
		return head + bios
	case d.Method == "exit":
		return head + efi
	case f.Firmware == BIOS:
		return head + bios
	case f.Firmware.EFI():
		return head + efi
	default:
		return head + "iseq ${platform} efi && goto efi ||\n" + bios + ":efi\n" + efi
	}
}

// every is the pause between two questions.
func (w Wait) every() time.Duration {
	if w.Every < time.Second {
		return DefaultWait
	}
	return w.Every
}

func wait(f Facts, w Wait) string {
	reason := printable(w.Reason)
	if reason == "" {
		reason = "no reason given"
	}
	return fmt.Sprintf("echo offshoot: %s waits: %s\n", who(f), reason) + again(f, w.every())
}

// again pauses and asks for the script anew. `chain --replace` ends this script first, so that hours of waiting do not
// stack one script upon another. Without a usable address the script ends with an error, and the firmware goes on.
func again(f Facts, every time.Duration) string {
	if f.Self == "" || !isURL(f.Self) {
		return fmt.Sprintf("sleep %d\nexit 1\n", int(every.Seconds()))
	}
	return fmt.Sprintf(":again\nsleep %d\nchain --replace --autofree %s || goto again\n", int(every.Seconds()), f.Self)
}

func who(f Facts) string {
	mac := string(f.MAC)
	if f.MAC.Hardware() == nil {
		mac = "this machine"
	}
	if !isHostname(f.Hostname) {
		return mac
	}
	return f.Hostname + " (" + mac + ")"
}

// isHostname accepts the names of RFC 952 and RFC 1123.
func isHostname(s string) bool {
	return s != "" && len(s) <= 253 && s[0] != '-' && consistsOf(s, "-.")
}

// isURL accepts the addresses that we hand out: http with a literal host and plain path characters.
func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") && len(s) < 256 && isWord(s)
}

// isWord accepts one argument of an iPXE command line that stands for itself: no space, no quote, no backslash, nothing
// that expands (`$`), no comment (`#` at the start of a word), no operator (`||`, `&&` are recognised as words).
func isWord(s string) bool {
	if s == "" || s[0] == '#' || s[0] == '-' || s == "||" || s == "&&" {
		return false
	}
	return consistsOf(s, "-._~:/?=,@+%&!*()[]")
}

// isArg accepts what isWord accepts, and two things besides that stand for themselves once iPXE has seen the kernel's address: the
// dashes between the arguments of Debian's installer and those of the system that it installs, and a semicolon inside of a word,
// which cloud-init and others need.
func isArg(s string) bool {
	return s == "---" || s != ";" && isWord(strings.ReplaceAll(s, ";", "."))
}

// consistsOf tells whether s has letters, digits and the given characters only.
func consistsOf(s, others string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(others, r):
		default:
			return false
		}
	}
	return true
}

// maxReason keeps a reason on two lines of a text screen.
const maxReason = 140

// printable makes any text safe behind iPXE's echo: what could end the line, expand, quote or chain a command becomes a
// blank or a question mark.
func printable(s string) string {
	var words []string
	for _, w := range strings.Fields(s) {
		w = strings.Map(func(r rune) rune {
			if r < 0x20 || r > 0x7e || strings.ContainsRune("$\\\"'`{}|&#;", r) {
				return '?'
			}
			return r
		}, w)
		words = append(words, strings.TrimLeft(w, "-"))
	}
	out := strings.Join(words, " ")
	if len(out) > maxReason {
		out = out[:maxReason]
	}
	return strings.TrimSpace(out)
}

// AutoexecScript is the content of Autoexec. iPXE 2 runs it before it asks DHCP, older versions never ask for it; so all it
// does is what older versions do by themselves. It would run again and again if DHCP named it, or one of our boot programs,
// to iPXE; then, and after five attempts, it gives the machine back to its firmware. base is what stands before the names of
// our boot programs where they are loaded by HTTP.
func AutoexecScript(base string) string {
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	b.WriteString("set attempt:int32 0\n")
	b.WriteString(":ask\n")
	b.WriteString("inc attempt\n")
	b.WriteString("dhcp || goto later\n")
	b.WriteString("isset ${filename} || goto later\n")
	for _, name := range append(ProgramNames(), Autoexec) {
		fmt.Fprintf(&b, "iseq ${filename} %s && goto later ||\n", name)
		fmt.Fprintf(&b, "iseq ${filename} %s%s && goto later ||\n", base, name)
	}
	b.WriteString("chain --replace --autofree ${filename} || goto later\n")
	b.WriteString(":later\n")
	b.WriteString("iseq ${attempt} 5 && exit 1 ||\n")
	b.WriteString("echo offshoot: no boot script by DHCP yet, trying again\n")
	b.WriteString("sleep 3\n")
	b.WriteString("goto ask\n")
	return b.String()
}
