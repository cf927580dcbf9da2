//go:build wire

package e2e

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// crisis is a swarm of three voters that is asked for addresses all the time, while things go wrong.
type crisis struct {
	*story.Trio
	t      *testing.T
	crowd  *story.Crowd
	seed   uint64
	struck time.Time     // when the fault of now had its effect
	slack  time.Duration // how long the network held frames back at most

	prolonged int // leases that were renewed without a majority: a holder renews those that it bound since it started
}

// A fault goes wrong, and is over when it returns. What it leaves behind must heal by itself.
type fault struct {
	name string
	do   func(ctx context.Context, c *crisis, holder *story.Bare) error
	// waits is how long new clients may have to wait from the beginning of the fault; 0 is not measured.
	waits time.Duration
}

// takeover bounds the time from a holder's death to the next client's lease: 2.3 s of fence, an election if it led, and the
// client's own pause between two attempts, on a machine where much else runs.
const takeover = 10 * time.Second

var processFaults = []fault{
	{name: "holder-killed", do: killHolder, waits: takeover},
	{name: "holder-stopped-for-10s", do: stopHolder, waits: takeover},
}

var powerFaults = []fault{
	{name: "two-voters-killed", do: killOthers},
	{name: "all-killed", do: killAll},
}

var networkFaults = []fault{
	{name: "holder-unplugged", do: unplugHolder, waits: takeover},
	{name: "holder-cut-off-from-its-peers", do: splitHolder, waits: takeover},
	{name: "holder-hears-nothing", do: deafHolder, waits: takeover},
	{name: "holder-says-nothing", do: muteHolder, waits: takeover},
	{name: "bad-weather", do: badWeather},
}

// TestDutyUnderFaultsOfProcesses: whatever dies or stands still, at no time do two nodes answer.
func TestDutyUnderFaultsOfProcesses(t *testing.T) {
	t.Parallel()
	play(t, processFaults)
}

// TestDutyUnderLossOfQuorumAndOfAllPower: without a majority nothing is decided, but who has a lease keeps it; and what was
// acknowledged before all power went is true afterwards.
func TestDutyUnderLossOfQuorumAndOfAllPower(t *testing.T) {
	t.Parallel()
	if c := play(t, powerFaults); c.prolonged == 0 {
		t.Error("without a majority a client that asked its server to renew had no answer")
	}
}

// TestDutyUnderFaultsOfTheNetwork: whoever cannot hear or reach whom, at no time do two nodes answer.
func TestDutyUnderFaultsOfTheNetwork(t *testing.T) {
	t.Parallel()
	play(t, networkFaults)
}

func play(t *testing.T, faults []fault) *crisis {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := newCrisis(ctx, t)
	for _, f := range faults {
		if !c.suffer(ctx, f) {
			break
		}
	}
	c.judge(ctx)
	return c
}

// threeVoters is a world with a swarm of three, whose seed is gone. It ends with the test.
func threeVoters(ctx context.Context, t *testing.T) (*story.World, story.Small, *story.Trio) {
	t.Helper()
	lab.Need(t, "perfdhcp", "dhclient")
	w, small := world(t)
	return w, small, trioOf(ctx, t, w, small)
}

