// Package lab builds throwaway networks on one Linux machine: bridges, hosts (network namespaces) and machines (QEMU),
// so that scenarios can be written like a drawing:
//
//	l, err := lab.New(lab.Options{Dir: dir, Name: "demo", Logger: log})
//	defer l.Close()
//	lan0, err := l.Network("lan0")
//	seed, err := l.Host("seed", lan0)
//	m1, err := l.Machine("m1", lab.MachineSpec{Networks: []*lab.Network{lan0}, Disk: 4 << 30})
//	err = m1.Start(ctx)
//
// It knows nothing of the product and refuses to touch the host's network: every bridge, tap and QEMU process lives in
// a namespace of the lab's own. Nothing survives: Close removes everything; when this process dies without Close, the
// kernel kills the processes that it started, and the next New or Sweep of the same folder removes the rest.
//
// Only tests and the demo may import it. It needs root; see Need.
package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
)

// Options say where a lab lives.
type Options struct {
	Dir    string       // work folder, made if missing: state, disks, serial logs. Two living labs cannot share one
	Name   string       // first part of the names of namespaces, to be recognised in `ip netns`; "lab" if empty
	Logger *slog.Logger // nil discards
}

// Lab is one throwaway world. Its methods may be called from several goroutines.
type Lab struct {
	dir    string
	prefix string
	log    *slog.Logger
	state  *stateFile
	forks  *forker
	wires  *namespace // holds bridges, taps and QEMU

	mu       sync.Mutex
	closed   bool
	names    map[string]bool
	macs     map[string]bool
	ports    int
	spaces   []*namespace
	machines []*Machine
	captures []*Capture
	storms   map[string]*storm // by the port of the wires namespace that is disturbed

	closeOnce sync.Once
	closeErr  error
}

// validName keeps names usable as interface names (15 bytes, IFNAMSIZ), as file names and in `ip netns`.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,14}$`)

// New makes the work folder, removes what a crashed lab left in it, and opens a new one.
func New(o Options) (*Lab, error) {
	if o.Name == "" {
		o.Name = "lab"
	}
	if !validName.MatchString(o.Name) {
		return nil, fmt.Errorf("lab name %q: want %s", o.Name, validName)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("lab folder %s: %w", o.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab folder: %w", err)
	}
	state, err := openState(dir)
	if err != nil {
		return nil, err
	}
	if err := state.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("sweep crashed lab: %w", err), state.close())
	}
	// The folder's hash keeps labs of the same name in different folders apart, and gives a folder the same names again.
	sum := sha256.Sum256([]byte(dir))
	l := &Lab{
		dir: dir, prefix: o.Name + "-" + hex.EncodeToString(sum[:2]), log: o.Logger, state: state, forks: startForker(),
		names: map[string]bool{}, macs: map[string]bool{}, storms: map[string]*storm{},
	}
	if l.wires, err = l.namespace("wires"); err == nil {
		err = l.wires.do(withoutIPv6)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// withoutIPv6 silences the bridges and ports of the namespace that it is called in: they have no addresses, but the
// kernel would announce each of them on every network. (/proc/sys/net shows the namespace of the thread that opens it.)
func withoutIPv6() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Dir is the work folder.
func (l *Lab) Dir() string { return l.dir }

// Close stops captures, kills every process and removes every namespace with all interfaces in it. It takes at most
// about twenty seconds, may be called again, and leaves the files in the work folder: logs, disks, captures.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	l.mu.Lock()
	l.closed = true
	captures, machines, spaces, storms := l.captures, l.machines, l.spaces, l.storms
	l.storms = map[string]*storm{}
	l.mu.Unlock()

	var errs []error
	for _, m := range machines {
		m.Kill()
	}
	for _, c := range captures { // after the machines, so that their last packets are in
		errs = append(errs, c.Close())
	}
	for _, s := range storms {
		errs = append(errs, s.close(l.wires))
	}
	for _, n := range spaces {
		errs = append(errs, n.close())
	}
	errs = append(errs, l.state.sweep())
	l.forks.stop() // only now: its thread's end would kill what it started
	return errors.Join(append(errs, l.state.close())...)
}

// take claims a name for a network, host or machine.
func (l *Lab) take(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: want %s", name, validName)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	if l.names[name] {
		return fmt.Errorf("name %q is taken in this lab", name)
	}
	l.names[name] = true
	return nil
}

// mac derives the address of a port from the drawing alone, so that it is the same in every run.
func (l *Lab) mac(owner string, port int) net.HardwareAddr {
	l.mu.Lock()
	defer l.mu.Unlock()
	for salt := 0; ; salt++ {
		mac := macOf(owner, port, salt)
		if !l.macs[mac.String()] {
			l.macs[mac.String()] = true
			return mac
		}
	}
}

