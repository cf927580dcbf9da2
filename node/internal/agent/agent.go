// Package agent turns a machine into an installed one. It has two faces: Main is PID 1 of the network-booted environment, and
// Install is the same installation as an ordinary process, on a disk that it is told.
//
// It refuses to write to a disk without an install config from the node that booted it, to choose between several disks, to
// overwrite what it did not write itself unless the config says wipe, to leave a disk that boots before everything on it is
// in place, and to restart the machine before that node has acknowledged. It decides nothing about the swarm and keeps
// no secret: ticket and password hash go from the config to the disk and into no log.
//
// The commands may import it; it imports install and image. It runs no foreign program.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"offshoot/node/internal/install"
)

const (
	attempts     = 3           // of one arming; then the machine is held
	holdInterval = time.Minute // between two questions of a held machine
	retryPause   = 5 * time.Second
)

// Options say what Install works on.
type Options struct {
	URL     string       // http://<address>:7480/b/<nonce>, without slash at the end
	Logger  *slog.Logger // nil: discarded
	Console io.Writer    // lines for people; nil: none
	// Lines are what is typed on the console; nil: nobody can type.
	Lines  <-chan string
	System System
	// Join enters the exchange of a config's image with those around; nil: the image comes by HTTP.
	Join Join
	Hold time.Duration // pause between two questions of a held machine; 0 is a minute
	Lost time.Duration // after so long without a word from the node Install ends with ErrLost; 0 is never
}

// System is the machine that is being installed. Its methods are called from one goroutine.
type System interface {
	// Inventory looks at the hardware. It may wait until devices that are still being found have settled.
	Inventory(ctx context.Context) (install.Inventory, error)
	// Need makes kernel features available by module name ("loop", "ext4"); one that is built in or already there is fine.
	// What cannot be had shows when it is used.
	Need(ctx context.Context, modules ...string)
	// NetworkFirst makes the firmware boot from the network first, as it did this time, if an installation has changed that.
	NetworkFirst(ctx context.Context) (changed bool, err error)
	// Scratch is a directory in which a mount point may be made.
	Scratch() string
}

// ErrLost: the node that booted this machine is not heard any more. Another one may hold its duty by now, and tells the
// machine what to do when it boots from the network again: an unfinished installation is begun anew, by the same arming.
var ErrLost = errors.New("the node that serves this machine is not heard any more")

// Install does what the node that serves the machine orders: install it, wipe its disks, or wait. It returns nil once the machine is
// to restart: after the node has acknowledged `installed`, or because somebody at the console asked for its own disk. It does not
// give up: three failed attempts hold the machine, which then asks every Options.Hold whether it was armed again. The only errors
// are those of the options, ErrLost, ErrOff, and ctx's.
func Install(ctx context.Context, o Options) error {
	if o.System == nil {
		return errors.New("install: no system")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
	if o.Hold <= 0 {
		o.Hold = holdInterval
	}
	client, err := newClient(o.URL, o.Logger)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer client.close()
	ctx, cancel := context.WithCancelCause(ctx)
	var listener sync.WaitGroup
	defer listener.Wait()
	defer cancel(nil)
	if o.Lost > 0 {
		listener.Go(func() { listen(ctx, cancel, client.ear, o.Lost) })
	}
	r := &run{o: o, client: client, boot: bootID()}
	return r.serve(ctx)
}

// listen ends the installation once the node has been silent for too long.
func listen(ctx context.Context, end context.CancelCauseFunc, e *ear, lost time.Duration) {
	for ctx.Err() == nil {
		silence := e.silence()
		if silence >= lost {
			end(ErrLost)
			return
		}
		_ = pause(ctx, lost-silence) // ends early with ctx, which is looked at next
	}
}

// run is one life of the agent.
type run struct {
	o      Options
	client *client
	boot   string // names this network boot
	menu   *menu  // nil until the machine has waited
	told   bool   // the event `agent` was sent
	alone  bool   // what an exchange brought could not be unpacked: HTTP alone from then on
}

// arming carries out one config, in up to three attempts. done means installed and acknowledged.
func (r *run) arming(ctx context.Context) (done bool, err error) {
	cfg, err := r.client.config(ctx)
	if err != nil {
		return false, err
	}
	r.o.Logger.Info("config received", "config", cfg)
	if cfg.Image == (install.Image{}) {
		return false, errors.New("the profile of this machine names no image: it has an installer of its own, which was not booted")
	}
	if !r.told {
		r.say("installing %s, image %.12s", cfg.Hostname, cfg.Image.SHA256)
		r.client.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseAgent, Text: "agent runs"})
		r.told = true
	}
	text := "disk is ready"
	err = r.tries(ctx, cfg.Install, func() error {
		if err := r.attempt(ctx, cfg); err != nil || cfg.LeaveBootOrder {
			return err
		}
		changed, err := r.o.System.NetworkFirst(ctx)
		switch {
		case err != nil: // the installation is good; who boots it next is not in our hands
			text += "; the boot order of the firmware could not be looked at: " + err.Error()
		case changed:
			text += "; the network is first in the boot order of the firmware again"
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	err = r.acknowledged(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseInstalled, Percent: 100, Final: true, Text: clip(text, 2000)})
	return err == nil, err
}

// tries goes through a piece of work up to three times, and tells the node of each time that failed.
func (r *run) tries(ctx context.Context, id string, once func() error) error {
	for n := 1; ; n++ {
		err := once()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		final := n == attempts || permanent(err)
		text := fmt.Sprintf("attempt %d of %d: %v", n, attempts, err)
		r.say("failed, %s", text)
		r.o.Logger.Error("attempt failed", "attempt", n, "error", err)
		r.client.report(ctx, install.Event{Install: id, Phase: install.PhaseFailed, Failed: true, Final: final, Text: clip(text, 2000)})
		if final {
			return err
		}
		if err := pause(ctx, jitter(retryPause)); err != nil {
			return err
		}
	}
}

// acknowledged sends the end of a piece of work until it is answered with 200: a machine that restarts unheard would do it again. An
// operator may have decided otherwise meanwhile: then the node refuses to hear it.
func (r *run) acknowledged(ctx context.Context, ev install.Event) error {
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		err := r.client.post(ctx, ev)
		if err == nil {
			r.say("%s", ev.Phase)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var no *refusal
		if errors.As(err, &no) && no.code == http.StatusConflict {
			return fmt.Errorf("%s, but: %w", ev.Phase, err)
		}
		r.say("%s, but the node that serves us does not acknowledge: %v", ev.Phase, err)
		if err := pause(ctx, jitter(wait)); err != nil {
			return err
		}
	}
}

// say prints one plain line for who stands before the machine.
func (r *run) say(format string, args ...any) { say(r.o.Console, format, args...) }

func say(w io.Writer, format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\nagent: ")
	_, _ = fmt.Fprintf(w, "agent: %s\n", text) // a dead console must not stop an installation
}

// stepError names the step that failed, for console and timeline.
type stepError struct {
	step install.Phase
	err  error
	held bool // trying again cannot help
}

func (e *stepError) Error() string { return fmt.Sprintf("%s: %v", e.step, e.err) }
func (e *stepError) Unwrap() error { return e.err }

func permanent(err error) bool {
	var s *stepError
	return errors.As(err, &s) && s.held
}

// pause waits unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// jitter spreads a rack of machines that failed together: d to 1.5 d.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/2+1) }

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
