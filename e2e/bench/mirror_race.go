package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"offshoot/e2e/lab"
)

// get takes files one after the other and throws them away.
func get(ctx context.Context, c *http.Client, base string, files []parcel) (total int64, err error) {
	for _, f := range files {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+f.path, nil)
		if err != nil {
			return total, err
		}
		resp, err := c.Do(req)
		if err != nil {
			return total, err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close() // read to its end
		total += n
		if err != nil || resp.StatusCode != http.StatusOK || (f.size > 0 && n != f.size) {
			return total, errors.Join(err, fmt.Errorf("%s: %s, %d bytes of %d", req.URL, resp.Status, n, f.size))
		}
	}
	return total, nil
}

// update does what apt-get update does.
func update(ctx context.Context, c *http.Client, base string) error {
	var files []parcel
	for _, name := range entry {
		files = append(files, parcel{path: name})
	}
	_, err := get(ctx, c, base, files)
	return err
}

// turns is into how many parts a cold archive is cut, which contenders get in turns: what disturbs one disturbs all.
const turns = 8

// miss is one client that fetches what nobody has yet.
func (b *mirrors) miss(ctx context.Context) ([]figure, error) {
	a := b.upstream.archives["one"]
	all := []*depot{b.direct, b.own, b.nginx}
	took := make([]time.Duration, len(all))
	clients := make([]*http.Client, len(all))
	for i, d := range all {
		clients[i] = visitor(b.client)
		defer clients[i].CloseIdleConnections()
		if err := update(ctx, clients[i], d.base+a.name+"/"); err != nil {
			return nil, err
		}
	}
	for part := range slices.Chunk(a.packages, (len(a.packages)+turns-1)/turns) {
		for i, d := range all {
			began := time.Now()
			if _, err := get(ctx, clients[i], d.base+a.name+"/", part); err != nil {
				return nil, err
			}
			took[i] += time.Since(began)
		}
	}
	rate := func(i int) float64 { return float64(a.size) / 1e6 / took[i].Seconds() }
	return []figure{{
		fmt.Sprintf("one client, miss, %d packages, %d MB", len(a.packages), a.size/1e6),
		fmt.Sprintf("%.2f x direct (%.1f MB/s, direct %.1f, nginx %.1f: %.2f x)", rate(1)/rate(0), rate(1), rate(0), rate(2), rate(2)/rate(0)), ">= 0.95",
	}}, nil
}

const (
	largeFrom = 1 << 20
	smallTo   = 64 << 10
)

// hits is one client that fetches what is there. It sits on the server's machine: a link of the lab carries short frames with
// complete checksums, and the kernel would be measured.
func (b *mirrors) hits(ctx context.Context) ([]figure, error) {
	a := b.upstream.archives["one"]
	large, err := b.hit(ctx, a, a.between(largeFrom, largest))
	if err != nil {
		return nil, err
	}
	small, err := b.hit(ctx, a, a.between(0, smallTo))
	if err != nil {
		return nil, err
	}
	return []figure{
		{fmt.Sprintf("one client, hit, packages from %d MiB", largeFrom>>20), large.say("%.0f MB/s", func(r pace) float64 { return r.bytes / 1e6 }), ">= 0.9"},
		{fmt.Sprintf("one client, hit, packages to %d KiB", smallTo>>10), small.say("%.0f/s", func(r pace) float64 { return r.files }), ">= 0.9"},
	}, nil
}

// pace is what went through in a second, and the processor time that the server spent on each file.
type pace struct{ bytes, files, cost float64 }

// duel is ours and the other's, round by round.
type duel [][2]pace

// say gives the middle round and the range of ratios.
func (d duel) say(unit string, of func(pace) float64) string {
	ratio := func(r [2]pace) float64 { return of(r[0]) / of(r[1]) }
	slices.SortFunc(d, func(x, y [2]pace) int { return int((ratio(x) - ratio(y)) * 1e6) })
	middle := d[len(d)/2]
	return fmt.Sprintf("%.2f x nginx (%.2f to %.2f; "+unit+", nginx "+unit+"; processor for each %.0f us, nginx %.0f us)",
		ratio(middle), ratio(d[0]), ratio(d[len(d)-1]), of(middle[0]), of(middle[1]), middle[0].cost*1e6, middle[1].cost*1e6)
}

