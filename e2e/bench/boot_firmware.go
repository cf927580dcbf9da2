package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpRules are how a boot program asks for an address.
type dhcpRules struct {
	options  []dhcpv4.Modifier
	waits    []time.Duration // for an answer, one for each time that it asks
	collects bool            // it waits to the end for offers, and then chooses
}

var (
	// firmwareDHCP is EDK2: mPxeDhcpTimeout; it collects offers until the first wait is over.
	firmwareDHCP = dhcpRules{waits: []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}, collects: true, options: []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7})),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName, dhcpv4.OptionVendorSpecificInformation),
	}}
	// ipxeDHCP is iPXE: DHCP_DISC_START_TIMEOUT_SEC, DHCP_DISC_END_TIMEOUT_SEC. It waits for no proxy: both servers tell it not to.
	ipxeDHCP = dhcpRules{waits: []time.Duration{1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second}, options: []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003010")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{0xeb, 0x03, 0x01, 0x00, 0x00})),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionBootfileName, dhcpv4.GenericOptionCode(175)),
	}}
)

// boot is the machine from power-on until it has what it starts: as often as it takes. tries is how often that was.
func (m *rackMachine) boot(ctx context.Context) (tries int, err error) {
	for tries = 1; ; tries++ {
		if err = m.try(ctx); err == nil || ctx.Err() != nil {
			return tries, err
		}
	}
}

// kernelLine is where a boot script says what it loads.
var kernelLine = regexp.MustCompile(`(?m)^kernel .*?(http://\S+)`)

// try goes through firmware, its boot program, and what that loads, once.
func (m *rackMachine) try(ctx context.Context) error {
	ack, err := m.lease(ctx, firmwareDHCP)
	if err != nil {
		return fmt.Errorf("firmware's DHCP: %w", err)
	}
	server, ok := netip.AddrFromSlice(ack.ServerIPAddr.To4())
	if !ok || bootFile(ack) == "" {
		return fmt.Errorf("firmware is told to load %q from %s", bootFile(ack), ack.ServerIPAddr)
	}
	l := &loader{
		open: func() (c *net.UDPConn, err error) {
			err = m.rack.host.Do(func() error {
				c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: m.addr.AsSlice()})
				return err
			})
			return c, err
		},
		server: netip.AddrPortFrom(server, 69), window: edk2Window, timeout: edk2Timeout, tries: edk2Tries,
	}
	if _, err := l.load(bootFile(ack), nil); err != nil {
		return err
	}
	if ack, err = m.lease(ctx, ipxeDHCP); err != nil {
		return fmt.Errorf("iPXE's DHCP: %w", err)
	}
	script, err := m.get(ctx, bootFile(ack))
	if err != nil {
		return err
	}
	found := kernelLine.FindSubmatch(script)
	if found == nil {
		return fmt.Errorf("the script starts nothing: %.200s", script)
	}
	_, err = m.get(ctx, string(found[1]))
	return err
}

// bootFile is what a server says to load: dnsmasq says it as an option only.
func bootFile(d *dhcpv4.DHCPv4) string { return cmp.Or(d.BootFileNameOption(), d.BootFileName) }

// get fetches as iPXE does: a connection for each file. Lost segments are the kernel's business.
func (m *rackMachine) get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dial := func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = m.rack.host.Do(func() error {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: m.addr.AsSlice()}}
			c, err = d.DialContext(ctx, network, address)
			return err
		})
		return c, err
	}
	return read(ctx, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, url)
}

var errNoAnswer = errors.New("no answer")

// lease asks for an address and takes it.
func (m *rackMachine) lease(ctx context.Context, rules dhcpRules) (*dhcpv4.DHCPv4, error) {
	for len(m.dhcp) > 0 {
		<-m.dhcp // late ones
	}
	began := time.Now()
	ask, err := dhcpv4.NewDiscovery(m.mac, append([]dhcpv4.Modifier{dhcpv4.WithBroadcast(false)}, rules.options...)...)
	if err != nil {
		return nil, err
	}
	var offer, ack *dhcpv4.DHCPv4
	for _, wait := range rules.waits {
		ask.NumSeconds = uint16(time.Since(began) / time.Second)
		m.broadcast(ask)
		if offer = m.hear(ctx, ask.TransactionID, dhcpv4.MessageTypeOffer, wait, rules.collects); offer != nil {
			break
		}
	}
	if offer == nil {
		return nil, fmt.Errorf("DISCOVER: %w", errNoAnswer)
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, rules.options...)
	if err != nil {
		return nil, err
	}
	for _, wait := range rules.waits {
		m.broadcast(request)
		if ack = m.hear(ctx, request.TransactionID, dhcpv4.MessageTypeAck, wait, false); ack != nil {
			break
		}
	}
	if ack == nil {
		return nil, fmt.Errorf("REQUEST: %w", errNoAnswer)
	}
	addr, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	m.settle(addr)
	return ack, nil
}

// hear waits for an answer, and to the end if it collects. Nil: there was none.
func (m *rackMachine) hear(ctx context.Context, xid dhcpv4.TransactionID, kind dhcpv4.MessageType, wait time.Duration, collects bool) (heard *dhcpv4.DHCPv4) {
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		select {
		case d := <-m.dhcp:
			if d.TransactionID != xid || d.MessageType() != kind || heard != nil {
				continue
			}
			if heard = d; !collects {
				return heard
			}
		case <-end.C:
			return heard
		case <-ctx.Done():
			return heard
		}
	}
}

// powerOn spreads the machines of a rack over a moment, as one power strip after the other would.
func powerOn(ctx context.Context, over time.Duration) error {
	t := time.NewTimer(rand.N(over))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