func trioOf(ctx context.Context, t *testing.T, w *story.World, small story.Small) *story.Trio {
	t.Helper()
	trio, err := w.NewTrio(ctx, small)
	if trio != nil {
		t.Cleanup(func() {
			if err := trio.Off(); err != nil {
				t.Errorf("a node ended by itself: %v", err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return trio
}

func newCrisis(ctx context.Context, t *testing.T) *crisis {
	t.Helper()
	w, _, trio := threeVoters(ctx, t)
	c := &crisis{Trio: trio, t: t, seed: 1}
	var err error
	if c.crowd, err = w.NewCrowd(ctx, 10, 60); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.crowd.Stop(); err != nil {
			t.Errorf("clients: %v", err)
		}
	})
	return c
}

// suffer lets one fault happen to a healthy swarm, and waits until it is healthy again; false: it did not recover.
func (c *crisis) suffer(ctx context.Context, f fault) bool {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	s, err := c.Settled(ctx)
	if err != nil {
		c.t.Errorf("before %s: %v", f.name, err)
		return false
	}
	began := time.Now()
	c.struck = began
	c.Say("%s: %s holds duty, %s leads", f.name, s.Segments[0].Holder, s.Leader)
	if err := f.do(ctx, c, c.Machine(s.Segments[0].Holder)); err != nil {
		c.t.Errorf("%s: %v", f.name, err)
		return false
	}
	lasted := time.Since(began)
	if s, err = c.Settled(ctx); err != nil {
		c.t.Errorf("after %s: %v", f.name, err)
		return false
	}
	silence, served := lab.Silence(c.messages(), c.struck)
	for until := time.Now().Add(f.waits); !served && time.Now().Before(until); silence, served = lab.Silence(c.messages(), c.struck) {
		if err := lapse(ctx, 200*time.Millisecond); err != nil {
			break
		}
	}
	c.Say("%s: lasted %.1f s, healed after %.1f s; a new client had its lease after %.2f s; %s holds duty in term %d", f.name, lasted.Seconds(),
		(time.Since(began) - lasted).Seconds(), silence.Seconds(), s.Segments[0].Holder, s.Segments[0].Term)
	if f.waits > 0 && (!served || silence > f.waits) {
		c.t.Errorf("%s: new clients had no lease for %.1f s (served: %v), want %s at most", f.name, silence.Seconds(), served, f.waits)
	}
	return true
}

func (c *crisis) messages() []lab.DHCPMessage {
	c.t.Helper()
	messages, err := lab.ReadDHCP(c.Captures["lan0"].Path())
	if err != nil {
		c.t.Fatal(err)
	}
	return messages
}

// judge ends the story, and holds all that was on the wire to the rules.
func (c *crisis) judge(ctx context.Context) {
	c.t.Helper()
	if err := c.Note(ctx); err != nil {
		c.t.Error(err)
	}
	grants, err := c.Grants()
	if err != nil {
		c.t.Error(err)
	}
	messages := c.messages()
	acks := map[string]int{}
	for _, m := range messages {
		if m.Reply && m.Type.String() == "ACK" {
			acks[m.ServerID.String()]++
		}
	}
	c.t.Logf("judged: %d DHCP messages, terms %v, acknowledged by %v", len(messages), grants, acks)
	if len(messages) < 100 || len(acks) < 2 {
		c.t.Errorf("%d messages, ACKs by %v: this proves nothing", len(messages), acks)
	}
	violations := lab.Judge(messages, grants, c.slack)
	for i, v := range violations {
		if i == 20 {
			c.t.Errorf("... and %d more", len(violations)-i)
			break
		}
		c.t.Errorf("violation: %s", v)
	}
}

// lapse lets time pass.
func lapse(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func killHolder(ctx context.Context, c *crisis, holder *story.Bare) error {
	err := holder.Signal(ctx, syscall.SIGKILL)
	c.struck = time.Now()
	return err
}

// killOthers takes the majority away. The holder can commit nothing any more: it may prolong what is bound, for who asks it.
func killOthers(ctx context.Context, c *crisis, holder *story.Bare) error {
	for _, b := range c.Others(holder) {
		if err := b.Signal(ctx, syscall.SIGKILL); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := lapse(ctx, 6*time.Second); err != nil {
		return err
	}
	bound, prolonged := 0, 0
	had := map[string]string{} // addresses, by machine
	for _, m := range c.messages() {
		if !m.Reply || m.Type != dhcpv4.MessageTypeAck {
			continue
		}
		switch fresh := had[m.MAC.String()] != m.Your.String(); {
		case m.Time.Before(began.Add(500 * time.Millisecond)): // what was committed before may be on its way
		case fresh:
			bound++
			c.t.Errorf("without a majority an address was given: %s", m)
		default:
			prolonged++
		}
		had[m.MAC.String()] = m.Your.String()
	}
	c.Say("without a majority for %.1f s: %d new leases, %d renewals of a lease that was bound", time.Since(began).Seconds(), bound, prolonged)
	c.prolonged += prolonged
	return nil
}

func killAll(ctx context.Context, c *crisis, _ *story.Bare) error {
	for _, b := range c.Machines {
		if err := b.Signal(ctx, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return lapse(ctx, time.Second)
}

// stopHolder stops the holder for much longer than its time, while clients fill its sockets with questions. When it goes on it
// must not answer one of them, unless it was given the duty again.
func stopHolder(ctx context.Context, c *crisis, holder *story.Bare) error {
	before, err := c.Status(ctx)
	if err != nil {
		return err
	}
	// One client must be about to ask this very server by its address: that lies in the socket when it wakes up.
	for !c.renewsAt(holder) {
		if err := lapse(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("no client renews at %s: %w", holder.Host, err)
		}
	}
	if err := holder.Signal(ctx, syscall.SIGSTOP); err != nil {
		return err
	}
	stopped := time.Now()
	c.struck = stopped
	err = lapse(ctx, 10*time.Second)
	woken := time.Now()
	if err := holder.Signal(ctx, syscall.SIGCONT); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if err := lapse(ctx, 3*time.Second); err != nil {
		return err
	}
	after, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if after.Segments[0].Term == before.Segments[0].Term {
		c.t.Errorf("the duty of a holder that stood still for 10 s was not given to another")
	}
	mac := holder.Host.MAC(c.Lan0)
	said, asked := 0, 0
	for _, m := range c.messages() {
		switch {
		case m.Time.Before(stopped):
		case !m.Reply && m.Time.Before(woken):
			asked++
		case m.Reply && m.SrcMAC.String() == mac.String() && m.Time.After(stopped.Add(50*time.Millisecond)) && after.Segments[0].Holder != holder.Host.String():
			said++
			c.t.Errorf("the former holder answered %s after it was woken: %s", m.Time.Sub(woken), m)
		}
	}
	c.Say("%s was stopped while %d messages asked; it answered %d of them", holder.Host, asked, said)
	return nil
}

// renewsAt says whether the renewing client had its last answer from this server.
func (c *crisis) renewsAt(holder *story.Bare) bool {
	from := ""
	for _, m := range c.messages() {
		if m.Reply && m.Type == dhcpv4.MessageTypeAck && m.MAC.String() == c.crowd.Renewer.String() {
			from = m.SrcMAC.String()
		}
	}
	return from == holder.Host.MAC(c.Lan0).String()
}

func unplugHolder(ctx context.Context, c *crisis, holder *story.Bare) error {
	if err := holder.Host.SetLink(c.Lan0, false); err != nil {
		return err
	}
	c.struck = time.Now()
	err := lapse(ctx, 5*time.Second)
	if up := holder.Host.SetLink(c.Lan0, true); up != nil {
		return up
	}
	return err
}

// disturbed is the holder's cable for some time.
func (c *crisis) disturbed(ctx context.Context, b *story.Bare, d time.Duration, from, to lab.Weather) error {
	c.seed++
	if err := b.Host.Disturb(c.Lan0, c.seed, from, to); err != nil {
		return err
	}
	c.struck = time.Now()
	err := lapse(ctx, d)
	if calm := b.Host.Calm(c.Lan0); calm != nil {
		return calm
	}
	return err
}

// splitHolder: the holder and all clients hear each other, but the other nodes and the holder do not.
func splitHolder(ctx context.Context, c *crisis, holder *story.Bare) error {
	var peers []net.HardwareAddr
	for _, b := range c.Others(holder) {
		peers = append(peers, b.Host.MAC(c.Lan0))
	}
	split := lab.Weather{Deaf: peers}
	return c.disturbed(ctx, holder, 5*time.Second, split, split)
}

func deafHolder(ctx context.Context, c *crisis, holder *story.Bare) error {
	return c.disturbed(ctx, holder, 5*time.Second, lab.Weather{}, lab.Weather{Loss: 1})
}

func muteHolder(ctx context.Context, c *crisis, holder *story.Bare) error {
	return c.disturbed(ctx, holder, 5*time.Second, lab.Weather{Loss: 1}, lab.Weather{})
}

// badWeather: everybody's cable loses, delays, repeats and reorders.
func badWeather(ctx context.Context, c *crisis, _ *story.Bare) error {
	bad := lab.Weather{Loss: 0.05, Duplicate: 0.05, Reorder: 0.1, Delay: 5 * time.Millisecond, Jitter: 20 * time.Millisecond}
	c.slack = max(c.slack, bad.Delay+bad.Jitter)
	for _, b := range c.Machines {
		c.seed++
		if err := b.Host.Disturb(c.Lan0, c.seed, bad, bad); err != nil {
			return err
		}
	}
	err := lapse(ctx, 6*time.Second)
	for _, b := range c.Machines {
		if calm := b.Host.Calm(c.Lan0); calm != nil {
			return calm
		}
	}
	return err
}
