package api

import (
	"fmt"
	"net/netip"

	"offshoot/swarm"
)

// DomainRequest is the body of POST /v1/domain.
type DomainRequest struct {
	Domain *string `json:"domain"` // "": the default again
}

func domain(q *request) (any, error) {
	return decide(q, func(b DomainRequest) (swarm.Op, error) {
		if b.Domain == nil { // left out is a slip, not the wish for the default
			return nil, fmt.Errorf("%w: domain is missing; an empty one is the default", errBad)
		}
		return swarm.SetDomain{Domain: *b.Domain}, nil
	})
}

// DNSRequest is the body of POST /v1/dns.
type DNSRequest struct {
	Servers []netip.Addr `json:"servers"` // none: those that each node asks for itself
	Off     bool         `json:"off,omitempty"`
}

func nameServers(q *request) (any, error) {
	return decide(q, func(b DNSRequest) (swarm.Op, error) {
		if b.Servers == nil && !b.Off {
			return nil, fmt.Errorf("%w: servers are missing; [] are those of each node", errBad)
		}
		return swarm.SetDNS{Servers: b.Servers, Off: b.Off}, nil
	})
}

// NTPRequest is the body of POST /v1/ntp.
type NTPRequest struct {
	Servers []netip.Addr `json:"servers"` // none: clients are told of none
}

func timeServers(q *request) (any, error) {
	return decide(q, func(b NTPRequest) (swarm.Op, error) {
		if b.Servers == nil {
			return nil, fmt.Errorf("%w: servers are missing; [] is none", errBad)
		}
		return swarm.SetNTP{Servers: b.Servers}, nil
	})
}

// SegmentRequest is the body of POST /v1/segments.
type SegmentRequest struct {
	Network netip.Prefix `json:"network"`
	Relay   netip.Addr   `json:"relay"` // the relay's address on that network
	Via     netip.Addr   `json:"via"`   // its address on a segment of nodes
}

func addSegment(q *request) (any, error) {
	return decide(q, func(b SegmentRequest) (swarm.Op, error) {
		return swarm.AddSegment{Network: b.Network, There: b.Relay, Here: b.Via}, nil
	})
}

func removeSegment(q *request) (any, error) {
	return decide(q, func(struct{}) (swarm.Op, error) { return swarm.RemoveSegment{Segment: q.PathValue("segment")}, nil })
}
