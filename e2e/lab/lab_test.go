package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestOnlyTheBootPortHasAnOptionROMAndBootsBeforeTheDisk(t *testing.T) {
	nics := []nic{{"port1", macOf("m1", 0, 0)}, {"port2", macOf("m1", 1, 0)}}
	for _, c := range []struct {
		name string
		spec MachineSpec
		want []string // of each port's -device
	}{
		{"first port", MachineSpec{}, []string{",bootindex=1", ",romfile="}},
		{"second port", MachineSpec{BootPort: 1}, []string{",romfile=", ",bootindex=1"}},
		{"none", MachineSpec{BootPort: -1}, []string{",romfile=", ",romfile="}},
		{"UEFI", MachineSpec{Firmware: UEFI}, []string{",bootindex=1,romfile=", ",romfile="}},
		{"UEFI by HTTP", MachineSpec{Firmware: UEFIHTTP}, []string{",bootindex=1,romfile=", ",romfile="}},
		{"ROM of our own", MachineSpec{ROM: "/tmp/pxe,1.rom"}, []string{",bootindex=1,romfile=/tmp/pxe,,1.rom", ",romfile="}},
		{"direct kernel", MachineSpec{Kernel: "/boot/vmlinuz"}, []string{",romfile=", ",romfile="}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.Networks, c.spec.Disk = make([]*Network, 2), 1<<30
			spec, err := c.spec.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			args := spec.arguments("m1", false, files{disk: "d", console: "c", vars: "v"}, nics)
			for i, want := range c.want {
				device := find(args, fmt.Sprintf("virtio-net-pci,id=nic%d,", i))
				if got := device[strings.Index(device, nics[i].mac.String())+17:]; got != want {
					t.Errorf("port %d: %q, want %q", i, got, want)
				}
			}
			if disk := find(args, "virtio-blk-pci"); !strings.Contains(disk, "bootindex=2") {
				t.Errorf("disk does not boot after the network: %s", disk)
			}
		})
	}
}

func find(args []string, prefix string) string {
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, prefix) })
	if i < 0 {
		return ""
	}
	return args[i]
}

func TestImpossibleMachinesAreRefused(t *testing.T) {
	for _, spec := range []MachineSpec{
		{Firmware: "coreboot"}, {BootPort: 2, Networks: make([]*Network, 2)}, {BootPort: -2}, {Memory: -1}, {Disk: -1},
		{Append: "quiet"}, {ROM: "pxe.rom", Firmware: UEFI},
	} {
		if _, err := spec.withDefaults(); err == nil {
			t.Errorf("accepted %+v", spec)
		}
	}
}

func TestPathsWithCommasReachQEMUWhole(t *testing.T) {
	if got, want := escape("/a,b/c"), "/a,,b/c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMACsComeFromTheDrawingAndAreUnicast(t *testing.T) {
	a, b := macOf("m1", 0, 0), macOf("m1", 0, 0)
	if a.String() != b.String() {
		t.Errorf("the same port has the addresses %s and %s", a, b)
	}
	if macOf("m1", 1, 0).String() == a.String() || macOf("m2", 0, 0).String() == a.String() {
		t.Error("two ports share an address")
	}
	if a[0]&1 != 0 {
		t.Errorf("%s is a group address", a)
	}
}

func TestProcessStateIsReadBehindAnyCommandName(t *testing.T) {
	rest := " 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"
	start, dead, ok := parseStat("12 (a) R (b) S" + rest)
	if start != 4711 || dead || !ok {
		t.Errorf("got %d %v %v", start, dead, ok)
	}
	if _, dead, ok := parseStat("12 (x) Z" + rest); !dead || !ok {
		t.Error("a zombie counts as alive")
	}
	if _, _, ok := parseStat("12 (x"); ok {
		t.Error("accepted half a line")
	}
}

func TestAPidOfAnotherProcessIsNotOurs(t *testing.T) {
	self, ok := processOf(os.Getpid())
	if !ok || !self.alive() {
		t.Fatalf("cannot see ourselves: %+v", self)
	}
	self.Start++
	if self.alive() {
		t.Error("a process with another start time was taken for ours")
	}
}

