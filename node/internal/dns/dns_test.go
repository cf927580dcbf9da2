package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is a few hosts of 192.168.42.0/24.
type book map[string][]netip.Addr

var (
	m1    = netip.MustParseAddr("192.168.42.10")
	hosts = book{"m1": {m1, netip.MustParseAddr("10.42.0.1")}, "bare": nil}
)

func (book) Domain() string { return "lab.internal" }

func (b book) Addresses(host string) ([]netip.Addr, bool) {
	a, ok := b[host]
	return a, ok
}

func (b book) Host(a netip.Addr) (string, bool) {
	for host, addrs := range b {
		for _, own := range addrs {
			if own == a {
				return host, true
			}
		}
	}
	return "", netip.MustParsePrefix("192.168.42.0/24").Contains(a)
}

func question(name string, kind uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, kind) }

func TestNamesOfTheSwarmAreAnsweredHereAndNowhereElse(t *testing.T) {
	for _, c := range []struct {
		name string
		kind uint16
		want string // "elsewhere", or the code and what stands in the answer
	}{
		{"m1.lab.internal.", dns.TypeA, "NOERROR 192.168.42.10 10.42.0.1"},
		{"M1.Lab.INTERNAL.", dns.TypeA, "NOERROR 192.168.42.10 10.42.0.1"},
		{"m1.", dns.TypeA, "NOERROR 192.168.42.10 10.42.0.1"},
		{"m1.", dns.TypeAAAA, "NOERROR soa"},
		{"m1.lab.internal.", dns.TypeAAAA, "NOERROR soa"}, // there is such a host: NXDOMAIN would end the search
		{"m1.lab.internal.", dns.TypeTXT, "NOERROR soa"},
		{"bare.lab.internal.", dns.TypeA, "NOERROR soa"},
		{"m2.lab.internal.", dns.TypeA, "NXDOMAIN soa"},
		{"a.m1.lab.internal.", dns.TypeA, "NXDOMAIN soa"},
		{"lab.internal.", dns.TypeA, "NOERROR soa"},
		{"lab.internal.", dns.TypeSOA, "NOERROR lab.internal."},
		{"10.42.168.192.in-addr.arpa.", dns.TypePTR, "NOERROR m1.lab.internal."},
		{"10.42.168.192.in-addr.arpa.", dns.TypeA, "NOERROR soa"},
		{"11.42.168.192.in-addr.arpa.", dns.TypePTR, "NXDOMAIN soa"},
		{"1.2.0.192.in-addr.arpa.", dns.TypePTR, "elsewhere"},
		{"168.192.in-addr.arpa.", dns.TypePTR, "elsewhere"},
		{"m2.", dns.TypeA, "elsewhere"},
		{"m1.", dns.TypeDS, "elsewhere"}, // of a top level domain
		{"xlab.internal.", dns.TypeA, "elsewhere"},
		{"deb.example.", dns.TypeA, "elsewhere"},
		{".", dns.TypeNS, "elsewhere"},
	} {
		r, ours := answer(question(c.name, c.kind), hosts)
		if got := brief(r, ours); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, dns.TypeToString[c.kind], got, c.want)
		}
	}
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if r, ours := answer(chaos, hosts); brief(r, ours) != "REFUSED" {
		t.Errorf("another class: %s", brief(r, ours))
	}
}

func brief(r *dns.Msg, ours bool) string {
	if !ours {
		return "elsewhere"
	}
	out := dns.RcodeToString[r.Rcode]
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out += " " + rr.A.String()
		case *dns.PTR:
			out += " " + rr.Ptr
		case *dns.SOA:
			out += " " + rr.Hdr.Name
		}
	}
	for _, rr := range r.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			out += " soa"
		}
	}
	return out
}

