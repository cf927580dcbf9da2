package node

import (
	"context"
	"errors"
	"time"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

// vigil notices installations that stand still. It believes no wall clock: what counts is how long this node, while it leads, has
// seen no sign of life, so that neither a new leader nor a clock that was set calls a machine stalled at once. One goroutine uses it.
type vigil struct {
	seen map[swarm.MAC]sign
	last time.Duration // when it was looked last
}

// sign is what changes when an installation gets on, and since when it has not.
type sign struct {
	install, phase string
	percent        int
	heard          time.Time
	term           uint64 // of the duty: a new holder must be given the time to hear the machine
	since          time.Duration
}

// vigilGap is how long a leader may not have looked, or not have led, and still know what was going on.
const vigilGap = 10 * time.Second

// look says which installations have stood still for longer than they may. now is a clock that never jumps.
func (v *vigil) look(view swarm.View, now time.Duration) (out []swarm.NoteStall) {
	before := v.seen
	if now-v.last > vigilGap {
		before = nil
	}
	v.seen, v.last = map[swarm.MAC]sign{}, now
	settings, _ := view.Settings()
	for _, m := range view.Installing() {
		segment, _ := view.Segment(m.Segment)
		s := sign{m.Install, m.Phase, m.Percent, m.Life.Heard, segment.Duty.Term, 0}
		if old, ok := before[m.MAC]; ok {
			s.since = old.since
			if s != old {
				s.since = now
			}
		} else {
			s.since = now
		}
		v.seen[m.MAC] = s
		profile, _ := view.Profile(m.Profile)
		limit := install.Deadline(profile.Driver, install.Phase(m.Phase))
		if settings.StallAfter > 0 {
			limit = time.Duration(settings.StallAfter) * time.Second
		}
		if silent := now - s.since; silent >= limit && !m.Life.Stalled {
			out = append(out, swarm.NoteStall{MAC: m.MAC, Install: m.Install, Heard: m.Life.Heard, Silent: int(silent / time.Second)})
		}
	}
	return out
}

// stalls writes down which installations stand still.
func (s *steward) stalls(ctx context.Context) error {
	for _, op := range s.vigil.look(s.state.View(), s.clock()) {
		switch err := s.decideHere(ctx, op); {
		case err == nil:
			s.log.Warn("installation stands still", "mac", op.MAC, "seconds", op.Silent)
		case errors.Is(err, swarm.ErrConflict), errors.Is(err, swarm.ErrNotArmed): // it got on, or ended, a moment ago
		case errors.Is(err, errTooNew): // it is looked at again when the last node is upgraded
		default:
			return err
		}
	}
	return nil
}
