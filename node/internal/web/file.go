package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/driver"
	"offshoot/swarm"
)

// Place is where a machine meets the node that installs it.
type Place struct {
	Lease  swarm.Lease
	Self   netip.Addr   // of the node, on the machine's segment
	Others []netip.Addr // of further nodes there
}

// See is what the templates of a machine's profile see of it.
func See(view swarm.View, m swarm.Machine, p swarm.Profile, at Place) (driver.Data, error) {
	segment, ok := view.Segment(at.Lease.Segment)
	if !ok {
		return driver.Data{}, fmt.Errorf("segment %q is not known", at.Lease.Segment)
	}
	return driver.See(p, driver.Machine{
		MAC: m.MAC, Hostname: m.Name, Address: netip.PrefixFrom(at.Lease.Addr, segment.Network.Bits()), Install: m.Install, Disk: m.Disk, Wipe: m.Wipe,
		URL:   strings.TrimSuffix(URL(at.Self, at.Lease.Nonce), "/boot.ipxe"),
		Nodes: append([]netip.Addr{at.Self}, at.Others...),
	}, Port)
}

// place is where the machine of a visit meets us.
func (s *Server) place(v visit) Place {
	at := Place{Lease: v.lease, Self: v.self}
	for _, n := range s.o.Exchangers(v.lease.Segment) {
		if addr := n.Address.Addr(); addr != v.self {
			at.Others = append(at.Others, addr)
		}
	}
	return at
}

// installer is what a machine boots whose profile has an installer of its own.
func installer(view swarm.View, m swarm.Machine, p swarm.Profile, at Place) (boot.Decision, string) {
	d, err := See(view, m, p, at)
	var b driver.Boot
	if err == nil {
		b, err = driver.BootOf(p, d)
	}
	if err != nil {
		why := fmt.Sprintf("profile %s: %v", p.Name, err)
		return boot.Wait{Reason: why}, "wait, " + why
	}
	if b.San != "" {
		return boot.SanBoot{URL: b.San, Initiator: d.Initiator()}, "a disk on the network, by profile " + p.Name
	}
	if p.Diskless() {
		return boot.Installer{Name: p.Driver, Kernel: b.Kernel, Initrd: b.Initrd, Args: b.Args}, "a system with its root on the network, by profile " + p.Name
	}
	return boot.Installer{Name: p.Driver, Kernel: b.Kernel, Initrd: b.Initrd, Args: b.Args}, "the installer of " + p.Driver + " " + p.Release + ", for profile " + p.Name
}

// File is one that a machine asks for while it is installed.
type File struct{ Name, Text string }

// Preview is all that a machine would get if it were armed with a profile: its boot script, and what its installer asks for. The
// install config is left out: it is made when it is fetched, with a ticket.
func Preview(view swarm.View, m swarm.Machine, p swarm.Profile, at Place) ([]File, error) {
	decision, _ := program(view, m, p, at)
	facts := boot.Facts{MAC: m.MAC, Hostname: m.Name, Self: URL(at.Self, at.Lease.Nonce), Decision: decision}
	files, err := renderAll(view, m, p, at)
	return append([]File{{"boot.ipxe", boot.Script(facts)}}, files...), err
}

// renderAll is every file of a profile, as one machine gets it.
func renderAll(view swarm.View, m swarm.Machine, p swarm.Profile, at Place) (out []File, err error) {
	d, err := See(view, m, p, at)
	if err != nil {
		return nil, err
	}
	for _, name := range driver.FilesOf(p) {
		text, err := driver.Render(p, d, name)
		if err != nil {
			return nil, err
		}
		out = append(out, File{name, string(text)})
	}
	return out, nil
}

// cloudInit is what the agent leaves for cloud-init in an image that has it.
func (s *Server) cloudInit(v visit, p swarm.Profile) (map[string]string, error) {
	if !driver.Agent(p) {
		return nil, nil
	}
	files, err := renderAll(s.o.View(), v.machine, p, s.place(v))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "profile %s: %v", p.Name, err)
	}
	var out map[string]string
	for _, f := range files {
		if out == nil {
			out = map[string]string{}
		}
		out[f.Name] = f.Text
	}
	return out, nil
}

// foreign says whether a machine is installed by another program than our agent.
func (s *Server) foreign(m swarm.Machine) bool {
	p, ok := s.o.View().Profile(m.Profile)
	return ok && !driver.Agent(p)
}

// file is one that an installer reads: a preseed, its hooks. Who may have the install config may have it, and nobody else.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	text, err := s.renderFile(v, r.PathValue("file"))
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	if v.machine.State == swarm.MachineArmed {
		if err := s.begin(r.Context(), v.machine); err != nil {
			s.fail(w, r, v, err)
			return
		}
	}
	s.o.Trace(v.machine.MAC, what(r), fmt.Sprintf("%d bytes, of profile %s", len(text), v.machine.Profile), "")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // the machine has gone: nothing to be done
}

// begin writes down that the installation is under way, before the installer knows what to do: from then on what it reports counts.
func (s *Server) begin(ctx context.Context, m swarm.Machine) error {
	result, err := s.o.Propose(ctx, swarm.BeginInstall{MAC: m.MAC})
	if err != nil {
		return err
	}
	if err := result.Err(); err != nil {
		return refuse(http.StatusConflict, "%v", err)
	}
	return nil
}

func (s *Server) renderFile(v visit, name string) ([]byte, error) {
	m := v.machine
	if m.State != swarm.MachineArmed && m.State != swarm.MachineInstalling {
		return nil, refuse(http.StatusForbidden, "machine %s is %s: arm it with: offshoot machine arm %s", m.Name, m.State, m.MAC)
	}
	p, ok := s.o.View().Profile(m.Profile)
	if !ok {
		return nil, refuse(http.StatusForbidden, "profile %q does not exist", m.Profile)
	}
	d, err := See(s.o.View(), m, p, s.place(v))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "profile %s: %v", p.Name, err)
	}
	text, err := driver.Render(p, d, name)
	switch {
	case errors.Is(err, driver.ErrNoFile):
		return nil, refuse(http.StatusNotFound, "%v", err)
	case err != nil:
		return nil, refuse(http.StatusForbidden, "profile %s: %v", p.Name, err)
	}
	return text, nil
}
