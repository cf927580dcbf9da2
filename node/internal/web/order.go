package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/driver"
	"offshoot/node/internal/install"
	"offshoot/swarm"
)

const (
	// orderWait is how long a machine that waits is kept waiting for an answer: shorter than the agent's patience, and long enough
	// that a thousand of them ask a hundred times a second, together.
	orderWait = 10 * time.Second
	// orderPause separates two looks at the state for one machine that waits: a rack that installs changes it all the time.
	orderPause = 500 * time.Millisecond
	// ownDiskTime is how long a machine whose own disk was asked for on its console has for its way there.
	ownDiskTime = 10 * time.Minute
	// beginBoot is the protocol since which network boots are counted.
	beginBoot = 3
)

// order tells a machine in the boot environment what to do next. One that has the present order waits for another one.
func (s *Server) order(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	var no *refusal
	if errors.As(err, &no) && no.code == http.StatusNotFound {
		err = refuse(http.StatusGone, "%s", no.text) // the agent takes 404 for a node that knows no orders
	}
	if err == nil {
		err = s.awaitOrder(r.Context(), &v, r.URL.Query().Get("have"))
	}
	if err == nil {
		err = s.begins(r.Context(), &v, r.URL.Query().Get("boot"))
	}
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	o := s.orderFor(v)
	if o.Key != r.URL.Query().Get("have") {
		s.o.Trace(v.machine.MAC, what(r), strings.TrimSpace(string(o.Do)+" "+o.Text), "")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(o) // the machine has gone: nothing to be done
}

// awaitOrder returns when the machine has another order than the one that it has, or it has waited for long enough.
func (s *Server) awaitOrder(ctx context.Context, v *visit, have string) error {
	ctx, cancel := context.WithTimeout(ctx, orderWait)
	defer cancel()
	for {
		changed := s.o.Changed()
		m, known := s.o.View().Machine(v.lease.MAC)
		if !known {
			return refuse(http.StatusGone, "machine %s is not known any more", v.lease.MAC)
		}
		if v.machine = m; s.orderFor(*v).Key != have {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select {
		case <-ctx.Done():
		case <-time.After(orderPause):
		}
	}
}

// begins counts the network boots that work on an arming. A machine of which too many did is held by that.
func (s *Server) begins(ctx context.Context, v *visit, id string) error {
	if !v.machine.Wanted() || id == "" || v.machine.Run.Boot == id || s.o.View().Protocol() < beginBoot {
		return nil
	}
	result, err := s.o.Propose(ctx, swarm.BeginBoot{MAC: v.machine.MAC, Boot: id})
	if err != nil {
		return err
	}
	var state swarm.MachineState
	if err := result.Decode(&state); err != nil {
		return refuse(http.StatusConflict, "%v", err)
	}
	if state == swarm.MachineHeld {
		v.machine.State, v.machine.Reason = state, "too many network boots began to work on it, and none finished"
	}
	return nil
}

// orderFor is the one place where a machine's state becomes what the agent on it does.
func (s *Server) orderFor(v visit) install.Order {
	m := v.machine
	settings, _ := s.o.View().Settings()
	o := install.Order{Do: install.DoWait, Machine: string(m.MAC), Name: m.Name, Install: m.Install, Text: string(m.State)}
	switch m.State {
	case swarm.MachineArmed, swarm.MachineInstalling: // the same order before and after the config was fetched
		o.Do, o.Text = install.DoInstall, "install profile "+m.Profile
		p, ok := s.o.View().Profile(m.Profile)
		if ok && !driver.Agent(p) {
			o.Do = install.DoRestart // into the installer of the profile
		}
		why := s.beside(v)
		if ok {
			why = cmp.Or(why, p.Misfit(m))
		}
		if why != "" {
			o.Do, o.Text = install.DoWait, why
		}
	case swarm.MachineReleasing:
		o.Do, o.Text, o.Disk, o.Wipe, o.Discard = install.DoRelease, "wipe "+cmp.Or(m.Run.Disk, "its disks"), m.Run.Disk, m.Wipe, m.Run.Discard
	case swarm.MachineInstalled, swarm.MachineNetboot:
		o.Do = install.DoRestart
	case swarm.MachineHeld:
		o.Text = "held: " + m.Reason
	case swarm.MachineKnown:
		o.Inventory = s.o.View().Protocol() >= beginBoot
	case swarm.MachineFree:
		if settings.UnknownMachines() == swarm.UnknownOff {
			o.Do = install.DoOff
			break
		}
		if m.Remarks.User != "" {
			o.Text = "free, reserved for " + m.Remarks.User
		} else if settings.ConsoleInstalls {
			for _, p := range s.o.View().Profiles() {
				if p.Misfit(m) == "" {
					o.Profiles = append(o.Profiles, p.Name)
				}
			}
		}
	}
	return o.Sealed()
}

// request is what somebody at the console of a free machine asks for.
func (s *Server) request(w http.ResponseWriter, r *http.Request) {
	v, err := s.admit(r)
	var q install.Request
	if err == nil {
		if q, err = install.DecodeRequest(r.Body); err != nil {
			err = refuse(http.StatusBadRequest, "%v", err)
		}
	}
	if err == nil {
		err = s.grant(r.Context(), v, q)
	}
	if err != nil {
		s.fail(w, r, v, err)
		return
	}
	s.o.Trace(v.machine.MAC, what(r), strings.TrimSpace(string(q.Wish)+" "+q.Profile+" "+q.Disk), "")
	w.WriteHeader(http.StatusOK)
}

// grant does what may be done. Whether an install may be asked for, the ledger decides.
func (s *Server) grant(ctx context.Context, v visit, q install.Request) error {
	m := v.machine
	if q.Wish == install.WishInstall {
		result, err := s.o.Propose(ctx, swarm.RequestInstall{MAC: m.MAC, Profile: q.Profile, Disk: q.Disk, Wipe: q.Wipe})
		if err == nil && result.Err() != nil {
			err = refuse(http.StatusForbidden, "%v", result.Err())
		}
		return err
	}
	if m.Wanted() {
		return refuse(http.StatusConflict, "machine %s is %s", m.Name, m.State)
	}
	if q.Wish == install.WishOwnDisk {
		s.mu.Lock()
		s.ownDisk[m.MAC] = v.now.Add(ownDiskTime)
		s.mu.Unlock()
		s.note(m.MAC, "console", "its own disk was asked for on its console")
		return nil
	}
	s.note(m.MAC, "console", "switched off on its console")
	return nil
}

// goesToItsDisk says whether somebody at the console has asked for that a moment ago.
func (s *Server) goesToItsDisk(mac swarm.MAC, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, asked := s.ownDisk[mac]
	if asked && !now.Before(until) {
		delete(s.ownDisk, mac)
		return false
	}
	return asked
}

// free writes down what an unknown machine says that it is, once for each boot, and again only if it is another by now.
func (s *Server) free(ctx context.Context, v visit, e install.Event) error {
	m := v.machine
	raw, err := json.Marshal(e.Inventory)
	if err != nil {
		return refuse(http.StatusBadRequest, "inventory: %v", err)
	}
	if m.State != swarm.MachineKnown && (m.State != swarm.MachineFree || bytes.Equal(raw, m.Inventory)) {
		return nil
	}
	result, err := s.o.Propose(ctx, swarm.ReportFree{MAC: m.MAC, UUID: e.Inventory.UUID, Text: e.Text, Inventory: raw})
	if err == nil && result.Err() != nil {
		err = refuse(http.StatusConflict, "%v", result.Err())
	}
	return err
}

// agent starts the boot environment of a machine's profile; where that is for other machines, of the first profile that is not.
func (s *Server) agent(v visit, why string) (boot.Decision, string) {
	view, m := s.o.View(), v.machine
	settings, _ := view.Settings()
	name := cmp.Or(m.Profile, settings.Profile)
	p, ok := view.Profile(name)
	if !ok {
		text := fmt.Sprintf("profile %q does not exist", name)
		return boot.Wait{Reason: text}, "wait, " + text
	}
	if p.Misfit(m) != "" {
		all := view.Profiles()
		at := slices.IndexFunc(all, func(p swarm.Profile) bool { return p.Misfit(m) == "" })
		if at < 0 {
			text := fmt.Sprintf("no profile is for %s, so there is no agent that it could run: offshoot profile add NAME --arch %s", m.Architecture(), m.Architecture())
			return boot.Wait{Reason: text}, "wait, " + text
		}
		p = all[at]
	}
	return agentOf(m, p, s.place(v)), "the agent, " + why
}

// ownDisk is how a machine starts its own disk: as an operator said, or as its model wants.
func ownDisk(m swarm.Machine) boot.OwnDisk {
	var is install.Inventory
	_ = json.Unmarshal(m.Inventory, &is) // none, or of a later offshoot: then its model is not known
	return boot.OwnDisk{Method: cmp.Or(m.Remarks.OwnDisk, boot.Quirk(is.Vendor, is.Product))}
}
