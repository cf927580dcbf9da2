package swarmtest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what happens in a fault, or what ends one.
type Kind string

// The faults, and behind each pair what ends it.
const (
	KindCrash   Kind = "crash"   // a host loses power; its disk keeps what was synced
	KindRestart Kind = "restart" // it starts again from its disk
	KindWipe    Kind = "wipe"    // it starts again with an empty disk, as a machine that was installed anew
	KindPause   Kind = "pause"   // Host.Pause
	KindResume  Kind = "resume"
	KindCut     Kind = "cut" // nothing gets from From to To
	KindHeal    Kind = "heal"
	KindWeather Kind = "weather" // delay, jitter, loss, duplicates; the fair one ends it
	KindSync    Kind = "sync"    // writes of a disk take Delay; 0 ends it
	KindFull    Kind = "full"    // a disk is full
	KindRoom    Kind = "room"    // and is no longer
	KindRate    Kind = "rate"    // a host's clocks run at Rate
	KindJump    Kind = "jump"    // a host's wall clock jumps by Delay
)

// Fault is one step of a schedule.
type Fault struct {
	At       time.Duration // since the start
	Kind     Kind
	Host     string        // for all but cut, heal and weather
	From, To []string      // cut
	Delay    time.Duration // sync, jump
	Rate     float64       // rate
	Weather  Weather       // weather
}

// String is one line without its end.
func (f Fault) String() string {
	s := fmt.Sprintf("%7.3fs %-7s", f.At.Seconds(), f.Kind)
	switch f.Kind {
	case KindHeal:
	case KindCut:
		s += fmt.Sprintf(" %s -> %s", strings.Join(f.From, ","), strings.Join(f.To, ","))
	case KindWeather:
		w := f.Weather
		s += fmt.Sprintf(" delay %v jitter %v loss %.0f%% duplicate %.0f%%", w.Delay, w.Jitter, w.Loss*100, w.Duplicate*100)
	case KindSync, KindJump:
		s += fmt.Sprintf(" %s %v", f.Host, f.Delay)
	case KindRate:
		s += fmt.Sprintf(" %s %.3f", f.Host, f.Rate)
	default:
		s += " " + f.Host
	}
	return strings.TrimRight(s, " ")
}

// Plan bounds a schedule.
type Plan struct {
	Hosts  []string
	Length time.Duration // every fault has ended by then
	Every  time.Duration // between the beginnings of two faults, on average; 2 s
	// Kinds are the faults to choose from, by what begins them; nil for all. A kind that is named twice is chosen twice as
	// often.
	Kinds []Kind
	// MaxWiped bounds how many hosts lose their disk. Whoever chooses more than a minority of the voters asks for losses.
	MaxWiped int
}

// allKinds: those that hurt most come more often.
var allKinds = [...]Kind{
	KindCrash, KindCrash, KindCrash, KindWipe, KindPause, KindPause, KindPause, KindCut, KindCut, KindCut, KindCut,
	KindWeather, KindWeather, KindSync, KindFull, KindRate, KindJump,
}

// Schedule chooses faults by the seed: the same seed and plan give the same schedule. Hosts are crashed alone, several at
// once or all together; at the end all of them run and nothing is broken, except that clocks stay as they are.
func Schedule(seed uint64, p Plan) []Fault {
	if p.Every <= 0 {
		p.Every = 2 * time.Second
	}
	if p.Kinds == nil {
		p.Kinds = allKinds[:]
	}
	s := &scheduler{
		Plan: p, rng: rand.New(rand.NewPCG(seed, 0x7363686564)),
		down: map[string]time.Duration{}, disk: map[string]time.Duration{}, wiped: map[string]bool{},
	}
	for _, h := range p.Hosts {
		if slices.Contains(p.Kinds, KindRate) {
			s.add(Fault{Kind: KindRate, Host: h, Rate: s.rate()})
		}
	}
	for at := s.upTo(2 * p.Every); at < p.Length; at += s.upTo(2 * p.Every) {
		s.choose(at, p.Kinds[s.rng.IntN(len(p.Kinds))])
	}
	slices.SortStableFunc(s.faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return s.faults
}

type scheduler struct {
	Plan
	rng     *rand.Rand
	faults  []Fault
	down    map[string]time.Duration // until when a host is crashed or paused
	disk    map[string]time.Duration // until when its disk is slow or full
	weather time.Duration            // until when it is bad
	wiped   map[string]bool
}

func (s *scheduler) add(f Fault) { s.faults = append(s.faults, f) }

func (s *scheduler) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d))) + time.Millisecond
}

