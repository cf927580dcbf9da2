package story

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"offshoot/e2e/lab"
)

// Lease lets Debian's own client get an address for a host's port on a network of the lab, and keep it as long as the lab lives.
// It returns the router that came with it, which is the node on duty.
func (w *World) Lease(ctx context.Context, h *lab.Host, on *lab.Network) (router string, err error) {
	files := filepath.Join(w.Lab.Dir(), h.String())
	if err := os.WriteFile(files+".script", []byte(dhclientScript), 0o755); err != nil {
		return "", err
	}
	out, err := h.Run(ctx, "dhclient", "-4", "-1", "-cf", "/dev/null", "-sf", files+".script", "-lf", files+".leases", "-pf", files+".pid", on.String())
	if err != nil {
		return "", err
	}
	leases, err := os.ReadFile(files + ".leases")
	if err != nil {
		return "", err
	}
	found := routers.FindSubmatch(leases)
	if found == nil {
		return "", fmt.Errorf("%s has a lease without a router: %s%s", h, leases, out)
	}
	return string(found[1]), nil
}

var routers = regexp.MustCompile(`option routers ([0-9.]+);`)
