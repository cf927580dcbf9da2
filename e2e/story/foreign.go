package story

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"offshoot/e2e/lab"
)

// Foreign is somebody else's DHCP server on lan0.
type Foreign struct {
	Host *lab.Host
	Log  string // path of what it said
	cmd  *lab.Cmd
}

// Addresses of a network that is somebody else's: the server, what it gives, and what was set aside for our seed there.
const (
	ForeignServer = "192.168.42.254"
	ForeignSeed   = "192.168.42.9"
	foreignFirst  = "192.168.42.200"
	foreignLast   = "192.168.42.220"
)

// StartForeign starts a server on a host of its own: "dnsmasq" or "kea-dhcp4". more are flags of dnsmasq. It ends with the lab.
func (w *World) StartForeign(ctx context.Context, program string, more ...string) (*Foreign, error) {
	h, err := w.Lab.Host("router", w.Lan0)
	if err != nil {
		return nil, err
	}
	if out, err := h.Run(ctx, "ip", "addr", "add", ForeignServer+"/24", "dev", "lan0"); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	dir := filepath.Join(w.Lab.Dir(), "router")
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o755); err != nil {
		return nil, err
	}
	var args []string
	switch program {
	case "dnsmasq":
		args = append([]string{
			"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--log-facility=-", "--interface=lan0",
			"--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--log-dhcp", "--dhcp-leasefile=" + filepath.Join(dir, "leases"),
			"--dhcp-range=" + foreignFirst + "," + foreignLast + ",120",
		}, more...)
	case "kea-dhcp4":
		file := filepath.Join(dir, "kea.json")
		text, err := json.Marshal(map[string]any{"Dhcp4": map[string]any{
			"interfaces-config": map[string]any{"interfaces": []string{"lan0"}},
			"lease-database":    map[string]any{"type": "memfile", "persist": false},
			"valid-lifetime":    120, "authoritative": true,
			"subnet4": []any{map[string]any{
				"id": 1, "subnet": "192.168.42.0/24", "pools": []any{map[string]any{"pool": foreignFirst + " - " + foreignLast}},
				"option-data": []any{map[string]any{"name": "routers", "data": ForeignServer}},
			}},
			"loggers": []any{map[string]any{"name": "kea-dhcp4", "severity": "INFO", "output_options": []any{map[string]any{"output": "stdout"}}}},
		}})
		if err := errors.Join(err, os.WriteFile(file, text, 0o644)); err != nil {
			return nil, err
		}
		args = []string{"-c", file}
	default:
		return nil, fmt.Errorf("no DHCP server is called %s", program)
	}
	f := &Foreign{Host: h, Log: filepath.Join(dir, "log")}
	log, err := os.Create(f.Log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	f.cmd = h.Command(context.WithoutCancel(ctx), "env", append([]string{"KEA_PIDFILE_DIR=" + filepath.Join(dir, "run"), "KEA_LOCKFILE_DIR=" + filepath.Join(dir, "run"), program}, args...)...)
	f.cmd.Stdout, f.cmd.Stderr = log, log
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = f.cmd.Wait() }() // killed with the lab
	return f, f.ready(ctx)
}

// ready waits until it has opened its port.
func (f *Foreign) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if out, err := f.Host.Run(ctx, "ss", "-Hlnu", "sport", "=", ":67"); err == nil && out != "" {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			said, _ := os.ReadFile(f.Log)
			return fmt.Errorf("the foreign DHCP server does not listen: %w: %s", err, said)
		}
	}
}

// SettleSeed gives the seed's host the address that was set aside for it in the foreign network.
func (w *World) SettleSeed(ctx context.Context) error {
	if out, err := w.Seed.Run(ctx, "ip", "addr", "add", ForeignSeed+"/24", "dev", "lan0"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
