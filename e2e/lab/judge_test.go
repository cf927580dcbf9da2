package lab

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// forged is a capture written by hand, frame by frame, a tenth of a second apart.
type forged struct {
	t     *testing.T
	at    time.Time
	file  *os.File
	out   *pcapgo.Writer
	start time.Time
}

func forge(t *testing.T) *forged {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "forged.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1_800_000_000, 0)
	f := &forged{t: t, at: start, file: file, out: pcapgo.NewWriterNanos(file), start: start}
	if err := f.out.WriteFileHeader(captureSnap, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	return f
}

// say writes a message of a client (server 0) or of a server, by their last bytes.
func (f *forged) say(kind dhcpv4.MessageType, client, server, xid, your byte, lease time.Duration) {
	f.t.Helper()
	d, err := dhcpv4.New(dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(machineMAC(client)), dhcpv4.WithTransactionID(dhcpv4.TransactionID{0, 0, 0, xid}))
	if err != nil {
		f.t.Fatal(err)
	}
	from, src, dst := machineMAC(client), net.IPv4zero, layers.UDPPort(serverPort)
	if server != 0 {
		id := net.IPv4(192, 0, 2, server)
		d.OpCode, d.YourIPAddr = dhcpv4.OpcodeBootReply, net.IPv4(192, 0, 2, your)
		d.UpdateOption(dhcpv4.OptServerIdentifier(id))
		d.UpdateOption(dhcpv4.OptIPAddressLeaseTime(lease))
		from, src, dst = machineMAC(200+server), id, clientPort
	}
	f.send(d, from, src, net.IPv4bcast, dst)
}

// renew writes a REQUEST by which a client asks one server to renew.
func (f *forged) renew(client, server, xid, has byte) {
	f.t.Helper()
	own := net.IPv4(192, 0, 2, has)
	d, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(machineMAC(client)), dhcpv4.WithClientIP(own),
		dhcpv4.WithTransactionID(dhcpv4.TransactionID{0, 0, 0, xid}))
	if err != nil {
		f.t.Fatal(err)
	}
	f.send(d, machineMAC(client), own, net.IPv4(192, 0, 2, server), serverPort)
}

func (f *forged) send(d *dhcpv4.DHCPv4, from net.HardwareAddr, src, to net.IP, dst layers.UDPPort) {
	f.t.Helper()
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src, DstIP: to}
	udp := &layers.UDP{SrcPort: clientPort + serverPort - dst, DstPort: dst}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		f.t.Fatal(err)
	}
	buffer := gopacket.NewSerializeBuffer()
	eth := &layers.Ethernet{SrcMAC: from, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(d.ToBytes())); err != nil {
		f.t.Fatal(err)
	}
	frame := buffer.Bytes()
	f.at = f.at.Add(100 * time.Millisecond)
	if err := f.out.WritePacket(gopacket.CaptureInfo{Timestamp: f.at, CaptureLength: len(frame), Length: len(frame)}, frame); err != nil {
		f.t.Fatal(err)
	}
}

func machineMAC(n byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, n} }

// exchange is DISCOVER, OFFER, REQUEST, ACK.
func (f *forged) exchange(client, server, xid, your byte, lease time.Duration) {
	f.t.Helper()
	f.say(dhcpv4.MessageTypeDiscover, client, 0, xid, 0, 0)
	f.say(dhcpv4.MessageTypeOffer, client, server, xid, your, lease)
	f.say(dhcpv4.MessageTypeRequest, client, 0, xid, 0, 0)
	f.say(dhcpv4.MessageTypeAck, client, server, xid, your, lease)
}

// grant is a term of a server since so many frames.
func (f *forged) grant(term uint64, server byte, frames int) Grant {
	return Grant{Term: term, Server: netip.AddrFrom4([4]byte{192, 0, 2, server}), Since: f.start.Add(time.Duration(frames)*100*time.Millisecond - time.Millisecond)}
}

func (f *forged) judged(grants ...Grant) []string {
	f.t.Helper()
	messages, err := ReadDHCP(f.file.Name())
	if err != nil {
		f.t.Fatal(err)
	}
	if len(messages) == 0 {
		f.t.Fatal("the forged capture holds nothing")
	}
	var rules []string
	for _, v := range Judge(messages, grants, 0) {
		f.t.Log(v)
		rules = append(rules, v.Rule)
	}
	return rules
}