// hit warms both with these files, and then lets each send them again and again.
func (b *mirrors) hit(ctx context.Context, a *archive, files []parcel) (duel, error) {
	all := [2]*depot{b.own, b.nginx}
	var clients [2]*http.Client
	for i, d := range all {
		clients[i] = visitor(d.host)
		defer clients[i].CloseIdleConnections()
		if err := update(ctx, clients[i], d.base+a.name+"/"); err != nil {
			return nil, err
		}
		if _, err := get(ctx, clients[i], d.base+a.name+"/", files); err != nil {
			return nil, err
		}
	}
	var out duel
	for range b.rounds {
		var round [2]pace
		for i, d := range all {
			before, err := processor(ctx, d.host)
			if err != nil {
				return nil, err
			}
			began := time.Now()
			for n := 0; time.Since(began) < b.span; n++ {
				got, err := get(ctx, clients[i], d.base+a.name+"/", files[n%len(files):n%len(files)+1])
				if err != nil {
					return nil, err
				}
				round[i].bytes += float64(got)
				round[i].files++
			}
			took := time.Since(began).Seconds()
			after, err := processor(ctx, d.host)
			if err != nil {
				return nil, err
			}
			round[i].cost = (after - before).Seconds() / round[i].files
			round[i].bytes /= took
			round[i].files /= took
		}
		out = append(out, round)
	}
	return out, nil
}

// processor is what the programs of a machine have spent so far. Ours is not one of them: its sockets there are guests.
func processor(ctx context.Context, h *lab.Host) (time.Duration, error) {
	pids, err := h.Run(ctx, "ip", "netns", "pids", h.Namespace())
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, pid := range strings.Fields(pids) {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if errors.Is(err, os.ErrNotExist) {
			continue // the program that was asked
		}
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(text), ") ") // proc(5): what follows the name begins with field 3
		fields := strings.Fields(rest)
		for _, at := range []int{14 - 3, 15 - 3} { // utime, stime
			n, err := strconv.ParseInt(fields[at], 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / 100, nil // USER_HZ
}

// crowdClients fetch the same packages in the same order at the same time: machines that are installed together.
const crowdClients = 16

// crowd counts what the upstream sends for many clients.
func (b *mirrors) crowd(ctx context.Context) ([]figure, error) {
	a := b.upstream.archives["crowd"]
	var copies [2]float64
	var took [2]time.Duration
	for i, d := range []*depot{b.own, b.nginx} {
		before, err := b.upstream.sent()
		if err != nil {
			return nil, err
		}
		began := time.Now()
		errs := make([]error, crowdClients)
		var wg sync.WaitGroup
		for k := range crowdClients {
			wg.Go(func() {
				c := visitor(b.client)
				defer c.CloseIdleConnections()
				if errs[k] = update(ctx, c, d.base+a.name+"/"); errs[k] == nil {
					_, errs[k] = get(ctx, c, d.base+a.name+"/", a.packages)
				}
			})
		}
		wg.Wait()
		took[i] = time.Since(began)
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		after, err := b.upstream.sent()
		if err != nil {
			return nil, err
		}
		copies[i] = float64(after-before) / float64(a.size+a.metadata)
	}
	return []figure{{
		fmt.Sprintf("%d clients, %d packages, cold: upstream bytes / bytes", crowdClients, len(a.packages)),
		fmt.Sprintf("%.3f in %.1f s (nginx %.3f in %.1f s)", copies[0], took[0].Seconds(), copies[1], took[1].Seconds()), "<= 1.02",
	}}, nil
}

// apt lets the real client fetch what nobody has yet, from the upstream and through the mirror. The two archives are alike.
func (b *mirrors) apt(ctx context.Context) ([]figure, error) {
	var took [2]time.Duration
	for i, d := range []*depot{b.direct, b.own} {
		a := b.upstream.archives[[]string{"apt-direct", "apt-mirrored"}[i]]
		began := time.Now()
		if err := aptGet(ctx, b.client, filepath.Join(b.dir, a.name), fmt.Sprintf("deb [signed-by=%s] %s%s stable main\n", b.upstream.keyring, d.base, a.name), a); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return []figure{{
		fmt.Sprintf("apt-get update and %d packages, miss", aptCount),
		fmt.Sprintf("%.2f x direct (%.2f s, direct %.2f s)", took[0].Seconds()/took[1].Seconds(), took[1].Seconds(), took[0].Seconds()), ">= 0.95",
	}}, nil
}

// aptGet downloads all packages of an archive with lists of its own.
func aptGet(ctx context.Context, h *lab.Host, dir, source string, a *archive) error {
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"etc/sources.list": source, "state/status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	options := []string{
		"-q", "-o", "Dir::Etc=" + dir + "/etc", "-o", "Dir::State=" + dir + "/state", "-o", "Dir::Cache=" + dir + "/cache",
		"-o", "Dir::State::status=" + dir + "/state/status", "-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Proxy=false",
		"-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Languages=none", "-o", "APT::Architecture=amd64",
	}
	if _, err := h.Run(ctx, "apt-get", append(options, "update")...); err != nil {
		return err
	}
	args := append(options, "-y", "--download-only", "install")
	for i := range a.packages {
		args = append(args, a.name+strconv.Itoa(i))
	}
	if _, err := h.Run(ctx, "apt-get", args...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "cache/archives/*.deb"))
	if err == nil && len(debs) != len(a.packages) {
		err = fmt.Errorf("apt-get has %d packages of %d: %s", len(debs), len(a.packages), strings.TrimSpace(source))
	}
	return err
}
