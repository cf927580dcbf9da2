package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"offshoot/swarm"
)

const (
	// MaxRedeemRequest bounds a RedeemRequest in bytes: a request has about 1 KiB, a machine with 64 ports 3 KiB.
	MaxRedeemRequest = 16 << 10
	// MaxRedeemResponse bounds a RedeemResponse in bytes; nearly all of it is the list of members.
	MaxRedeemResponse = 256 << 10

	maxMACs    = 64
	maxKeys    = 64   // a rotation needs two; each node evicted before it ends adds one
	maxMembers = 4096 // the answering side sends a few; a joiner needs one that lives
)

// RedeemRequest is what a machine sends on ProtoJoin, once the server's pin is proven.
type RedeemRequest struct {
	Ticket Ticket
	CSR    []byte      // PEM, from Identity.CSR
	MACs   []swarm.MAC // all Ethernet ports, the one that it was installed through first
	UUID   string      // SMBIOS system UUID, lower case; "" if the firmware has none
	Name   string      // host name wanted; "" leaves it to the swarm
}

// RedeemResponse makes the machine a node. Each side has to hold the other to it: Identity.Enroll checks Certificate and
// CA against the pin.
type RedeemResponse struct {
	Node        swarm.NodeID
	Swarm       string
	Certificate []byte           // PEM
	CA          []byte           // PEM
	GossipKeys  []Key            // the first encrypts, all decrypt
	Members     []netip.AddrPort // gossip addresses to try, best first
	Leader      netip.AddrPort   // peer port of the ledger's leader; zero if there is none right now
	Time        time.Time        // the answering node's clock, for machines that have none
}

// The wire forms exist because the exported types refuse to marshal their secrets.
type wireRequest struct {
	Ticket string      `json:"ticket"`
	CSR    string      `json:"csr"`
	MACs   []swarm.MAC `json:"macs"`
	UUID   string      `json:"uuid,omitempty"`
	Name   string      `json:"name,omitempty"`
}

type wireResponse struct {
	Node        swarm.NodeID     `json:"node"`
	Swarm       string           `json:"swarm"`
	Certificate string           `json:"certificate"`
	CA          string           `json:"ca"`
	GossipKeys  []string         `json:"gossip_keys"`
	Members     []netip.AddrPort `json:"members"`
	Leader      netip.AddrPort   `json:"leader"`
	Time        time.Time        `json:"time"`
}

// Encode writes the request with the ticket's secret in it, as JSON.
func (r RedeemRequest) Encode() ([]byte, error) {
	w := wireRequest{Ticket: r.Ticket.Reveal(), CSR: string(r.CSR), MACs: r.MACs, UUID: r.UUID, Name: r.Name}
	data, err := encodeBounded(w, MaxRedeemRequest)
	if err != nil {
		return nil, fmt.Errorf("encode redeem request: %w", err)
	}
	return data, nil
}

// DecodeRedeemRequest reads one request from a stranger. Every field is checked for form (the CSR's signature as well);
// unknown fields, trailing data and more than MaxRedeemRequest bytes are errors. No error quotes the ticket.
func DecodeRedeemRequest(r io.Reader) (RedeemRequest, error) {
	var w wireRequest
	if err := decodeBounded(r, MaxRedeemRequest, &w); err != nil {
		return RedeemRequest{}, fmt.Errorf("redeem request: %w", err)
	}
	ticket, err := ParseTicket(w.Ticket)
	if err != nil {
		return RedeemRequest{}, fmt.Errorf("redeem request: %w", err)
	}
	req := RedeemRequest{Ticket: ticket, CSR: []byte(w.CSR), MACs: w.MACs, UUID: w.UUID, Name: w.Name}
	if err := req.check(); err != nil {
		return RedeemRequest{}, fmt.Errorf("redeem request: %w", err)
	}
	return req, nil
}

