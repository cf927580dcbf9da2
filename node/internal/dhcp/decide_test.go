package dhcp

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

var mac = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}

type mod = dhcpv4.Modifier

func ask(t testing.TB, m dhcpv4.MessageType, mods ...mod) (*dhcpv4.DHCPv4, Client) {
	t.Helper()
	p, err := dhcpv4.New(append([]mod{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(m)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := decode(p.ToBytes(), p)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func opt(code uint8, value string) mod {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(value))
}

func ip(s string) net.IP { return net.ParseIP(s).To4() }

func wants(s string) mod  { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip(s))) }
func chose(s string) mod  { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip(s))) }
func has(s string) mod    { return dhcpv4.WithClientIP(ip(s)) }
func pxe(arch string) mod { return both(opt(60, "PXEClient:Arch"), opt(93, arch)) }

func httpBoot(arch string) mod {
	return both(opt(60, "HTTPClient:Arch:00016:UNDI:003000"), opt(93, arch))
}

func ipxe() mod { return both(opt(60, "PXEClient:Arch"), opt(93, "\x00\x00"), opt(77, "iPXE")) }

func both(mods ...mod) mod {
	return func(p *dhcpv4.DHCPv4) {
		for _, m := range mods {
			m(p)
		}
	}
}

func bound(s string, class string, left time.Duration) *Binding {
	b := &Binding{MAC: swarm.MACOf(mac), Addr: netip.MustParseAddr(s), Nonce: "BBBBBBBBBBBBBBBBBBBBBB", Class: class}
	if left != 0 {
		b.Expires, b.Left = day.Add(left), left
	}
	return b
}

const (
	discover = dhcpv4.MessageTypeDiscover
	request  = dhcpv4.MessageTypeRequest
)

