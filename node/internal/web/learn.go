package web

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"offshoot/swarm"
)

// Beside the server of others nobody tells us which address a machine has. What it comes with is written down, as long as the
// kernel knows its MAC behind that: the machine got the nonce by its MAC.
const (
	learnedLife  = 2 * time.Hour    // as long as a ticket
	learnedAgain = 30 * time.Minute // before its end it is written down anew
)

// leaseOf is the lease that a nonce names; empty if there is none. Beside the server of others it is learned, and learned again when
// the same machine comes with another address: iPXE, the agent and the system may get one each.
func (s *Server) leaseOf(r *http.Request, now time.Time) (swarm.Lease, error) {
	nonce := r.PathValue("nonce")
	lease, known := s.o.View().LeaseByNonce(nonce)
	mac := lease.MAC
	if !known && s.o.Begun != nil {
		mac, _ = s.o.Begun(nonce)
	}
	if mac == "" || known && lease.Class != swarm.LeaseForeign {
		return lease, nil
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return lease, nil //nolint:nilerr // admit refuses it
	}
	addr := from.Addr().Unmap()
	if known && lease.Addr == addr && lease.Expires.Sub(now) > learnedAgain {
		return lease, nil
	}
	segment, err := s.servedByProxy(r, addr)
	if err != nil {
		return lease, err
	}
	if !known && !s.o.OnDuty(segment) {
		return lease, refuse(http.StatusServiceUnavailable, "this node does not hold duty on segment %s", segment)
	}
	if behind := s.o.NeighbourMAC(addr); behind != mac {
		return swarm.Lease{Segment: segment, MAC: mac, Addr: addr}, refuse(http.StatusConflict, "the boot nonce belongs to %s, but %s is used by %q", mac, addr, behind)
	}
	if own, ok := s.o.View().LeaseOf(segment, mac); ok && own.Expires.IsZero() { // a node's, from a time when we gave addresses: it keeps that
		return swarm.Lease{Segment: segment, MAC: mac, Addr: addr, Nonce: nonce, Class: swarm.LeaseForeign}, nil
	}
	result, err := s.o.Propose(r.Context(), swarm.LearnAddress{Segment: segment, MAC: mac, Addr: addr, Nonce: nonce, Until: now.Add(learnedLife)})
	if err == nil {
		err = result.Decode(&lease)
	}
	if err != nil {
		return lease, fmt.Errorf("write the address of %s down: %w", mac, err)
	}
	return lease, nil
}

// servedByProxy is the segment on which this request came, if the server of others gives the addresses there.
func (s *Server) servedByProxy(r *http.Request, from netip.Addr) (string, error) {
	self, err := asked(r)
	if err != nil {
		return "", err
	}
	for _, segment := range s.o.View().Segments() {
		if segment.Mode == swarm.ModeProxy && segment.Network.Contains(self) && segment.Network.Contains(from) {
			return segment.ID, nil
		}
	}
	return "", refuse(http.StatusConflict, "%s is on no segment that is served by proxy: boot from the network again", from)
}
