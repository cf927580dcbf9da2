package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"offshoot/e2e/lab"
)

// archive is a package archive that is made for the bench; each is cold until it is asked for.
type archive struct {
	name     string
	packages []parcel // in the order in which they are asked for
	size     int64    // of all packages
	metadata int64    // of what apt-get update takes
}

type parcel struct {
	path string
	size int64
}

const (
	smallest, largest = 20 << 10, 4 << 20
	packageCount      = 400
	aptCount          = 100 // packages that apt fetches
)

// entry is what has to be asked for before packages, as apt does.
var entry = []string{lab.Suite + "/InRelease", lab.Suite + "/main/binary-amd64/Packages.xz"}

// write makes an archive on the disk: sizes from smallest to largest, with as many of one power as of the next, so that most
// packages are small and most bytes are in large ones.
func (a *archive) write(dir string, by *lab.Publisher, count int) error {
	var all []lab.Package
	for i := range count {
		size := smallest * math.Pow(float64(largest)/smallest, float64(i)/float64(count-1))
		all = append(all, lab.NoisePackage(fmt.Sprintf("%s%d", a.name, i), int(size)))
	}
	files := map[string][]byte{}
	if err := by.Publish(files, time.Now(), "", all...); err != nil {
		return err
	}
	for name, data := range files {
		p := filepath.Join(dir, a.name, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			return err
		}
	}
	for _, name := range entry {
		a.metadata += int64(len(files[name]))
	}
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(count) {
		a.packages = append(a.packages, parcel{all[i].Path(), int64(len(all[i].Data))})
		a.size += int64(len(all[i].Data))
	}
	return nil
}

// between are the packages of these sizes.
func (a *archive) between(least, most int64) (out []parcel) {
	for _, p := range a.packages {
		if p.size >= least && p.size <= most {
			out = append(out, p)
		}
	}
	return out
}

// upstream is an nginx that serves the archives, and writes down what it has sent.
type upstream struct {
	url      string
	keyring  string
	archives map[string]*archive
	log      string
}

func openUpstream(ctx context.Context, h *lab.Host, dir string) (*upstream, error) {
	root := filepath.Join(dir, "www")
	at := upstreamAddress + ":8000"
	u := &upstream{url: "http://" + at + "/", keyring: filepath.Join(dir, "keyring.gpg"), log: filepath.Join(dir, "sent"), archives: map[string]*archive{}}
	by, err := lab.NewPublisher(time.Now().Add(-time.Hour))
	if err != nil {
		return nil, err
	}
	for name, count := range map[string]int{"one": packageCount, "crowd": packageCount, "apt-direct": aptCount, "apt-mirrored": aptCount} {
		u.archives[name] = &archive{name: name}
		if err := u.archives[name].write(root, by, count); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(u.keyring, by.Keyring, 0o644); err != nil {
		return nil, err
	}
	err = startNginx(ctx, h, dir, at, fmt.Sprintf(`log_format sent "$body_bytes_sent"; access_log %s sent;
server { listen %s; root %s; }`, u.log, at, root))
	return u, err
}

// sent is what has left the upstream so far, without headers.
func (u *upstream) sent() (n int64, err error) {
	f, err := os.Open(u.log)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		one, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 64)
		if err != nil {
			return 0, err
		}
		n += one
	}
	return n, lines.Err()
}

// startCache is nginx as a caching proxy: one transfer of each file, however many want it, and no disk where memory will do.
func startCache(ctx context.Context, h *lab.Host, dir, upstream string) (*depot, error) {
	at := cacheAddress + ":8000"
	err := startNginx(ctx, h, dir, at, fmt.Sprintf(`access_log off;
proxy_cache_path %[1]s/files levels=1:2 keys_zone=c:10m max_size=4g inactive=1d use_temp_path=off;
server { listen %[2]s; location / {
	proxy_pass %[3]s; proxy_http_version 1.1; proxy_set_header Connection "";
	proxy_cache c; proxy_cache_valid 200 1d; proxy_cache_lock on; } }`, dir, at, upstream))
	if err != nil {
		return nil, err
	}
	return &depot{name: "nginx", host: h, base: "http://" + at + "/"}, nil
}

// startNginx starts an nginx for one purpose on a host, and waits until it serves.
func startNginx(ctx context.Context, h *lab.Host, dir, at, servers string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	conf := filepath.Join(dir, "nginx.conf")
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s/%s; ", kind, dir, kind)
	}
	text := fmt.Sprintf(`daemon off; user root; worker_processes 2; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 512; }
http { sendfile on; keepalive_requests 1000000; %[2]s
%[3]s }
`, dir, temporary, servers)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	p, err := startPeer(ctx, h, dir, "nginx", "-c", conf, "-e", filepath.Join(dir, "error.log"))
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := answers(bounded, h, at); err != nil {
		words, rerr := os.ReadFile(p.log)
		return errors.Join(fmt.Errorf("nginx: %w: %s", err, words), rerr)
	}
	return nil
}
