package mirror

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// The figures of the mirror, beside what else could be done: go test -run xxx -bench . ./node/internal/mirror
//
//	hit   what is here, to one client: mirror, http.FileServer, nginx proxy_cache
//	miss  what is not here, to one client: mirror, directly from the upstream, nginx proxy_cache
//	link  what is not here, over a link of 200 Mbit/s: mirror, directly from the upstream
//	cold  16 clients and 400 packages: bytes from upstream for each byte of the packages

func quiet(o *Options, _ *limits) { o.Logger = slog.New(slog.DiscardHandler) }

// read gets a URL and throws it away.
func read(b testing.TB, c *http.Client, url string) int64 {
	b.Helper()
	resp, err := c.Get(url)
	if err != nil {
		b.Error(err)
		return 0
	}
	n, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%s: %s, %v", url, resp.Status, err)
	}
	return n
}

// archiveOnDisk is an upstream that serves files from the disk, as real ones do.
func archiveOnDisk(b testing.TB, pkgs []pkg) (server *httptest.Server, key signer, total int64) {
	b.Helper()
	key = newSigner(b)
	files := map[string][]byte{}
	debian(b, files, key, epoch, "", pkgs...)
	dir := b.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, p := range pkgs {
		total += int64(len(p.data))
	}
	server = httptest.NewServer(http.FileServer(http.Dir(dir)))
	b.Cleanup(server.Close)
	return server, key, total
}

func manyPkgs(n, size int) []pkg {
	var out []pkg
	for i := range n {
		out = append(out, makePkg(fmt.Sprintf("p%d", i), size))
	}
	return out
}