// TestForgedCapturesAreFound proves that the judge of fault tests can fail.
func TestForgedCapturesAreFound(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		name string
		play func(f *forged) []Grant
		want []string
	}{
		{"ServersThatFollowEachOtherAreFine", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			f.exchange(1, 1, 3, 10, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 5), f.grant(3, 1, 9)}
		}, nil},
		{"TwoOffersToOneDiscover", func(f *forged) []Grant {
			f.say(dhcpv4.MessageTypeDiscover, 1, 0, 1, 0, 0)
			f.say(dhcpv4.MessageTypeOffer, 1, 1, 1, 10, hour)
			f.say(dhcpv4.MessageTypeOffer, 1, 2, 1, 11, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 3)}
		}, []string{RuleOneServer}},
		{"AnOfferToEachOfTwoDiscoversIsATakeover", func(f *forged) []Grant {
			f.say(dhcpv4.MessageTypeDiscover, 1, 0, 1, 0, 0)
			f.say(dhcpv4.MessageTypeOffer, 1, 1, 1, 10, hour)
			f.say(dhcpv4.MessageTypeDiscover, 1, 0, 1, 0, 0)
			f.say(dhcpv4.MessageTypeOffer, 1, 2, 1, 11, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 3)}
		}, nil},
		{"RefusedByOneAndGrantedByAnother", func(f *forged) []Grant {
			f.say(dhcpv4.MessageTypeRequest, 1, 0, 1, 0, 0)
			f.say(dhcpv4.MessageTypeNak, 1, 1, 1, 0, 0)
			f.say(dhcpv4.MessageTypeAck, 1, 2, 1, 11, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 3)}
		}, []string{RuleOneServer}},
		{"FormerHolderWakesUp", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			f.say(dhcpv4.MessageTypeOffer, 3, 1, 3, 12, hour)
			f.exchange(4, 2, 4, 13, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 5)}
		}, []string{RuleOneTerm}},
		{"FormerHolderAnswersBeforeTheNextDoes", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 4)}
		}, []string{RuleOneTerm}},
		{"FormerHolderProlongsAtOnceForWhoAsksIt", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			f.renew(1, 1, 3, 10)
			f.say(dhcpv4.MessageTypeAck, 1, 1, 3, 10, hour-time.Minute)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 5)}
		}, nil},
		{"FormerHolderProlongsForEachQuestionOnce", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			f.renew(1, 1, 3, 10)
			f.renew(1, 1, 3, 10)
			for range 3 {
				f.say(dhcpv4.MessageTypeAck, 1, 1, 3, 10, hour-time.Minute)
			}
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 5)}
		}, []string{RuleOneTerm}},
		{"FormerHolderPromisesMoreThanWasPromised", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			f.renew(1, 1, 3, 10)
			f.say(dhcpv4.MessageTypeAck, 1, 1, 3, 10, 2*hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 5)}
		}, []string{RuleOneTerm}},
		{"FormerHolderProlongsLate", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.renew(1, 1, 3, 10)
			f.exchange(2, 2, 2, 11, hour)
			f.exchange(3, 2, 3, 12, hour)
			f.exchange(4, 2, 4, 13, hour)
			f.say(dhcpv4.MessageTypeAck, 1, 1, 3, 10, hour-time.Minute)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 6)}
		}, []string{RuleOneTerm}},
		{"AnswerBeforeItsTermBegan", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 2, 2, 11, hour)
			return []Grant{f.grant(1, 1, 0), f.grant(2, 2, 7)}
		}, []string{RuleOneTerm}},
		{"ServerThatNeverHadDuty", func(f *forged) []Grant {
			f.say(dhcpv4.MessageTypeOffer, 1, 9, 1, 10, hour)
			return []Grant{f.grant(1, 1, 0)}
		}, []string{RuleOneTerm}},
		{"AddressOfTwoMachines", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.exchange(2, 1, 2, 10, hour)
			return []Grant{f.grant(1, 1, 0)}
		}, []string{RuleOneOwner}},
		{"AddressGivenBackOrExpiredIsFree", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.say(dhcpv4.MessageTypeRelease, 1, 0, 2, 0, 0)
			f.exchange(2, 1, 3, 10, time.Second)
			for range 10 {
				f.say(dhcpv4.MessageTypeDiscover, 9, 0, 9, 0, 0)
			}
			f.exchange(3, 1, 4, 10, hour)
			return []Grant{f.grant(1, 1, 0)}
		}, nil},
		{"ShorterRenewalDoesNotFreeTheAddress", func(f *forged) []Grant {
			f.exchange(1, 1, 1, 10, hour)
			f.say(dhcpv4.MessageTypeAck, 1, 1, 1, 10, time.Second)
			for range 10 {
				f.say(dhcpv4.MessageTypeDiscover, 9, 0, 9, 0, 0)
			}
			f.exchange(2, 1, 4, 10, hour)
			return []Grant{f.grant(1, 1, 0)}
		}, []string{RuleOneOwner}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := forge(t)
			grants := c.play(f)
			got := f.judged(grants...)
			if err := f.file.Close(); err != nil {
				t.Error(err)
			}
			if len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0] {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
