//go:build wire

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"offshoot/e2e/lab"
)

// TestBadInput: whatever is wrong is said, with what to do about it and the exit code of its kind, and the network is left as it
// was found.
func TestBadInput(t *testing.T) {
	lab.Need(t, lab.Wire)
	k := newBadKit(t)
	for _, c := range []struct {
		name string
		run  func(*badWorld)
	}{
		{"UnknownInterfaceIsAnsweredWithThoseThereAre", badUnknownInterface},
		{"TwoFreePortsAreLeftToTheOperator", badNoChoice},
		{"InterfaceWithoutLinkIsRefused", badNoLink},
		{"InterfaceThatWasDownAndHasNoLinkIsDownAgain", badDownNoLink},
		{"NetworkInUseIsRefused", badNetworkInUse},
		{"TakenPeerPortIsNamed", badPeerPort},
		{"TakenGossipPortIsNamed", badGossipPort},
		{"TakenServicePortsAreWarnedOf", badServicePorts},
		{"MissingRightsAreNamed", badRights},
		{"ImagesThatCannotBootAreRefused", badImages},
		{"DataDirectoryThatIsNotOursIsRefused", badDataDir},
		{"ForeignDHCPServerIsRefused", badForeign},
		{"ProxyKeepsTheAddressOfItsPort", badProxyAddress},
		{"ForeignDHCPServerThatAppearsStopsTheSeed", badForeignLater},
		{"ForeignNetworkSilencesTheSeed", badForeignElsewhere},
		{"TwoSwarmsDoNotShareASegment", badTwoSwarms},
		{"SeedThatComesBackKnowsTheServersOfItsSwarm", badComeback},
		{"CtrlCWhileProbingLeavesAtOnce", badEarlyInterrupt},
		{"SecondCtrlCLeavesAtOnce", badSecondInterrupt},
		{"WhatAKilledSeedChangedIsUndoneByTheNext", badKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(k.world(t))
		})
	}
}

// untouched runs a seed that must refuse, and wants the port to be afterwards as it was before.
func (w *badWorld) untouched(code int, args []string, texts ...string) {
	w.t.Helper()
	before := w.port()
	w.seed(args...).ends(code, texts...)
	if after := w.port(); after != before {
		w.t.Errorf("the port was\n%s\nand is now\n%s", before, after)
	}
	if _, err := os.Stat(filepath.Join(w.data, "undo.json")); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("undo.json is left: %v", err)
	}
}

func badUnknownInterface(w *badWorld) {
	w.untouched(2, []string{"--interface", "eth7"}, "interface eth7: no such Ethernet port; there are: lan0")
	w.untouched(2, []string{"--interface", "lo"}, "interface lo: no such Ethernet port")
}

