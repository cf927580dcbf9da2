package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Times of a question that is passed on. Resolvers of clients wait 5 s by default, and ask another server or again then.
const (
	askTime     = 2 * time.Second // of one server
	forwardTime = 4 * time.Second // of all
)

// forward asks the servers in their order, the way that the client came: by TCP it wants what did not fit into a packet. It
// answers at once if there is nobody to ask, so that nobody waits for a network without a way out.
func forward(ctx context.Context, network string, q *dns.Msg, servers []netip.AddrPort) *dns.Msg {
	if len(servers) == 0 || !q.RecursionDesired {
		return refusal(q, dns.RcodeRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	ask := q.Copy()
	client := dns.Client{Net: network, Timeout: askTime}
	for _, server := range servers {
		ask.Id = dns.Id() // the client's own could be guessed: it may count
		r, _, err := client.ExchangeContext(ctx, ask, server.String())
		if err == nil && sameQuestion(ask, r) {
			r.Id, r.Compress = q.Id, true
			return r
		}
		if ctx.Err() != nil {
			break
		}
	}
	return refusal(q, dns.RcodeServerFailure)
}

// sameQuestion tells an answer from one that somebody made up, or that came late.
func sameQuestion(q, r *dns.Msg) bool {
	if !r.Response || len(r.Question) != 1 {
		return false
	}
	a, b := q.Question[0], r.Question[0]
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// quota bounds what is under way. It is safe for concurrent use.
type quota struct {
	all, each int

	mu    sync.Mutex
	count int
	of    map[netip.Addr]int
}

func (q *quota) take(client netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.of == nil {
		q.of = map[netip.Addr]int{}
	}
	if q.count >= q.all || q.of[client] >= q.each {
		return false
	}
	q.count++
	q.of[client]++
	return true
}

func (q *quota) done(client netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count--
	if q.of[client]--; q.of[client] <= 0 {
		delete(q.of, client)
	}
}
