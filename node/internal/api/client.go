package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"offshoot/node/status"
	"offshoot/swarm"
)

// ErrUnreachable: no node answers.
var ErrUnreachable = errors.New("no offshoot answers here")

// maxAnswer bounds an answer other than a snapshot, bytes: a hundred thousand leases have about 25 MB.
const maxAnswer = 128 << 20

// Client asks a node.
type Client struct {
	http *http.Client
	path string // of the socket; empty: over the network
}

// NewClient makes a client of the node with this data directory.
func NewClient(dataDir string) *Client {
	path := Socket(dataDir)
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}}
}

// NewRemote makes a client of the node that dial reaches: it returns after the TLS handshake, as an operator.
func NewRemote(dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx)
			if err != nil {
				return nil, &dialError{err}
			}
			return conn, nil
		},
	}}}
}

// dialError is why the network did not lead to a node.
type dialError struct{ error }

func (e *dialError) Unwrap() []error { return []error{ErrUnreachable, e.error} }

// Close ends the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Remote says whether the client asks over the network, so that "this node" is whichever answers.
func (c *Client) Remote() bool { return c.path == "" }

// Status asks for the status document.
func (c *Client) Status(ctx context.Context) (status.Status, error) {
	return get[status.Status](ctx, c, "/v1/status")
}

// Machine asks for one machine with its timeline.
func (c *Client) Machine(ctx context.Context, mac swarm.MAC) (status.Machine, error) {
	return get[status.Machine](ctx, c, "/v1/machines/"+string(mac))
}

// Why asks what every node saw of a machine.
func (c *Client) Why(ctx context.Context, mac swarm.MAC) ([]status.Trace, error) {
	return get[[]status.Trace](ctx, c, "/v1/machines/"+string(mac)+"/why")
}

// Log asks what every node heard of a machine by syslog.
func (c *Client) Log(ctx context.Context, mac swarm.MAC) ([]status.LogLine, error) {
	return get[[]status.LogLine](ctx, c, "/v1/machines/"+string(mac)+"/log")
}

// Name gives a machine its name.
func (c *Client) Name(ctx context.Context, mac swarm.MAC, name string) error {
	return c.call(ctx, "POST", "/v1/machines/"+string(mac)+"/name", NameRequest{name}, nil)
}

// Hold stops everything that is done to a machine.
func (c *Client) Hold(ctx context.Context, mac swarm.MAC, reason string) error {
	return c.call(ctx, "POST", "/v1/machines/"+string(mac)+"/hold", HoldRequest{reason}, nil)
}

// SetLoader chooses the boot programs of a machine, or with an empty MAC of all machines that have no choice of their own.
func (c *Client) SetLoader(ctx context.Context, mac swarm.MAC, l swarm.Loader) error {
	path := "/v1/boot"
	if mac != "" {
		path = "/v1/machines/" + string(mac) + "/boot"
	}
	return c.call(ctx, "POST", path, LoaderRequest{l}, nil)
}

// Leases asks for the addresses of a segment that are spoken for; of all segments if it is empty.
func (c *Client) Leases(ctx context.Context, segment string) ([]status.Lease, error) {
	return get[[]status.Lease](ctx, c, "/v1/leases?segment="+url.QueryEscape(segment))
}

// Tickets asks for all tickets.
func (c *Client) Tickets(ctx context.Context) ([]status.Ticket, error) {
	return get[[]status.Ticket](ctx, c, "/v1/tickets")
}

// Operators asks who may ask over the network.
func (c *Client) Operators(ctx context.Context) ([]status.Operator, error) {
	return get[[]status.Operator](ctx, c, "/v1/operators")
}

// Audit asks for the decisions of operators, the oldest first.
func (c *Client) Audit(ctx context.Context) ([]status.AuditEntry, error) {
	return get[[]status.AuditEntry](ctx, c, "/v1/audit")
}

// Artifacts asks for what the swarm knows of its artifacts.
func (c *Client) Artifacts(ctx context.Context) ([]status.Artifact, error) {
	return get[[]status.Artifact](ctx, c, "/v1/artifacts")
}

// Mirror asks for the node's mirror of package repositories.
func (c *Client) Mirror(ctx context.Context) (status.Mirror, error) {
	return get[status.Mirror](ctx, c, "/v1/mirror")
}

// PutRepo has the swarm mirror a repository, or changes how it does.
func (c *Client) PutRepo(ctx context.Context, name string, r RepoRequest) error {
	return c.call(ctx, "PUT", "/v1/repos/"+url.PathEscape(name), r, nil)
}

// DropRepo ends the mirroring of a repository.
func (c *Client) DropRepo(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/v1/repos/"+url.PathEscape(name), nil, nil)
}

// PinArtifact keeps nodes from throwing an artifact away, or lets them again. It is named by its digest or the beginning of that.
func (c *Client) PinArtifact(ctx context.Context, digest string, pinned bool) error {
	verb := "/unpin"
	if pinned {
		verb = "/pin"
	}
	return c.call(ctx, "POST", "/v1/artifacts/"+url.PathEscape(digest)+verb, nil, nil)
}