func TestTwoLabsCannotShareAFolder(t *testing.T) {
	dir := t.TempDir()
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := openState(dir); err == nil {
		t.Error("the folder was opened twice", other.close())
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s, err = openState(dir)
	if err != nil {
		t.Fatalf("the folder is not free after close: %v", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func TestStateOfAnEarlierBootIsForgotten(t *testing.T) {
	dir := t.TempDir()
	old := `{"boot":"another","namespaces":["x"],"processes":[{"pid":1,"start":1}]}`
	if err := os.WriteFile(filepath.Join(dir, stateName), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, stateName)) {
		t.Error("the state file is still there")
	}
}

func TestUnreadableStateIsAnErrorThatNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, stateName)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestConsoleTextIsPlain(t *testing.T) {
	got := string(plain([]byte("\x1b[2J\x1b[1;1Hiniti\x1b[0malising\r\ndone\x1b[")))
	if want := "initialising\ndone\x1b["; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWaitConsoleFindsTheSamePromptTwiceAndThenTellsTheLastLines(t *testing.T) {
	m := &Machine{name: "m1", dir: t.TempDir(), run: &run{done: make(chan struct{})}}
	if err := os.WriteFile(m.Console(), []byte("boot 1\nm1 login: \nboot 2\nm1 login: \nthe end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	login := regexp.MustCompile(`boot (\d)\s+\w+ login:`)
	for _, want := range []string{"1", "2"} {
		if got, err := m.WaitConsole(ctx, login); err != nil || got[1] != want {
			t.Fatalf("got %q, %v; want boot %s", got, err, want)
		}
	}
	close(m.run.done)
	_, err := m.WaitConsole(ctx, login)
	if !errors.Is(err, errMachineOff) || !strings.Contains(err.Error(), "the end") {
		t.Errorf("got %v", err)
	}
}

type fakeTB struct{ skipped, failed string }

func (*fakeTB) Helper()                     {}
func (f *fakeTB) Skipf(s string, a ...any)  { f.skipped = fmt.Sprintf(s, a...) }
func (f *fakeTB) Fatalf(s string, a ...any) { f.failed = fmt.Sprintf(s, a...) }

func TestAMissingToolSkipsWithItsNameAndFailsInCI(t *testing.T) {
	t.Setenv("CI", "")
	var tb fakeTB
	Need(&tb, "no-such-tool", "/no/such/file")
	if !strings.Contains(tb.skipped, "no-such-tool") || !strings.Contains(tb.skipped, "/no/such/file") || tb.failed != "" {
		t.Errorf("got %+v", tb)
	}
	t.Setenv("CI", "true")
	tb = fakeTB{}
	Need(&tb, "no-such-tool")
	if tb.skipped != "" || tb.failed == "" {
		t.Errorf("got %+v", tb)
	}
}

// frame is a DHCP message from one station to all.
func frame(t *testing.T, from net.HardwareAddr, d *dhcpv4.DHCPv4, src, dst layers.UDPPort) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: from, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4(192, 0, 2, 1), DstIP: net.IPv4bcast}
	udp := &layers.UDP{SrcPort: src, DstPort: dst}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, udp, gopacket.Payload(d.ToBytes())); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func writeCapture(t *testing.T, frames ...[]byte) (path string, raw []byte) {
	t.Helper()
	var out bytes.Buffer
	w := pcapgo.NewWriterNanos(&out)
	if err := w.WriteFileHeader(captureSnap, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		info := gopacket.CaptureInfo{Timestamp: time.Unix(int64(1000+i), 5), CaptureLength: len(f), Length: len(f)}
		if err := w.WritePacket(info, f); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(t.TempDir(), "c.pcap")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, out.Bytes()
}

func TestReadDHCPTellsWhoSaidWhatAndEndsAtAFrameCutShort(t *testing.T) {
	client, server := macOf("m1", 0, 0), macOf("seed", 0, 0)
	discover, err := dhcpv4.NewDiscovery(client)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := dhcpv4.NewReplyFromRequest(discover, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
		dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 10)), dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))))
	if err != nil {
		t.Fatal(err)
	}
	path, raw := writeCapture(t, frame(t, client, discover, 68, 67), frame(t, server, offer, 67, 68), []byte("garbage"))
	for _, keep := range []int{len(raw), len(raw) - 3} {
		if err := os.WriteFile(path, raw[:keep], 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadDHCP(path)
		if err != nil || len(got) != 2 {
			t.Fatalf("got %v, %v", got, err)
		}
		d, o := got[0], got[1]
		if d.Reply || d.Type != dhcpv4.MessageTypeDiscover || d.MAC.String() != client.String() || d.Your.IsValid() || d.ServerID.IsValid() {
			t.Errorf("discover: %s", d)
		}
		if !o.Reply || o.Type != dhcpv4.MessageTypeOffer || o.XID != d.XID || o.Your.String() != "192.0.2.10" ||
			o.ServerID.String() != "192.0.2.1" || o.SrcMAC.String() != server.String() || o.SrcIP.String() != "192.0.2.1" {
			t.Errorf("offer: %s", o)
		}
		if !d.Time.Equal(time.Unix(1000, 5)) {
			t.Errorf("time %s", d.Time)
		}
	}
}

func TestOnlyTwoAnswersToOneMessageAreDouble(t *testing.T) {
	client, a, b := macOf("m1", 0, 0), macOf("a", 0, 0), macOf("b", 0, 0)
	ask := DHCPMessage{MAC: client, SrcMAC: client, XID: dhcpv4.TransactionID{1}}
	by := func(server net.HardwareAddr) DHCPMessage {
		return DHCPMessage{Reply: true, MAC: client, SrcMAC: server, XID: ask.XID}
	}
	for _, c := range []struct {
		name     string
		messages []DHCPMessage
		want     int
	}{
		{"one server", []DHCPMessage{ask, by(a), ask, by(a)}, 0},
		{"one server repeats itself", []DHCPMessage{ask, by(a), by(a)}, 0},
		{"taken over between two messages", []DHCPMessage{ask, by(a), ask, by(b)}, 0},
		{"two servers", []DHCPMessage{ask, by(a), by(b), ask, by(b), by(a)}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := DoubleAnswers(c.messages); len(got) != c.want {
				t.Errorf("got %v, want %d", got, c.want)
			}
		})
	}
}

// FuzzParseDHCP: frames come from firmware and from tests that send garbage on purpose.
func FuzzParseDHCP(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 400))
	f.Fuzz(func(_ *testing.T, frame []byte) { parseDHCP(frame) })
}

func TestADeviceWithoutProcessorSupportIsNotKVM(t *testing.T) {
	for info, want := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vme vmx sse\n":       true,
		"processor\t: 0\nflags\t\t: fpu svm\n":               true,
		"processor\t: 0\nflags\t\t: fpu hypervisor nested\n": false,
		"vmx flags\t: vnmi\nmodel name\t: svm\n":             false,
		"":                                                   false,
	} {
		if virtualises(info) != want {
			t.Errorf("%q: want %v", info, want)
		}
	}
}
