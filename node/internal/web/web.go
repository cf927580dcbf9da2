// Package web is the plain HTTP that machines see while they boot and install: boot programs for firmware that loads them by
// HTTP, boot scripts, artifacts by digest and files out of ISO images among them, the install config with its ticket, and the reports of the agent.
//
// Nothing here is secret but the install config, which is bound to the boot nonce of one lease, to the address that the
// lease is for, and to the MAC behind that address. Boot scripts come only from the node that holds duty on the segment; an
// installation that began with a node may end with it, wherever the duty has gone, and artifacts it serves always, because
// bytes harm nobody. Only node imports it.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/driver"
	"offshoot/node/internal/install"
	"offshoot/swarm"
)

// Port is where machines that boot find us. It stands in the URLs that DHCP hands out.
const Port = 7480

// ticketLife is how long an installation may take from its config to its redeem.
const ticketLife = 2 * time.Hour

// Options is what the web needs of the rest of the node.
type Options struct {
	View    func() swarm.View
	Changed func() <-chan struct{} // closed when View shows something else
	Propose func(ctx context.Context, op swarm.Op) (swarm.Result, error)
	// OnDuty says whether this node may answer boot requests of a segment now.
	OnDuty func(segment string) bool
	// Programs are the boot programs, those of boot.Programs. Files that the kernel can read are sent by it.
	Programs fs.FS
	// Artifact opens bytes by digest; an error if they are not here.
	Artifact func(digest string) (io.ReadSeekCloser, error)
	// Sent hears how many bytes of an artifact a machine was sent, while they are.
	Sent func(digest string, n int64)
	// Mint draws a ticket: its id, the hash that is written down, the secret text for the machine.
	Mint func() (id, hash, secret string)
	// Endpoints lists host:port of peer listeners for a machine on a segment, best first.
	Endpoints func(segment string, self netip.Addr) []string
	// Exchangers are the nodes that exchange artifacts with machines of a segment, by id and where these reach them, best first.
	Exchangers func(segment string) []install.Neighbour
	// NeighbourMAC says which MAC the kernel knows behind an address, "" for none: the check against a borrowed address.
	NeighbourMAC func(netip.Addr) swarm.MAC
	// Begun is the machine whose boot a nonce names that a proxy has begun here; nil: there is none.
	Begun func(nonce string) (swarm.MAC, bool)
	// Firmware tells what DHCP learned of a machine.
	Firmware func(swarm.MAC) boot.Firmware
	// Trace keeps what was asked and answered, for `machine why`.
	Trace  func(mac swarm.MAC, what, answer, reason string)
	Now    func() time.Time
	Logger *slog.Logger
}

// Server answers. It is safe for concurrent use.
type Server struct {
	o    Options
	isos isos

	mu       sync.Mutex
	progress map[swarm.MAC]reported
	told     map[swarm.MAC]string // boot and answer that are in the diary
	present  map[swarm.MAC]presence
	ownDisk  map[swarm.MAC]time.Time // until when a free machine is sent to its own disk, because its console asked for that
}

type reported struct {
	install, phase string
	percent        int
	at             time.Time
}

// New makes a server; serve its Handler.
func New(o Options) *Server {
	return &Server{
		o: o, isos: isos{artifact: o.Artifact, open: map[string]*openISO{}}, progress: map[swarm.MAC]reported{}, told: map[swarm.MAC]string{},
		present: map[swarm.MAC]presence{}, ownDisk: map[swarm.MAC]time.Time{},
	}
}

// URL is where the boot script of a nonce is, on the node that has this address on the segment.
func URL(self netip.Addr, nonce string) string {
	return fmt.Sprintf("http://%s/b/%s/boot.ipxe", netip.AddrPortFrom(self, Port), nonce)
}

