package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/segment"
	"offshoot/node/internal/task"
	"offshoot/swarm"
)

// DryRun says what a seed with these options would answer, and answers nothing. It chooses the ports and probes as the seed
// does, with the same refusals; then it listens on their DHCP port until ctx ends, which is no error, and says of each packet
// what would have been answered and why. Nothing is founded, the port gets no address, and a port that was down is put back.
//
// What it cannot show: nobody gets an address, so no machine comes as far as its REQUEST, TFTP or HTTP. The image is not looked
// into. The ledger is an empty one, also where the data directory holds a swarm; and whether somebody uses an address is not
// asked, since that would be sent.
func DryRun(ctx context.Context, o Options) (err error) {
	if o.Seed == nil || o.DataDir == "" || o.Logger == nil || o.Say == nil {
		return errors.New("node: a dry run needs a seed, a data directory, a logger, and somebody to tell")
	}
	if err := segment.Rights(); err != nil {
		return err
	}
	if _, err := boot.Programs(); err != nil {
		return err
	}
	m, member, err := loadMemory(o.DataDir)
	if err != nil {
		return err
	}
	if err := seedable(o.DataDir, m, member); err != nil {
		return err
	}
	// Not in the data directory: that may belong to a node that runs.
	dir, err := os.MkdirTemp("", "offshoot-dry-run-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	undo, err := segment.OpenJournal(filepath.Join(dir, "undo.json"), o.Logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo.Undo()) }()
	seed, err := o.Seed.beginning(m, member, o.Say)
	if err != nil {
		return err
	}
	port, err := seed.port(ctx, undo, m)
	if err != nil {
		return err
	}
	further, err := seed.further(port, m)
	if err != nil {
		return err
	}
	o.Say("probing   for other DHCP servers on " + port.Name)
	at, err := seed.scout(ctx, port, segment.Prober{Log: o.Logger, Mark: m.mark(), Mine: m.mine(seed.network(), port)})
	if err != nil {
		return err
	}
	o.Say(fmt.Sprintf("segment   %s on %s, mode %s: %s; nothing is changed there", at.address, port.Name, at.mode, at.why))
	r := rehearsal{o: o, mark: m.mark(), undo: undo, listen: dhcp.Listen, boot: dhcp.ListenBoot}
	servers, err := r.servers(ctx, seed, at, port, further)
	if err != nil {
		return err
	}
	o.Say("listening for machines; nothing is answered. Ctrl-C ends it")
	if err := task.Run(ctx, o.Logger, servers); err != nil {
		return err
	}
	o.Say(fmt.Sprintf("stopped   %d DHCP packets would have been answered", r.answered.Load()))
	return nil
}

// servers are the DHCP servers of a seed, one on each port. Further ports get networks as an empty ledger would give them.
func (r *rehearsal) servers(ctx context.Context, seed Seed, at stance, home segment.Port, further []swarm.MAC) ([]task.Task, error) {
	first, err := r.server(home.Name, at)
	if err != nil {
		return nil, err
	}
	servers, taken := []task.Task{first}, []netip.Prefix{at.address.Masked()}
	for _, mac := range further {
		port, err := portByMAC(mac, 0)
		if err != nil {
			return nil, err
		}
		network, ok := swarm.FreeNetwork(seed.Range, taken)
		why := fmt.Sprintf("no /24 is left in %s", seed.Range)
		if ok {
			if why, err = r.closed(ctx, seed, port); err != nil {
				return nil, err
			}
		}
		if why != "" {
			r.o.Say(fmt.Sprintf("further   %s is left alone: %s", port.Name, why))
			continue
		}
		taken = append(taken, network)
		own := stance{mode: swarm.ModeFull, address: netip.PrefixFrom(network.Addr().Next(), network.Bits())}
		r.o.Say(fmt.Sprintf("further   %s on %s, mode %s: a segment of its own", own.address, port.Name, own.mode))
		server, err := r.server(port.Name, own)
		if err != nil {
			return nil, err
		}
		servers = append(servers, server)
	}
	return servers, nil
}

// closed says why no segment would be opened on a further port; "" if one would.
func (r *rehearsal) closed(ctx context.Context, seed Seed, port segment.Port) (why string, err error) {
	if !port.Up {
		if port, err = raise(ctx, r.undo, port); err != nil && !errors.Is(err, segment.ErrNoLink) {
			return "", err
		}
	}
	if err != nil || !port.Link {
		return "it has no link", nil
	}
	r.o.Say("probing   for other DHCP servers on " + port.Name)
	others, err := segment.Prober{Schedule: seed.Probe, Log: r.o.Logger, Mark: r.mark}.Probe(ctx, port)
	if err != nil || len(others) == 0 {
		return "", err
	}
	return fmt.Sprintf("another DHCP server answers there: %s", others[0]), nil
}

// rehearsal are the DHCP servers of a seed that plays to an empty house.
type rehearsal struct {
	o        Options
	mark     string // of our own probes
	undo     *segment.Journal
	listen   func(dhcp.Config) (dhcp.Link, error)
	boot     func(dhcp.Config) (dhcp.BootLink, error) // of a proxy's second port
	answered atomic.Int64
}

// server decides as that of a post does, with its settings; what it knows and what it sends is nothing.
func (r *rehearsal) server(port string, at stance) (*dhcp.Server, error) {
	c := dhcp.Config{Interface: port, Mark: r.mark}
	onSegment(&c, at.address.Addr(), swarm.Segment{Network: at.address.Masked(), Mode: at.mode}, maxLease)
	return dhcp.New(dhcp.Options{
		Config: c, Ledger: noLedger{}, Duty: func() dhcp.DutyState { return dhcp.Full }, OnTrace: r.tell, Log: r.o.Logger,
		Probe: func(context.Context, netip.Addr) (net.HardwareAddr, error) { return nil, nil },
		Listen: func(c dhcp.Config) (dhcp.Link, error) {
			l, err := r.listen(c)
			if err != nil {
				return nil, err
			}
			return mute{l}, nil
		},
		ListenBoot: func(c dhcp.Config) (dhcp.BootLink, error) {
			l, err := r.boot(c)
			if err != nil {
				return nil, err
			}
			return muteBoot{l}, nil
		},
	})
}

// tell says what would have become of one packet.
func (r *rehearsal) tell(t dhcp.Trace) {
	if t.MAC == "" {
		return // no request of anybody; the server has logged it for those who want to know
	}
	if t.Answer == "" {
		r.o.Say(fmt.Sprintf("silent    %s  %s: %s", t.MAC, t.What, t.Reason))
		return
	}
	r.answered.Add(1)
	r.o.Say(fmt.Sprintf("answer    %s  %s: %s (%s)", t.MAC, t.What, t.Answer, cmp.Or(t.Reason, t.Why)))
}

// mute is a link that hears and does not speak.
type mute struct{ dhcp.Link }

// Send sends nothing.
func (mute) Send([]byte, dhcp.Destination, net.HardwareAddr) error { return nil }

type muteBoot struct{ dhcp.BootLink }

// Send sends nothing.
func (muteBoot) Send([]byte, dhcp.Destination, net.HardwareAddr) error { return nil }

// noLedger is a ledger in which nothing was ever written, and nothing will be.
type noLedger struct{}

var _ dhcp.Ledger = noLedger{}

func (noLedger) Binding(swarm.MAC) (dhcp.Binding, bool)               { return dhcp.Binding{}, false }
func (noLedger) Holder(netip.Addr) (mac swarm.MAC, over, ok bool)     { return "", false, false }
func (noLedger) Bind(context.Context, dhcp.Binding) error             { return nil }
func (noLedger) Release(context.Context, swarm.MAC, netip.Addr) error { return nil }
func (noLedger) Quarantine(context.Context, netip.Addr) error         { return nil }
func (noLedger) Reserved(swarm.MAC) (netip.Addr, bool)                { return netip.Addr{}, false }
func (noLedger) ReservedFor(netip.Addr) (swarm.MAC, bool)             { return "", false }
