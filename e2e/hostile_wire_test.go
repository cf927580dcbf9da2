//go:build wire

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// TestStrangersAtEveryDoor: who has no right to it gets nothing, and whoever has is served meanwhile.
func TestStrangersAtEveryDoor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	k := besiege(ctx, t)
	for _, c := range []struct {
		name string
		try  func(context.Context, *siege)
	}{
		{"NobodyJoinsWithoutATicket", hostileNoTicket},
		{"TicketThatWasReplacedIsWorthNothing", hostileReplacedTicket},
		{"RevokedTicketIsWorthNothing", hostileRevokedTicket},
		{"OrdersAreForTheMachineThatBooted", hostileOrders},
		{"StolenTicketIsRefusedAndItsNodeIsQuarantined", hostileStolenTicket},
		{"NoPortBetweenNodesSpeaksToStrangers", hostilePorts},
		{"SpoofedMACsMoveNoNodesAddress", hostileSpoof},
		{"FloodsOnEveryPortStarveNobody", hostileFlood},
		{"OffersThatNobodyWantsStarveNobody", hostileStarvation},
		{"EvictedNodeIsOutOfEverything", hostileEvicted}, // last: what it evicts does not come back
	} {
		t.Run(c.name, func(t *testing.T) {
			outer := k.t
			k.t = t
			defer func() { k.t = outer }()
			before := k.status(ctx)
			c.try(ctx, k)
			after := k.status(ctx)
			if !after.Quorum || m1Node(after).State != status.NodeAlive || m1Node(after).Quarantine != "" {
				t.Errorf("m1 is %+v, quorum %v", m1Node(after), after.Quorum)
			}
			if after.Segments[0].Term != before.Segments[0].Term {
				t.Errorf("the duty has moved from term %d to %d", before.Segments[0].Term, after.Segments[0].Term)
			}
		})
	}
}

// nodes are the names of all that ever joined.
func nodes(s status.Status) string {
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}

func hostileNoTicket(ctx context.Context, k *siege) {
	before := nodes(k.status(ctx))
	for _, ticket := range []string{"", "os1", "os1.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAA", "os2.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAA", strings.Repeat("A", 5000)} {
		if code, answer := k.redeem(ctx, k.stranger, ticket, "52:54:00:00:00:99"); code < 400 || code >= 500 {
			k.t.Errorf("ticket %.40q: %d %s", ticket, code, answer)
		}
	}
	for _, body := range []string{"", "{", "null", "[]", `{"ticket":1}`, strings.Repeat("x", 1<<20), `{"ticket":"os1.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAA","csr":"","macs":[]} {}`} {
		if code, answer := k.knock(ctx, k.stranger, []byte(body)); code/100 == 2 {
			k.t.Errorf("body %.40q: %d %s", body, code, answer)
		}
	}
	if after := nodes(k.status(ctx)); after != before {
		k.t.Errorf("nodes were %s and are %s", before, after)
	}
}

// hostileReplacedTicket: each fetch of the orders mints a new ticket, and revokes the one before.
func hostileReplacedTicket(ctx context.Context, k *siege) {
	b, orders := k.puppet(ctx, "p1")
	old := k.ticket(ctx, b, orders)
	if k.ticket(ctx, b, orders) == old {
		k.t.Fatal("both fetches have the same ticket")
	}
	before := nodes(k.status(ctx))
	if code, answer := k.redeem(ctx, b.Host, old, b.MAC.String()); code != http.StatusForbidden {
		k.t.Errorf("a revoked ticket: %d %s", code, answer)
	}
	if after := nodes(k.status(ctx)); after != before {
		k.t.Errorf("nodes were %s and are %s", before, after)
	}
}

