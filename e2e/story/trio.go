package story

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// Trio is what a seed leaves behind: three bare machines that have become the voters of a swarm and serve lan0 in turns. Its
// seed is gone.
type Trio struct {
	*World
	Machines []*Bare
	Seed     status.Status // what the seed said of itself before it was killed

	small  Small
	first  lab.Grant // the seed's own term
	off    context.CancelFunc
	lives  sync.WaitGroup
	mu     sync.Mutex
	errs   []error
	grants map[uint64]lab.Grant
}

// quick is the time that one question to a node may take: a node that is stopped never answers.
const quick = 3 * time.Second

// Seeded starts a seed that installs what is armed, and waits until it serves.
func (w *World) Seeded(ctx context.Context, small Small, flags ...string) (*Daemon, status.Status, error) {
	return w.Serving(ctx, append([]string{"--probe", "1s", "--expand", "never", "--live-kernel", small.Kernel, "--live-modules", small.Modules}, flags...)...)
}

// NewTrio installs m1, m2 and m3 from a seed, and kills the seed.
func (w *World) NewTrio(ctx context.Context, small Small) (*Trio, error) {
	seed, s, err := w.Seeded(ctx, small)
	if err != nil {
		return nil, err
	}
	own, err := addressOf(s, "seed")
	if err != nil {
		return nil, err
	}
	t := &Trio{World: w, small: small, grants: map[uint64]lab.Grant{}}
	t.first = lab.Grant{Term: s.Segments[0].Term, Server: own, Since: s.Segments[0].Since}
	t.grants[t.first.Term] = t.first
	living, off := context.WithCancel(context.WithoutCancel(ctx))
	t.off = off
	for _, name := range []string{"m1", "m2", "m3"} {
		b, err := w.NewBare(name, small)
		if err != nil {
			return t, err
		}
		for _, args := range [][]string{{"machine", "name", b.MAC.String(), name}, {"machine", "arm", b.MAC.String()}} {
			if out, err := seed.Offshoot(ctx, args...); err != nil {
				return t, fmt.Errorf("%v: %w: %s", args, err, out)
			}
		}
		t.Machines = append(t.Machines, b)
		t.lives.Go(func() {
			if err := b.Life(living); err != nil {
				t.mu.Lock()
				t.errs = append(t.errs, fmt.Errorf("%s: %w", b.Host, err))
				t.mu.Unlock()
			}
		})
	}
	if _, err := t.Settled(ctx); err != nil {
		return t, err
	}
	if t.Seed, err = seed.Status(ctx); err != nil {
		return t, err
	}
	seed.Kill()
	w.Say("three voters stand; the seed is killed")
	_, err = t.Settled(ctx)
	return t, err
}

// Off ends the machines' lives, and says which of them ended by themselves.
func (t *Trio) Off() error {
	t.off()
	t.lives.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.errs...)
}

func addressOf(s status.Status, name string) (netip.Addr, error) {
	for _, n := range s.Nodes {
		if n.Name == name {
			at, err := netip.ParseAddrPort(n.Address)
			return at.Addr(), err
		}
	}
	return netip.Addr{}, fmt.Errorf("no node %s in the status", name)
}

// Status is the status as the first node says that answers, those that see a majority first.
func (t *Trio) Status(ctx context.Context) (status.Status, error) {
	var (
		best status.Status
		errs []error
		got  bool
	)
	for _, b := range t.Machines {
		s, err := b.quickStatus(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.Host, err))
			continue
		}
		if s.Quorum {
			return s, nil
		}
		best, got = s, true
	}
	if got {
		return best, nil
	}
	return best, errors.Join(errs...)
}

func (b *Bare) quickStatus(ctx context.Context) (status.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	return b.Status(ctx)
}