// Handler routes the requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+programs+"{name}", s.program) // HEAD too
	s.handleGRUB(mux)
	mux.HandleFunc("GET /b/{nonce}/boot.ipxe", s.script)
	mux.HandleFunc("GET /b/{nonce}/order", s.order)
	mux.HandleFunc("POST /b/{nonce}/request", s.request)
	mux.HandleFunc("GET /b/{nonce}/install", s.config)
	mux.HandleFunc("GET /b/{nonce}/{file}", s.file)
	mux.HandleFunc("POST /b/{nonce}/event", s.event)
	mux.HandleFunc("POST /b/{nonce}/exchange", s.exchange)
	mux.HandleFunc("GET /artifact/{digest}/{name}", s.artifact)                  // HEAD too
	mux.HandleFunc("GET /artifact/{digest}/tree/images/install.img", s.artifact) // what Anaconda makes of a folder's URL
	mux.HandleFunc("GET /iso/{digest}/{path...}", s.fromISO)
	return single(mux)
}

// visit is a request of a machine whose nonce was good.
type visit struct {
	lease   swarm.Lease
	machine swarm.Machine
	self    netip.Addr // our address that was asked
	now     time.Time
}

// refusal is an answer that is no success, and the words for it.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// admit finds the lease behind a request, and refuses who is not its owner.
func (s *Server) admit(r *http.Request) (visit, error) {
	lease, err := s.leaseOf(r, s.o.Now())
	if lease.MAC == "" && err == nil { // expired ones count: iPXE does not renew while it waits to be armed, and nobody else has the address yet
		err = refuse(http.StatusNotFound, "no lease with this boot nonce: boot from the network again")
	}
	v, why := s.visit(r, lease)
	if err == nil {
		err = why
	}
	return v, err
}

// visit checks that a request comes from the machine that has a lease.
func (s *Server) visit(r *http.Request, lease swarm.Lease) (visit, error) {
	machine, known := s.o.View().Machine(lease.MAC)
	v := visit{now: s.o.Now(), lease: lease, machine: machine}
	if !known {
		return v, refuse(http.StatusNotFound, "machine %s is not known", lease.MAC)
	}
	var err error
	if v.self, err = asked(r); err != nil {
		return v, refuse(http.StatusInternalServerError, "%v", err)
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || from.Addr().Unmap() != lease.Addr {
		return v, refuse(http.StatusConflict, "the boot nonce belongs to %s, not to %s", lease.Addr, r.RemoteAddr)
	}
	if mac := s.o.NeighbourMAC(lease.Addr); mac != "" && mac != lease.MAC {
		return v, refuse(http.StatusConflict, "%s is used by %s, but leased to %s", lease.Addr, mac, lease.MAC)
	}
	return v, nil
}

// asked is our address that a request came to.
func asked(r *http.Request) (netip.Addr, error) {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return netip.Addr{}, errors.New("the connection has no local address")
	}
	self, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("local address: %w", err)
	}
	return self.Addr().Unmap(), nil
}

// fail answers a refusal. The body is for people; agents show it on their console.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, v visit, err error) {
	code := http.StatusServiceUnavailable
	var no *refusal
	if errors.As(err, &no) {
		code = no.code
	}
	if v.lease.MAC != "" {
		s.o.Trace(v.lease.MAC, what(r), "", fmt.Sprintf("%d: %v", code, err))
	}
	http.Error(w, err.Error(), code)
}

func what(r *http.Request) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/b/"), "/")
	return r.Method + " " + rest // without the nonce
}

func (s *Server) script(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	if err == nil && !s.o.OnDuty(v.lease.Segment) {
		err = refuse(http.StatusServiceUnavailable, "this node does not hold duty on segment %s", v.lease.Segment)
	}
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	facts, answer := s.facts(v)
	s.o.Trace(v.machine.MAC, what(r), answer, "")
	plain(w, boot.Script(facts))
}

// isNews keeps a machine that waits, and asks every few seconds, from filling the diary.
func (s *Server) isNews(v visit, answer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := v.lease.Nonce + " " + answer
	if s.told[v.machine.MAC] == told {
		return false
	}
	s.told[v.machine.MAC] = told
	return true
}

// note puts a line on a machine's timeline without making the machine wait for the ledger.
func (s *Server) note(mac swarm.MAC, kind, text string) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := s.o.Propose(ctx, swarm.Note{MAC: mac, Kind: kind, Text: text}); err != nil {
			s.o.Logger.Debug("timeline not written", "mac", mac, "error", err)
		}
	}()
}

