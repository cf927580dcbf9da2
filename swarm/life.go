package swarm

import (
	"fmt"
	"time"
)

// Life is how an installation gets on.
type Life struct {
	Heard   time.Time `json:"heard,omitzero"`    // when it last got on, or a line of its log came
	Said    string    `json:"said,omitempty"`    // what the machine said then
	Step    int       `json:"step,omitempty"`    // how far its log says that it is: see HearMachine
	Stalled bool      `json:"stalled,omitempty"` // it has not got on for longer than it may
}

// lifeSince is the protocol since which nodes can read a Life.
const lifeSince = 3

// gotOn notes that an installation has got on, and what the machine said. The caller stores the machine. In a swarm with nodes
// that cannot read it nothing is noted.
func (c *change) gotOn(m *Machine, said string) {
	if c.base.Protocol() < lifeSince {
		return
	}
	if m.Life.Stalled {
		c.event(m.MAC, "resumed", "%s gets on again: %s", m.Name, said)
	}
	m.Life.Heard, m.Life.Said, m.Life.Stalled = c.Time, clip(said, maxWord), false
}

// HearMachine is what the log of an installing machine says, to a node that receives it. It never changes what may be done to the
// machine.
type HearMachine struct {
	MAC     MAC    `json:"mac"`
	Install string `json:"install"`
	Line    string `json:"line"`
	// Stage is what the machine does by its log, "" if the line does not tell. It counts only if its Step is beyond the last one.
	Stage string `json:"stage,omitempty"`
	Step  int    `json:"step,omitempty"`
}

func (o HearMachine) apply(c *change) (any, error) {
	m, err := c.installing(o.MAC, o.Install)
	if err != nil {
		return nil, err
	}
	news := m.Life.Stalled
	c.gotOn(&m, o.Line)
	if o.Stage != "" && o.Step > m.Life.Step {
		m.Life.Step, m.Text = o.Step, clip(o.Stage, maxText)
		c.event(o.MAC, "log", "by its log: %s", o.Stage) // Line may be another one, that came since
		news = true
	}
	if news {
		c.put("machine", &m)
	} else {
		c.write("machine", &m) // nobody needs to wake for this
	}
	return nil, nil
}

// NoteStall says that an installation has not got on for longer than it may. Heard is when it last did, as whoever noticed knows
// it: a word that came since makes it untrue.
type NoteStall struct {
	MAC     MAC       `json:"mac"`
	Install string    `json:"install"`
	Heard   time.Time `json:"heard"`
	Silent  int       `json:"silent"` // seconds that were waited
}

func (o NoteStall) apply(c *change) (any, error) {
	m, err := c.installing(o.MAC, o.Install)
	if err != nil {
		return nil, err
	}
	if m.Life.Stalled || !m.Life.Heard.Equal(o.Heard) {
		return nil, refuse(ErrConflict, "%s is known to be stalled, or gets on", m.Name)
	}
	m.Life.Stalled = true
	c.put("machine", &m)
	c.alarm(m.MAC, "stalled", "%s has not got on for %s in phase %s; the last that it said: %s",
		m.Name, time.Duration(o.Silent)*time.Second, firstOf(m.Phase, "start"), firstOf(m.Life.Said, "nothing"))
	return nil, nil
}

// installing refuses unless this installation of the machine is under way.
func (c *change) installing(mac MAC, install string) (Machine, error) {
	m, err := c.machine(mac)
	if err == nil && (m.State != MachineInstalling || m.Install != install) {
		err = refuse(ErrNotArmed, "install %s of %s is over (state %s)", clip(install, maxWord), mac, m.State)
	}
	return m, err
}

// Bounds of how long an installation may stand still. A line of a log is written down a few seconds after it came, and a disk that
// writes back its cache says nothing for a while.
const (
	MinStallAfter = 30 * time.Second
	MaxStallAfter = 24 * time.Hour
)

// SetStallAfter changes how long an installation may stand still, whatever it does, until the machine counts as stalled; 0 is as long
// as each of its phases may.
type SetStallAfter struct {
	Seconds int `json:"seconds"`
}

func (o SetStallAfter) words() string {
	if o.Seconds == 0 {
		return "call machines stalled by their phases"
	}
	return fmt.Sprintf("call machines stalled after %s", time.Duration(o.Seconds)*time.Second)
}

func (o SetStallAfter) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	const least, most = int(MinStallAfter / time.Second), int(MaxStallAfter / time.Second)
	if !ok || o.Seconds != 0 && (o.Seconds < least || o.Seconds > most) {
		return nil, refuse(ErrInvalid, "%d seconds until a machine is stalled: want %d to %d, or 0", o.Seconds, least, most)
	}
	s.StallAfter = o.Seconds
	c.put("settings", &s)
	return nil, nil
}

// Installing lists the machines whose installation is under way.
func (v View) Installing() []Machine {
	return list[Machine](v.txn, "machine", "installing", string(MachineInstalling))
}
