//go:build wire

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"offshoot/e2e/lab"
)

// TestNetworkServices: what clients get besides an address and a boot: names, times, addresses that an operator chose.
func TestNetworkServices(t *testing.T) {
	lab.Need(t, lab.Wire)
	k := newBadKit(t)
	for _, c := range []struct {
		name string
		run  func(*badWorld)
	}{
		{"NamesAreAnsweredOnTheSegmentOnly", netNames},
		{"OptionsAreThoseThatTheOperatorSet", netOptions},
		{"ReservedAddressIsTheMachines", netReserved},
		{"EveryPortThatIsNamedIsServed", netPorts},
		{"VLANIsServedAndNotItsPort", netVLAN},
		{"VLANDeviceThatIsThereIsServedAndStays", netVLANDevice},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(k.world(t))
		})
	}
}

// offshoot asks the seed, which must do as it is told.
func (w *badWorld) offshoot(args ...string) string {
	w.t.Helper()
	return w.run(w.host, append(append([]string{w.binary}, args...), "--data-dir", w.data)...)
}

// lease lets dhclient get an address for a host's port, and returns what it was told. It keeps no process.
func (w *badWorld) lease(h *lab.Host, port string) string {
	w.t.Helper()
	files := filepath.Join(w.lab.Dir(), h.String())
	badWrite(w.t, files+".conf", []byte("request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, host-name, ntp-servers;\n"), 0o644)
	badWrite(w.t, files+".script", []byte(netClientScript), 0o755)
	if err := os.RemoveAll(files + ".leases"); err != nil {
		w.t.Fatal(err)
	}
	w.run(h, "dhclient", "-4", "-1", "-cf", files+".conf", "-sf", files+".script", "-lf", files+".leases", "-pf", files+".pid", port)
	leases, err := os.ReadFile(files + ".leases")
	if err != nil {
		w.t.Fatal(err)
	}
	w.run(h, "dhclient", "-4", "-x", "-cf", files+".conf", "-sf", "/bin/true", "-lf", files+".leases", "-pf", files+".pid", port)
	return string(leases)
}

// netClientScript gives the port its address and router, as the distribution's does; that would write to /etc as well.
const netClientScript = `#!/bin/sh
case $reason in BOUND|RENEW|REBIND|REBOOT)
	ip -4 addr flush dev "$interface"
	ip addr replace "$new_ip_address/24" dev "$interface"
	ip route replace default via "${new_routers%% *}" ;;
esac
`

var netFixed = regexp.MustCompile(`fixed-address ([0-9.]+);`)

func (w *badWorld) leased(h *lab.Host, port string) (addr, told string) {
	w.t.Helper()
	told = w.lease(h, port)
	found := netFixed.FindStringSubmatch(told)
	if found == nil {
		w.t.Fatalf("no address in %s", told)
	}
	return found[1], told
}

func (w *badWorld) dig(h *lab.Host, args ...string) string {
	w.t.Helper()
	return strings.TrimSpace(w.run(h, append([]string{"dig", "+noall", "+comments", "+answer", "+time=3", "+tries=1"}, args...)...))
}

