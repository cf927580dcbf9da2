package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"offshoot/node/internal/agent"
	"offshoot/node/internal/api"
	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
	"offshoot/node/internal/segment"
	"offshoot/swarm"
)

// Client asks the node that runs on a data directory.
type Client = api.Client

// NewClient makes a client of the node on this data directory.
func NewClient(dataDir string) *Client { return api.NewClient(dataDir) }

// ArmRequest says how a machine is armed.
type ArmRequest = api.ArmRequest

// ReleaseRequest says how a machine is released.
type ReleaseRequest = api.ReleaseRequest

// Upload is what an operator says of bytes that he sends.
type Upload = api.Upload

// Errors that a command line tells apart.
var (
	ErrUnreachable  = api.ErrUnreachable
	ErrNoPort       = segment.ErrNoPort
	ErrNoChoice     = segment.ErrNoChoice
	ErrNoLink       = segment.ErrNoLink
	ErrUnfit        = segment.ErrUnfit
	ErrNetworkInUse = segment.ErrNetworkInUse
	ErrRights       = segment.ErrRights
	ErrImage        = image.ErrFormat
	ErrTruncated    = image.ErrTruncated
	ErrNoSystem     = image.ErrNoSystem
)

// ImageOptions say what BuildImage makes.
type ImageOptions = image.Options

// BuildImage makes a bootable golden disk image.
func BuildImage(ctx context.Context, o ImageOptions) error { return image.Build(ctx, o) }

// ProbeFor spreads the usual DISCOVERs of a probe over another time than the usual ten seconds.
func ProbeFor(listen time.Duration) segment.Schedule {
	usual := segment.DefaultSchedule()
	out := segment.Schedule{Listen: listen}
	for _, at := range usual.Sends {
		out.Sends = append(out.Sends, time.Duration(float64(at)*float64(listen)/float64(usual.Listen))) // nanoseconds squared do not fit
	}
	return out
}

// ParseNetwork reads the seed's own address with the length of its network; a network without a host address means its
// first address.
func ParseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Bits() > 28 || p.Bits() < 8 {
		return p, fmt.Errorf("%q is not an IPv4 network such as 192.168.42.1/24 (at least a /28, so that there is room for machines)", s)
	}
	if p.Masked() == p {
		p = netip.PrefixFrom(p.Addr().Next(), p.Bits())
	}
	if !p.Addr().IsGlobalUnicast() || !p.Contains(p.Addr().Next()) {
		return p, fmt.Errorf("%q: no machine can have that address (loopback, multicast, or the network's broadcast address)", s)
	}
	return p, nil
}

// CheckDisk says whether a disk selector can be understood.
func CheckDisk(selector string) error {
	_, err := install.ParseSelector(selector)
	return err
}

// CheckVLAN refuses what is no 802.1Q id.
func CheckVLAN(id int) error { return segment.CheckVLAN(id) }

// ParseRange reads the range that further segments are cut from.
func ParseRange(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Bits() > 24 || p.Masked() != p {
		return p, fmt.Errorf("%q is not an IPv4 range such as 10.42.0.0/16 (segments are cut from it as /24)", s)
	}
	return p, nil
}

// progress tells an operator in one line what has become of each machine.
func (s *services) progress(ctx context.Context) error {
	told := map[swarm.MAC]string{}
	blocked, beside := map[string]string{}, map[string]string{}
	for {
		changed := s.state.Changed()
		view := s.state.View()
		for _, g := range view.Segments() {
			switch {
			case g.Blocked != "" && g.Blocked != blocked[g.ID]:
				s.node.o.Say(fmt.Sprintf("blocked   segment %s is not served: %s", g.ID, g.Blocked))
			case g.Blocked == "" && g.Beside != "" && (g.Beside != beside[g.ID] || blocked[g.ID] != ""):
				s.node.o.Say(fmt.Sprintf("proxy     segment %s is served by proxy for now: %s", g.ID, g.Beside))
			case g.Blocked == "" && g.Beside == "" && blocked[g.ID]+beside[g.ID] != "":
				s.node.o.Say(fmt.Sprintf("segment   %s is served again", g.ID))
			}
			blocked[g.ID], beside[g.ID] = g.Blocked, g.Beside
		}
		for _, m := range view.Machines() {
			if line := machineLine(view, m); line != told[m.MAC] && !m.FirstSeen.IsZero() {
				told[m.MAC] = line
				s.node.o.Say(line)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func machineLine(view swarm.View, m swarm.Machine) string {
	what := string(m.State)
	switch {
	case m.State == swarm.MachineHeld:
		what = "held: " + m.Reason + " (offshoot machine why " + string(m.MAC) + ")"
	case m.Life.Stalled:
		what = "STALLED in its installation: " + cmp.Or(m.Phase, "nothing said yet") + " (offshoot machine log " + string(m.MAC) + ")"
	case m.State == swarm.MachineInstalling && m.Phase != "":
		what = "installing: " + m.Phase
	case m.Node != "":
		what = "joined as a node"
		var duties []string
		for _, s := range view.Segments() {
			if s.Duty.Holder == m.Node {
				duties = append(duties, s.ID)
			}
		}
		if len(duties) > 0 {
			what = "holds duty on " + strings.Join(duties, ", ")
		}
	}
	return fmt.Sprintf("machine   %-12s %s  %s", m.Name, m.MAC, what)
}

// Agent is PID 1 of the network-booted environment; it never returns.
func Agent(ctx context.Context) { agent.Main(ctx, joinExchange) }

// AgentOptions say what Install works on.
type AgentOptions struct {
	URL  string // http://ADDRESS:7480/b/NONCE
	Disk string // the one disk that exists: a device, or a file of a disk's size
	Dir  string // for mount points
}

// Install carries out one installation as an ordinary process, without a restart at the end.
func Install(ctx context.Context, o AgentOptions, log *slog.Logger) error {
	return agent.Install(ctx, agent.Options{
		URL: o.URL, Logger: log, Console: os.Stderr, System: agent.Process{Disk: o.Disk, Dir: o.Dir}, Join: joinExchange,
	})
}

// Adoption says where a foreign installer runs.
type Adoption = agent.Adoption

// ErrNoRoot: what is to become a node is no installed system.
var ErrNoRoot = agent.ErrNoSystem

// ChooseDisk tells a foreign installer which disk it may use.
func ChooseDisk(ctx context.Context, a Adoption) (string, error) { return agent.ChooseDisk(ctx, a) }

// Adopt makes a node of the system that a foreign installer has left below root.
func Adopt(ctx context.Context, a Adoption, root string) error { return agent.Adopt(ctx, a, root) }

// Ephemeral says whether the node is a seed, which hands everything over before it stops.
func (n *Node) Ephemeral() bool { return n.o.Seed != nil }
