package web

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

const (
	// presenceTime is how long a machine counts as present after it last said so: it does every other second.
	presenceTime = 10 * time.Second
	// maxNodes and maxMachines bound the neighbours that a machine is told of. It needs a few dozen; thousands would only call
	// one another.
	maxNodes, maxMachines = 16, 48
)

// presence is a machine that exchanges its image with others while it installs itself. It is known to the node that serves it,
// and to no other: whoever takes the duty over is told within two seconds.
type presence struct {
	name    string // swarm.InstallerID
	segment string
	image   string
	at      netip.AddrPort
	done    bool
	seen    time.Time
}

// exchange notes where a machine gives pieces of its image away, and answers with those around it who do so too.
func (s *Server) exchange(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	if err == nil && v.machine.State != swarm.MachineInstalling {
		err = refuse(http.StatusForbidden, "machine %s is %s: only one that installs itself exchanges its image", v.machine.Name, v.machine.State)
	}
	var said install.Presence
	if err == nil {
		if said, err = install.DecodePresence(r.Body); err != nil {
			err = refuse(http.StatusBadRequest, "%v", err)
		}
	}
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	profile, _ := s.o.View().Profile(v.machine.Profile)
	own := presence{
		name: string(swarm.InstallerID(v.machine.Install)), segment: v.lease.Segment, image: profile.Image, done: said.Done, seen: v.now,
		at: netip.AddrPortFrom(v.lease.Addr, uint16(said.Port)),
	}
	out := around(own, s.meet(v.machine.MAC, own))
	nodes := s.o.Exchangers(v.lease.Segment)
	out.Peers = append(nodes[:min(len(nodes), maxNodes)], out.Peers...)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the machine has gone: nothing to be done
}

// meet writes a machine down and returns all that are present, it among them. Who has not been heard for a while is forgotten.
func (s *Server) meet(mac swarm.MAC, own presence) []presence {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.present[mac] = own
	var all []presence
	for m, p := range s.present {
		if own.seen.Sub(p.seen) > presenceTime {
			delete(s.present, m)
			continue
		}
		all = append(all, p)
	}
	return all
}

// around picks who exchanges the same image on the same segment, and the part that a machine asks for first: its place among
// those that fetch. Of many machines each is told of those that follow it, so that all are told of as often.
func around(own presence, all []presence) install.Neighbours {
	all = slices.DeleteFunc(slices.Clone(all), func(p presence) bool { return p.segment != own.segment || p.image != own.image })
	slices.SortFunc(all, func(a, b presence) int { return strings.Compare(a.name, b.name) })
	at := slices.IndexFunc(all, func(p presence) bool { return p.name == own.name })
	out := install.Neighbours{Peers: []install.Neighbour{}}
	for i, p := range all {
		if p.done {
			continue
		}
		if i < at {
			out.Part++
		}
		out.Parts++
	}
	if own.done {
		out.Part, out.Parts = 0, 0
	}
	for k := 1; k < len(all) && len(out.Peers) < maxMachines; k++ {
		p := all[(at+k)%len(all)]
		out.Peers = append(out.Peers, install.Neighbour{ID: p.name, Address: p.at})
	}
	return out
}