// Settled waits until all three agree: alive, voting, warm, with one leader and one of them on duty.
func (t *Trio) Settled(ctx context.Context) (status.Status, error) {
	var last status.Status
	for {
		missing := ""
		for _, b := range t.Machines {
			s, err := b.quickStatus(ctx)
			if err != nil {
				missing = fmt.Sprintf("%s does not answer: %v", b.Host, err)
				break
			}
			if why := unsettled(s); why != "" {
				missing = fmt.Sprintf("%s says: %s", b.Host, why)
				break
			}
			// Who was cut off a moment ago may still believe what was true before.
			if b != t.Machines[0] && (s.Leader != last.Leader || s.Segments[0].Term != last.Segments[0].Term) {
				missing = fmt.Sprintf("%s says that %s leads and term is %d, another says %s and %d", b.Host, s.Leader, s.Segments[0].Term, last.Leader, last.Segments[0].Term)
				break
			}
			last = s
		}
		if missing == "" {
			return last, t.Note(ctx)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return last, fmt.Errorf("wait until the three have settled: %w: %s", err, missing)
		}
	}
}

func unsettled(s status.Status) string {
	if !s.Quorum || s.Leader == "" {
		return "no quorum"
	}
	votes := 0
	for _, name := range []string{"m1", "m2", "m3"} {
		n := node(s, name)
		if n.State != status.NodeAlive || !n.Warm {
			return fmt.Sprintf("%s is %q, warm %v", name, n.State, n.Warm)
		}
		if n.Role == "voter" || n.Role == "leader" {
			votes++
		}
	}
	if votes != 3 {
		return fmt.Sprintf("%d of them vote", votes)
	}
	if h := s.Segments[0].Holder; h != "m1" && h != "m2" && h != "m3" {
		return fmt.Sprintf("duty is held by %q", h)
	}
	return ""
}

// Machine is the one of that name.
func (t *Trio) Machine(name string) *Bare {
	i := slices.IndexFunc(t.Machines, func(b *Bare) bool { return b.Host.String() == name })
	if i < 0 {
		return nil
	}
	return t.Machines[i]
}

// Others are the two that are not this one.
func (t *Trio) Others(than *Bare) []*Bare {
	return slices.DeleteFunc(slices.Clone(t.Machines), func(b *Bare) bool { return b == than })
}

var takesDuty = regexp.MustCompile(`takes duty on segment (\S+) \(term (\d+)\)`)

// Note reads the terms of duty that were written down since the last time. The diary of a swarm is bounded, so this is called
// after every fault.
func (t *Trio) Note(ctx context.Context) error {
	s, err := t.Status(ctx)
	if err != nil {
		return err
	}
	for _, b := range t.Machines {
		server, err := addressOf(s, b.Host.String())
		if err != nil {
			return err
		}
		m, err := t.diary(ctx, b)
		if err != nil {
			return err
		}
		for _, e := range m.Timeline {
			match := takesDuty.FindStringSubmatch(e.Text)
			if match == nil {
				continue
			}
			term, err := strconv.ParseUint(match[2], 10, 64)
			if err != nil {
				return err
			}
			t.grants[term] = lab.Grant{Term: term, Server: server, Since: e.Time}
		}
	}
	return nil
}

func (t *Trio) diary(ctx context.Context, of *Bare) (status.Machine, error) {
	var errs []error
	for _, b := range t.Machines {
		bounded, cancel := context.WithTimeout(ctx, quick)
		out, err := b.Offshoot(bounded, "machine", "show", of.MAC.String(), "-o", "json")
		cancel()
		var m status.Machine
		if err == nil {
			err = json.Unmarshal([]byte(out), &m)
		}
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return status.Machine{}, errors.Join(errs...)
}

// Grants are all terms of duty on lan0 since the seed's first. A term that is missing is an error: what was not written down
// cannot be judged.
func (t *Trio) Grants() ([]lab.Grant, error) {
	var out []lab.Grant
	for term := t.first.Term; len(out) < len(t.grants); term++ {
		g, ok := t.grants[term]
		if !ok {
			return nil, fmt.Errorf("term %d is not in the diary, though %d terms are known", term, len(t.grants))
		}
		out = append(out, g)
	}
	return out, nil
}

// Signal sends a signal to the node on the disk. SIGKILL is a loss of power: the machine starts again.
func (b *Bare) Signal(ctx context.Context, s syscall.Signal) error {
	text, err := b.pid(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Host, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("%s: %w", b.Host, err)
	}
	if s == syscall.SIGKILL {
		b.cut.Store(true)
	}
	if err := syscall.Kill(pid, s); err != nil {
		return fmt.Errorf("send %s to %s: %w", s, b.Host, err)
	}
	return nil
}
