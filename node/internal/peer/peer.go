// Package peer is the API between nodes: HTTP over mutual TLS on the peer port (ALPN offshoot-peer), and the one request
// that a stranger with a ticket may make (offshoot-join). Client and server stand side by side, so that a change of one is
// seen in the other. It carries words, decides nothing, and refuses whoever the TLS layer has not verified. Only node
// imports it.
package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// Bounds of requests and answers, bytes. The largest request is a command with an inventory.
const (
	maxRequest = 2 << 20
	maxAnswer  = 16 << 20
)

// callTime bounds one call. Commands wait for a quorum's disks.
const callTime = 10 * time.Second

// Service answers the calls of other nodes; node implements it. from is the verified caller. Methods are called from many
// goroutines.
type Service interface {
	// Propose applies a command if this node leads; ErrNotLeader else.
	Propose(ctx context.Context, from swarm.NodeID, command []byte) ([]byte, error)
	// Redeem answers a redeem request that another node received, if this node leads.
	Redeem(ctx context.Context, request []byte) ([]byte, error)
	// Admit answers an admission request that another node received, if this node leads.
	Admit(ctx context.Context, request []byte) ([]byte, error)
	// RenewDuty says whether the caller may go on with the duty on a segment in a term. nil is yes.
	RenewDuty(ctx context.Context, from swarm.NodeID, segment string, term uint64) error
	// RenewCertificate signs the caller's certificate request, if this node leads.
	RenewCertificate(ctx context.Context, from swarm.NodeID, csr []byte) ([]byte, error)
	// IssueOperator makes the file of an operator, if this node leads.
	IssueOperator(ctx context.Context, from swarm.NodeID, r OperatorRequest) ([]byte, error)
	// Authority takes the keys of the CA, and of one that is replacing it, which only the leader may bring.
	Authority(ctx context.Context, from swarm.NodeID, keys []byte) error
	// ReplaceAuthority begins to replace the CA, if this node leads. The answer is the new pin.
	ReplaceAuthority(ctx context.Context, from swarm.NodeID, r AuthorityRequest) ([]byte, error)
	// Feed writes what was decided after an index of the ledger, and goes on until ctx ends.
	Feed(ctx context.Context, from swarm.NodeID, after uint64, w io.Writer, flush func()) error
	// Deliver takes DHCP packets that the former holder of a duty kept for this node.
	Deliver(ctx context.Context, from swarm.NodeID, segment string, term uint64, packets [][]byte) error
	// Pulse is what this node's ledger says of itself, as JSON.
	Pulse() ([]byte, error)
	// Wake sends a magic packet to a machine on a segment that this node serves.
	Wake(ctx context.Context, from swarm.NodeID, segment string, mac swarm.MAC) error
	// Traces are what this node remembers of a machine's packets and requests.
	Traces(mac swarm.MAC) []status.Trace
	// Log is what this node remembers of a machine's syslog.
	Log(mac swarm.MAC) []status.LogLine
}

// Errors that keep their meaning across the wire.
var (
	// ErrNotLeader: ask the leader; the answer may be another node by now.
	ErrNotLeader = errors.New("this node does not lead the ledger")
	// ErrRefused: the node understood and said no; asking again does not help.
	ErrRefused = errors.New("refused")
)

// wake answers who asks for a magic packet.
func wake(s Service) func(ctx context.Context, from swarm.NodeID, r *http.Request, body []byte) ([]byte, error) {
	return func(ctx context.Context, from swarm.NodeID, r *http.Request, _ []byte) ([]byte, error) {
		mac, err := swarm.ParseMAC(r.PathValue("mac"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil, s.Wake(ctx, from, r.PathValue("segment"), mac)
	}
}

// Handler serves the peer API. who names the verified node behind a connection. artifacts serves bytes by digest.
func Handler(s Service, who func(tls.ConnectionState) (swarm.NodeID, error), artifacts http.Handler) http.Handler {
	mux := http.NewServeMux()
	route := func(pattern string, do func(ctx context.Context, from swarm.NodeID, r *http.Request, body []byte) ([]byte, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			from, err := caller(who, r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			body, err := readAll(r.Body, maxRequest)
			if err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
				return
			}
			answer, err := do(r.Context(), from, r, body)
			reply(w, answer, err)
		})
	}
	route("POST /v1/propose", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		return s.Propose(ctx, from, body)
	})
	route("POST /v1/redeem", func(ctx context.Context, _ swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		return s.Redeem(ctx, body)
	})
	route("POST /v1/admit", func(ctx context.Context, _ swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		return s.Admit(ctx, body)
	})
	route("POST /v1/duty", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		var d duty
		if err := json.Unmarshal(body, &d); err != nil {
			return nil, fmt.Errorf("duty renewal: %w: %w", ErrRefused, err)
		}
		return nil, s.RenewDuty(ctx, from, d.Segment, d.Term)
	})
	route("POST /v1/certificate", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		return s.RenewCertificate(ctx, from, body)
	})
	route("POST /v1/operator", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		var r OperatorRequest
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, fmt.Errorf("operator: %w: %w", ErrRefused, err)
		}
		return s.IssueOperator(ctx, from, r)
	})
	route("PUT /v1/authority", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		return nil, s.Authority(ctx, from, body)
	})
	route("POST /v1/authority", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		var r AuthorityRequest
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, fmt.Errorf("authority: %w: %w", ErrRefused, err)
		}
		return s.ReplaceAuthority(ctx, from, r)
	})
	route("GET /v1/pulse", func(context.Context, swarm.NodeID, *http.Request, []byte) ([]byte, error) { return s.Pulse() })
	route("GET /v1/traces/{mac}", onMachine(func(mac swarm.MAC) any { return s.Traces(mac) }))
	route("GET /v1/log/{mac}", onMachine(func(mac swarm.MAC) any { return s.Log(mac) }))
	route("POST /v1/segments/{segment}/wake/{mac}", wake(s))
	route("POST /v1/deliver", func(ctx context.Context, from swarm.NodeID, _ *http.Request, body []byte) ([]byte, error) {
		var d delivery
		if err := json.Unmarshal(body, &d); err != nil {
			return nil, fmt.Errorf("delivery: %w: %w", ErrRefused, err)
		}
		return nil, s.Deliver(ctx, from, d.Segment, d.Term, d.Packets)
	})
	mux.HandleFunc("GET /v1/feed", func(w http.ResponseWriter, r *http.Request) { feed(s, who, w, r) })
	mux.HandleFunc("/v1/artifact/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := caller(who, r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		artifacts.ServeHTTP(w, r)
	})
	return mux
}