func (r RedeemRequest) check() error {
	if _, err := parseCSR(r.CSR); err != nil {
		return err
	}
	if len(r.MACs) == 0 || len(r.MACs) > maxMACs {
		return fmt.Errorf("%d Ethernet addresses: want 1 to %d", len(r.MACs), maxMACs)
	}
	for _, m := range r.MACs {
		if p, err := swarm.ParseMAC(string(m)); err != nil || p != m {
			return fmt.Errorf("%q is not an Ethernet address in lower case", m)
		}
	}
	if r.UUID != "" && !isUUID(r.UUID) {
		return fmt.Errorf("%q is not a UUID in lower case", r.UUID)
	}
	if r.Name != "" && !isHostName(r.Name) {
		return fmt.Errorf("%q is not a host name", r.Name)
	}
	return nil
}

// Encode writes the response with the gossip keys in it, as JSON.
func (r RedeemResponse) Encode() ([]byte, error) {
	w := wireResponse{
		Node: r.Node, Swarm: r.Swarm, Certificate: string(r.Certificate), CA: string(r.CA),
		Members: r.Members, Leader: r.Leader, Time: r.Time.UTC(),
	}
	for _, k := range r.GossipKeys {
		w.GossipKeys = append(w.GossipKeys, k.Encode())
	}
	data, err := encodeBounded(w, MaxRedeemResponse)
	if err != nil {
		return nil, fmt.Errorf("encode redeem response: %w", err)
	}
	return data, nil
}

// DecodeRedeemResponse reads one response. Every field is checked for form; unknown fields, trailing data and more than
// MaxRedeemResponse bytes are errors. Whether the certificates are what they should be is Identity.Enroll's to say.
func DecodeRedeemResponse(r io.Reader) (RedeemResponse, error) {
	var w wireResponse
	if err := decodeBounded(r, MaxRedeemResponse, &w); err != nil {
		return RedeemResponse{}, fmt.Errorf("redeem response: %w", err)
	}
	resp := RedeemResponse{
		Node: w.Node, Swarm: w.Swarm, Certificate: []byte(w.Certificate), CA: []byte(w.CA),
		Members: w.Members, Leader: w.Leader, Time: w.Time,
	}
	if len(w.GossipKeys) > maxKeys {
		return RedeemResponse{}, fmt.Errorf("redeem response: %d gossip keys, the limit is %d", len(w.GossipKeys), maxKeys)
	}
	for _, s := range w.GossipKeys {
		k, err := ParseKey(s)
		if err != nil {
			return RedeemResponse{}, fmt.Errorf("redeem response: %w", err)
		}
		resp.GossipKeys = append(resp.GossipKeys, k)
	}
	if err := resp.check(); err != nil {
		return RedeemResponse{}, fmt.Errorf("redeem response: %w", err)
	}
	return resp, nil
}

func (r RedeemResponse) check() error {
	if err := checkNode(r.Node); err != nil {
		return err
	}
	if err := checkSwarm(r.Swarm); err != nil {
		return err
	}
	for _, c := range [][]byte{r.Certificate, r.CA} {
		if _, err := parseCert(c); err != nil {
			return err
		}
	}
	switch {
	case len(r.GossipKeys) == 0:
		return errors.New("no gossip key")
	case len(r.Members) > maxMembers:
		return fmt.Errorf("%d members, the limit is %d", len(r.Members), maxMembers)
	case r.Time.IsZero():
		return errors.New("no time")
	}
	for _, m := range r.Members {
		if !m.IsValid() {
			return errors.New("a member without an address")
		}
	}
	return nil
}

func encodeBounded(v any, limit int) ([]byte, error) {
	data, err := json.Marshal(v)
	if err == nil && len(data) > limit {
		err = fmt.Errorf("%d bytes, the limit is %d", len(data), limit)
	}
	return data, err
}

func decodeBounded(r io.Reader, limit int, v any) error {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return err
	}
	if len(data) > limit {
		return fmt.Errorf("more than %d bytes", limit)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("not the JSON that is expected: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the end")
	}
	return nil
}

func isUUID(s string) bool {
	parts := strings.Split(s, "-")
	if len(parts) != 5 {
		return false
	}
	for i, n := range []int{8, 4, 4, 4, 12} {
		if len(parts[i]) != n || !isHex(parts[i]) {
			return false
		}
	}
	return true
}

// isHostName is one label of RFC 1123, 2.1, in lower case.
func isHostName(s string) bool {
	return checkSwarm(s) == nil && s[0] != '-' && s[len(s)-1] != '-'
}