// Artifact asks for one artifact, by its digest or the beginning of that, and what the node finds in it.
func (c *Client) Artifact(ctx context.Context, digest string) (status.Artifact, error) {
	return get[status.Artifact](ctx, c, "/v1/artifacts/"+url.PathEscape(digest))
}

// VerifyArtifact has the node hash its bytes of an artifact again.
func (c *Client) VerifyArtifact(ctx context.Context, digest string) (status.Verification, error) {
	var v status.Verification
	err := c.call(ctx, "POST", "/v1/artifacts/"+url.PathEscape(digest)+"/verify", nil, &v)
	return v, err
}

// WithdrawArtifact takes an artifact out of the index.
func (c *Client) WithdrawArtifact(ctx context.Context, digest string) error {
	return c.call(ctx, "DELETE", "/v1/artifacts/"+url.PathEscape(digest), nil, nil)
}

// SetStore bounds what artifacts may take on each node, bytes; 0 is no bound of its own.
func (c *Client) SetStore(ctx context.Context, bytes int64) error {
	return c.call(ctx, "POST", "/v1/store", StoreRequest{bytes}, nil)
}

// Prefetch has the node fetch what a profile needs, and calls say with how far it is until it has ended. It goes on only as long as
// this waits.
func (c *Client) Prefetch(ctx context.Context, profile string, say func(status.Prefetch)) error {
	resp, err := c.do(ctx, "POST", "/v1/profiles/"+url.PathEscape(profile)+"/prefetch", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	in := json.NewDecoder(resp.Body)
	for {
		var p status.Prefetch
		if err := in.Decode(&p); err != nil {
			return fmt.Errorf("the node broke off, and keeps what it has: ask again: %w", err)
		}
		if p.Error != "" {
			return errors.New(p.Error)
		}
		say(p)
		if p.Ended {
			return nil
		}
	}
}

// RevokeTicket makes a ticket worthless.
func (c *Client) RevokeTicket(ctx context.Context, id string) error {
	return c.call(ctx, "POST", "/v1/tickets/"+url.PathEscape(id)+"/revoke", nil, nil)
}

// ReserveAddress keeps an address for a machine.
func (c *Client) ReserveAddress(ctx context.Context, mac swarm.MAC, addr netip.Addr) error {
	return c.call(ctx, "POST", "/v1/leases/reserve", AddressRequest{mac, addr}, nil)
}

// UnreserveAddress ends a reservation.
func (c *Client) UnreserveAddress(ctx context.Context, mac swarm.MAC, addr netip.Addr) error {
	return c.call(ctx, "POST", "/v1/leases/unreserve", AddressRequest{mac, addr}, nil)
}

// SetPools replaces what the leases of a segment are taken from; none is the default again.
func (c *Client) SetPools(ctx context.Context, segment string, pools []Range) error {
	return c.call(ctx, "POST", "/v1/segments/"+url.PathEscape(segment)+"/pools", PoolsRequest{orEmpty(pools)}, nil)
}

// AddSegment writes down a segment behind a relay and returns its id: relay is the relay's address there, via the one on a segment
// of nodes.
func (c *Client) AddSegment(ctx context.Context, network netip.Prefix, relay, via netip.Addr) (string, error) {
	var s swarm.Segment
	err := c.call(ctx, "POST", "/v1/segments", SegmentRequest{network, relay, via}, &s)
	return s.ID, err
}

// RemoveSegment forgets a segment behind a relay.
func (c *Client) RemoveSegment(ctx context.Context, segment string) error {
	return c.call(ctx, "DELETE", "/v1/segments/"+url.PathEscape(segment), nil, nil)
}

// MoveDuty begins to hand the duty on a segment to a node, by name or id.
func (c *Client) MoveDuty(ctx context.Context, segment, node string) error {
	return c.call(ctx, "POST", "/v1/segments/"+url.PathEscape(segment)+"/move", MoveRequest{node}, nil)
}

// SetVoters changes how many nodes at most vote.
func (c *Client) SetVoters(ctx context.Context, n int) error {
	return c.call(ctx, "POST", "/v1/voters", VotersRequest{n}, nil)
}

// SetUplinkLimit changes what each node moves to and from nodes of other segments at most, in bytes per second; 0 is no limit.
func (c *Client) SetUplinkLimit(ctx context.Context, limit int64) error {
	return c.call(ctx, "POST", "/v1/uplink-limit", UplinkLimitRequest{&limit}, nil)
}

// SetDomain changes what names of machines end in; "" is the default.
func (c *Client) SetDomain(ctx context.Context, domain string) error {
	return c.call(ctx, "POST", "/v1/domain", DomainRequest{&domain}, nil)
}

// SetDNS changes whom nodes ask for names that are not the swarm's; none are those that each node asks for itself.
func (c *Client) SetDNS(ctx context.Context, servers []netip.Addr, off bool) error {
	return c.call(ctx, "POST", "/v1/dns", DNSRequest{orEmpty(servers), off}, nil)
}

// SetNTP changes the time servers that clients are told of.
func (c *Client) SetNTP(ctx context.Context, servers []netip.Addr) error {
	return c.call(ctx, "POST", "/v1/ntp", NTPRequest{orEmpty(servers)}, nil)
}

// SetStallAfter changes how many seconds an installation may stand still; 0 is what each phase says.
func (c *Client) SetStallAfter(ctx context.Context, seconds int) error {
	return c.call(ctx, "POST", "/v1/stall-after", StallAfterRequest{&seconds}, nil)
}

// Evict puts a node out for good. A refusal for its risks matches status.ErrUnsafe; force in the request accepts them. The pin is
// that of the new CA, if one was asked for.
func (c *Client) Evict(ctx context.Context, id string, r EvictRequest) (pin string, err error) {
	var answer evictAnswer
	err = c.call(ctx, "POST", "/v1/nodes/"+url.PathEscape(id)+"/evict", r, &answer)
	return answer.Pin, err
}

// Trust takes a node out of quarantine, by name or id.
func (c *Client) Trust(ctx context.Context, node string) error {
	return c.call(ctx, "POST", "/v1/nodes/"+url.PathEscape(node)+"/trust", nil, nil)
}

// RotateKeys begins to change the gossip key.
func (c *Client) RotateKeys(ctx context.Context) error {
	return c.call(ctx, "POST", "/v1/keys/rotate", nil, nil)
}

// AddOperator makes an operator; the file is the secret.
func (c *Client) AddOperator(ctx context.Context, name, role string) (file []byte, err error) {
	var answer operatorAnswer
	err = c.call(ctx, "POST", "/v1/operators", OperatorRequest{name, role}, &answer)
	return answer.File, err
}

// RevokeOperator ends an operator's certificate.
func (c *Client) RevokeOperator(ctx context.Context, name string) error {
	return c.call(ctx, "POST", "/v1/operators/"+url.PathEscape(name)+"/revoke", nil, nil)
}

// Metrics writes the node's numbers to w, for Prometheus.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, "GET", "/v1/metrics", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(w, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	return nil
}

