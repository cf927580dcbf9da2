package story

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"offshoot/e2e/lab"
)

// Crowd are foreign DHCP clients on lan0 that never stop asking: perfdhcp with ever new machines, a dhclient that renews its
// lease all the time, and one that begins anew again and again.
type Crowd struct {
	Renewer net.HardwareAddr // of the dhclient that renews

	w      *World
	cancel context.CancelFunc
	all    sync.WaitGroup
	mu     sync.Mutex
	errs   []error
}

// crowdAddress is perfdhcp's own, outside of the pool: it asks as a relay does.
const crowdAddress = "192.168.42.6/24"

// What dhclient is to do with an address. Debian's own script would change the resolver of this machine.
const dhclientScript = `#!/bin/sh
case $reason in
PREINIT) ip link set "$interface" up ;;
BOUND|REBOOT|RENEW|REBIND) ip addr replace "$new_ip_address/24" dev "$interface" ;;
EXPIRE|FAIL|RELEASE|STOP) ip addr flush dev "$interface" ;;
esac
`

// A lease is renewed after a second or two, and asked for from everybody soon after, whatever the server says.
const dhclientConf = `timeout 4; retry 1; backoff-cutoff 2; initial-interval 1; reboot 2; select-timeout 0;
supersede dhcp-renewal-time 2; supersede dhcp-rebinding-time 12;
`

// NewCrowd lets so many new machines per second ask, of so many different ones.
func (w *World) NewCrowd(ctx context.Context, rate, machines int) (*Crowd, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Crowd{w: w, cancel: cancel}
	dir := filepath.Join(w.Lab.Dir(), "crowd")
	err := os.MkdirAll(dir, 0o755)
	for name, text := range map[string]string{"script": dhclientScript, "conf": dhclientConf} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	if err != nil {
		return c, errors.Join(err, c.Stop())
	}
	many, err := w.Lab.Host("many", w.Lan0)
	if err == nil {
		_, err = many.Run(ctx, "ip", "addr", "add", crowdAddress, "dev", "lan0")
	}
	if err != nil {
		return c, errors.Join(err, c.Stop())
	}
	c.loop(ctx, func() error {
		return c.run(ctx, many, time.Hour, "perfdhcp", "-4", "-l", "lan0", "-r", fmt.Sprint(rate), "-R", fmt.Sprint(machines), "-b", "mac=02:0c:01:02:03:04", "-p", "3600")
	})
	for _, name := range []string{"renewer", "beginner"} {
		h, err := w.Lab.Host(name, w.Lan0)
		if err != nil {
			return c, errors.Join(err, c.Stop())
		}
		life := 3 * time.Second
		if name == "renewer" {
			life, c.Renewer = time.Hour, h.MAC(w.Lan0)
		}
		round := 0
		c.loop(ctx, func() error {
			round++
			leases := filepath.Join(dir, name+".leases")
			if round%2 == 0 { // every other time it remembers what it had
				if err := os.Remove(leases); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			return c.run(ctx, h, life, "dhclient", "-4", "-d", "-cf", filepath.Join(dir, "conf"), "-sf", filepath.Join(dir, "script"), "-lf", leases,
				"-pf", filepath.Join(dir, name+".pid"), "lan0")
		})
	}
	return c, nil
}

// loop runs a client again and again until ctx ends.
func (c *Crowd) loop(ctx context.Context, once func() error) {
	c.all.Go(func() {
		for ctx.Err() == nil {
			if err := once(); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				if len(c.errs) < 5 {
					c.errs = append(c.errs, err)
				}
				c.mu.Unlock()
			}
			_ = pause(ctx, 300*time.Millisecond)
		}
	})
}

// run is one life of a client.
func (c *Crowd) run(ctx context.Context, h *lab.Host, life time.Duration, args ...string) error {
	log, err := os.OpenFile(filepath.Join(c.w.Lab.Dir(), "crowd", h.String()+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	bounded, cancel := context.WithTimeout(ctx, life)
	defer cancel()
	cmd := h.Command(bounded, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil && bounded.Err() == nil {
		return fmt.Errorf("%s ended: %w; its log is %s", args[0], err, log.Name())
	}
	return nil
}

// Stop sends them home, and says who could not ask at all.
func (c *Crowd) Stop() error {
	c.cancel()
	c.all.Wait()
	return errors.Join(c.errs...)
}