func hostileOrders(ctx context.Context, k *siege) {
	b, orders := k.puppet(ctx, "p2")
	for _, path := range []string{"/install", "/boot.ipxe"} {
		code, body, err := get(ctx, k.stranger, orders+path)
		if err != nil || code != http.StatusConflict || strings.Contains(body, "os1.") {
			k.t.Errorf("a stranger asks for %s of %s: %d %s %v", path, b.Host, code, body, err)
		}
	}
	// With the machine's own address, but not its MAC.
	address, err := b.Host.Run(ctx, "sh", "-c", "ip -4 -o addr show dev lan0 | awk '{print $4}'")
	if err != nil {
		k.t.Fatal(err)
	}
	liar, err := k.Lab.Host("liar", k.Lan0)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := b.Host.SetLink(k.Lan0, false); err != nil { // it is off, so that there is no quarrel about the address
		k.t.Fatal(err)
	}
	if _, err := liar.Run(ctx, "ip", "addr", "add", strings.TrimSpace(address), "dev", "lan0"); err != nil {
		k.t.Fatal(err)
	}
	if _, err := liar.Run(ctx, "ping", "-q", "-c", "1", "-W", "2", k.home); err != nil {
		k.t.Logf("ping: %v", err)
	}
	code, body, err := get(ctx, liar, orders+"/install")
	if err == nil && code == http.StatusOK {
		k.t.Errorf("orders were given to another MAC at the same address: %.200s", body)
	}
	k.t.Logf("the liar was told: %d %s %v", code, strings.TrimSpace(body), err)
}

func hostileStolenTicket(ctx context.Context, k *siege) {
	b, orders := k.puppet(ctx, "p3")
	ticket := k.ticket(ctx, b, orders)
	if code, answer := k.redeem(ctx, b.Host, ticket, b.MAC.String()); code != http.StatusOK {
		k.t.Fatalf("the rightful owner: %d %s", code, answer)
	}
	if code, answer := k.redeem(ctx, k.stranger, ticket, "52:54:00:00:00:99"); code != http.StatusForbidden {
		k.t.Errorf("the thief: %d %s", code, answer)
	}
	s := k.status(ctx)
	found := 0
	for _, n := range s.Nodes {
		if n.Name == "p3" {
			found++
			if n.Quarantine == "" {
				k.t.Errorf("its ticket was redeemed twice, and %+v is not in quarantine", n)
			}
		}
	}
	if found != 1 {
		k.t.Errorf("%d nodes came from one ticket: %s", found, nodes(s))
	}
}

func hostilePorts(ctx context.Context, k *siege) {
	k.move(ctx)
	for _, path := range []string{"/v1/pulse", "/v1/propose", "/v1/authority", "/v1/artifact/x", "/"} {
		c := k.joinDoor(ctx, k.stranger)
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://x"+path, strings.NewReader("{}"))
		req.Close = true
		if code, answer, err := speak(c, req); err != nil || code != http.StatusNotFound {
			k.t.Errorf("the join door, %s: %d %s %v", path, code, answer, err)
		}
		_ = c.Close()
	}
	k.move(ctx)
	certs := map[string][]tls.Certificate{"no certificate": nil, "a forged certificate": {k.forgedID(m1Node(k.status(ctx)).ID)}}
	for _, protocol := range []string{"offshoot-raft", "offshoot-peer", "offshoot-share", "offshoot-operate", "h2", "http/1.1", ""} {
		for with, cert := range certs {
			c, err := shake(ctx, k.stranger, k.home+":7400", protocol, cert...)
			if err == nil { // in TLS 1.3 the server's refusal comes after the client's end of the handshake
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://x/v1/pulse", nil)
				req.Close = true
				if code, answer, err := speak(c, req); err == nil || answer != "" {
					k.t.Errorf("%q with %s: %d %s %v", protocol, with, code, answer, err)
				}
			}
			if c != nil {
				_ = c.Close()
			}
		}
	}
	// Gossip: what is not encrypted with the swarm's key does not exist.
	for _, network := range []string{"udp", "tcp"} {
		k.move(ctx)
		c, err := k.stranger.Dial(ctx, network, k.home+":7401")
		if err != nil {
			k.t.Fatal(err)
		}
		for kind := range 32 {
			noise := make([]byte, 200)
			_, _ = rand.Read(noise)
			noise[0] = byte(kind) // memberlist's message types are the first byte
			_, _ = c.Write(noise)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(make([]byte, 1500)); err == nil && network == "udp" {
			k.t.Errorf("gossip answered a stranger with %d bytes", n)
		}
		_ = c.Close()
	}
}

// dhcp sends one message of a client from inside a host, as if it were another's.
func (k *siege) dhcp(from *lab.Host, chaddr net.HardwareAddr, to string, mods ...dhcpv4.Modifier) {
	k.t.Helper()
	d, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(chaddr)}, mods...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	c, err := from.Dial(k.t.Context(), "udp", to+":67")
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(d.ToBytes()); err != nil {
		k.t.Fatal(err)
	}
}

