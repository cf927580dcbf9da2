package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"offshoot/node/internal/install"
)

// ErrOff: the machine is to switch itself off.
var ErrOff = errors.New("this machine is to be switched off")

// errOwnDisk: the machine is to boot anew, and is sent to its own disk then.
var errOwnDisk = errors.New("this machine is to start its own disk")

// bootID names this network boot: an arming on which too many of them worked is held. The kernel draws one for each boot, and an
// ordinary process, which is none, is a boot for itself.
func bootID() string {
	if os.Getpid() == 1 {
		if raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	raw, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return "" // not counted
	}
	return strings.TrimSpace(string(raw))
}

// serve carries out one order after the other, and returns nil once the machine is to restart.
func (r *run) serve(ctx context.Context) error {
	have, failed := "", ""
	for {
		order, err := r.next(ctx, have)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errOwnDisk):
			return nil
		case errors.Is(err, ErrOff), errors.Is(err, ErrLost):
			return err
		case err != nil:
			r.say("no orders: %v", err)
			if err := pause(ctx, jitter(min(r.o.Hold, retryPause))); err != nil {
				return context.Cause(ctx)
			}
			continue
		}
		if order.Key == failed {
			r.say("asking again every %v; on a node, see: offshoot machine show", r.o.Hold)
			if err := pause(ctx, jitter(r.o.Hold)); err != nil {
				return context.Cause(ctx)
			}
		}
		news := order.Key != have
		have, failed = order.Key, ""
		done := false
		switch order.Do {
		case install.DoRestart:
			return nil
		case install.DoOff:
			return ErrOff
		case install.DoInstall:
			done, err = r.arming(ctx)
		case install.DoRelease:
			err = r.release(ctx, order)
		case install.DoWait:
			r.wait(ctx, order, news)
		}
		if done || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = order.Key
			r.say("held: %v", err)
		}
	}
}

// wait shows who stands before the machine what it waits for, and tells the node what it is if that wants to know.
func (r *run) wait(ctx context.Context, order install.Order, news bool) {
	inv, err := r.o.System.Inventory(ctx)
	if err != nil {
		r.say("the hardware could not be looked at: %v", err)
		return
	}
	if order.Inventory {
		r.client.report(ctx, install.Event{Phase: install.PhaseInventory, Text: summary(inv), Inventory: &inv})
	}
	if news {
		r.menu = newMenu(order, inv.Disks)
		r.say("%s", r.menu.text())
	}
}

// next asks for the next order, and meanwhile listens to who stands before the machine.
func (r *run) next(ctx context.Context, have string) (install.Order, error) {
	type answer struct {
		order install.Order
		err   error
	}
	asking, cancel := context.WithCancel(ctx)
	answers := make(chan answer, 1)
	go func() {
		o, err := r.client.order(asking, have, r.boot)
		answers <- answer{o, err}
	}()
	for {
		select {
		case a := <-answers:
			cancel()
			return a.order, a.err
		case line := <-r.o.Lines:
			if r.menu == nil {
				continue
			}
			if err := r.choose(ctx, line); err != nil {
				cancel()
				<-answers
				return install.Order{}, err
			}
		}
	}
}

// choose does what was typed. Its error ends the waiting.
func (r *run) choose(ctx context.Context, line string) error {
	wish, text := r.menu.enter(line)
	if text != "" {
		r.say("%s", text)
	}
	if wish == nil {
		return nil
	}
	err := r.client.request(ctx, *wish)
	switch {
	case wish.Wish == install.WishOff: // whoever stands there may switch it off in any case
		return ErrOff
	case err != nil:
		r.say("%v", err)
	case wish.Wish == install.WishOwnDisk:
		return errOwnDisk
	}
	return nil
}

// order asks what to do next. have is the key of the order before, which the node has no need to repeat.
func (c *client) order(ctx context.Context, have, boot string) (install.Order, error) {
	var o install.Order
	query := url.Values{"have": {have}, "boot": {boot}}.Encode()
	err := c.retry(ctx, 3, func(ctx context.Context) error {
		return c.do(ctx, http.MethodGet, "/order?"+query, nil, func(body io.Reader) (err error) {
			o, err = install.DecodeOrder(body)
			return err
		})
	})
	var no *refusal
	if errors.As(err, &no) {
		switch no.code {
		case http.StatusNotFound: // an older offshoot, which boots the agent only to install
			return install.Order{Do: install.DoInstall, Key: "install"}, nil
		case http.StatusGone:
			return o, fmt.Errorf("%w: %w", ErrLost, err)
		}
	}
	return o, err
}

// request tells the node what was wished on the console.
func (c *client) request(ctx context.Context, q install.Request) error {
	raw, err := q.Encode()
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, "/request", raw, nil)
}