// config renders the install config, and mints the ticket that it carries. Each fetch has a ticket of its own and revokes
// the one before: nobody has to remember a secret so that it can be told twice.
func (s *Server) config(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	if err != nil {
		s.contention(r.Context(), v, err)
		s.fail(w, r, v, err)
		return
	}
	cfg, ticket, err := s.render(r.Context(), v)
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(cfg); err != nil {
		s.o.Trace(v.machine.MAC, what(r), "", "the machine hung up: "+err.Error())
		return
	}
	s.o.Trace(v.machine.MAC, what(r), "install config with ticket "+ticket, "")
	if _, err := s.o.Propose(r.Context(), swarm.FetchTicket{ID: ticket}); err != nil {
		s.o.Logger.Warn("ticket is not marked as fetched", "ticket", ticket, "error", err)
	}
}

// contention holds a machine whose config somebody else asked for: one of the two is a thief (trust.md, tickets, 3).
func (s *Server) contention(ctx context.Context, v visit, why error) {
	var no *refusal
	if !errors.As(why, &no) || no.code != http.StatusConflict || v.machine.State != swarm.MachineArmed && v.machine.State != swarm.MachineInstalling {
		return
	}
	reason := "somebody else asked for its install config: " + why.Error()
	if _, err := s.o.Propose(ctx, swarm.HoldMachine{MAC: v.machine.MAC, Reason: reason}); err != nil {
		s.o.Logger.Warn("machine is not held", "mac", v.machine.MAC, "error", err)
	}
}

func (s *Server) render(ctx context.Context, v visit) (install.Config, string, error) {
	none := install.Config{}
	m := v.machine
	if m.State != swarm.MachineArmed && m.State != swarm.MachineInstalling {
		return none, "", refuse(http.StatusForbidden, "machine %s is %s: arm it with: offshoot machine arm %s", m.Name, m.State, m.MAC)
	}
	view := s.o.View()
	p, ok := view.Profile(m.Profile)
	if !ok {
		return none, "", refuse(http.StatusForbidden, "profile %q does not exist", m.Profile)
	}
	if why := p.Misfit(m); why != "" {
		return none, "", refuse(http.StatusForbidden, "%s", why)
	}
	image, err := s.image(v, p)
	if err != nil {
		return none, "", err
	}
	seed, err := s.cloudInit(v, p)
	if err != nil {
		return none, "", err
	}
	params, err := driver.ParamsOf(p)
	if err != nil {
		return none, "", refuse(http.StatusForbidden, "profile %s: %v", p.Name, err)
	}
	segment, ok := view.Segment(v.lease.Segment)
	if segment.Beside != "" && v.lease.Class == swarm.LeaseForeign {
		return none, "", refuse(http.StatusForbidden, "nothing is installed for now: %s", segment.Beside)
	}
	settings, founded := view.Settings()
	if !ok || !founded {
		return none, "", refuse(http.StatusServiceUnavailable, "segment %s is not known", v.lease.Segment)
	}
	id, hash, secret := s.o.Mint()
	op := swarm.MintTicket{ID: id, Hash: hash, MAC: m.MAC, Segment: segment.ID, Addr: v.lease.Addr, Expires: v.now.Add(ticketLife)}
	result, err := s.o.Propose(ctx, op)
	if err == nil {
		err = result.Err()
	}
	if err != nil {
		return none, "", fmt.Errorf("mint a ticket for %s: %w", m.MAC, err)
	}
	disk := m.Disk
	if disk == "" {
		disk = params.Disk
	}
	return install.Config{
		Install: m.Install, Machine: string(m.MAC), Hostname: m.Name, Image: image,
		Disk: disk, Wipe: m.Wipe, CloudInit: seed, LeaveBootOrder: p.LeaveBootOrder, RootHash: params.PasswordHash, SSHKeys: params.SSHKeys, Binary: p.Binary,
		Join: install.Join{
			Foreign: segment.Foreign(),
			Swarm:   settings.Swarm, Ticket: secret, Pin: settings.Pin, Endpoints: s.o.Endpoints(segment.ID, v.self),
			Segment: segment.ID, Address: netip.PrefixFrom(v.lease.Addr, segment.Network.Bits()), Gateway: gateway(segment, v.self),
			MAC: string(m.MAC), Name: m.Name,
		},
	}, id, nil
}

