// Package api is the operator's way into a node: HTTP on a unix socket in the data directory, which only its owner can
// reach. The command line is its client; server and client stand side by side here. It decides nothing:
// what an operator asks for becomes a command of the ledger. Only node imports it, and hands the client to cmd.
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
	"os"
	"path/filepath"
	"syscall"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// Socket is the path of a node's operator socket.
func Socket(dataDir string) string { return filepath.Join(dataDir, "offshoot.sock") }

// Desk is what operators can ask a node for; node implements it.
type Desk interface {
	Status(ctx context.Context) status.Status
	// Machine returns one machine with its timeline; ok is false if it is not known.
	Machine(mac swarm.MAC) (m status.Machine, ok bool)
	// Why gathers the traces of a machine from every node that can be reached.
	Why(ctx context.Context, mac swarm.MAC) []status.Trace
	// Propose writes an operator's decision down.
	Propose(ctx context.Context, op swarm.Op) (swarm.Result, error)
	// Leave begins to hand everything over and to stop; it returns when that is done, or cannot be.
	Leave(ctx context.Context) error
}

// ErrUnreachable: no node answers on the socket.
var ErrUnreachable = errors.New("no offshoot answers here")

// maxBody bounds requests and answers, bytes: a status with ten thousand machines has about 4 MB.
const maxBody = 32 << 20

// ArmRequest is the body of POST /v1/machines/{mac}/arm.
type ArmRequest struct {
	Profile string `json:"profile,omitempty"`
	Disk    string `json:"disk,omitempty"`
	Wipe    bool   `json:"wipe,omitempty"`
}

// NameRequest is the body of POST /v1/machines/{mac}/name.
type NameRequest struct {
	Name string `json:"name"`
}

// HoldRequest is the body of POST /v1/machines/{mac}/hold.
type HoldRequest struct {
	Reason string `json:"reason"`
}

// VotersRequest is the body of POST /v1/voters.
type VotersRequest struct {
	Voters int `json:"voters"`
}

// Handler serves a desk.
func Handler(d Desk) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answer(w, d.Status(r.Context()), nil) })
	mux.HandleFunc("GET /v1/machines/{mac}", withMAC(func(w http.ResponseWriter, _ *http.Request, mac swarm.MAC) {
		m, ok := d.Machine(mac)
		if !ok {
			http.Error(w, fmt.Sprintf("machine %s is not known: offshoot machine list", mac), http.StatusNotFound)
			return
		}
		answer(w, m, nil)
	}))
	mux.HandleFunc("GET /v1/machines/{mac}/why", withMAC(func(w http.ResponseWriter, r *http.Request, mac swarm.MAC) {
		answer(w, d.Why(r.Context(), mac), nil)
	}))
	mux.HandleFunc("POST /v1/machines/{mac}/arm", withMAC(decision(d, func(mac swarm.MAC, b ArmRequest) swarm.Op {
		return swarm.ArmMachine{MAC: mac, Profile: b.Profile, Disk: b.Disk, Wipe: b.Wipe}
	})))
	mux.HandleFunc("POST /v1/machines/{mac}/name", withMAC(decision(d, func(mac swarm.MAC, b NameRequest) swarm.Op {
		return swarm.NameMachine{MAC: mac, Name: b.Name}
	})))
	mux.HandleFunc("POST /v1/machines/{mac}/hold", withMAC(decision(d, func(mac swarm.MAC, b HoldRequest) swarm.Op {
		return swarm.HoldMachine{MAC: mac, Reason: b.Reason}
	})))
	voters := decision(d, func(_ swarm.MAC, b VotersRequest) swarm.Op { return swarm.SetVoters{Voters: b.Voters} })
	mux.HandleFunc("POST /v1/voters", func(w http.ResponseWriter, r *http.Request) { voters(w, r, "") })
	mux.HandleFunc("POST /v1/leave", func(w http.ResponseWriter, r *http.Request) { answer(w, nil, d.Leave(r.Context())) })
	return mux
}

