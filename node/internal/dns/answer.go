package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ttl is how many seconds an answer of ours may be kept: addresses are leased, and machines come and go while they are installed.
const ttl = 30

// answer says what is known here; ours is false for a question that others must answer. What is ours never leaves this network.
func answer(q *dns.Msg, names Names) (r *dns.Msg, ours bool) {
	if len(q.Question) != 1 {
		return refusal(q, dns.RcodeFormatError), true
	}
	ask := q.Question[0]
	if ask.Qclass != dns.ClassINET {
		return refusal(q, dns.RcodeRefused), true
	}
	name := strings.ToLower(strings.TrimSuffix(ask.Name, "."))
	zone := names.Domain()
	if addr, ok := reversed(name); ok {
		host, ours := names.Host(addr)
		if !ours {
			return nil, false
		}
		return reverse(q, ask, zone, host), true
	}
	host, inside := strings.CutSuffix(name, "."+zone)
	switch {
	case name == zone:
		r := reply(q)
		if ask.Qtype == dns.TypeSOA || ask.Qtype == dns.TypeANY {
			r.Answer = append(r.Answer, authority(zone))
			return r, true
		}
		return nothing(r, zone), true
	case inside:
		addrs, known := names.Addresses(host)
		return hostReply(q, ask, zone, addrs, known), true
	case !strings.Contains(name, ".") && (ask.Qtype == dns.TypeA || ask.Qtype == dns.TypeAAAA):
		// A client that does not know the domain yet asks for the bare name.
		if addrs, known := names.Addresses(name); known {
			return hostReply(q, ask, zone, addrs, known), true
		}
	}
	return nil, false
}

// hostReply tells the addresses of a host.
func hostReply(q *dns.Msg, ask dns.Question, zone string, addrs []netip.Addr, known bool) *dns.Msg {
	r := reply(q)
	if !known {
		r.Rcode = dns.RcodeNameError
		return nothing(r, zone)
	}
	if ask.Qtype == dns.TypeA || ask.Qtype == dns.TypeANY {
		for _, a := range addrs {
			r.Answer = append(r.Answer, &dns.A{Hdr: head(ask.Name, dns.TypeA), A: a.AsSlice()})
		}
	}
	if len(r.Answer) == 0 {
		return nothing(r, zone)
	}
	return r
}

// reverse tells the name of an address of ours.
func reverse(q *dns.Msg, ask dns.Question, zone, host string) *dns.Msg {
	r := reply(q)
	if host == "" {
		r.Rcode = dns.RcodeNameError
		return nothing(r, zone)
	}
	if ask.Qtype != dns.TypePTR && ask.Qtype != dns.TypeANY {
		return nothing(r, zone)
	}
	r.Answer = append(r.Answer, &dns.PTR{Hdr: head(ask.Name, dns.TypePTR), Ptr: dns.Fqdn(host + "." + zone)})
	return r
}

// reversed is the IPv4 address that a name of in-addr.arpa stands for.
func reversed(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	labels := strings.Split(digits, ".")
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
	return addr, err == nil
}

func reply(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.Authoritative, r.RecursionAvailable, r.Compress = true, true, true
	if opt := q.IsEdns0(); opt != nil {
		r.SetEdns0(ourSize, false)
	}
	return r
}

// ourSize is what we take by UDP: no fragments on any link (DNS flag day 2020).
const ourSize = 1232

// nothing adds for how long there is no such thing (RFC 2308, 3).
func nothing(r *dns.Msg, zone string) *dns.Msg {
	r.Ns = append(r.Ns, authority(zone))
	return r
}

func authority(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: head(dns.Fqdn(zone), dns.TypeSOA), Ns: dns.Fqdn(zone), Mbox: dns.Fqdn("hostmaster." + zone),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

func head(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// refusal is an answer without one.
func refusal(q *dns.Msg, code int) *dns.Msg {
	r := new(dns.Msg).SetRcode(q, code)
	r.RecursionAvailable = true
	if q.IsEdns0() != nil {
		r.SetEdns0(ourSize, false)
	}
	return r
}
