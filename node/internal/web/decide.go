package web

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/driver"
	"offshoot/swarm"
)

// facts are what the machine boots, which goes into its diary when it is new.
func (s *Server) facts(v visit) (boot.Facts, string) {
	facts := boot.Facts{
		MAC: v.machine.MAC, Hostname: v.machine.Name, Firmware: s.o.Firmware(v.machine.MAC), Self: URL(v.self, v.lease.Nonce),
	}
	var answer string
	facts.Decision, answer = s.decide(v)
	if s.isNews(v, answer) {
		s.note(v.machine.MAC, "boot", "boot script: "+answer)
	}
	return facts, answer
}

// decide is the one place where a machine's state becomes what it boots. Only an armed machine, or one whose armed
// installation or release is under way, is ever started into what writes to disks; one that nobody asked for, into an agent that
// waits.
func (s *Server) decide(v visit) (boot.Decision, string) {
	m := v.machine
	switch m.State {
	case swarm.MachineInstalled:
		return ownDisk(m), "its own disk"
	case swarm.MachineHeld:
		return boot.Wait{Reason: "held: " + m.Reason}, "wait, held: " + m.Reason
	case swarm.MachineArmed, swarm.MachineInstalling, swarm.MachineNetboot:
		return s.toInstall(v)
	case swarm.MachineReleasing:
		return s.agent(v, "to wipe its disks")
	}
	if s.goesToItsDisk(m.MAC, v.now) {
		return ownDisk(m), "its own disk, as asked for on its console"
	}
	settings, _ := s.o.View().Settings()
	if _, ok := s.o.View().Profile(cmp.Or(m.Profile, settings.Profile)); !ok || settings.UnknownMachines() == swarm.UnknownWait {
		why := fmt.Sprintf("not armed; on a node run: offshoot machine arm %s", m.MAC)
		return boot.Wait{Reason: why}, "wait, not armed"
	}
	return s.agent(v, "to wait: nobody has asked for this machine")
}

// toInstall is what an armed machine boots, if it may be installed now.
func (s *Server) toInstall(v visit) (boot.Decision, string) {
	m := v.machine
	if why := s.beside(v); why != "" {
		return boot.Wait{Reason: why}, "wait, " + why
	}
	p, ok := s.o.View().Profile(m.Profile)
	if !ok {
		why := fmt.Sprintf("profile %q does not exist", m.Profile)
		return boot.Wait{Reason: why}, "wait, " + why
	}
	if why := p.Misfit(m); why != "" {
		return boot.Wait{Reason: why}, "wait, " + why
	}
	if (m.State == swarm.MachineNetboot) != p.Diskless() {
		why := fmt.Sprintf("it is %s, and the driver of profile %s is %s; on a node run: offshoot machine arm %s", m.State, p.Name, p.Driver, m.MAC)
		return boot.Wait{Reason: why}, "wait, " + why
	}
	return program(s.o.View(), m, p, s.place(v))
}

// beside says why nothing may be installed on the segment for now, "" if it may.
func (s *Server) beside(v visit) string {
	segment, _ := s.o.View().Segment(v.lease.Segment)
	if segment.Beside == "" {
		return ""
	}
	// Its node would have an address of that server's among nodes that have theirs from us for ever.
	return "nothing is installed for now: " + segment.Beside
}

// program is what a machine boots to be installed: the agent, or the installer of its profile.
func program(view swarm.View, m swarm.Machine, p swarm.Profile, at Place) (boot.Decision, string) {
	if !driver.Agent(p) {
		return installer(view, m, p, at)
	}
	return agentOf(m, p, at), "the agent, to install profile " + p.Name
}

// agentOf starts the boot environment of a profile.
func agentOf(m swarm.Machine, p swarm.Profile, at Place) boot.Agent {
	base := "http://" + netip.AddrPortFrom(at.Self, Port).String()
	args := append(strings.Fields(p.Args), "offshoot.url="+base+"/b/"+at.Lease.Nonce, "offshoot.mac="+string(m.MAC))
	return boot.Agent{
		Kernel: base + "/artifact/" + p.Kernel + "/vmlinuz",
		Initrd: base + "/artifact/" + p.Initrd + "/initrd",
		Args:   args,
	}
}