// serve runs a server on the loopback that passes questions on to upstreams.
func serve(t *testing.T, serves func(netip.Addr) bool, upstreams ...netip.AddrPort) *Server {
	t.Helper()
	s, err := New(Options{
		Addr: netip.MustParseAddrPort("127.0.0.1:0"), Serves: serves, Names: hosts, Upstreams: func() []netip.AddrPort { return upstreams },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func everybody(netip.Addr) bool { return true }

// upstream is a name server that answers as told.
func upstream(t *testing.T, handler dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := &Server{o: Options{Addr: netip.MustParseAddrPort("127.0.0.1:0")}}
	packets, conns, err := s.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: conns, Handler: handler}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		server.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return netip.MustParseAddrPort(packets.LocalAddr().String())
}

func ask(t *testing.T, network string, at netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.ExchangeContext(t.Context(), q, at.String())
	return r, err
}

func TestWhatIsNotOursIsAskedElsewhereAndTooLongForAPacketByTCP(t *testing.T) {
	many := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		for i := range 60 {
			r.Answer = append(r.Answer, &dns.A{Hdr: head(q.Question[0].Name, dns.TypeA), A: []byte{192, 0, 2, byte(i)}})
		}
		if w.RemoteAddr().Network() == "udp" {
			r.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(r)
	})
	dead := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetReply(question("other.example.", dns.TypeA)))
	})
	s := serve(t, everybody, dead, many)
	q := question("deb.example.", dns.TypeA)
	q.Id = 4711
	r, err := ask(t, "udp", s.LocalAddr(), q)
	if err != nil || !r.Truncated || r.Id != 4711 { // a longer packet would be an error here
		t.Errorf("by UDP: %v, %v", r, err)
	}
	if r, err = ask(t, "tcp", s.LocalAddr(), q); err != nil || r.Truncated || len(r.Answer) != 60 {
		t.Errorf("by TCP: %v, %v", r, err)
	}
}

func TestWithoutServersOthersNamesAreRefusedAtOnce(t *testing.T) {
	s := serve(t, everybody)
	began := time.Now()
	for _, network := range []string{"udp", "tcp"} {
		if r, err := ask(t, network, s.LocalAddr(), question("deb.example.", dns.TypeA)); err != nil || r.Rcode != dns.RcodeRefused {
			t.Errorf("%s: %v, %v", network, r, err)
		}
		if r, err := ask(t, network, s.LocalAddr(), question("m1.lab.internal.", dns.TypeA)); err != nil || len(r.Answer) != 2 {
			t.Errorf("%s: %v, %v", network, r, err)
		}
	}
	if took := time.Since(began); took > askTime {
		t.Errorf("that took %v", took)
	}
}

func TestStrangersGetNothing(t *testing.T) {
	asked := make(chan struct{}, 9)
	up := upstream(t, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
	s := serve(t, func(netip.Addr) bool { return false }, up)
	for _, name := range []string{"m1.lab.internal.", "deb.example."} {
		c := dns.Client{Net: "udp", Timeout: 300 * time.Millisecond}
		if r, _, err := c.ExchangeContext(t.Context(), question(name, dns.TypeA), s.LocalAddr().String()); err == nil {
			t.Errorf("answered: %v", r)
		}
		if r, err := ask(t, "tcp", s.LocalAddr(), question(name, dns.TypeA)); err == nil {
			t.Errorf("answered: %v", r)
		}
	}
	if len(asked) != 0 {
		t.Error("a question of a stranger was passed on")
	}
}

func TestOneClientCannotUseUpTheRoomOfOthers(t *testing.T) {
	q := quota{all: 5, each: 3}
	one, two := netip.MustParseAddr("192.168.42.10"), netip.MustParseAddr("192.168.42.11")
	took := func(a netip.Addr) (n int) {
		for q.take(a) {
			n++
		}
		return n
	}
	if n := took(one); n != 3 {
		t.Errorf("one client has %d under way", n)
	}
	if n := took(two); n != 2 {
		t.Errorf("the other has %d", n)
	}
	q.done(one)
	if !q.take(two) || q.take(one) {
		t.Error("what is free is not the next one's")
	}
	for range 2 {
		q.done(one)
	}
	for range 3 {
		q.done(two)
	}
	if len(q.of) != 0 || q.count != 0 {
		t.Errorf("left over: %+v", &q)
	}
}

func TestServersOfResolvConf(t *testing.T) {
	got, err := Servers(strings.NewReader("# x\nsearch a b\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"))
	if want := "[192.0.2.1:53 127.0.0.53:53 [2001:db8::1]:53]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, q := range []*dns.Msg{question("m1.lab.internal.", dns.TypeA), question("10.42.168.192.in-addr.arpa.", dns.TypePTR), question(".", dns.TypeNS)} {
		raw, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		q := new(dns.Msg)
		if q.Unpack(raw) != nil || q.Response {
			return
		}
		if r, ours := answer(q, hosts); ours {
			if _, err := r.Pack(); err != nil {
				t.Fatalf("an answer that cannot be sent: %v", err)
			}
		}
	})
}
