//go:build wire

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// hostileRevokedTicket: an operator makes a ticket worthless before its machine redeems it.
func hostileRevokedTicket(ctx context.Context, k *siege) {
	b, orders := k.puppet(ctx, "p6")
	ticket := k.ticket(ctx, b, orders)
	id := strings.Split(ticket, ".")[1]
	if out, err := k.m1.Offshoot(ctx, "ticket", "revoke", id); err != nil {
		k.t.Fatal(err, out)
	}
	before := nodes(k.status(ctx))
	if code, answer := k.redeem(ctx, b.Host, ticket, b.MAC.String()); code != http.StatusForbidden {
		k.t.Errorf("a ticket that an operator revoked: %d %s", code, answer)
	}
	if after := nodes(k.status(ctx)); after != before {
		k.t.Errorf("nodes were %s and are %s", before, after)
	}
	out, err := k.m1.Offshoot(ctx, "ticket", "list", "-o", "json")
	var tickets []status.Ticket
	if err == nil {
		err = json.Unmarshal([]byte(out), &tickets)
	}
	if err != nil {
		k.t.Fatal(err, out)
	}
	for _, t := range tickets {
		if t.ID == id && t.State != "revoked" {
			k.t.Errorf("%+v, want revoked", t)
		}
	}
}

// pulse asks the peer API of m1 with a certificate, and says whether it answered.
func (k *siege) pulse(ctx context.Context, from *lab.Host, cert tls.Certificate) bool {
	k.t.Helper()
	c, err := shake(ctx, from, k.home+":7400", "offshoot-peer", cert)
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	if err != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://x/v1/pulse", nil)
	if err != nil {
		k.t.Fatal(err)
	}
	req.Close = true
	code, _, err := speak(c, req)
	return err == nil && code == http.StatusOK
}

// hostileEvicted: the seed's disk was stolen, so the seed is evicted. Its certificate, that was good until then, opens nothing any
// more, its open connections are cut, and it hears and changes nothing.
func hostileEvicted(ctx context.Context, k *siege) {
	k.move(ctx)
	cert, err := tls.LoadX509KeyPair(filepath.Join(k.seed.DataDir, "node.crt"), filepath.Join(k.seed.DataDir, "node.key"))
	if err != nil {
		k.t.Fatal(err)
	}
	if !k.pulse(ctx, k.stranger, cert) {
		k.t.Fatal("the stolen certificate does not work even before it is revoked: this would prove nothing")
	}
	open := map[string]*tls.Conn{}
	for _, protocol := range []string{"offshoot-raft", "offshoot-peer", "offshoot-share"} {
		c, err := shake(ctx, k.stranger, k.home+":7400", protocol, cert)
		if err != nil {
			k.t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		open[protocol] = c
	}
	if out, err := k.m1.Offshoot(ctx, "swarm", "evict", "seed", "--yes"); err != nil {
		k.t.Fatal(err, out)
	}
	for protocol, c := range open {
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			k.t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			k.t.Errorf("%s: a connection of the evicted node is still open: %v", protocol, err)
		}
	}
	if k.pulse(ctx, k.stranger, cert) {
		k.t.Error("the peer API answers the certificate of an evicted node")
	}
	if c, err := shake(ctx, k.stranger, k.home+":7400", "offshoot-raft", cert); err == nil {
		if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			k.t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			k.t.Errorf("raft keeps a connection of an evicted node: %v", err)
		}
	}
	// That it was refused for this reason, and not because it knocked too often, stands in the log.
	log, err := os.ReadFile(k.m1.Log())
	if err != nil {
		k.t.Fatal(err)
	}
	from := fmt.Sprintf("from=192.168.42.%d:", 255-k.moves-1)
	said := false
	for line := range strings.Lines(string(log)) {
		said = said || strings.Contains(line, from) && strings.Contains(line, "revoked")
	}
	if !said {
		k.t.Errorf("no line of %s says that a revoked certificate came %s", k.m1.Log(), from)
	}
	k.outcast(ctx)
}

// outcast waits until gossip has lost the evicted node for good, and sees that it can decide nothing.
func (k *siege) outcast(ctx context.Context) {
	k.t.Helper()
	patience, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for seen := true; seen; {
		seen = false
		for _, n := range k.status(ctx).Nodes {
			seen = seen || n.Name == "seed" && n.State == status.NodeAlive
		}
		if seen && lapse(patience, 300*time.Millisecond) != nil {
			k.t.Error("gossip still sees the evicted node")
			break
		}
	}
	before := k.status(ctx)
	bounded, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	out, err := k.seed.Offshoot(bounded, "machine", "name", "52:54:00:00:00:77", "made-by-evicted")
	if err == nil {
		k.t.Logf("the evicted node said: %s", out)
	}
	for _, m := range k.status(ctx).Machines {
		if m.Name == "made-by-evicted" {
			k.t.Errorf("an evicted node has changed the swarm: %+v", m)
		}
	}
	if !before.Quorum {
		k.t.Error("the swarm cannot decide after the eviction")
	}
}
