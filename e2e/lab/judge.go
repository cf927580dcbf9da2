package lab

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Grant is a term of duty on the judged segment, as it was written down: from Since on the server with this address might
// answer, until the next grant at the latest.
type Grant struct {
	Term   uint64
	Server netip.Addr
	Since  time.Time
}

// Violation is a packet that must not have been sent.
type Violation struct {
	Rule string
	Why  string
	Was  DHCPMessage
}

// String is a line for failed tests.
func (v Violation) String() string { return v.Rule + ": " + v.Why + ": " + v.Was.String() }

// The rules that Judge holds a capture to.
const (
	// RuleOneServer: one message of a client has answers of the same kind from one server only. ACK and NAK are of one kind.
	RuleOneServer = "one server"
	// RuleOneTerm: every answer comes from the server of the term that was under way, and terms follow each other: never is there
	// an answer from a former holder that did not get the duty again.
	RuleOneTerm = "one term"
	// A prolongation is no breach of it: see prolongs.
	// RuleOneOwner: no address is acknowledged to two machines within its lease time.
	RuleOneOwner = "one owner"
)

// Judge holds the DHCP messages of one segment, in the order in which they were seen, to the rules. Grants are all terms that
// there were, in order. Clocks of capture and grants must be one; slack is how long the network may have held an answer back
// before the capture saw it.
func Judge(messages []DHCPMessage, grants []Grant, slack time.Duration) []Violation {
	j := judge{grants: grants, slack: slack, at: -1, answered: map[question]DHCPMessage{}, owners: map[netip.Addr]owner{}, renewals: map[string]renewal{}}
	for _, m := range messages {
		if m.Reply {
			j.server(m)
			j.term(m)
			j.owner(m)
			if r, ok := j.renewals[m.MAC.String()]; ok {
				r.pending--
				j.renewals[m.MAC.String()] = r
			}
		} else {
			j.client(m)
		}
	}
	return j.found
}

// question is what one message of a client asks for: the same message again is the same question, asked anew.
type question struct {
	mac, kind string
	xid       dhcpv4.TransactionID
}

type owner struct {
	mac   string
	until time.Time
}

type judge struct {
	grants   []Grant
	slack    time.Duration
	at       int                // the term that the last answer belongs to
	renewals map[string]renewal // by client
	answered map[question]DHCPMessage
	owners   map[netip.Addr]owner
	found    []Violation
}

func (j *judge) add(rule string, m DHCPMessage, format string, args ...any) {
	j.found = append(j.found, Violation{Rule: rule, Why: fmt.Sprintf(format, args...), Was: m})
}

func (j *judge) client(m DHCPMessage) {
	mac := m.MAC.String()
	pending := 1
	if before := j.renewals[mac]; before.asked.XID == m.XID && before.asked.Type == m.Type {
		pending += before.pending
	}
	j.renewals[mac] = renewal{asked: m, pending: pending}
	switch m.Type {
	case dhcpv4.MessageTypeDiscover:
		delete(j.answered, question{mac, "offer", m.XID})
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform:
		delete(j.answered, question{mac, "verdict", m.XID})
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		for addr, o := range j.owners {
			if o.mac == mac {
				delete(j.owners, addr)
			}
		}
	}
}

func (j *judge) server(m DHCPMessage) {
	q := question{m.MAC.String(), "verdict", m.XID}
	if m.Type == dhcpv4.MessageTypeOffer {
		q.kind = "offer"
	}
	first, again := j.answered[q]
	if !again {
		j.answered[q] = m
		return
	}
	if first.SrcIP != m.SrcIP || first.SrcMAC.String() != m.SrcMAC.String() {
		j.add(RuleOneServer, m, "%s by %s answered it %s before", first.Type, show(first.SrcIP), m.Time.Sub(first.Time).Round(time.Microsecond))
	}
}

// term finds the earliest term to which an answer can belong, given those before it.
func (j *judge) term(m DHCPMessage) {
	why := "it never had a term"
	for i, g := range j.grants {
		switch {
		case g.Server != m.SrcIP:
		case m.Time.Before(g.Since):
			why = fmt.Sprintf("its term %d began %s later", g.Term, g.Since.Sub(m.Time).Round(time.Microsecond))
		case i+1 < len(j.grants) && m.Time.After(j.grants[i+1].Since.Add(j.slack)):
			next := j.grants[i+1]
			why = fmt.Sprintf("its term %d had ended %s before, with that of %s", g.Term, m.Time.Sub(next.Since).Round(time.Microsecond), next.Server)
		case i < j.at:
			why = fmt.Sprintf("term %d of %s had been answering", j.grants[j.at].Term, j.grants[j.at].Server)
		default:
			j.at = i
			return
		}
	}
	if !j.prolongs(m) {
		j.add(RuleOneTerm, m, "%s", why)
	}
}

// renewal is what a client said last, and how often without an answer.
type renewal struct {
	asked   DHCPMessage
	pending int
}

// promptly is how soon a server answers what it may answer without asking anybody.
const promptly = time.Second

// prolongs says whether an answer is what a holder that hears nothing may still say beside a new one: to a client that asked
// this very server by its address to renew, at once, for the address that it has, and for no longer than it was promised before.
func (j *judge) prolongs(m DHCPMessage) bool {
	r, ok := j.renewals[m.MAC.String()]
	q := r.asked
	if !ok || r.pending < 1 || m.Type != dhcpv4.MessageTypeAck || q.Type != dhcpv4.MessageTypeRequest || q.XID != m.XID {
		return false
	}
	has, ok := j.owners[m.Your]
	return q.DstIP == m.SrcIP && !q.ServerID.IsValid() && addr(q.Packet.ClientIPAddr) == m.Your && m.Time.Sub(q.Time) < promptly &&
		ok && has.mac == m.MAC.String() && !has.until.Before(m.Time.Add(m.Packet.IPAddressLeaseTime(0)-promptly))
}

func (j *judge) owner(m DHCPMessage) {
	if m.Type != dhcpv4.MessageTypeAck || !m.Your.IsValid() {
		return
	}
	mac := m.MAC.String()
	if before, ok := j.owners[m.Your]; ok && before.mac != mac && m.Time.Before(before.until) {
		j.add(RuleOneOwner, m, "%s has %s until %s", before.mac, m.Your, before.until.Format("15:04:05.000"))
	}
	until := m.Time.Add(m.Packet.IPAddressLeaseTime(0))
	if before, ok := j.owners[m.Your]; ok && before.mac == mac && before.until.After(until) {
		until = before.until // an ACK for less does not take back what was promised, until the client hears it
	}
	j.owners[m.Your] = owner{mac, until}
}

// Silence is the time from a moment to the end (ACK) of the first exchange that was begun
// (DISCOVER) after it: how long new clients had to wait; false if there was none.
func Silence(messages []DHCPMessage, from time.Time) (time.Duration, bool) {
	begun := map[string]bool{}
	for _, m := range messages {
		if m.Time.Before(from) {
			continue
		}
		switch {
		case !m.Reply && m.Type == dhcpv4.MessageTypeDiscover:
			begun[m.MAC.String()] = true
		case m.Reply && m.Type == dhcpv4.MessageTypeAck && begun[m.MAC.String()]:
			return m.Time.Sub(from), true
		}
	}
	return 0, false
}