// between is drawn so that each order of magnitude is as likely, since a long fault hides what a short one shows.
func (s *scheduler) between(least, most time.Duration) time.Duration {
	ratio := math.Log(float64(most) / float64(least))
	return time.Duration(float64(least) * math.Exp(s.rng.Float64()*ratio)).Round(time.Microsecond)
}

func (s *scheduler) end(at, d time.Duration) time.Duration { return min(at+d, s.Length) }

func (s *scheduler) rate() float64 { return 0.95 + s.rng.Float64()/10 }

func (s *scheduler) host() string { return s.Hosts[s.rng.IntN(len(s.Hosts))] }

func (s *scheduler) choose(at time.Duration, k Kind) {
	switch k {
	case KindCrash:
		s.crash(at)
	case KindWipe:
		s.wipe(at)
	case KindPause:
		if h := s.host(); s.down[h] <= at {
			s.down[h] = s.end(at, s.between(50*time.Millisecond, 10*time.Second))
			s.add(Fault{At: at, Kind: KindPause, Host: h})
			s.add(Fault{At: s.down[h], Kind: KindResume, Host: h})
		}
	case KindCut:
		s.cut(at)
	case KindWeather:
		s.storm(at)
	case KindSync, KindFull:
		s.badDisk(at, k)
	case KindRate:
		s.add(Fault{At: at, Kind: k, Host: s.host(), Rate: s.rate()})
	case KindJump:
		by := s.between(100*time.Millisecond, 24*time.Hour)
		if s.rng.IntN(2) == 0 {
			by = -by
		}
		s.add(Fault{At: at, Kind: k, Host: s.host(), Delay: by})
	default:
		panic(fmt.Sprintf("a schedule cannot begin a %q", k))
	}
}

// crash takes one host down, or several within a moment, or all at once.
func (s *scheduler) crash(at time.Duration) {
	count := 1
	switch s.rng.IntN(6) {
	case 0:
		count = len(s.Hosts)
	case 1, 2:
		count = 1 + s.rng.IntN(len(s.Hosts))
	}
	together := s.rng.IntN(2) == 0
	for _, i := range s.rng.Perm(len(s.Hosts))[:count] {
		h, when := s.Hosts[i], at
		if !together {
			when = s.end(at, s.upTo(200*time.Millisecond))
		}
		if s.down[h] > at || when >= s.Length {
			continue
		}
		s.down[h] = s.end(when, s.between(20*time.Millisecond, 15*time.Second))
		s.add(Fault{At: when, Kind: KindCrash, Host: h})
		s.add(Fault{At: s.down[h], Kind: KindRestart, Host: h})
	}
}

func (s *scheduler) wipe(at time.Duration) {
	h := s.host()
	if s.down[h] > at || s.wiped[h] || len(s.wiped) >= s.MaxWiped {
		return
	}
	s.wiped[h] = true
	s.down[h] = s.end(at, s.between(time.Second, 15*time.Second))
	s.add(Fault{At: at, Kind: KindCrash, Host: h})
	s.add(Fault{At: s.down[h], Kind: KindWipe, Host: h})
}