func withMAC(do func(http.ResponseWriter, *http.Request, swarm.MAC)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		mac, err := swarm.ParseMAC(r.PathValue("mac"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		do(w, r, mac)
	}
}

func decision[T any](d Desk, op func(swarm.MAC, T) swarm.Op) func(http.ResponseWriter, *http.Request, swarm.MAC) {
	return func(w http.ResponseWriter, r *http.Request, mac swarm.MAC) {
		var body T
		in := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		in.DisallowUnknownFields()
		err := in.Decode(&body)
		if err == nil && in.More() {
			err = errors.New("data after the document")
		}
		if err != nil && !errors.Is(err, io.EOF) { // an empty body takes the defaults
			http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
			return
		}
		result, err := d.Propose(r.Context(), op(mac, body))
		if err == nil && result.Err() != nil {
			http.Error(w, result.Err().Error(), http.StatusConflict)
			return
		}
		answer(w, result.Value, err)
	}
}

func answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the operator has gone: nothing to be done
}

// maxSocketPath is what fits into a sockaddr_un with its final zero (unix(7)), bytes.
const maxSocketPath = 107

// Serve answers on the node's socket until ctx ends.
func Serve(ctx context.Context, dataDir string, h http.Handler) error {
	path := Socket(dataDir)
	if len(path) > maxSocketPath {
		return fmt.Errorf("the operator socket %s has a path of %d bytes, sockets can have %d: choose a shorter --data-dir", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the old operator socket: %w", err) // we hold the directory's lock: it is a dead one
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open the operator socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return errors.Join(fmt.Errorf("open the operator socket: %w", err), l.Close())
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Asked "leave", the answer goes out after the rest of the node has stopped: give it a moment.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			_ = server.Close()
		}
	})
	err = server.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Client asks a node.
type Client struct {
	http *http.Client
	path string
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

// Status asks for the status document.
func (c *Client) Status(ctx context.Context) (status.Status, error) {
	var s status.Status
	err := c.call(ctx, "GET", "/v1/status", nil, &s)
	return s, err
}

// Machine asks for one machine with its timeline.
func (c *Client) Machine(ctx context.Context, mac swarm.MAC) (status.Machine, error) {
	var m status.Machine
	err := c.call(ctx, "GET", "/v1/machines/"+string(mac), nil, &m)
	return m, err
}

// Why asks what every node saw of a machine.
func (c *Client) Why(ctx context.Context, mac swarm.MAC) ([]status.Trace, error) {
	var t []status.Trace
	err := c.call(ctx, "GET", "/v1/machines/"+string(mac)+"/why", nil, &t)
	return t, err
}

// Arm makes the next network boot of a machine an install.
func (c *Client) Arm(ctx context.Context, mac swarm.MAC, r ArmRequest) error {
	return c.call(ctx, "POST", "/v1/machines/"+string(mac)+"/arm", r, nil)
}

// Name gives a machine its name.
func (c *Client) Name(ctx context.Context, mac swarm.MAC, name string) error {
	return c.call(ctx, "POST", "/v1/machines/"+string(mac)+"/name", NameRequest{name}, nil)
}

// Hold stops everything that is done to a machine.
func (c *Client) Hold(ctx context.Context, mac swarm.MAC, reason string) error {
	return c.call(ctx, "POST", "/v1/machines/"+string(mac)+"/hold", HoldRequest{reason}, nil)
}

// SetVoters changes how many nodes at most vote.
func (c *Client) SetVoters(ctx context.Context, n int) error {
	return c.call(ctx, "POST", "/v1/voters", VotersRequest{n}, nil)
}

// Leave makes the node hand everything over and stop.
func (c *Client) Leave(ctx context.Context) error { return c.call(ctx, "POST", "/v1/leave", nil, nil) }

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://offshoot"+path, in)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s may not be opened: use sudo", ErrUnreachable, c.path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s. Is it running (systemctl status offshoot)? Was it started with another --data-dir?", ErrUnreachable, c.path)
	case err != nil:
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(data)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}
