package dhcp

import (
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var update = flag.Bool("update", false, "write the golden replies anew")

const nonce = "AAAAAAAAAAAAAAAAAAAAAA"

var (
	day    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	server = netip.MustParseAddr("192.168.42.1")
	addr17 = netip.MustParseAddr("192.168.42.17")
)

func testConfig() Config {
	return Config{
		Interface: "lan0", Server: server, Subnet: netip.MustParsePrefix("192.168.42.0/24"),
		Pools:  []Range{{netip.MustParseAddr("192.168.42.10"), netip.MustParseAddr("192.168.42.250")}},
		Router: server, Sole: true,
		Services: Services{
			DNS: []netip.Addr{netip.MustParseAddr("192.168.42.2")}, Domain: "lan", NTP: []netip.Addr{netip.MustParseAddr("192.0.2.123")},
		},
		ScriptURL:  func(nonce string) string { return "http://192.168.42.1:7480/b/" + nonce + "/boot.ipxe" },
		ProgramURL: func(name string) string { return "http://192.168.42.1:7480/boot/" + name },
	}
}

// load reads one request from testdata: hexadecimal digits, comments after '#'.
func load(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			digits.WriteString(strings.TrimSpace(line))
		}
	}
	raw, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func read(t testing.TB, name string) (*dhcpv4.DHCPv4, Client) {
	t.Helper()
	p := new(dhcpv4.DHCPv4)
	c, err := decode(load(t, name), p)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func TestCapturedClientsAreClassified(t *testing.T) {
	for name, want := range map[string]string{
		"ipxe-bios": "iPXE BIOS", "ipxe-efi": "iPXE EFI x64", "firmware-efi": "firmware EFI x64", "firmware-bios": "firmware BIOS", "pxerom-bios": "firmware BIOS",
		"http-efi": "HTTP firmware EFI x64", "dhclient": "client",
		"http-arm64": "HTTP firmware EFI arm64", "uboot-arm64": "firmware U-Boot arm64", "uboot-efi-arm64": "firmware U-Boot arm64",
	} {
		for step, message := range map[string]dhcpv4.MessageType{"discover": dhcpv4.MessageTypeDiscover, "request": dhcpv4.MessageTypeRequest} {
			_, c := read(t, name+"-"+step)
			if c.String() != want || c.Message != message || (message == dhcpv4.MessageTypeRequest) != (c.ServerID == server) {
				t.Errorf("%s-%s is %s of %s to %s", name, step, c.Message, c, c.ServerID)
			}
		}
	}
}

// TestAnswersToCapturedClients holds the whole reply to columns A, E and F of docs/booting.md.
func TestAnswersToCapturedClients(t *testing.T) {
	for _, name := range []string{"ipxe-bios", "ipxe-efi", "firmware-efi", "firmware-bios", "pxerom-bios", "http-efi", "http-arm64", "uboot-arm64", "uboot-efi-arm64", "dhclient"} {
		for _, step := range []string{"discover", "request"} {
			t.Run(name+"-"+step, func(t *testing.T) {
				p, c := read(t, name+"-"+step)
				v := View{Duty: Full, Candidate: addr17, NewNonce: nonce}
				if c.Requested.IsValid() {
					v.Candidate = c.Requested
				}
				plan := Decide(day, p, c, v, testConfig())
				if plan.Reply == nil {
					t.Fatalf("silence: %s", plan.Reason)
				}
				again, err := dhcpv4.FromBytes(plan.Reply.ToBytes())
				if err != nil {
					t.Fatal(err)
				}
				got := fmt.Sprintf("%s\nto: %+v\nbind: %+v\n%s", plan.Answer, plan.To, plan.Bind, again.Summary())
				golden(t, name+"-"+step+".reply", got)
			})
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func FuzzEveryPacketIsDecidedWithoutHarm(f *testing.F) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatalf("no captured packets: %v", err)
	}
	for _, path := range files {
		f.Add(load(f, strings.TrimSuffix(filepath.Base(path), ".hex")), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, known bool) {
		p := new(dhcpv4.DHCPv4)
		c, err := decode(raw, p)
		if err != nil {
			return
		}
		_ = c.String()
		for _, atBootServer := range []bool{false, true} {
			beside := Decide(day, p, c, View{Duty: Full, BootServer: atBootServer, NewNonce: nonce}, proxyConfig())
			if beside.Bind != nil || beside.Offer != nil || beside.Reply != nil && beside.Reply.YourIPAddr != nil {
				t.Fatalf("a proxy gives something: %+v", beside)
			}
		}
		for _, duty := range []DutyState{None, RenewOnly, Full} {
			v := View{Duty: duty, Candidate: addr17, NewNonce: nonce, Unicast: true}
			if known {
				v.Binding = &Binding{MAC: c.MAC, Addr: addr17, Nonce: nonce, Expires: day.Add(time.Minute), Class: ClassIPXE, Left: time.Minute}
			}
			plan := Decide(day, p, c, v, testConfig())
			if duty == None && (plan.Reply != nil || plan.Bind != nil || plan.Offer != nil || plan.Release.IsValid() || plan.Quarantine.IsValid()) {
				t.Fatalf("without duty: %+v", plan)
			}
			if duty == RenewOnly && plan.Bind != nil {
				t.Fatalf("without quorum: %+v", plan)
			}
			if plan.Reply == nil {
				if plan.Reason == "" {
					t.Fatal("silence without a reason")
				}
				continue
			}
			if plan.Reply.MessageType() == dhcpv4.MessageTypeAck && c.Message == dhcpv4.MessageTypeRequest && duty == Full && plan.Bind == nil {
				t.Fatal("an ACK that nothing is committed for")
			}
			if _, err := dhcpv4.FromBytes(plan.Reply.ToBytes()); err != nil {
				t.Fatalf("our reply cannot be read: %v", err)
			}
		}
	})
}