func netNames(w *badWorld) {
	lab.Need(w.t, "dhclient", "dig", "dnsmasq")
	uplink, err := w.lab.Network("lan1")
	if err != nil {
		w.t.Fatal(err)
	}
	w.host = w.another("two", w.lan, uplink)
	w.run(w.host, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan1")
	outside := w.another("outside", uplink)
	w.run(outside, "ip", "addr", "add", "192.0.2.53/24", "dev", "lan1")
	w.start(outside, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv", "--no-hosts", "--log-facility=-",
		"--listen-address=192.0.2.53", "--bind-interfaces", "--address=/deb.example/192.0.2.9").says("started")
	w.seed().says("ready")
	client := w.another("client", w.lan)
	addr, told := w.leased(client, "lan0")
	for _, want := range []string{"option domain-name-servers 192.168.42.1;", `option domain-name "offshoot.internal";`} {
		if !strings.Contains(told, want) {
			w.t.Errorf("%q is not in %s", want, told)
		}
	}
	w.offshoot("machine", "name", client.MAC(w.lan).String(), "c1")
	w.offshoot("swarm", "set", "dns", "192.0.2.53")
	for _, c := range []struct {
		ask  []string
		want []string
	}{
		{[]string{"c1.offshoot.internal"}, []string{"NOERROR", "aa", "\t" + addr}},
		{[]string{"+tcp", "c1.offshoot.internal"}, []string{"NOERROR", "\t" + addr}},
		{[]string{"c1"}, []string{"NOERROR", "\t" + addr}},
		{[]string{"SEED.offshoot.internal"}, []string{"NOERROR", "\t192.168.42.1"}},
		{[]string{"-x", addr}, []string{"NOERROR", "\tc1.offshoot.internal."}},
		{[]string{"-x", "192.168.42.1"}, []string{"NOERROR", "\tseed.offshoot.internal."}},
		{[]string{"-x", "192.168.42.99"}, []string{"NXDOMAIN"}},
		{[]string{"nobody.offshoot.internal"}, []string{"NXDOMAIN"}},
		{[]string{"c1.offshoot.internal", "AAAA"}, []string{"NOERROR"}},
		{[]string{"deb.example"}, []string{"NOERROR", "\t192.0.2.9"}},
		{[]string{"+tcp", "deb.example"}, []string{"NOERROR", "\t192.0.2.9"}},
	} {
		out := w.dig(client, append([]string{"@192.168.42.1"}, c.ask...)...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				w.t.Errorf("dig %v: %q is not in %s", c.ask, want, out)
			}
		}
	}

	// The other side of the seed, and an address on this side that is not of the segment: both have a way here and back.
	w.run(w.host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	w.run(outside, "ip", "route", "add", "192.168.42.0/24", "via", "192.0.2.1")
	w.run(w.host, "ip", "route", "add", "203.0.113.0/24", "dev", "lan0")
	w.run(client, "ip", "addr", "add", "203.0.113.7/32", "dev", "lan0")
	for h, args := range map[*lab.Host][]string{outside: nil, client: {"-b", "203.0.113.7"}} {
		for _, name := range []string{"c1.offshoot.internal", "deb.example"} {
			if out, err := h.Run(w.t.Context(), "dig", append([]string{"+time=1", "+tries=1", "@192.168.42.1", name}, args...)...); err == nil {
				w.t.Errorf("%s is answered to a stranger: %s", name, out)
			}
		}
	}
	if out := w.dig(client, "@192.168.42.1", "c1.offshoot.internal"); !strings.Contains(out, addr) {
		w.t.Errorf("afterwards: %s", out)
	}
}

func netOptions(w *badWorld) {
	lab.Need(w.t, "dhclient", "dig")
	r := w.seed()
	r.says("ready")
	client := w.another("client", w.lan)
	w.leased(client, "lan0")
	w.offshoot("machine", "name", client.MAC(w.lan).String(), "c1")
	w.offshoot("swarm", "set", "domain", "lab.example")
	w.offshoot("swarm", "set", "ntp", "192.0.2.123,192.0.2.124")
	_, told := w.leased(client, "lan0")
	for _, want := range []string{`option domain-name "lab.example";`, "option ntp-servers 192.0.2.123,192.0.2.124;"} {
		if !strings.Contains(told, want) {
			w.t.Errorf("%q is not in %s", want, told)
		}
	}
	if out := w.dig(client, "@192.168.42.1", "c1.lab.example"); !strings.Contains(out, "NOERROR") {
		w.t.Errorf("under its new name: %s", out)
	}
	// In a namespace nobody can be asked: what resolv.conf names is unreachable, or is none. That must not take long.
	began := time.Now()
	if out := w.dig(client, "@192.168.42.1", "+time=20", "deb.example"); !strings.Contains(out, "REFUSED") && !strings.Contains(out, "SERVFAIL") || time.Since(began) > 6*time.Second {
		w.t.Errorf("after %v: %s", time.Since(began), out)
	}
	w.offshoot("swarm", "set", "dns", "off")
	if _, told = w.leased(client, "lan0"); strings.Contains(told, "domain-name-servers") {
		w.t.Errorf("a name server that is none: %s", told)
	}
	r.await("the port is closed", func() bool {
		_, err := client.Run(w.t.Context(), "dig", "+time=1", "+tries=1", "@192.168.42.1", "c1.lab.example")
		return err != nil
	})
	w.offshoot("swarm", "set", "dns", "auto")
	r.await("the port is open again", func() bool {
		_, err := client.Run(w.t.Context(), "dig", "+time=1", "+tries=1", "@192.168.42.1", "c1.lab.example")
		return err == nil
	})
}

func netReserved(w *badWorld) {
	lab.Need(w.t, "dhclient")
	w.seed().says("ready")
	client := w.another("client", w.lan)
	mac := client.MAC(w.lan).String()
	w.offshoot("lease", "reserve", mac, "192.168.42.5") // outside of the pools, and before the machine was ever seen
	if addr, _ := w.leased(client, "lan0"); addr != "192.168.42.5" {
		w.t.Errorf("reserved 192.168.42.5, leased %s", addr)
	}
	w.offshoot("lease", "reserve", mac, "192.168.42.6")
	if addr, _ := w.leased(client, "lan0"); addr != "192.168.42.6" {
		w.t.Errorf("reserved 192.168.42.6 instead, leased %s", addr)
	}
	list := w.offshoot("lease", "list")
	for _, want := range []string{`192.168.42.6 +s1 +` + mac + ` .* bound,reserved`, `192.168.42.5 +s1 .* left`} {
		if !regexp.MustCompile(want).MatchString(list) {
			w.t.Errorf("%q is not in\n%s", want, list)
		}
	}
	other := w.another("other", w.lan)
	if out, err := w.host.Run(w.t.Context(), w.binary, "lease", "reserve", other.MAC(w.lan).String(), "192.168.42.6", "--data-dir", w.data); err == nil || !strings.Contains(out, "is reserved for "+mac) {
		w.t.Errorf("reserved a second time: %v: %s", err, out)
	}
	w.offshoot("lease", "unreserve", mac, "192.168.42.6")
	if addr, _ := w.leased(client, "lan0"); addr != "192.168.42.6" { // it is its lease still
		w.t.Errorf("no longer reserved, leased %s", addr)
	}
}

// netPorts: of a seed's ports those are served that were named, each with a network of its own, and machines on them reach each other.
// The others are left alone, and all are as before when it has gone.
func netPorts(w *badWorld) {
	lab.Need(w.t, "dhclient")
	lans := w.lans()
	w.host = w.another("two", lans...)
	before := w.run(w.host, "ip", "-4", "-o", "addr")
	w.run(w.host, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan2")
	w.seed("--interface", "lan0,lan2", "--data-dir", w.data+"2").ends(1, "interface lan2 cannot be a further one: it has an address (192.0.2.1/24)")
	w.seed("--interface", "lan0,lan0", "--data-dir", w.data+"2").ends(1, "it is named twice")
	w.seed("--interface", "lan0,lan1", "--vlan", "42", "--data-dir", w.data+"2").ends(2, "name the one port")
	w.run(w.host, "ip", "addr", "del", "192.0.2.1/24", "dev", "lan2")

	r := w.seed("--interface", "lan0,lan1")
	r.says("further   lan1 gets a segment of its own")
	near, far := w.another("near", lans[0]), w.another("far", lans[1])
	addr, _ := w.leased(near, "lan0")
	other, told := w.leased(far, "lan1")
	if !strings.HasPrefix(addr, "192.168.42.") || !strings.HasPrefix(other, "10.42.0.") || !strings.Contains(told, "option routers 10.42.0.1;") {
		w.t.Errorf("leased %s and %s: %s", addr, other, told)
	}
	w.run(near, "ping", "-c", "1", "-W", "5", other)
	if out := w.run(w.host, "ip", "-4", "-o", "addr", "show", "dev", "lan2"); out != "" {
		w.t.Errorf("a port that was not named has an address: %s", out)
	}

	// It goes on with them without being told, and leaves nothing.
	r.signal(syscall.SIGKILL)
	r.ends(-1)
	r = w.start(w.host, w.binary, "seed", "--data-dir", w.data, "--probe", "1s")
	r.says("ready")
	if again, _ := w.leased(far, "lan1"); again != other {
		w.t.Errorf("started again, leased %s after %s", again, other)
	}
	r.signal(syscall.SIGKILL)
	r.ends(-1)
	r = w.start(w.host, w.binary, "seed", "--data-dir", w.data, "--probe", "1s", "--interface", "lan0") // and on the port alone that it is told
	r.says("ready")
	w.leased(near, "lan0")
	if out := w.run(w.host, "ip", "-4", "-o", "addr", "show", "dev", "lan1"); out != "" {
		w.t.Errorf("a port that is not named any more has an address: %s", out)
	}
	r.signal(syscall.SIGINT)
	r.says("Ctrl-C leaves now")
	r.signal(syscall.SIGINT)
	r.ends(130)
	if after := w.run(w.host, "ip", "-4", "-o", "addr"); after != before {
		w.t.Errorf("the addresses were\n%s\nand are now\n%s", before, after)
	}
}

// vlanClient is a host with a device for VLAN 42, beside what comes without a tag; nil where the kernel knows no VLANs: then this
// proves nothing there, as on some machines of CI.
func (w *badWorld) vlanClient(name string) *lab.Host {
	w.t.Helper()
	h := w.another(name, w.lan)
	if out, err := h.Run(w.t.Context(), "ip", "link", "add", "link", "lan0", "name", "lan0.42", "type", "vlan", "id", "42"); err != nil {
		if !strings.Contains(out, "Unknown device type") {
			w.t.Fatal(err)
		}
		w.t.Log("this kernel has no 802.1Q: nothing of VLANs is proved")
		return nil
	}
	w.run(h, "ip", "link", "set", "lan0.42", "up")
	return h
}

func netVLAN(w *badWorld) {
	lab.Need(w.t, "dhclient", "dig")
	client := w.vlanClient("client")
	if client == nil {
		return
	}
	w.run(w.host, "ip", "link", "set", "lan0", "down")
	before := w.run(w.host, "ip", "-o", "link") // no seed has run yet
	capture, err := w.lan.Capture(filepath.Join(w.lab.Dir(), "lan0.pcap"))
	if err != nil {
		w.t.Fatal(err)
	}
	r := w.seed("--vlan", "42")
	r.says("segment   192.168.42.1/24 on lan0.42")
	r.says("ready")
	addr, _ := w.leased(client, "lan0.42")
	if !strings.HasPrefix(addr, "192.168.42.") {
		w.t.Errorf("on the VLAN, leased %s", addr)
	}
	if out := w.dig(client, "@192.168.42.1", "seed.offshoot.internal"); !strings.Contains(out, "192.168.42.1") {
		w.t.Errorf("names on the VLAN: %s", out)
	}
	if out := w.run(w.host, "ip", "-4", "-o", "addr", "show", "dev", "lan0"); out != "" {
		w.t.Errorf("the port itself has an address: %s", out)
	}
	// Without a tag nobody answers. The capture has frames of the VLAN as well: their tag is not in the way of what it reads.
	plain := w.another("plain", w.lan)
	files := filepath.Join(w.lab.Dir(), "plain")
	w.start(plain, "dhclient", "-d", "-1", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", files+".leases", "-pf", files+".pid", "lan0")
	asked := func() (n int) {
		all, err := lab.ReadDHCP(capture.Path())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, m := range all {
			switch {
			case m.MAC.String() != plain.MAC(w.lan).String():
			case m.Reply:
				w.t.Errorf("answered without a tag: %s", m)
			default:
				n++
			}
		}
		return n
	}
	r.await("the client without a tag has asked twice", func() bool { return asked() > 1 })

	// It comes back on the VLAN without being told, also after it was killed; and leaves nothing.
	r.signal(syscall.SIGKILL)
	r.ends(-1)
	r = w.start(w.host, w.binary, "seed", "--data-dir", w.data, "--probe", "1s")
	r.says("segment   192.168.42.1/24 on lan0.42")
	r.says("ready")
	w.start(w.host, w.binary, "seed", "--data-dir", w.data, "--interface", "lan0").ends(1, "data directory is in use")
	r.signal(syscall.SIGINT)
	r.says("Ctrl-C leaves now")
	r.signal(syscall.SIGINT)
	r.ends(130)
	if after := w.run(w.host, "ip", "-o", "link"); after != before {
		w.t.Errorf("the ports were\n%s\nand are now\n%s", before, after)
	}
	w.start(w.host, w.binary, "seed", "--data-dir", w.data, "--interface", "lan0", "--probe", "1s").ends(1, "this swarm was founded on VLAN 42")
	w.seed("--vlan", "4095", "--data-dir", w.data+"2").ends(2, "--vlan: VLAN 4095: want 1 to 4094")
	w.seed("--vlan", "42", "--interface", "", "--data-dir", w.data+"2").ends(2, "name the port that it is on with --interface")
}

func netVLANDevice(w *badWorld) {
	lab.Need(w.t, "dhclient")
	if w.host = w.vlanClient("two"); w.host == nil {
		return
	}
	w.seed("--interface", "lan0.42").says("ready")
	if addr, _ := w.leased(w.vlanClient("client"), "lan0.42"); !strings.HasPrefix(addr, "192.168.42.") {
		w.t.Errorf("on the VLAN, leased %s", addr)
	}
	if out := w.run(w.host, "ip", "-4", "-o", "addr", "show", "dev", "lan0"); out != "" {
		w.t.Errorf("the port itself has an address: %s", out)
	}
}