// SaveSnapshot writes the swarm's whole state to w. After an error, what was written is worth nothing.
func (c *Client) SaveSnapshot(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, "GET", "/v1/snapshot", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("the snapshot broke off: %w", err)
	}
	return nil
}

// RestoreSnapshot replaces the swarm's whole state.
func (c *Client) RestoreSnapshot(ctx context.Context, r io.Reader) error {
	resp, err := c.do(ctx, "PUT", "/v1/snapshot", r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Leave makes the node hand everything over and stop.
func (c *Client) Leave(ctx context.Context) error { return c.call(ctx, "POST", "/v1/leave", nil, nil) }

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var into T
	err := c.call(ctx, "GET", path, nil, &into)
	return into, err
}

// call sends body and reads into, as JSON; both may be nil.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(data)
	}
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return read(resp.Body, into)
}

// answer sends a request and reads what it is answered with.
func (c *Client) answer(req *http.Request, into any) error {
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return read(resp.Body, into)
}

func read(body io.Reader, into any) error {
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the node's answer: %w", err)
	case len(data) > maxAnswer:
		return fmt.Errorf("read the node's answer: it has more than %d bytes", maxAnswer)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	return nil
}

// do makes a request and sends it.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://offshoot"+path, body)
	if err != nil {
		return nil, err
	}
	return c.send(req)
}

// send turns every answer but 200 into an error with the node's words.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read the node's answer: %w", err)
	}
	// Part of the words may be a machine's: they must not command the terminal.
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(string(data)))
	switch resp.StatusCode {
	case http.StatusNotFound:
		if strings.HasPrefix(text, "404 ") { // net/http's own words: it has no such route
			text = "the node that answers is of an older version and cannot do that: upgrade it, or ask another one"
		}
	case http.StatusForbidden:
		return nil, &said{text, ErrForbidden}
	case http.StatusPreconditionFailed:
		return nil, &said{text, status.ErrUnsafe}
	}
	return nil, errors.New(text)
}

// said is an error in the words of the other side.
type said struct {
	text string
	kind error
}

func (s *said) Error() string { return s.text }
func (s *said) Unwrap() error { return s.kind }

// explain says why there was no answer, and what to look at.
func (c *Client) explain(err error) error {
	var (
		dial  *dialError
		alert *net.OpError
	)
	switch {
	case errors.As(err, &dial):
		return dial
	case c.Remote() && errors.As(err, &alert) && alert.Op == "remote error": // crypto/tls: the other side's alert
		return fmt.Errorf("%w: the swarm does not accept this operator's certificate (%w): it was revoked, has expired, or is another swarm's. An admin makes a new one: offshoot operator add NAME --role ROLE -o FILE", ErrForbidden, alert.Err)
	case c.Remote():
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s may not be opened: use sudo", ErrUnreachable, c.path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s. Is it running (systemctl status offshoot)? Was it started with another --data-dir?", ErrUnreachable, c.path)
	}
	return err
}