// hostileSpoof: in m1's name, its address is given back, declined, and asked for anew.
func hostileSpoof(ctx context.Context, k *siege) {
	home, server := net.ParseIP(k.home), dhcpv4.OptServerIdentifier(net.ParseIP(k.home))
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline} {
		k.dhcp(k.stranger, k.m1.MAC, k.home, dhcpv4.WithMessageType(kind), dhcpv4.WithClientIP(home), dhcpv4.WithOption(server), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(home)))
	}
	for range 3 {
		k.dhcp(k.stranger, k.m1.MAC, "192.168.42.255", dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	}
	// Somebody wants that very address.
	for n := range byte(5) {
		mac := net.HardwareAddr{2, 0, 0, 0, 1, n}
		k.dhcp(k.stranger, mac, k.home, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(home)))
		k.dhcp(k.stranger, mac, k.home, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(server), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(home)))
	}
	_ = lapse(ctx, 2*time.Second)
	messages, err := lab.ReadDHCP(k.Captures["lan0"].Path())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, m := range messages {
		if m.Reply && (m.Type == dhcpv4.MessageTypeOffer || m.Type == dhcpv4.MessageTypeAck) && m.Your.String() == k.home && m.MAC.String() != k.m1.MAC.String() {
			k.t.Errorf("the address of a node was given away: %s", m)
		}
	}
	for _, m := range k.status(ctx).Machines {
		if m.Name == "m1" && m.Address != k.home {
			k.t.Errorf("m1 has %q in the ledger, want %s", m.Address, k.home)
		}
	}
}

// hostileFlood: garbage comes in at every port as fast as the lab can write it down, and connections that say nothing; meanwhile a
// machine boots and foreign clients get leases.
func hostileFlood(ctx context.Context, k *siege) {
	lab.Need(k.t, "perfdhcp", "dhclient")
	crowd, err := k.NewCrowd(ctx, 10, 40)
	if err != nil {
		k.t.Fatal(err)
	}
	began := time.Now()
	flooding, stop := context.WithTimeout(ctx, 8*time.Second)
	defer stop()
	var all sync.WaitGroup
	sent := make([]int, 3)
	for i, port := range []int{67, 69, 7401} {
		all.Go(func() { sent[i] = k.pour(flooding, port, uint64(i)) })
	}
	for _, port := range []int{7400, 7401, 7480} {
		all.Go(func() { k.hang(flooding, port) })
	}
	victim, err := k.NewBare("p4", k.small)
	if err != nil {
		k.t.Fatal(err)
	}
	for flooding.Err() == nil {
		if _, err = victim.Script(flooding); err == nil {
			k.Say("during the floods a machine had its boot script after %.1f s", time.Since(began).Seconds())
			break
		}
	}
	if err != nil {
		k.t.Errorf("no boot script during the floods: %v", err)
	}
	all.Wait()
	if err := crowd.Stop(); err != nil {
		k.t.Error(err)
	}
	messages, err := lab.ReadDHCP(k.Captures["lan0"].Path())
	if err != nil {
		k.t.Fatal(err)
	}
	clients := map[string]bool{}
	begun, done := 0, 0
	for _, m := range messages {
		switch {
		case m.Time.Before(began):
		case m.Reply && m.Type == dhcpv4.MessageTypeAck:
			clients[m.MAC.String()] = true
			done++
		case !m.Reply && m.Type == dhcpv4.MessageTypeDiscover && m.SrcMAC.String() != k.stranger.MAC(k.Lan0).String():
			begun++
		}
	}
	k.Say("%v datagrams of garbage; %d exchanges of %d that were begun ended with an ACK, of %d clients", sent, done, begun, len(clients))
	if len(clients) < 10 {
		k.t.Errorf("only %d clients were served during the floods", len(clients))
	}
	for i, n := range sent {
		if n < 1000 {
			k.t.Errorf("flood %d is none: %d datagrams", i, n)
		}
	}
}