// onMachine answers what is remembered of one machine.
func onMachine(recall func(swarm.MAC) any) func(context.Context, swarm.NodeID, *http.Request, []byte) ([]byte, error) {
	return func(_ context.Context, _ swarm.NodeID, r *http.Request, _ []byte) ([]byte, error) {
		mac, err := swarm.ParseMAC(r.PathValue("mac"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return json.Marshal(recall(mac))
	}
}

// feed streams until the caller goes away: it has no answer that could be bounded.
func feed(s Service, who func(tls.ConnectionState) (swarm.NodeID, error), w http.ResponseWriter, r *http.Request) {
	from, err := caller(who, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		http.Error(w, "after: want an index of the ledger", http.StatusForbidden)
		return
	}
	begun := &started{ResponseWriter: w}
	err = s.Feed(r.Context(), from, after, begun, func() { _ = http.NewResponseController(w).Flush() })
	if !begun.yes {
		reply(w, nil, err)
	}
}

// Passed answers a request of a stranger: itself if this node leads, or by passing it on to the leader.
type Passed func(ctx context.Context, request []byte) ([]byte, error)

// JoinHandler serves strangers, who show a ticket: redeem makes a node of an installed machine, admit lets one that installs
// itself exchange artifacts. A request has at most max bytes.
func JoinHandler(redeem, admit Passed, max int64) http.Handler {
	mux := http.NewServeMux()
	for path, do := range map[string]Passed{"/v1/redeem": redeem, "/v1/admit": admit} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := readAll(r.Body, max)
			if err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
				return
			}
			answer, err := do(r.Context(), body)
			reply(w, answer, err)
		})
	}
	return mux
}

// NewServer bounds what a caller can hold open. whole bounds one request, 0 not at all: artifacts take as long as they take.
func NewServer(h http.Handler, whole time.Duration) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: whole, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

type duty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
}

// OperatorRequest asks for the file of an operator. Actor is the operator who wants it.
type OperatorRequest struct {
	Actor string `json:"actor"`
	Name  string `json:"name"`
	Role  string `json:"role"`
}

// AuthorityRequest asks for a new CA. Actor is the operator who wants it.
type AuthorityRequest struct {
	Actor  string `json:"actor"`
	Reason string `json:"reason"`
}

type delivery struct {
	Segment string   `json:"segment"`
	Term    uint64   `json:"term"`
	Packets [][]byte `json:"packets"`
}

// started notices the first byte of an answer, after which no error can be told any more.
type started struct {
	http.ResponseWriter
	yes bool
}

func (s *started) Write(b []byte) (int, error) {
	s.yes = true
	return s.ResponseWriter.Write(b)
}

// SetWriteDeadline bounds the next writes: a reader that stalls must not hold its feeder up for ever.
func (s *started) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(s.ResponseWriter).SetWriteDeadline(t)
}

func caller(who func(tls.ConnectionState) (swarm.NodeID, error), r *http.Request) (swarm.NodeID, error) {
	if r.TLS == nil {
		return "", errors.New("no TLS")
	}
	return who(*r.TLS)
}

func reply(w http.ResponseWriter, answer []byte, err error) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer) // the caller has gone: nothing to be done
	case errors.Is(err, ErrNotLeader):
		http.Error(w, err.Error(), http.StatusMisdirectedRequest)
	case errors.Is(err, ErrRefused):
		http.Error(w, err.Error(), http.StatusForbidden)
	default:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

func readAll(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("more than %d bytes", max)
	}
	return data, nil
}

// Client calls other nodes. It is safe for concurrent use and keeps connections.
type Client struct{ http *http.Client }