// nginx starts proxy_cache before an upstream.
func nginx(b testing.TB, upstream string) (url string) {
	b.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		b.Skip("nginx is not here (apt-get install nginx-light)")
	}
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	conf := fmt.Sprintf(`daemon off; user root; worker_processes 2; pid %[1]s/pid; error_log %[1]s/log;
events { worker_connections 512; }
http { access_log off; sendfile on; keepalive_requests 1000000;
client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
proxy_cache_path %[1]s/cache keys_zone=c:10m use_temp_path=off;
server { listen %[2]s; location / { proxy_pass %[3]s; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache c; proxy_cache_valid 200 1h; proxy_cache_lock on; } } }
`, dir, addr, upstream)
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", file)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	for deadline := time.Now().Add(5 * time.Second); ; {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return "http://" + addr + "/"
		} else if time.Now().After(deadline) {
			b.Fatal("nginx: ", err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func client(b testing.TB) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 32}
	b.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func BenchmarkHit(b *testing.B) {
	for name, size := range map[string]int{"100KiB": 100 << 10, "64MiB": 64 << 20} {
		n := 20
		if size > 1<<20 {
			n = 1
		}
		pkgs := manyPkgs(n, size)
		server, key, _ := archiveOnDisk(b, pkgs)
		h := newHouse(b, Repo{Upstreams: []string{server.URL}, Keyring: key.ring}, quiet)
		c := client(b)
		read(b, c, h.web.URL+"/repo/debian/"+suite+"/InRelease")
		read(b, c, h.web.URL+"/repo/debian/"+suite+"/main/binary-amd64/Packages.gz")
		for who, base := range map[string]func(testing.TB) string{
			"mirror": func(testing.TB) string { return h.web.URL + "/repo/debian/" }, "fileserver": func(testing.TB) string { return server.URL + "/" },
			"nginx": func(b testing.TB) string { return nginx(b, server.URL) },
		} {
			b.Run(name+"/"+who, func(b *testing.B) {
				url := base(b)
				for _, p := range pkgs {
					read(b, c, url+p.path())
				}
				b.SetBytes(int64(size))
				b.ResetTimer()
				for i := range b.N {
					read(b, c, url+pkgs[i%n].path())
				}
			})
		}
	}
}

func BenchmarkMiss(b *testing.B) {
	for name, size := range map[string]int{"100KiB": 100 << 10, "64MiB": 64 << 20} {
		n := 300
		if size > 1<<20 {
			n = 4
		}
		pkgs := manyPkgs(n, size)
		server, key, total := archiveOnDisk(b, pkgs)
		for who, start := range map[string]func(testing.TB) string{
			"mirror": func(b testing.TB) string {
				h := newHouse(b, Repo{Upstreams: []string{server.URL}, Keyring: key.ring}, quiet)
				read(b, client(b), h.web.URL+"/repo/debian/"+suite+"/InRelease")
				read(b, client(b), h.web.URL+"/repo/debian/"+suite+"/main/binary-amd64/Packages.gz")
				return h.web.URL + "/repo/debian/"
			},
			"direct": func(testing.TB) string { return server.URL + "/" },
			"nginx":  func(b testing.TB) string { return nginx(b, server.URL) },
		} {
			b.Run(name+"/"+who, func(b *testing.B) {
				b.SetBytes(total)
				for range b.N {
					b.StopTimer()
					url, c := start(b), client(b)
					b.StartTimer()
					for _, p := range pkgs {
						read(b, c, url+p.path())
					}
				}
			})
		}
	}
}

// BenchmarkLink is a miss where the link is the bound, and not the processor that all three parties share.
func BenchmarkLink(b *testing.B) {
	pkgs := append(manyPkgs(100, 100<<10), makePkg("large", 32<<20))
	files := map[string][]byte{}
	key := newSigner(b)
	debian(b, files, key, epoch, "", pkgs...)
	u := newUpstream(b, files)
	link := newBucket(25e6, 64<<10, time.Now)
	u.misbehave(func(w http.ResponseWriter, r *http.Request, _ string, data []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		for len(data) > 0 {
			n := min(len(data), 16<<10)
			if link.wait(r.Context(), n) != nil {
				return true
			}
			_, _ = w.Write(data[:n])
			data = data[n:]
		}
		return true
	})
	for _, who := range []string{"direct", "mirror"} {
		b.Run(who, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				h, c := newHouse(b, Repo{Upstreams: []string{u.URL}, Keyring: key.ring}, quiet), client(b)
				base := h.web.URL + "/repo/debian/"
				if who == "direct" {
					base = u.URL + "/"
				}
				read(b, c, base+suite+"/InRelease")
				read(b, c, base+suite+"/main/binary-amd64/Packages.gz")
				b.StartTimer()
				total := int64(0)
				for _, p := range pkgs {
					total += read(b, c, base+p.path())
				}
				b.SetBytes(total)
			}
		})
	}
}

// BenchmarkCold reports upstream bytes for each byte of the packages.
func BenchmarkCold(b *testing.B) {
	pkgs := manyPkgs(400, 100<<10)
	total := int64(400 * 100 << 10)
	key := newSigner(b)
	files := map[string][]byte{}
	debian(b, files, key, epoch, "", pkgs...)
	for range b.N {
		u := newUpstream(b, files)
		h := newHouse(b, Repo{Upstreams: []string{u.URL}, Keyring: key.ring}, quiet)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				c := client(b)
				read(b, c, h.web.URL+"/repo/debian/"+suite+"/InRelease")
				read(b, c, h.web.URL+"/repo/debian/"+suite+"/main/binary-amd64/Packages.xz")
				for j := range pkgs { // not all in the same order
					read(b, c, h.web.URL+"/repo/debian/"+pkgs[(j+i*7)%len(pkgs)].path())
				}
			})
		}
		wg.Wait()
		u.mu.Lock()
		metadata := int64(len(files[suite+"/InRelease"]) + len(files[suite+"/main/binary-amd64/Packages.xz"]))
		b.ReportMetric(float64(u.sent)/float64(total+metadata), "upstream/once")
		u.mu.Unlock()
		b.SetBytes(16 * total)
	}
}