// A flood is 4,000 datagrams a second on each port: more, and the capture of the lab misses some, so that nothing is proved.
const (
	floodPause = 10 * time.Millisecond
	floodBurst = 40
)

// pour sends garbage to a UDP port: noise, and for DHCP every other time a message that is cut off or lies about its lengths.
func (k *siege) pour(ctx context.Context, port int, seed uint64) (sent int) {
	c, err := k.stranger.Dial(ctx, "udp", fmt.Sprintf("%s:%d", k.home, port))
	if err != nil {
		k.t.Errorf("flood: %v", err)
		return 0
	}
	defer func() { _ = c.Close() }()
	chance := mathrand.New(mathrand.NewPCG(seed, 0))
	noise := make([]byte, 1400)
	pace := time.NewTicker(floodPause)
	defer pace.Stop()
	for ctx.Err() == nil {
		if sent%floodBurst == 0 {
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
		for i := range noise {
			noise[i] = byte(chance.Uint32())
		}
		n := 1 + chance.IntN(len(noise))
		if port == 67 && chance.IntN(2) == 0 {
			d, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 1, 1, 1, noise[0], noise[1]})
			if err != nil {
				k.t.Errorf("flood: %v", err)
				return sent
			}
			n = copy(noise, d.ToBytes())
			noise[240+chance.IntN(n-240)] ^= byte(1 + chance.IntN(255)) // within the options
			noise[chance.IntN(3)] ^= 0x80                               // neither a request nor from Ethernet
			n = 200 + chance.IntN(n-200)
		}
		_, _ = c.Write(noise[:n]) // "connection refused" comes back now and then
		sent++
	}
	return sent
}

// hostileStarvation: one stranger asks for addresses in the name of more machines than there are addresses, and takes none of
// them. A machine that means it must get one within the time for which firmware asks.
func hostileStarvation(ctx context.Context, k *siege) {
	c, err := k.stranger.Dial(ctx, "udp", k.home+":67")
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for n := range 600 {
		d, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 2, 2, 2, byte(n >> 8), byte(n)})
		if err != nil {
			k.t.Fatal(err)
		}
		if _, err := c.Write(d.ToBytes()); err != nil {
			k.t.Logf("DISCOVER %d: %v", n, err)
		}
		if err := lapse(ctx, 5*time.Millisecond); err != nil {
			k.t.Fatal(err)
		}
	}
	victim, err := k.NewBare("p5", k.small)
	if err != nil {
		k.t.Fatal(err)
	}
	patience, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	began := time.Now()
	if _, err := victim.Script(patience); err != nil {
		k.t.Errorf("after 600 DISCOVERs of nobody a machine had no boot script within %.0f s: %v", time.Since(began).Seconds(), err)
	}
}

// hang opens connections to a TCP port and says nothing, or noise.
func (k *siege) hang(ctx context.Context, port int) {
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	noise := make([]byte, 512)
	for ctx.Err() == nil && len(held) < 600 {
		c, err := k.stranger.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", k.home, port))
		if err != nil {
			_ = lapse(ctx, 50*time.Millisecond)
			continue
		}
		held = append(held, c)
		if len(held)%2 == 0 {
			_, _ = rand.Read(noise)
			_, _ = c.Write(noise)
		}
	}
	<-ctx.Done()
}