// cut parts one host from the others, or the hosts in two halves, or everyone from one, in one direction or both.
func (s *scheduler) cut(at time.Duration) {
	if len(s.Hosts) < 2 {
		return
	}
	hosts := slices.Clone(s.Hosts)
	s.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	k := 1
	if s.rng.IntN(2) == 0 {
		k = 1 + s.rng.IntN(len(hosts)-1)
	}
	a, b := hosts[:k], hosts[k:]
	if s.rng.IntN(4) == 0 { // only one of the others: what is not transitive is the hardest
		b = b[:1]
	}
	direction := s.rng.IntN(4)
	if direction != 0 {
		s.add(Fault{At: at, Kind: KindCut, From: a, To: b})
	}
	if direction != 1 {
		s.add(Fault{At: at, Kind: KindCut, From: b, To: a})
	}
	s.add(Fault{At: s.end(at, s.between(100*time.Millisecond, 15*time.Second)), Kind: KindHeal})
}

func (s *scheduler) storm(at time.Duration) {
	if s.weather > at {
		return
	}
	w := Weather{
		Delay: s.between(100*time.Microsecond, 200*time.Millisecond), Jitter: s.between(100*time.Microsecond, 400*time.Millisecond),
		Loss: s.rng.Float64() * 0.4, Duplicate: s.rng.Float64() * 0.3,
	}
	s.weather = s.end(at, s.between(time.Second, 15*time.Second))
	s.add(Fault{At: at, Kind: KindWeather, Weather: w})
	s.add(Fault{At: s.weather, Kind: KindWeather, Weather: Fair})
}

func (s *scheduler) badDisk(at time.Duration, k Kind) {
	h := s.host()
	if s.disk[h] > at {
		return
	}
	s.disk[h] = s.end(at, s.between(500*time.Millisecond, 15*time.Second))
	begin, end := Fault{At: at, Kind: KindFull, Host: h}, Fault{At: s.disk[h], Kind: KindRoom, Host: h}
	if k == KindSync {
		begin = Fault{At: at, Kind: KindSync, Host: h, Delay: s.between(time.Millisecond, time.Second)}
		end = Fault{At: s.disk[h], Kind: KindSync, Host: h}
	}
	s.add(begin)
	s.add(end)
}

// Nodes are what runs on the hosts. Play calls it from one goroutine.
type Nodes interface {
	// Crash is called when the host has crashed: end the node that ran there. It should not wait for that.
	Crash(host *Host)
	// Start is called while the host is still off: it waits for the end of the node that ran there, calls host.Restart
	// and starts the next. wiped: the disk is empty, so that node must not be taken for the one before.
	Start(host *Host, wiped bool)
}

// Play lets the faults happen, at their times from now on, and returns after the last one, or when ctx is done. step is
// called after each of them; it may be nil.
func (n *Network) Play(ctx context.Context, faults []Fault, nodes Nodes, step func(Fault)) error {
	start := time.Now()
	for _, f := range faults {
		if err := pass(ctx, nil, time.Until(start.Add(f.At))); err != nil {
			return err
		}
		n.Apply(f, nodes)
		if step != nil {
			step(f)
		}
	}
	return nil
}

// Apply lets one fault happen now.
func (n *Network) Apply(f Fault, nodes Nodes) {
	h := n.hostOf(f)
	switch f.Kind {
	case KindCrash:
		h.Crash()
		nodes.Crash(h)
	case KindRestart, KindWipe:
		if f.Kind == KindWipe {
			h.Disk().Wipe()
		}
		nodes.Start(h, f.Kind == KindWipe)
	case KindPause:
		h.Pause()
	case KindResume:
		h.Resume()
	case KindCut:
		n.Cut(f.From, f.To)
	case KindHeal:
		n.Heal()
	case KindWeather:
		n.SetWeather(f.Weather)
	case KindSync:
		h.Disk().SetSyncDelay(f.Delay)
	case KindFull, KindRoom:
		h.Disk().SetFull(f.Kind == KindFull)
	case KindRate:
		h.SetRate(f.Rate)
	case KindJump:
		h.JumpWall(f.Delay)
	}
}

func (n *Network) hostOf(f Fault) *Host {
	if f.Host == "" {
		return nil
	}
	return n.Host(f.Host)
}