// gateway is the way to other segments: the node itself, or the router that relays.
func gateway(s swarm.Segment, self netip.Addr) netip.Addr {
	if s.Relayed() {
		return s.Relay.There
	}
	return self
}

// image is what the agent writes. Other installers bring a system of their own.
func (s *Server) image(v visit, p swarm.Profile) (install.Image, error) {
	if !driver.Agent(p) {
		return install.Image{}, nil
	}
	a, ok := s.o.View().Artifact(p.Image)
	if !ok {
		return install.Image{}, refuse(http.StatusForbidden, "image %s of profile %s is not in the index", p.Image, p.Name)
	}
	return install.Image{
		URL:    fmt.Sprintf("http://%s/artifact/%s/image", netip.AddrPortFrom(v.self, Port), p.Image),
		SHA256: p.Image, Size: a.Size, Format: p.Format, DiskSize: p.DiskSize, InfoHash: a.InfoHash,
	}, nil
}

// Progress is written down when the phase changes, every 5 %, and every 5 s: enough to watch, and no load for the ledger
// when a rack installs.
const (
	progressStep = 5
	progressTime = 5 * time.Second
)

func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	e, err := install.DecodeEvent(r.Body)
	if err != nil {
		s.fail(w, r, v, refuse(http.StatusBadRequest, "event: %v", err))
		return
	}
	if e.Install == "" && e.Inventory != nil {
		if err := s.free(r.Context(), v, e); err != nil {
			s.fail(w, r, v, err)
			return
		}
	}
	if e.Install == "" && v.machine.State == swarm.MachineInstalling && s.foreign(v.machine) {
		e.Install = v.machine.Install // hooks of an installer say no more than they must
	}
	if e.Install == "" || !s.worthWriting(v, e) { // before the config is fetched there is no install to report on
		w.WriteHeader(http.StatusOK)
		return
	}
	op := swarm.ReportInstall{MAC: v.machine.MAC, Install: e.Install, Phase: string(e.Phase), Text: e.Text, Percent: e.Percent, Final: e.Final && e.Phase == install.PhaseFailed}
	if e.Inventory != nil {
		op.UUID = e.Inventory.UUID
		if op.Inventory, err = json.Marshal(e.Inventory); err != nil {
			s.fail(w, r, v, refuse(http.StatusBadRequest, "inventory: %v", err))
			return
		}
	}
	result, err := s.o.Propose(r.Context(), op)
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	if err := result.Err(); err != nil {
		s.fail(w, r, v, refuse(http.StatusConflict, "%v", err))
		return
	}
	s.written(v, e)
	s.o.Trace(v.machine.MAC, what(r), fmt.Sprintf("%s %d %% %s", e.Phase, e.Percent, e.Text), "")
	w.WriteHeader(http.StatusOK)
}

func (s *Server) worthWriting(v visit, e install.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.progress[v.machine.MAC]
	same := last.install == e.Install && last.phase == string(e.Phase) && e.Inventory == nil && !e.Failed && !e.Final
	return !same || e.Percent >= last.percent+progressStep || v.now.Sub(last.at) >= progressTime
}

// written is noted only then: an event that could not be written down is sent again, and must count.
func (s *Server) written(v visit, e install.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress[v.machine.MAC] = reported{e.Install, string(e.Phase), e.Percent, v.now}
}

func (s *Server) artifact(w http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("digest")
	c, err := s.o.Artifact(digest)
	if err != nil {
		http.Error(w, fmt.Sprintf("artifact %q is not here", digest), http.StatusNotFound)
		return
	}
	defer func() { _ = c.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+digest+`"`)
	http.ServeContent(&counted{ResponseWriter: w, sent: func(n int64) { s.o.Sent(digest, n) }}, r, "", time.Time{}, c)
}