func TestMarksOfClients(t *testing.T) {
	for name, c := range map[string]struct {
		mods []mod
		want string
	}{
		"nothing":                  {nil, "client"},
		"iPXE without length byte": {[]mod{opt(77, "iPXE")}, "iPXE unknown firmware"},
		"iPXE with length byte":    {[]mod{opt(77, "\x04iPXE"), opt(93, "\x00\x0b")}, "iPXE EFI arm64"},
		"iPXE by option 175 alone": {[]mod{opt(175, "\xb0\x01\x01"), opt(60, "PXEClient")}, "iPXE unknown firmware"},
		"another user class":       {[]mod{opt(77, "\x04test")}, "client"},
		"architecture 7":           {[]mod{pxe("\x00\x07")}, "firmware EFI x64"},
		"architecture 9":           {[]mod{pxe("\x00\x09")}, "firmware EFI x64"},
		"list of architectures":    {[]mod{pxe("\x00\x00\x00\x07")}, "firmware BIOS"},
		"architecture 27":          {[]mod{pxe("\x00\x1b")}, "firmware of architecture 27"},
		"half an architecture":     {[]mod{pxe("\x07")}, "firmware unknown firmware"},
		"HTTP":                     {[]mod{opt(60, "HTTPClient:Arch:00016"), opt(93, "\x00\x10")}, "HTTP firmware EFI x64"},
	} {
		if _, got := ask(t, discover, c.mods...); got.String() != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestWhatIsNoClientIsRefused(t *testing.T) {
	for name, m := range map[string]mod{
		"reply":             func(p *dhcpv4.DHCPv4) { p.OpCode = dhcpv4.OpcodeBootReply },
		"InfiniBand":        func(p *dhcpv4.DHCPv4) { p.HWType = iana.HWTypeInfiniband },
		"short address":     dhcpv4.WithHwAddr(net.HardwareAddr{1, 2, 3}),
		"multicast address": dhcpv4.WithHwAddr(net.HardwareAddr{1, 0, 0, 0, 0, 1}),
		"no address":        dhcpv4.WithHwAddr(make(net.HardwareAddr, 6)),
		"BOOTP":             func(p *dhcpv4.DHCPv4) { p.DeleteOption(dhcpv4.OptionDHCPMessageType) },
		"broken option 82":  opt(82, "\x01\xff"),
	} {
		p, err := dhcpv4.New(dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(discover), m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(p.ToBytes(), p); err == nil {
			t.Errorf("%s is taken for a client", name)
		}
	}
}

// TestRulesOfLeases is RFC 2131, 4.3 and docs/booting.md, one row a rule. want is the answer, or part of the reason for
// silence behind a dash.
func TestRulesOfLeases(t *testing.T) {
	short := bound("192.168.42.17", ClassOS, time.Hour)
	unsure := bound("192.168.42.17", ClassOS, time.Hour)
	unsure.Left = 0
	forever := bound("192.168.42.17", "node", 0)
	offer := &Offer{Addr: addr17, Nonce: nonce, Class: ClassOS, Until: day.Add(time.Minute)}
	authoritative := func(c *Config) { c.Authoritative = true }
	for name, c := range map[string]struct {
		m    dhcpv4.MessageType
		mods []mod
		v    View
		cfg  func(*Config)
		want string
	}{
		"discover gets the candidate":        {discover, nil, View{Candidate: addr17}, nil, "OFFER 192.168.42.17"},
		"discover gets its binding":          {discover, nil, View{Binding: bound("192.168.42.30", ClassOS, -time.Hour)}, nil, "OFFER 192.168.42.30"},
		"binding wins over the wish":         {discover, []mod{wants("192.168.42.99")}, View{Binding: short}, nil, "OFFER 192.168.42.17"},
		"discover gets the same offer again": {discover, nil, View{Offer: offer}, nil, "OFFER 192.168.42.17"},
		"pool exhausted":                     {discover, nil, View{Trouble: "all gone", Exhausted: true}, nil, "- all gone"},
		"selecting us":                       {request, []mod{chose("192.168.42.1"), wants("192.168.42.17")}, View{Offer: offer}, nil, "ACK 192.168.42.17"},
		"selecting us after our restart":     {request, []mod{chose("192.168.42.1"), wants("192.168.42.17")}, View{Candidate: addr17}, nil, "ACK 192.168.42.17"},
		"selecting another address":          {request, []mod{chose("192.168.42.1"), wants("192.168.42.18")}, View{Offer: offer}, nil, "NAK"},
		"selecting another server":           {request, []mod{chose("192.168.42.9"), wants("192.168.42.17")}, View{Offer: offer}, nil, "- chose the server 192.168.42.9"},
		"init-reboot with its binding":       {request, []mod{wants("192.168.42.17")}, View{Binding: short}, nil, "ACK 192.168.42.17"},
		"init-reboot with another address":   {request, []mod{wants("192.168.42.18")}, View{Binding: short}, nil, "NAK"},
		"init-reboot from another network":   {request, []mod{wants("10.0.0.5")}, View{}, nil, "NAK"},
		"init-reboot unknown":                {request, []mod{wants("192.168.42.18")}, View{}, nil, "- of which nothing is known"},
		"init-reboot unknown, authoritative": {request, []mod{wants("192.168.42.18")}, View{}, authoritative, "NAK"},
		"renewing":                           {request, []mod{has("192.168.42.17")}, View{Binding: short, Unicast: true}, nil, "ACK 192.168.42.17"},
		"rebinding":                          {request, []mod{has("192.168.42.17")}, View{Binding: short}, nil, "ACK 192.168.42.17"},
		"renewing an expired one":            {request, []mod{has("192.168.42.17")}, View{Binding: bound("192.168.42.17", ClassOS, -time.Second)}, nil, "ACK 192.168.42.17"},
		"renewing another address":           {request, []mod{has("192.168.42.18")}, View{Binding: short}, nil, "NAK"},
		"renewing unknown, asks us":          {request, []mod{has("192.168.42.18")}, View{Unicast: true}, nil, "NAK"},
		"rebinding unknown":                  {request, []mod{has("192.168.42.18")}, View{}, nil, "- of which nothing is known"},
		"renewing in another network":        {request, []mod{has("10.0.0.5")}, View{Unicast: true}, nil, "NAK"},
		"request for nothing":                {request, nil, View{Binding: short}, nil, "- names no address"},
		"decline of its own":                 {dhcpv4.MessageTypeDecline, []mod{wants("192.168.42.17")}, View{Binding: short}, nil, "- quarantined"},
		"decline of an offer":                {dhcpv4.MessageTypeDecline, []mod{wants("192.168.42.17")}, View{Offer: offer}, nil, "- quarantined"},
		"decline of someone's":               {dhcpv4.MessageTypeDecline, []mod{wants("192.168.42.99")}, View{Binding: short}, nil, "- did not give"},
		"decline by a node":                  {dhcpv4.MessageTypeDecline, []mod{wants("192.168.42.17")}, View{Binding: forever}, nil, "- for ever"},
		"release":                            {dhcpv4.MessageTypeRelease, []mod{has("192.168.42.17")}, View{Binding: short}, nil, "- released"},
		"release of someone's":               {dhcpv4.MessageTypeRelease, []mod{has("192.168.42.18")}, View{Binding: short}, nil, "- does not have"},
		"release by a node":                  {dhcpv4.MessageTypeRelease, []mod{has("192.168.42.17")}, View{Binding: forever}, nil, "- for ever"},
		"inform":                             {dhcpv4.MessageTypeInform, []mod{has("192.168.42.5")}, View{}, nil, "ACK"},
		"inform from elsewhere":              {dhcpv4.MessageTypeInform, []mod{has("10.0.0.5")}, View{}, nil, "- not in our subnet"},
		"a server's message":                 {dhcpv4.MessageTypeOffer, nil, View{}, nil, "- not a message for servers"},
		"HTTP firmware":                      {discover, []mod{httpBoot("\x00\x10")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=http://192.168.42.1:7480/boot/snponly.efi"},
		"HTTP firmware in a loop":            {discover, []mod{httpBoot("\x00\x10")}, View{Candidate: addr17, Fetches: 3}, nil, "OFFER 192.168.42.17 file=http://192.168.42.1:7480/boot/ipxe.efi"},
		"HTTP firmware of ia32":              {discover, []mod{httpBoot("\x00\x0f")}, View{Candidate: addr17}, nil, "- no boot program for HTTP firmware EFI ia32"},
		"HTTP firmware of arm32":             {discover, []mod{httpBoot("\x00\x12")}, View{Candidate: addr17}, nil, "- no boot program for HTTP firmware EFI arm32"},
		"HTTP firmware of arm64":             {discover, []mod{httpBoot("\x00\x13")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=http://192.168.42.1:7480/boot/shimaa64.efi"},
		"HTTP firmware that is a BIOS":       {discover, []mod{httpBoot("\x00\x14")}, View{Candidate: addr17}, nil, "- no boot program for HTTP firmware BIOS"},
		"HTTP firmware of RISC-V":            {discover, []mod{httpBoot("\x00\x1b")}, View{Candidate: addr17}, nil, "- no boot program for HTTP firmware of architecture 27"},
		"HTTP firmware without architecture": {discover, []mod{opt(60, "HTTPClient")}, View{Candidate: addr17}, nil, "- no boot program for HTTP firmware unknown firmware"},
		"program address too long": {discover, []mod{httpBoot("\x00\x10")}, View{Candidate: addr17}, func(c *Config) {
			c.ProgramURL = func(n string) string { return "http://" + strings.Repeat("x", 128) + n }
		}, "- longer than 127 bytes"},
		"arm64 firmware":          {discover, []mod{pxe("\x00\x0b")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=shimaa64.efi"},
		"arm64 firmware, no shim": {discover, []mod{pxe("\x00\x0b")}, View{Candidate: addr17, Loader: swarm.LoaderIPXE}, nil, "OFFER 192.168.42.17 file=grubaa64.efi"},
		"arm32 firmware":          {discover, []mod{pxe("\x00\x0a")}, View{Candidate: addr17}, nil, "- no boot program for firmware EFI arm32"},
		"U-Boot of arm64":         {discover, []mod{opt(60, "U-Boot.armv8"), opt(93, "\x00\x16")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=grubaa64.efi"},
		"U-Boot, nothing else":    {discover, []mod{opt(93, "\x00\x16")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=grubaa64.efi"},
		"U-Boot of arm32":         {discover, []mod{opt(60, "U-Boot.armv7"), opt(93, "\x00\x15")}, View{Candidate: addr17}, nil, "- no boot program for firmware U-Boot arm32"},
		"BIOS firmware":           {discover, []mod{pxe("\x00\x00")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=undionly.kpxe"},
		"EFI firmware":            {discover, []mod{pxe("\x00\x07")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=snponly.efi"},
		"EFI firmware in a loop":  {discover, []mod{pxe("\x00\x07")}, View{Candidate: addr17, Fetches: 3}, nil, "OFFER 192.168.42.17 file=ipxe.efi"},
		"iPXE":                    {discover, []mod{ipxe()}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17 file=http://192.168.42.1:7480/b/AAAA.../boot.ipxe"},
		"script address too long": {discover, []mod{ipxe()}, View{Candidate: addr17}, func(c *Config) {
			c.ScriptURL = func(n string) string { return "http://" + strings.Repeat("x", 128) + n }
		}, "- longer than 127 bytes"},
		"relayed from our subnet":       {discover, []mod{dhcpv4.WithGatewayIP(ip("192.168.42.254"))}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17"},
		"relayed from another subnet":   {discover, []mod{dhcpv4.WithGatewayIP(ip("10.9.0.1"))}, View{Candidate: addr17}, nil, "- not in our subnet"},
		"link selection wins":           {discover, []mod{dhcpv4.WithGatewayIP(ip("10.9.0.1")), opt(82, "\x05\x04\xc0\xa8\x2a\x00")}, View{Candidate: addr17}, nil, "OFFER 192.168.42.17"},
		"server-id set by relay":        {request, []mod{dhcpv4.WithGatewayIP(ip("192.168.42.254")), opt(82, "\x0b\x04\xc0\xa8\x2a\xfe"), chose("192.168.42.254"), wants("192.168.42.17")}, View{Offer: offer}, nil, "ACK 192.168.42.17"},
		"no duty":                       {discover, nil, View{Duty: None, Candidate: addr17}, nil, "- does not hold duty"},
		"fenced: discover":              {discover, nil, View{Duty: RenewOnly, Binding: short, Unicast: true}, nil, "- without quorum"},
		"fenced: renewing":              {request, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: short, Unicast: true}, nil, "ACK 192.168.42.17"},
		"fenced: rebinding":             {request, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: short}, nil, "- without quorum"},
		"fenced: init-reboot":           {request, []mod{wants("192.168.42.17")}, View{Duty: RenewOnly, Binding: short, Unicast: true}, nil, "- without quorum"},
		"fenced: selecting":             {request, []mod{chose("192.168.42.1"), wants("192.168.42.17")}, View{Duty: RenewOnly, Binding: short, Unicast: true}, nil, "- without quorum"},
		"fenced: expired":               {request, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: bound("192.168.42.17", ClassOS, -time.Second), Unicast: true}, nil, "- is over"},
		"fenced: of unknown age":        {request, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: unsure, Unicast: true}, nil, "- is over"},
		"fenced: unknown":               {request, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Unicast: true}, nil, "- not its committed address"},
		"fenced: inform":                {dhcpv4.MessageTypeInform, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: short, Unicast: true}, nil, "- without quorum"},
		"fenced: release":               {dhcpv4.MessageTypeRelease, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: short, Unicast: true}, nil, "- without quorum"},
		"fenced: a node's own for ever": {request, []mod{has("192.168.42.17")}, View{Duty: RenewOnly, Binding: forever, Unicast: true}, nil, "ACK 192.168.42.17"},
	} {
		t.Run(name, func(t *testing.T) {
			p, client := ask(t, c.m, c.mods...)
			if c.v.Duty == None && name != "no duty" {
				c.v.Duty = Full
			}
			c.v.NewNonce = nonce
			cfg := testConfig()
			if c.cfg != nil {
				c.cfg(&cfg)
			}
			plan := Decide(day, p, client, c.v, cfg)
			if reason, silent := strings.CutPrefix(c.want, "- "); silent {
				if plan.Reply != nil || !strings.Contains(plan.Reason, reason) {
					t.Fatalf("answer %q, reason %q; want silence because %q", plan.Answer, plan.Reason, reason)
				}
				return
			}
			if plan.Reply == nil || plan.Answer != c.want {
				t.Fatalf("answer %q, reason %q; want %q", plan.Answer, plan.Reason, c.want)
			}
			checkReply(t, p, client, plan, c.v.Duty)
		})
	}
}

// checkReply holds what is true of every reply.
func checkReply(t *testing.T, p *dhcpv4.DHCPv4, c Client, plan Plan, duty DutyState) {
	t.Helper()
	r := plan.Reply
	if r.TransactionID != p.TransactionID || r.ClientHWAddr.String() != mac.String() || !r.GatewayIPAddr.Equal(p.GatewayIPAddr) {
		t.Error("xid, hardware address or relay is not the request's")
	}
	if p.IsBroadcast() && !r.IsBroadcast() {
		t.Error("the broadcast flag was cleared")
	}
	if r.ServerIdentifier() == nil {
		t.Error("no server identifier")
	}
	if got, want := r.Options.Get(dhcpv4.OptionRelayAgentInformation), p.Options.Get(dhcpv4.OptionRelayAgentInformation); string(got) != string(want) {
		t.Errorf("option 82 is %x, want %x", got, want)
	}
	if r.BootFileName != r.BootFileNameOption() {
		t.Errorf("header file %q, option 67 %q", r.BootFileName, r.BootFileNameOption())
	}
	acked := r.MessageType() == dhcpv4.MessageTypeAck && c.Message == request
	if committed := plan.Bind != nil; committed != (acked && duty == Full) {
		t.Errorf("binding to commit: %+v for %s under duty %d", plan.Bind, r.MessageType(), duty)
	}
	if (r.MessageType() == dhcpv4.MessageTypeNak || c.Message == dhcpv4.MessageTypeInform) && !r.YourIPAddr.IsUnspecified() && r.YourIPAddr != nil {
		t.Errorf("%s gives %s", r.MessageType(), r.YourIPAddr)
	}
}

func TestRemainingTimeOnlyWithoutQuorum(t *testing.T) {
	p, c := ask(t, request, has("192.168.42.17"))
	plan := Decide(day, p, c, View{Duty: RenewOnly, Unicast: true, Binding: bound("192.168.42.17", ClassOS, 90*time.Second)}, testConfig())
	if got := plan.Reply.IPAddressLeaseTime(0); got != 90*time.Second {
		t.Errorf("lease of %s, want the 90 s that are left", got)
	}
}

func TestLeaseTimesByClass(t *testing.T) {
	for name, c := range map[string]struct {
		mods  []mod
		class string
		want  time.Duration
	}{
		"firmware":      {[]mod{pxe("\x00\x07")}, ClassFirmware, 2 * time.Minute},
		"HTTP firmware": {[]mod{httpBoot("\x00\x10")}, ClassFirmware, 2 * time.Minute},
		"iPXE":          {[]mod{ipxe()}, ClassIPXE, 10 * time.Minute},
		"a system":      {nil, ClassOS, time.Hour},
	} {
		p, client := ask(t, request, append(c.mods, chose("192.168.42.1"), wants("192.168.42.17"))...)
		plan := Decide(day, p, client, View{Duty: Full, Candidate: addr17, NewNonce: nonce}, testConfig())
		if got := plan.Reply.IPAddressLeaseTime(0); got != c.want || plan.Bind.Expires != day.Add(c.want) || plan.Bind.Class != c.class {
			t.Errorf("%s: %s on the wire, %+v in the ledger, want %s", name, got, plan.Bind, c.want)
		}
	}
}

func TestAddressForEverStaysForEver(t *testing.T) {
	p, c := ask(t, request, pxe("\x00\x07"), chose("192.168.42.1"), wants("192.168.42.17"))
	plan := Decide(day, p, c, View{Duty: Full, Binding: bound("192.168.42.17", "node", 0), NewNonce: nonce}, testConfig())
	if plan.Bind == nil || !plan.Bind.Expires.IsZero() {
		t.Errorf("a booting node's address would expire: %+v", plan.Bind)
	}
	if got := plan.Reply.IPAddressLeaseTime(0); got != 2*time.Minute {
		t.Errorf("its firmware got it for %s", got)
	}
}

func TestNonceNamesOneBoot(t *testing.T) {
	const old = "BBBBBBBBBBBBBBBBBBBBBB"
	for name, c := range map[string]struct {
		client  mod
		binding *Binding
		want    string
	}{
		"firmware begins a boot":                       {pxe("\x00\x07"), bound("192.168.42.17", ClassFirmware, time.Minute), nonce},
		"HTTP firmware begins a boot":                  {httpBoot("\x00\x10"), bound("192.168.42.17", ClassFirmware, time.Minute), nonce},
		"iPXE carries on the firmware's":               {ipxe(), bound("192.168.42.17", ClassFirmware, time.Minute), old},
		"iPXE asks again within minutes":               {ipxe(), bound("192.168.42.17", ClassIPXE, time.Minute), old},
		"iPXE after its lease ended":                   {ipxe(), bound("192.168.42.17", ClassIPXE, -time.Minute), nonce},
		"iPXE after a system ran":                      {ipxe(), bound("192.168.42.17", ClassOS, time.Minute), nonce},
		"iPXE of an installed node":                    {ipxe(), bound("192.168.42.17", "node", 0), nonce},
		"the agent runs inside the boot":               {both(), bound("192.168.42.17", ClassIPXE, time.Minute), old},
		"the agent runs inside it, however long ago":   {both(), bound("192.168.42.17", ClassIPXE, -time.Hour), old},
		"a machine that we never saw boot has one too": {both(), nil, nonce},
	} {
		t.Run(name, func(t *testing.T) {
			v := View{Duty: Full, Binding: c.binding, Candidate: addr17, NewNonce: nonce}
			p, client := ask(t, discover, c.client)
			plan := Decide(day, p, client, v, testConfig())
			if plan.Offer.Nonce != c.want {
				t.Fatalf("offered %s, want %s", plan.Offer.Nonce, c.want)
			}
			// The REQUEST of the same exchange keeps it, whatever else was drawn meanwhile.
			v.Offer, v.NewNonce = plan.Offer, "CCCCCCCCCCCCCCCCCCCCCC"
			p, client = ask(t, request, c.client, chose("192.168.42.1"), wants("192.168.42.17"))
			if plan = Decide(day, p, client, v, testConfig()); plan.Bind.Nonce != c.want {
				t.Errorf("bound %s, offered %s", plan.Bind.Nonce, c.want)
			}
		})
	}
}

func TestDestinations(t *testing.T) {
	v := View{Duty: Full, Candidate: addr17, NewNonce: nonce, Binding: nil}
	for name, c := range map[string]struct {
		m    dhcpv4.MessageType
		mods []mod
		want Destination
	}{
		"no address, flag clear": {discover, nil, Destination{Addr: addr17, Frame: true}},
		"no address, flag set":   {discover, []mod{dhcpv4.WithBroadcast(true)}, Destination{}},
		"relayed":                {discover, []mod{dhcpv4.WithGatewayIP(ip("192.168.42.254"))}, Destination{Relay: netip.MustParseAddr("192.168.42.254")}},
		"has an address":         {dhcpv4.MessageTypeInform, []mod{has("192.168.42.5")}, Destination{Addr: netip.MustParseAddr("192.168.42.5")}},
		"refused":                {request, []mod{wants("10.0.0.1")}, Destination{}},
	} {
		p, client := ask(t, c.m, c.mods...)
		if got := Decide(day, p, client, v, testConfig()).To; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestAddressesThatCanBeNoMachinesAreLeftOut(t *testing.T) {
	cfg := testConfig()
	cfg.Router = netip.MustParseAddr("192.168.42.2")
	cfg.Pools = []Range{{netip.MustParseAddr("192.168.42.0"), netip.MustParseAddr("192.168.42.9")}, {addr17, netip.MustParseAddr("192.168.42.255")}}
	for addr, want := range map[string]bool{
		"192.168.42.0": false, "192.168.42.1": false, "192.168.42.2": false, "192.168.42.3": true, "192.168.42.9": true, "192.168.42.10": false,
		"192.168.42.17": true, "192.168.42.254": true, "192.168.42.255": false, "10.0.0.1": false,
	} {
		if got := cfg.inPool(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	last := cfg.nth(cfg.poolSize() - 1)
	if cfg.nth(9).String() != "192.168.42.9" || cfg.nth(10) != addr17 || last.String() != "192.168.42.255" || cfg.nth(cfg.poolSize()).IsValid() {
		t.Errorf("places 9, 10 and the last are %s, %s, %s", cfg.nth(9), cfg.nth(10), last)
	}
}

func TestFirmwareFamiliesAreAllDecided(t *testing.T) {
	cfg := testConfig()
	for fw := boot.Unknown; fw <= boot.UBootArm64; fw++ {
		name, served := boot.Program(fw)
		for class, want := range map[boot.Class]bool{boot.PXE: served, boot.HTTPBoot: served && boot.LoadedByHTTP(name)} {
			if why := servable(Client{Class: class, Firmware: fw, Message: discover}, &cfg); (why == "") != want {
				t.Errorf("%s %s: %q", class, fw, why)
			}
		}
	}
}

func TestProbesOfOurOwnSwarmGetNoAnswer(t *testing.T) {
	for mark, want := range map[string]bool{"offshoot a": false, "offshoot b": true} {
		p, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithHwAddr(mac), dhcpv4.WithUserClass(mark, true))
		if err != nil {
			t.Fatal(err)
		}
		c, err := Classify(p)
		if err != nil {
			t.Fatal(err)
		}
		own := testConfig()
		own.Mark = "offshoot a"
		plan := Decide(day, p, c, View{Duty: Full, Candidate: addr17}, own)
		if got := plan.Reply != nil; got != want {
			t.Errorf("probe marked %q: answered %v (%s)", mark, got, plan.Reason)
		}
	}
}
