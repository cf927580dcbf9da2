package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"offshoot/e2e/lab"
)

const (
	burstOver = 2 * time.Second // they are powered on within it
	burstLoss = 0.05            // of frames, each way
	burstTime = 90 * time.Second
)

// burst boots a thousand machines over a bad cable from the seed, and then from dnsmasq with nginx.
func (b *boots) burst(ctx context.Context) error {
	own, err := b.rackOn(ctx, b.world.Lan0, b.world.Seed)
	if err != nil {
		return err
	}
	ours, err := own.boots(ctx)
	if err := errors.Join(err, own.close()); err != nil {
		return err
	}
	b.world.Say("seed: %s", ours)
	n, err := b.world.Lab.Network("others")
	if err != nil {
		return err
	}
	server, err := b.others(ctx, n)
	if err != nil {
		return err
	}
	other, err := b.rackOn(ctx, n, server)
	if err != nil {
		return err
	}
	theirs, err := other.boots(ctx)
	if err := errors.Join(err, other.close()); err != nil {
		return err
	}
	b.world.Say("dnsmasq: %s", theirs)
	ratio := theirs.last.Seconds() / ours.last.Seconds()
	b.tell(verdict{
		fmt.Sprintf("%d machines boot, 5 %% of frames lost: the last after", b.machines), ours.String(), "dnsmasq, nginx " + theirs.String(),
		fmt.Sprintf("%.2f", ratio), "all, >= 1.0", yes(ours.booted == b.machines && (ratio >= 1 || theirs.booted < b.machines)),
	})
	return nil
}

// others is a host with dnsmasq for DHCP and TFTP, and nginx for HTTP, as they are set up for iPXE.
func (b *boots) others(ctx context.Context, n *lab.Network) (*lab.Host, error) {
	h, err := b.world.Lab.Host("rival", n)
	if err != nil {
		return nil, err
	}
	if _, err := h.Run(ctx, "ip", "address", "add", nodeAddress+segmentPrefix, "dev", n.String()); err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile(b.small.Kernel)
	if err != nil {
		return nil, err
	}
	at := "http://" + nodeAddress + ":" + nginxPort
	script := "#!ipxe\nkernel --name vmlinuz " + at + "/vmlinuz\ninitrd " + at + "/initrd\nboot\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(b.peers.files, "vmlinuz"), kernel, 0o644), os.WriteFile(filepath.Join(b.peers.files, "boot.ipxe"), []byte(script), 0o644),
	); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "others")
	if err := serveFiles(ctx, h, filepath.Join(dir, "nginx"), nodeAddress, b.peers.files); err != nil {
		return nil, err
	}
	return h, startMasq(ctx, h, dir, b.peers.files, "--interface="+n.String(), "--no-ping", "--quiet-dhcp", "--dhcp-authoritative",
		"--dhcp-range=192.168.40.10,192.168.47.250,255.255.248.0,1h", "--dhcp-lease-max=3000", "--dhcp-leasefile="+filepath.Join(dir, "leases"),
		"--dhcp-match=set:ipxe,175", "--dhcp-boot=tag:!ipxe,"+firmwareProgram, "--dhcp-boot=tag:ipxe,"+at+"/boot.ipxe", "--dhcp-option=175,b0:01:01")
}

// rackOn plugs a rack into a network, and waits until the server there boots a machine of it.
func (b *boots) rackOn(ctx context.Context, n *lab.Network, server *lab.Host) (*rack, error) {
	h, err := b.world.Lab.Host("rack-"+n.String(), n)
	if err != nil {
		return nil, err
	}
	return newRack(ctx, h, n, server.MAC(n), b.machines, burstLoss)
}

// outcome is how a burst went.
type outcome struct {
	booted, all  int
	again        int // boots that firmware began anew
	median, last time.Duration
	why          error // of one that did not boot
}

func (o outcome) String() string {
	text := fmt.Sprintf("%d of %d, %.1f s (half after %.1f s, %d began anew)", o.booted, o.all, o.last.Seconds(), o.median.Seconds(), o.again)
	if o.why != nil {
		text += ": " + o.why.Error()
	}
	return text
}

// boots powers the machines on, and waits for all of them, but not for ever.
func (r *rack) boots(ctx context.Context) (o outcome, err error) {
	o.all = len(r.byMAC)
	bounded, cancel := context.WithTimeout(ctx, burstTime)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	for _, m := range r.byMAC {
		wg.Go(func() {
			if powerOn(bounded, burstOver) != nil {
				return
			}
			began := time.Now()
			tries, err := m.boot(bounded)
			mu.Lock()
			defer mu.Unlock()
			if o.again += tries - 1; err != nil {
				o.why = err
				return
			}
			took = append(took, time.Since(began))
		})
	}
	wg.Wait()
	if len(took) == 0 {
		return o, fmt.Errorf("no machine booted: %w", o.why)
	}
	slices.Sort(took)
	o.booted, o.median, o.last = len(took), took[len(took)/2], took[len(took)-1]
	return o, ctx.Err()
}
