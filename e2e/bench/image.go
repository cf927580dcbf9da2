package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"offshoot/e2e/story"
)

// address of the bench's own web server, on the operator's host.
const address = "192.168.42.5:8000"

// imageOntoDisk has m1 write the image twice onto a file on its disk: by the agent, and by what a person would type. Both
// fetch from the same server; both sync at their end.
func imageOntoDisk(ctx context.Context, w *story.World, m1 *story.Shell, binary, image string) (agent, pipe time.Duration, err error) {
	s, err := newServer(binary, image)
	if err != nil {
		return 0, 0, err
	}
	var l net.Listener
	err = w.Operator.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	web := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = web.Serve(l) }() // ends with Close
	defer func() { _ = web.Close() }()
	const disk = "/root/bench.img"
	blank := "rm -f " + disk + " && truncate -s 2G " + disk + " && sync"
	for range 2 { // in turns, so that neither has the warm caches of the other
		if _, err := m1.Run(ctx, blank); err != nil {
			return 0, 0, err
		}
		began := time.Now()
		if _, err := m1.Run(ctx, pipeline(disk)); err != nil {
			return 0, 0, err
		}
		pipe += time.Since(began)
		if _, err := m1.Run(ctx, blank); err != nil {
			return 0, 0, err
		}
		if out, err := m1.Run(ctx, "offshoot agent --url http://"+address+"/b/bench --disk "+disk+" 2>&1"); err != nil {
			return 0, 0, fmt.Errorf("%w: %s", err, out)
		}
		agent += s.took()
	}
	if _, err := m1.Run(ctx, "rm -f "+disk); err != nil {
		return 0, 0, err
	}
	return agent / 2, pipe / 2, nil
}

// pipeline is curl | zstd -d | dd with bash in the place of curl, which the golden image does not hold: the kernel's
// socket, read by cat, which is if anything quicker.
func pipeline(disk string) string {
	host, port, _ := strings.Cut(address, ":")
	return fmt.Sprintf(`bash -c 'exec 3<>/dev/tcp/%s/%s; printf "GET /image HTTP/1.0\r\n\r\n" >&3; `+
		`while IFS= read -r line <&3 && [ "$line" != $'"'\\r'"' ]; do :; done; cat <&3 | zstd -dc | dd of=%s bs=4M conv=notrunc,sparse,fsync status=none'`,
		host, port, disk)
}

// server plays the node that serves an installation.
type server struct {
	config []byte
	image  string

	mu         sync.Mutex
	begun, end time.Time
}

func newServer(binary, image string) (*server, error) {
	digest := func(path string) (string, int64, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", 0, err
		}
		defer func() { _ = f.Close() }()
		h := sha256.New()
		n, err := io.Copy(h, f)
		return hex.EncodeToString(h.Sum(nil)), n, err
	}
	program, _, err := digest(binary)
	if err != nil {
		return nil, err
	}
	sum, size, err := digest(image)
	if err != nil {
		return nil, err
	}
	mac := "52:54:00:00:00:99"
	config, err := json.Marshal(map[string]any{
		"install": "bench", "machine": mac, "hostname": "bench", "binary": program,
		"image": map[string]any{"url": "http://" + address + "/image", "sha256": sum, "size": size, "format": "raw.zst"},
		"join": map[string]any{
			"swarm": "0000000000000000", "ticket": "os1.0000000000000000.AAAAAAAAAAAAAAAAAAAAAA", "pin": "sha256:" + strings.Repeat("0", 64),
			"endpoints": []string{"192.168.42.5:7400"}, "segment": "s1", "address": "192.168.42.77/24", "gateway": "192.168.42.5", "mac": mac, "name": "bench",
		},
	})
	return &server{config: config, image: image}, err
}

// took is how long the last image took from the event that began it to the one that followed.
func (s *server) took() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end.Sub(s.begun)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/image":
		http.ServeFile(w, r, s.image)
	case strings.HasSuffix(r.URL.Path, "/install"):
		_, _ = w.Write(s.config)
	case strings.HasSuffix(r.URL.Path, "/event"):
		var e struct {
			Phase   string `json:"phase"`
			Percent int    `json:"percent"`
		}
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case e.Phase == "image" && (s.begun.IsZero() || s.end.After(s.begun)):
			s.begun, s.end = time.Now(), time.Time{}
		case e.Phase == "configure":
			s.end = time.Now()
		}
	default:
		http.NotFound(w, r)
	}
}
