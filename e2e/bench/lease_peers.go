package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// peerServer is a foreign DHCP server on a host of its own.
type peerServer struct {
	host *lab.Host
	cmd  *lab.Cmd
	log  string
}

// kill ends it as a loss of power would.
func (p *peerServer) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = p.cmd.Wait() // killed, it says
	return nil
}

// stage draws a network with a client and hosts for servers: 192.168.42.1 upward.
func stage(ctx context.Context, w *story.World, network, name string, servers int) (*contender, []*lab.Host, error) {
	n, err := w.Lab.Network(network)
	if err != nil {
		return nil, nil, err
	}
	c, err := meeting(ctx, w, name, n)
	if err != nil {
		return nil, nil, err
	}
	var hosts []*lab.Host
	for i := range servers {
		h, err := w.Lab.Host(fmt.Sprintf("%s-s%d", network, i+1), n)
		if err != nil {
			return nil, nil, err
		}
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", fmt.Sprintf("192.168.42.%d/24", i+1), "dev", network}} {
			if _, err := h.Run(ctx, "ip", args...); err != nil {
				return nil, nil, err
			}
		}
		hosts = append(hosts, h)
	}
	return c, hosts, nil
}

func startPeer(ctx context.Context, h *lab.Host, dir string, name string, args ...string) (*peerServer, error) {
	p := &peerServer{host: h, log: filepath.Join(dir, "log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	p.cmd = h.Command(context.WithoutCancel(ctx), name, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	return p, errors.Join(p.cmd.Start(), log.Close())
}

// dnsmasq without its ping, which Kea has none of: it would wait for seconds.
func dnsmasq(ctx context.Context, w *story.World) (*contender, error) {
	c, hosts, err := stage(ctx, w, "dnsmasq", "dnsmasq", 1)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(w.Lab.Dir(), "dnsmasq")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	_, err = startPeer(ctx, hosts[0], dir, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=dnsmasq", "--no-ping",
		"--quiet-dhcp", "--dhcp-authoritative", "--dhcp-range=192.168.42.10,192.168.42.250,255.255.255.0,1h", "--dhcp-leasefile="+filepath.Join(dir, "leases"),
		"--pid-file="+filepath.Join(dir, "pid"))
	return c, err
}

// tuning is how soon a hot-standby pair believes that a partner is gone. The zero value leaves Kea's defaults.
type tuning struct {
	heartbeat, response, ack time.Duration
	unacked                  int
}

// tuned is as quick as a careful operator would set it: a partner that does not answer for three heartbeats is gone, without
// waiting for clients that complain.
var tuned = tuning{heartbeat: time.Second, response: 3 * time.Second, ack: time.Second}

// haLibraries is where Debian keeps Kea's hooks.
const haLibraries = "/usr/lib/x86_64-linux-gnu/kea/hooks/"

// keaConfig is Kea as its documentation has it: memfile, all processors. pair is nil for a single server.
func keaConfig(network, dir string, pair *tuning, self int) ([]byte, error) {
	dhcp := map[string]any{
		"interfaces-config":         map[string]any{"interfaces": []string{network}},
		"lease-database":            map[string]any{"type": "memfile", "persist": true, "name": filepath.Join(dir, "leases.csv")},
		"valid-lifetime":            3600,
		"multi-threading":           map[string]any{"enable-multi-threading": true},
		"authoritative":             true,
		"dhcp-ddns":                 map[string]any{"enable-updates": false},
		"subnet4":                   []any{map[string]any{"id": 1, "subnet": "192.168.42.0/24", "pools": []any{map[string]any{"pool": "192.168.42.10 - 192.168.42.250"}}}},
		"loggers":                   []any{map[string]any{"name": "kea-dhcp4", "severity": "WARN", "output_options": []any{map[string]any{"output": "stdout"}}}},
		"expired-leases-processing": map[string]any{"reclaim-timer-wait-time": 10},
	}
	if pair != nil {
		ha := map[string]any{
			"this-server-name": fmt.Sprintf("server%d", self+1), "mode": "hot-standby", "send-lease-updates": true, "sync-leases": true,
			"multi-threading": map[string]any{"enable-multi-threading": true, "http-dedicated-listener": true},
			"peers": []any{
				map[string]any{"name": "server1", "url": "http://192.168.42.1:8000/", "role": "primary"},
				map[string]any{"name": "server2", "url": "http://192.168.42.2:8000/", "role": "standby"},
			},
		}
		if *pair != (tuning{}) {
			ha["heartbeat-delay"], ha["max-response-delay"] = pair.heartbeat.Milliseconds(), pair.response.Milliseconds()
			ha["max-ack-delay"], ha["max-unacked-clients"] = pair.ack.Milliseconds(), pair.unacked
		}
		dhcp["hooks-libraries"] = []any{
			map[string]any{"library": haLibraries + "libdhcp_lease_cmds.so"},
			map[string]any{"library": haLibraries + "libdhcp_ha.so", "parameters": map[string]any{"high-availability": []any{ha}}},
		}
	}
	return json.MarshalIndent(map[string]any{"Dhcp4": dhcp}, "", "  ")
}

// kea starts one server, or a hot-standby pair that updates its leases on both before it answers.
func kea(ctx context.Context, w *story.World, network, name string, pair *tuning) (*contender, []*peerServer, error) {
	count := 1
	if pair != nil {
		count = 2
	}
	c, hosts, err := stage(ctx, w, network, name, count)
	if err != nil {
		return nil, nil, err
	}
	var servers []*peerServer
	for i, h := range hosts {
		dir := filepath.Join(w.Lab.Dir(), h.String())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, nil, err
		}
		text, err := keaConfig(network, dir, pair, i)
		if err != nil {
			return nil, nil, err
		}
		file := filepath.Join(dir, "kea.json")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return nil, nil, err
		}
		p, err := startPeer(ctx, h, dir, "kea-dhcp4", "-c", file)
		if err != nil {
			return nil, nil, err
		}
		servers = append(servers, p)
	}
	return c, servers, nil
}
