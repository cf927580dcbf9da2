package segment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// WatchLinks reports that a link or an IPv4 address of this network namespace changed; what changed is read with Ports.
// Several changes may be reported as one. The channel is closed, and everything released, soon after ctx is done, or when
// the kernel's subscription breaks.
func WatchLinks(ctx context.Context) (<-chan struct{}, error) {
	// Opened here, on the caller's thread, and therefore in its namespace.
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	out := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, sock.Close)
	go func() {
		defer close(out)
		defer func() {
			if stop() {
				sock.Close()
			}
		}()
		for {
			_, _, err := sock.Receive()
			// ENOBUFS: the kernel had more to say than the buffer holds. That, too, is a change.
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

// linkPoll is how often AwaitLink looks even if nobody said that something changed.
const linkPoll = time.Second

// AwaitLink waits until the named port is up and has carrier, and returns it as it then is. A port that was just raised
// needs up to some seconds (auto-negotiation). When ctx ends first the error wraps ErrNoLink.
func AwaitLink(ctx context.Context, name string) (Port, error) {
	watch, cancel := context.WithCancel(ctx)
	changed, err := WatchLinks(watch)
	if err != nil {
		cancel()
		return Port{}, err
	}
	events := changed
	defer func() {
		cancel()
		for range changed { // until the watcher has let go
		}
	}()
	poll := time.NewTicker(linkPoll)
	defer poll.Stop()
	for {
		p, err := PortByName(name)
		if err != nil {
			return Port{}, err
		}
		if p.Up && p.Link {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return Port{}, fmt.Errorf("interface %s: %w: check the cable and that the other end is switched on", name, ErrNoLink)
		case _, ok := <-events:
			if !ok {
				events = nil // the watch broke; the poll remains
			}
		case <-poll.C:
		}
	}
}

func linkByName(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		return nil, fmt.Errorf("interface %s: %w", name, ErrNoPort)
	case err != nil:
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return link, nil
}