func badNoChoice(w *badWorld) {
	lan1, err := w.lab.Network("lan1")
	if err != nil {
		w.t.Fatal(err)
	}
	w.host = w.another("two", w.lan, lan1)
	w.untouched(2, []string{"--interface", ""}, "cannot choose a port: 2 are free; name one with --interface", "lan0", "lan1", "free")
	w.run(w.host, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan0")
	if err := w.host.SetLink(lan1, false); err != nil {
		w.t.Fatal(err)
	}
	w.untouched(2, []string{"--interface", ""}, "none is free", "has address 192.0.2.1/24", "no link")
}

func badNoLink(w *badWorld) {
	if err := w.host.SetLink(w.lan, false); err != nil {
		w.t.Fatal(err)
	}
	w.untouched(2, nil, "interface lan0: no link: check the cable")
}

func badDownNoLink(w *badWorld) {
	w.run(w.host, "ip", "link", "set", "lan0", "down")
	if err := w.host.SetLink(w.lan, false); err != nil {
		w.t.Fatal(err)
	}
	w.untouched(2, nil, "lan0", "no link")
}

func badNetworkInUse(w *badWorld) {
	lan1, err := w.lab.Network("lan1")
	if err != nil {
		w.t.Fatal(err)
	}
	w.host = w.another("two", w.lan, lan1)
	w.run(w.host, "ip", "addr", "add", "192.168.42.77/25", "dev", "lan1")
	w.untouched(3, nil, "network in use: 192.168.42.0/24 overlaps: lan1 carries 192.168.42.77/25; choose another with --network")
}

// listen takes a port on every address of the host.
func (w *badWorld) listen(network string, port int) {
	w.t.Helper()
	err := w.host.Do(func() error {
		at := fmt.Sprintf("0.0.0.0:%d", port)
		if network == "udp" {
			c, err := net.ListenPacket("udp4", at)
			if err == nil {
				w.t.Cleanup(func() { _ = c.Close() })
			}
			return err
		}
		l, err := net.Listen("tcp4", at)
		if err == nil {
			w.t.Cleanup(func() { _ = l.Close() })
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func badPeerPort(w *badWorld) {
	w.listen("tcp", 7400)
	w.untouched(1, nil, "port 7400 on 192.168.42.1", "address already in use", "another program")
}

func badGossipPort(w *badWorld) {
	w.listen("udp", 7401)
	w.untouched(1, nil, "7401", "address already in use")
}

// What machines need is opened again and again: the other program may go away. Meanwhile the operator is told.
func badServicePorts(w *badWorld) {
	w.listen("udp", 67)
	w.listen("udp", 69)
	w.listen("tcp", 7480)
	r := w.seed()
	for _, port := range []string{"port 67 on lan0", "192.168.42.1:69", "192.168.42.1:7480"} {
		r.says(port)
	}
	r.says("address already in use")
}

func badRights(w *badWorld) {
	lab.Need(w.t, "setpriv")
	as := func(flags ...string) *badRun {
		w.t.Helper()
		return w.start(w.host, "setpriv", append(append(flags, w.binary), w.seedArgs()...)...)
	}
	as("--reuid=65534", "--regid=65534", "--clear-groups").ends(1, "missing rights: CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE: run with sudo")
	r := as("--inh-caps=-net_raw", "--bounding-set=-net_raw")
	r.ends(1, "missing rights: CAP_NET_RAW: run with sudo, or grant CAP_NET_RAW")
	if strings.Contains(r.String(), "CAP_NET_ADMIN") {
		w.t.Errorf("a right that it has is called missing:\n%s", r)
	}
	if _, err := os.Stat(w.data); err == nil {
		w.t.Error("the data directory was made")
	}
}

func badImages(w *badWorld) {
	write := func(name string, data []byte) string {
		path := filepath.Join(w.lab.Dir(), name)
		badWrite(w.t, path, data, 0o644)
		return path
	}
	noise := bytes.Repeat([]byte("rubbish "), 1<<17)
	for _, c := range []struct{ path, want string }{
		{filepath.Join(w.lab.Dir(), "missing.raw"), "no such file"},
		{w.lab.Dir(), "is not a file"},
		{write("empty.raw", nil), "not a disk image in a format that is understood"},
		{write("cut.raw", badDisk(3<<19)), "image is truncated; build or download it again"},
		{write("zeros.raw", make([]byte, 1<<20)), "image holds no bootable system; give an image of a whole disk"},
		{write("noise.raw", noise), "no partition table: image holds no bootable system"},
		{write("noise.raw.zst", append([]byte{0x28, 0xb5, 0x2f, 0xfd}, noise...)), "noise.raw.zst"},
		{write("noise.raw.xz", append([]byte("\xfd7zXZ\x00"), noise...)), "noise.raw.xz"},
		{write("noise.qcow2", append([]byte("QFI\xfb"), noise...)), "noise.qcow2"},
	} {
		w.untouched(2, []string{"--image", c.path}, c.want)
	}
	w.untouched(2, []string{"--image", ""}, "nothing to install: name a disk image with --image")
	w.untouched(1, []string{"--live-kernel", w.image}, "neither a Linux bzImage nor an Image of arm64")
}

func badDataDir(w *badWorld) {
	if err := os.Mkdir(w.data, 0o700); err != nil {
		w.t.Fatal(err)
	}
	memory := filepath.Join(w.data, "node.json")
	badWrite(w.t, memory, []byte(`{"version": 99, "of": "later"}`), 0o600)
	w.untouched(1, nil, "data directory of another version", "is version 99", "choose another --data-dir")
	badWrite(w.t, memory, []byte(`{"version": 1, "nod`), 0o600)
	w.untouched(1, nil, memory+" is damaged")
	badWrite(w.t, memory, []byte(`{"version": 1, "node": "x"}`), 0o600)
	w.untouched(1, nil, "belongs to an installed node: run `offshoot node`, or choose another --data-dir")
	if err := os.Remove(memory); err != nil {
		w.t.Fatal(err)
	}
	w.start(w.host, w.binary, "node", "--data-dir", w.data).ends(1, "this machine is not part of a swarm", "offshoot seed")
}

func badForeign(w *badWorld) {
	lab.Need(w.t, "dnsmasq")
	w.dnsmasq(w.another("router", w.lan))
	w.untouched(3, []string{"--probe", "4s", "--mode", "full"}, "another DHCP server is on this segment: 192.168.42.254", "on lan0", "unplug it", "--interface", "--mode proxy")
	// Without an address of that network it could not even be a proxy.
	w.untouched(3, []string{"--probe", "4s"}, "another DHCP server is on this segment: 192.168.42.254", "on lan0", "get one first (dhclient lan0)", "--network", "unplug it", "--interface")
	w.untouched(3, []string{"--probe", "4s", "--network", "10.1.0.1/24"}, "which --network 10.1.0.1/24 does not reach")
	w.untouched(2, []string{"--mode", "half"}, "want auto, full or proxy")
}

// A proxy keeps the address that its port has, and takes one that it was told.
func badProxyAddress(w *badWorld) {
	lab.Need(w.t, "dnsmasq")
	w.dnsmasq(w.another("router", w.lan))
	before := w.port()
	r := w.seed("--probe", "4s", "--network", "192.168.42.9/24")
	r.says("segment   192.168.42.9/24 on lan0, mode proxy: the DHCP server 192.168.42.254")
	r.says("ready")
	r.signal(syscall.SIGINT)
	r.says("Ctrl-C leaves now")
	r.signal(syscall.SIGINT)
	r.ends(130)
	if after := w.port(); after != before {
		w.t.Errorf("the port was\n%s\nand is now\n%s", before, after)
	}
	// It comes back as what it was, though the other server is silent by then, with whatever address the port has.
	w.run(w.host, "ip", "addr", "add", "192.168.42.19/24", "dev", "lan0")
	again := []string{"seed", "--data-dir", w.data, "--probe", "4s"}
	w.start(w.host, w.binary, append(again, "--mode", "full")...).ends(1, "founded in mode proxy")
	r = w.start(w.host, w.binary, again...)
	r.says("segment   192.168.42.19/24 on lan0, mode proxy")
	r.says("ready")
	if g := w.status().Segments[0]; g.Mode != "proxy" {
		w.t.Errorf("%+v", g)
	}
	// Whoever takes its address away ends it: it is known by that.
	w.run(w.host, "ip", "addr", "del", "192.168.42.19/24", "dev", "lan0")
	r.ends(1, "has lost its address", "192.168.42.19/24")
}

func badForeignLater(w *badWorld) {
	lab.Need(w.t, "dnsmasq", "dhclient")
	capture, err := w.lan.Capture(filepath.Join(w.lab.Dir(), "lan0.pcap"))
	if err != nil {
		w.t.Fatal(err)
	}
	r := w.seed()
	r.says("ready")
	w.dnsmasq(w.another("router", w.lan))
	ask := func(name string) {
		files := filepath.Join(w.lab.Dir(), name)
		w.start(w.another(name, w.lan), "dhclient", "-d", "-1", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", files+".leases", "-pf", files+".pid", "lan0")
	}
	ask("client")
	r.says("is not served: another DHCP server answers there: 192.168.42.254") // at once, and without being asked
	yielded := time.Now()
	r.says("segment s1 is served by proxy for now: another DHCP server answers there: 192.168.42.254") // once it was asked what it does
	s := w.status()
	if g := s.Segments[0]; g.Mode != "proxy" || g.Blocked != "" || !strings.Contains(g.Beside, "192.168.42.254") {
		w.t.Errorf("%+v", g)
	}
	if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].What, "192.168.42.254") || !strings.Contains(s.Problems[0].Next, "switch that server off") {
		w.t.Errorf("problems: %+v", s.Problems)
	}
	if out := w.run(w.host, w.binary, "status", "--data-dir", w.data); !strings.Contains(out, "proxy") || !strings.HasPrefix(out, "PROBLEM") {
		w.t.Errorf("status says\n%s", out)
	}
	// From there on only the other server gives addresses.
	ask("later")
	later := func() (ours, theirs int) {
		for _, m := range w.answersSince(capture, yielded) {
			if m.SrcMAC.String() == w.host.MAC(w.lan).String() {
				ours++
			} else {
				theirs++
			}
		}
		return ours, theirs
	}
	r.await("the other server gives an address", func() bool { _, theirs := later(); return theirs >= 2 })
	if ours, _ := later(); ours > 0 {
		w.t.Errorf("the seed that yielded sent %d DHCP answers", ours)
	}
}

// answersSince are the DHCP answers to clients that boot nothing. Those to the probes of the seed do not count: their clients have
// made-up addresses, and who answers them is what the seed looks for.
func (w *badWorld) answersSince(c *lab.Capture, since time.Time) (out []lab.DHCPMessage) {
	w.t.Helper()
	all, err := lab.ReadDHCP(c.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range all {
		if m.Reply && m.Time.After(since) {
			out = append(out, m)
		}
	}
	return out
}

// A server whose addresses do not reach us: there a proxy would send machines to where they cannot come.
func badForeignElsewhere(w *badWorld) {
	lab.Need(w.t, "dnsmasq", "dhclient")
	r := w.seed()
	r.says("ready")
	router := w.another("router", w.lan)
	w.run(router, "ip", "addr", "add", "10.77.0.1/24", "dev", "lan0")
	w.dnsmasq(router, "--dhcp-range=10.77.0.200,10.77.0.220,120")
	files := filepath.Join(w.lab.Dir(), "client")
	w.start(w.another("client", w.lan), "dhclient", "-d", "-1", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", files+".leases", "-pf", files+".pid", "lan0")
	r.says("It gives addresses of 10.77.0.0/24, from which machines do not reach a node on 192.168.42.0/24")
	s := w.status()
	if g := s.Segments[0]; g.Mode != "full" || !strings.Contains(g.Blocked, "10.77.0.0/24") {
		w.t.Errorf("%+v", g)
	}
	if out := w.run(w.host, w.binary, "status", "--data-dir", w.data); !strings.Contains(out, "BLOCKED") {
		w.t.Errorf("status says\n%s", out)
	}
}

func badTwoSwarms(w *badWorld) {
	first := w.seed()
	first.says("ready")
	second := w.another("second", w.lan)
	other := *w
	other.host, other.data = second, filepath.Join(w.lab.Dir(), "second")
	const refusal = "another DHCP server is on this segment: 192.168.42.1"
	other.untouched(3, []string{"--probe", "4s"}, refusal) // with the same address of its own
	other.untouched(3, []string{"--probe", "4s", "--network", "192.168.43.1/24"}, refusal)
	if s := w.status(); len(s.Problems) > 0 || s.Segments[0].Blocked != "" {
		w.t.Errorf("the swarm that was first is disturbed: %+v %+v", s.Problems, s.Segments)
	}
	if s := w.status(); len(s.Machines) > 0 || s.Segments[0].Leases > 0 {
		w.t.Errorf("probes were taken for machines: %+v %+v", s.Machines, s.Segments)
	}
	// The same data directory twice, while we are at it.
	w.seed().ends(1, "data directory is in use", "another offshoot runs on "+w.data)
	if s := w.status(); !s.Quorum {
		w.t.Errorf("the seed that was first is disturbed: %+v", s)
	}
}

// Its duty may have passed to another node, which answers its probe. Here dnsmasq plays that node.
func badComeback(w *badWorld) {
	lab.Need(w.t, "dnsmasq")
	r := w.seed()
	r.says("ready")
	r.signal(syscall.SIGKILL)
	r.ends(-1)
	w.dnsmasq(w.another("m1", w.lan))
	w.seed("--probe", "4s").ends(3, "another DHCP server is on this segment: 192.168.42.254")
	path := filepath.Join(w.data, "node.json")
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	var memory map[string]any
	if err := json.Unmarshal(data, &memory); err != nil {
		w.t.Fatal(err)
	}
	memory["members"] = []string{"192.168.42.254:7401"}
	if data, err = json.Marshal(memory); err != nil {
		w.t.Fatal(err)
	}
	badWrite(w.t, path, data, 0o600)
	w.seed("--probe", "4s").says("ready")
}

func badEarlyInterrupt(w *badWorld) {
	before := w.port()
	r := w.seed("--probe", "50s")
	r.says("probing")
	r.signal(syscall.SIGINT)
	r.ends(130)
	if after := w.port(); after != before {
		w.t.Errorf("the port was\n%s\nand is now\n%s", before, after)
	}
}

func badSecondInterrupt(w *badWorld) {
	w.run(w.host, "ip", "link", "set", "lan0", "down")
	before := w.port()
	r := w.seed()
	r.says("ready")
	r.signal(syscall.SIGINT)
	r.says("nobody can take over duty")
	r.says("Ctrl-C leaves now")
	if s := w.status(); s.Segments[0].Holder != "seed" {
		w.t.Errorf("after the first Ctrl-C it does not serve any more: %+v", s.Segments)
	}
	r.signal(syscall.SIGINT)
	r.ends(130)
	if after := w.port(); after != before {
		w.t.Errorf("the port was\n%s\nand is now\n%s", before, after)
	}
}

func badKilled(w *badWorld) {
	w.run(w.host, "ip", "link", "set", "lan0", "down")
	before := w.port()
	r := w.seed()
	r.says("ready")
	swarm := w.status().Swarm
	r.signal(syscall.SIGKILL)
	r.ends(-1)
	if w.port() == before {
		w.t.Fatal("a killed seed leaves nothing behind: this test proves nothing")
	}
	w.start(w.host, w.binary, "status", "--data-dir", w.data).ends(4, "no offshoot answers here")
	w.seed("--interface", "eth7").ends(2, "no such Ethernet port")
	if after := w.port(); after != before {
		w.t.Errorf("the port was\n%s\nand is now\n%s", before, after)
	}
	// And it goes on where it was, without being told what to install.
	r = w.start(w.host, w.binary, "seed", "--data-dir", w.data, "--probe", "1s")
	r.says("ready")
	if again := w.status().Swarm; again != swarm {
		w.t.Errorf("founded swarm %s, came back as %s", swarm, again)
	}
}
