package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/handoff"
	"offshoot/node/internal/install"
	"offshoot/node/internal/peer"
	"offshoot/node/internal/segment"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

// taker is the take side of the handoff: a freshly installed machine becomes a node.
type taker struct {
	dir      string
	join     install.Join
	identity *identity.Identity
	undo     *segment.Journal
	log      *slog.Logger

	replica *replica // known once the services run
}

var _ handoff.Taker = (*taker)(nil)

func joinPath(dir string) string { return filepath.Join(dir, "join.json") }

// loadJoin reads what the agent left; ok is false if there is nothing, or no longer.
func loadJoin(dir string) (j install.Join, ok bool, err error) {
	data, err := os.ReadFile(joinPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return j, false, nil
	}
	if err != nil {
		return j, false, fmt.Errorf("read the join file: %w", err)
	}
	j, err = install.DecodeJoin(bytes.NewReader(data))
	if err != nil {
		return j, false, fmt.Errorf("%s: %w", joinPath(dir), err)
	}
	return j, true, nil
}

// stand gives the machine its address and a way to the nodes that let it in.
func (t *taker) stand() error {
	port, err := portByMAC(swarm.MAC(t.join.MAC), 0)
	if err != nil {
		return fmt.Errorf("this machine was installed through the port %s: %w", t.join.MAC, err)
	}
	if !t.join.Foreign { // else it has its address already
		if err := segment.KeepAddress(port.Name, t.join.Address); err != nil {
			return err
		}
	}
	var routes []segment.Route
	for _, e := range t.join.Endpoints {
		at, err := netip.ParseAddrPort(e)
		if err == nil && t.join.Gateway.IsValid() && !t.join.Address.Masked().Contains(at.Addr()) {
			routes = append(routes, segment.Route{Dst: netip.PrefixFrom(at.Addr(), 32), Via: t.join.Gateway})
		}
	}
	return t.undo.SyncRoutes(routes)
}

// Redeem asks the endpoints in turn. A refusal is final: a ticket does not get better.
func (t *taker) Redeem(ctx context.Context) error {
	if _, member, err := loadMemory(t.dir); err == nil && member && t.identity.Enrolled() {
		return nil // done before, and only its record was lost
	}
	if err := t.stand(); err != nil {
		return err
	}
	ticket, err := identity.ParseTicket(t.join.Ticket)
	if err != nil {
		return handoff.Final(err)
	}
	csr, err := t.identity.CSR()
	if err != nil {
		return err
	}
	request := identity.RedeemRequest{Ticket: ticket, CSR: csr, MACs: allMACs(swarm.MAC(t.join.MAC)), UUID: systemUUID(), Name: t.join.Name}
	body, err := request.Encode()
	if err != nil {
		return handoff.Final(err)
	}
	var tried []error
	for _, endpoint := range t.join.Endpoints {
		answer, err := t.ask(ctx, endpoint, body)
		if errors.Is(err, peer.ErrRefused) {
			return handoff.Final(fmt.Errorf("%w; arm this machine again on a node of the swarm: offshoot machine arm %s", err, t.join.MAC))
		}
		if err == nil {
			return t.enroll(answer)
		}
		tried = append(tried, fmt.Errorf("%s: %w", endpoint, err))
	}
	return errors.Join(tried...)
}

func (t *taker) ask(ctx context.Context, endpoint string, body []byte) (identity.RedeemResponse, error) {
	data, err := knock(ctx, t.join.Pin, endpoint, "/v1/redeem", body)
	if err != nil {
		return identity.RedeemResponse{}, err
	}
	return identity.DecodeRedeemResponse(bytes.NewReader(data))
}

// knock shows a ticket at the join door of a swarm that is known by its pin only.
func knock(ctx context.Context, pin, endpoint, path string, body []byte) ([]byte, error) {
	config, err := identity.JoinConfig(pin)
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{Config: config}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", addr)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return peer.Answer(resp)
}

// enroll keeps what the swarm answered. The memory is written last: with it, the machine is a node.
func (t *taker) enroll(r identity.RedeemResponse) error {
	if r.Swarm != t.join.Swarm {
		return handoff.Final(fmt.Errorf("the answer comes from swarm %s, this machine was installed by %s", r.Swarm, t.join.Swarm))
	}
	if err := t.identity.Enroll(t.join.Pin, r.Certificate, r.CA); err != nil {
		return err
	}
	m := memory{
		Swarm: r.Swarm, Node: r.Node, Name: t.join.Name, Port: swarm.MAC(t.join.MAC), Address: t.join.Address, Foreign: t.join.Foreign, Gateway: t.join.Gateway,
		Segment: t.join.Segment, Members: r.Members,
	}
	for _, k := range r.GossipKeys {
		m.Keys = append(m.Keys, k.Encode())
	}
	return m.save(t.dir)
}

// ForgetTicket removes the join file. The certificate has replaced it. Its bytes go first: what is only removed stays on the disk until
// its room is needed.
func (t *taker) ForgetTicket(context.Context) error {
	path := joinPath(t.dir)
	err := blank(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the ticket: %w", err)
	}
	return nil
}

// blank overwrites a file in its place. A file system that never writes to the same place twice keeps the former bytes all the same.
func blank(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// JoinLedger waits until the leader has made this node a member and the state has arrived.
func (t *taker) JoinLedger(ctx context.Context) error {
	return t.replica.await(ctx, "the ledger has arrived here", func(v swarm.View) bool {
		_, known := v.Node(t.replica.self())
		return known
	})
}

// Warm waits until every artifact is here and the ledger says so.
func (t *taker) Warm(ctx context.Context) error {
	return t.replica.await(ctx, "this node is warm", func(v swarm.View) bool {
		n, _ := v.Node(t.replica.self())
		return n.Warm
	})
}

// allMACs lists this machine's ports, the one that it was installed through first.
func allMACs(first swarm.MAC) []swarm.MAC {
	out := []swarm.MAC{first}
	ports, err := segment.Ports()
	if err != nil {
		return out
	}
	for _, p := range ports {
		if p.MAC != first && len(out) < 64 {
			out = append(out, p.MAC)
		}
	}
	return out
}

// systemUUID is the SMBIOS UUID, empty where the firmware has none.
func systemUUID() string {
	data, err := os.ReadFile("/sys/class/dmi/id/product_uuid")
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(string(data)))
}