// NewClient makes one. dial connects to a node's peer port and returns after the TLS handshake.
func NewClient(dial func(ctx context.Context, addr string) (net.Conn, error)) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DialTLSContext:        func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: 30 * time.Second,
	}}}
}

// HTTP is the client that artifacts are fetched with: no bound on the whole transfer.
func (c *Client) HTTP() *http.Client { return c.http }

// Close ends the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Propose ships a command to the leader at addr and returns its result.
func (c *Client) Propose(ctx context.Context, addr string, command []byte) ([]byte, error) {
	return c.call(ctx, addr, "POST", "/v1/propose", command)
}

// Redeem passes a redeem request on to the leader.
func (c *Client) Redeem(ctx context.Context, addr string, request []byte) ([]byte, error) {
	return c.call(ctx, addr, "POST", "/v1/redeem", request)
}

// Admit passes an admission request on to the leader.
func (c *Client) Admit(ctx context.Context, addr string, request []byte) ([]byte, error) {
	return c.call(ctx, addr, "POST", "/v1/admit", request)
}

// RenewDuty asks the leader whether a duty goes on.
func (c *Client) RenewDuty(ctx context.Context, addr, segment string, term uint64) error {
	body, err := json.Marshal(duty{segment, term})
	if err != nil {
		return err
	}
	_, err = c.call(ctx, addr, "POST", "/v1/duty", body)
	return err
}

// RenewCertificate has the leader sign a certificate request.
func (c *Client) RenewCertificate(ctx context.Context, addr string, csr []byte) ([]byte, error) {
	return c.call(ctx, addr, "POST", "/v1/certificate", csr)
}

// IssueOperator asks the leader for the file of an operator.
func (c *Client) IssueOperator(ctx context.Context, addr string, r OperatorRequest) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, addr, "POST", "/v1/operator", body)
}

// Authority brings the CA's key to a node that is to vote.
func (c *Client) Authority(ctx context.Context, addr string, keys []byte) error {
	_, err := c.call(ctx, addr, "PUT", "/v1/authority", keys)
	return err
}

// ReplaceAuthority asks the leader for a new CA.
func (c *Client) ReplaceAuthority(ctx context.Context, addr string, r AuthorityRequest) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, addr, "POST", "/v1/authority", body)
}

// Pulse asks how far a node's copy of the ledger is.
func (c *Client) Pulse(ctx context.Context, addr string) ([]byte, error) {
	return c.call(ctx, addr, "GET", "/v1/pulse", nil)
}

// Feed opens the feed of a node. The caller closes it; ctx ends it too.
func (c *Client) Feed(ctx context.Context, addr string, after uint64) (io.ReadCloser, error) {
	path := fmt.Sprintf("/v1/feed?after=%d", after)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+path, nil)
	if err != nil {
		return nil, fmt.Errorf("call %s%s: %w", addr, path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s%s: %w", addr, path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = Answer(resp)
	return nil, err
}

// Deliver gives packets to the new holder of a duty.
func (c *Client) Deliver(ctx context.Context, addr, segment string, term uint64, packets [][]byte) error {
	body, err := json.Marshal(delivery{segment, term, packets})
	if err != nil {
		return err
	}
	_, err = c.call(ctx, addr, "POST", "/v1/deliver", body)
	return err
}

// Wake has the node that serves a segment send a magic packet.
func (c *Client) Wake(ctx context.Context, addr, segment string, mac swarm.MAC) error {
	_, err := c.call(ctx, addr, "POST", "/v1/segments/"+url.PathEscape(segment)+"/wake/"+string(mac), nil)
	return err
}

// Traces asks what a node remembers of a machine.
func (c *Client) Traces(ctx context.Context, addr string, mac swarm.MAC) ([]status.Trace, error) {
	return recall[status.Trace](ctx, c, addr, "/v1/traces/"+string(mac))
}

// Log asks what a node remembers of a machine's syslog.
func (c *Client) Log(ctx context.Context, addr string, mac swarm.MAC) ([]status.LogLine, error) {
	return recall[status.LogLine](ctx, c, addr, "/v1/log/"+string(mac))
}

func recall[T any](ctx context.Context, c *Client, addr, path string) (out []T, err error) {
	data, err := c.call(ctx, addr, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(data, &out)
	return out, err
}

func (c *Client) call(ctx context.Context, addr, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s%s: %w", addr, path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s%s: %w", addr, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	return Answer(resp)
}

// Answer reads a response of the peer API or of the join door, and gives errors their meaning back.
func Answer(resp *http.Response) ([]byte, error) {
	data, err := readAll(resp.Body, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	text := string(bytes.TrimSpace(data))
	switch resp.StatusCode {
	case http.StatusOK:
		return data, nil
	case http.StatusMisdirectedRequest:
		return nil, ErrNotLeader
	case http.StatusForbidden:
		return nil, &refused{text}
	}
	return nil, fmt.Errorf("answer %s: %s", resp.Status, text)
}

// refused carries the other side's words, which say refused themselves.
type refused struct{ text string }

func (r *refused) Error() string { return r.text }
func (r *refused) Unwrap() error { return ErrRefused }
