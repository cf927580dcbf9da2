package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"offshoot/e2e/lab"
)

// httpMany is how many clients fetch at once.
const httpMany = 200

// http fetches a boot program and what the agent boots from. The clients sit on the servers' machines: a link of the lab carries
// short frames with complete checksums, and the kernel would be measured.
func (b *boots) http(ctx context.Context) error {
	digest, err := b.initrd(ctx)
	if err != nil {
		return err
	}
	for _, f := range [][2]string{{"/boot/" + program, program}, {"/artifact/" + digest + "/initrd", "initrd"}} {
		if err := b.httpOf(ctx, f[1], f[0], "/"+f[1]); err != nil {
			return err
		}
	}
	return nil
}

// initrd is the digest of what the agent is in.
func (b *boots) initrd(ctx context.Context) (string, error) {
	s, err := b.seed.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range s.Artifacts {
		if strings.HasPrefix(a.Name, "initrd-") {
			return a.Digest, nil
		}
	}
	return "", fmt.Errorf("no initrd among %+v", s.Artifacts)
}

// httpOf measures one file, by one client and by many.
func (b *boots) httpOf(ctx context.Context, what, own, peer string) error {
	c := visitor(b.world.Seed)
	defer c.CloseIdleConnections()
	file := filepath.Join(b.peers.files, filepath.Base(peer))
	got, err := read(ctx, c, "http://"+nodeAddress+":"+nodePort+own)
	if err != nil {
		return err
	}
	if want, err := os.ReadFile(file); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			return err
		}
	} else if err != nil || !bytes.Equal(got, want) {
		return errors.Join(err, fmt.Errorf("%s differs", own))
	}
	for _, clients := range []int{1, httpMany} {
		rates, err := b.inTurns(ctx, []func(context.Context) (float64, error){
			b.fetching(b.world.Seed, nodeAddress+":"+nodePort, own, int64(len(got)), clients),
			b.fetching(b.peers.nginx, nginxAddress+":"+nginxPort, peer, int64(len(got)), clients),
		})
		if err != nil {
			return err
		}
		b.tell(rates.judge(fmt.Sprintf("HTTP %s, %.1f MB, %d clients", what, float64(len(got))/1e6, clients), "%.0f MB/s", []string{"nginx"}, 0.9)...)
	}
	return nil
}

// fetching is clients that fetch a file again and again.
func (b *boots) fetching(from *lab.Host, at, path string, size int64, clients int) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		all := make([]*getter, clients)
		for i := range all {
			g, err := newGetter(ctx, from, at)
			if err != nil {
				return 0, err
			}
			defer func() { _ = g.conn.Close() }()
			all[i] = g
		}
		errs, totals := make([]error, clients), make([]int64, clients)
		var wg sync.WaitGroup
		began := time.Now()
		for i, g := range all {
			wg.Go(func() {
				for time.Since(began) < b.span && errs[i] == nil {
					var n int64
					if n, errs[i] = g.get(path); errs[i] == nil && n != size {
						errs[i] = fmt.Errorf("%s: %d bytes of %d", path, n, size)
					}
					totals[i] += n
				}
			})
		}
		wg.Wait()
		took, total := time.Since(began), int64(0)
		for _, n := range totals {
			total += n
		}
		return float64(total) / 1e6 / took.Seconds(), errors.Join(errs...)
	}
}

// isoFile is what an installer's medium is asked for most: the file beside it has 48 MiB.
const (
	isoFile = "live/filesystem.squashfs"
	isoSize = 48 << 20
)

var isoDigest = regexp.MustCompile(`"digest": ?"([0-9a-f]{64})"`)

// iso makes an image, adds it to the seed, and fetches a file of it from there, and the same file from an nginx that has it
// unpacked.
func (b *boots) iso(ctx context.Context) error {
	tree, image := filepath.Join(b.dir, "medium"), filepath.Join(b.dir, "medium.iso")
	data := make([]byte, isoSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	if err := errors.Join(
		os.MkdirAll(filepath.Join(tree, filepath.Dir(isoFile)), 0o755), os.WriteFile(filepath.Join(tree, isoFile), data, 0o644),
		os.WriteFile(filepath.Join(b.peers.files, filepath.Base(isoFile)), data, 0o644),
	); err != nil {
		return err
	}
	if _, err := b.world.Seed.Run(ctx, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "medium", "-o", image, tree); err != nil {
		return err
	}
	out, err := b.seed.Offshoot(ctx, "artifact", "add", "--iso", image, "--unverified", "-o", "json")
	if err != nil {
		return err
	}
	found := isoDigest.FindStringSubmatch(out)
	if found == nil {
		return fmt.Errorf("no digest in %s", out)
	}
	return b.httpOf(ctx, "of an ISO", "/iso/"+found[1]+"/"+isoFile, "/"+filepath.Base(isoFile))
}