// macOf uses QEMU's customary prefix 52:54:00 (locally administered, unicast).
func macOf(owner string, port, salt int) net.HardwareAddr {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", owner, port, salt))
	return append(net.HardwareAddr{0x52, 0x54, 0x00}, sum[:3]...)
}

// port names the next interface in the wires namespace.
func (l *Lab) port() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports++
	return fmt.Sprintf("port%d", l.ports)
}

// Network is one layer-2 broadcast domain: a bridge without spanning tree.
type Network struct {
	lab  *Lab
	name string
}

// Network makes a bridge. Hosts name their interface on it like it.
func (l *Lab) Network(name string) (*Network, error) {
	if err := l.take(name); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	// No forward delay: a port that waits 30 s makes firmware give up. No snooping: without a querier it would
	// lose multicast that a plain switch floods.
	err := l.wires.ip("link", "add", name, "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0")
	if err == nil {
		err = l.wires.ip("link", "set", name, "up")
	}
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	return &Network{lab: l, name: name}, nil
}

// String is the network's name.
func (n *Network) String() string { return n.name }

// attach plugs an interface of the wires namespace into the bridge.
func (n *Network) attach(port, owner string) error {
	w := n.lab.wires
	if err := w.ip("link", "set", port, "alias", owner+" "+n.name, "master", n.name, "up"); err != nil {
		return err
	}
	return w.offloadsOff(port)
}

// Host is a network namespace with one Ethernet port per network: a computer without firmware that runs programs of this
// machine. Its ports carry no address yet.
type Host struct {
	lab   *Lab
	name  string
	space *namespace
	ports []port
}

type port struct {
	network *Network
	wire    string // the interface in the wires namespace
	mac     net.HardwareAddr
}

// Host makes a namespace whose interfaces are called like the networks that they are plugged into.
func (l *Lab) Host(name string, networks ...*Network) (*Host, error) {
	if err := l.take(name); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	space, err := l.namespace(name)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	h := &Host{lab: l, name: name, space: space}
	for i, n := range networks {
		p := port{network: n, wire: l.port(), mac: l.mac(name, i)}
		if err := h.plug(p); err != nil {
			return nil, fmt.Errorf("host %s: network %s: %w", name, n, err)
		}
		h.ports = append(h.ports, p)
	}
	return h, nil
}

func (h *Host) plug(p port) error {
	err := h.lab.wires.ip("link", "add", p.wire, "type", "veth",
		"peer", "name", p.network.name, "netns", h.space.name, "address", p.mac.String())
	if err != nil {
		return err
	}
	if err := h.space.offloadsOff(p.network.name); err != nil {
		return err
	}
	if err := h.space.ip("link", "set", p.network.name, "up"); err != nil {
		return err
	}
	return p.network.attach(p.wire, h.name)
}

// String is the host's name.
func (h *Host) String() string { return h.name }

// Namespace is the name under which `ip netns exec` knows the host.
func (h *Host) Namespace() string { return h.space.name }

// MAC is the address of the host's port on n; nil if it has none there.
func (h *Host) MAC(n *Network) net.HardwareAddr {
	if p, ok := portOn(h.ports, n); ok {
		return p.mac
	}
	return nil
}

// SetLink plugs (true) or pulls (false) the host's cable to n: inside, the interface loses its carrier.
func (h *Host) SetLink(n *Network, up bool) error {
	p, ok := portOn(h.ports, n)
	if !ok {
		return fmt.Errorf("host %s is not on network %s", h.name, n)
	}
	return h.lab.wires.ip("link", "set", p.wire, upOrDown(up))
}

// Command is a program inside the host; see Cmd.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return h.space.command(ctx, name, args...)
}

// Run runs a program inside the host and returns what it printed; the error contains that as well.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.space.run(ctx, name, args...)
}

// Dial connects from inside the host. The address must be literal (192.0.2.1:22): a resolver would run outside.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.space.dial(ctx, network, address)
}

// Do calls fn on a thread that is inside the host's namespace: sockets that fn opens stay there for ever. fn must not
// start goroutines (they run outside) and must not lock or unlock its thread.
func (h *Host) Do(fn func() error) error { return h.space.do(fn) }

func portOn(ports []port, n *Network) (port, bool) {
	i := slices.IndexFunc(ports, func(p port) bool { return p.network == n })
	if i < 0 {
		return port{}, false
	}
	return ports[i], true
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}
