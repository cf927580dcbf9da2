//go:build wire

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// siege is a swarm of a seed and m1, which is on duty, with a stranger on the same segment.
type siege struct {
	*story.World
	t        *testing.T
	seed     *story.Daemon
	m1       *story.Bare
	stranger *lab.Host
	small    story.Small
	home     string // m1's address
	swarm    string
	moves    int
}

const strangerAddress = "192.168.42.7/24"

// move gives the stranger another address, because each may fail a few times only before its port does not even listen.
func (k *siege) move(ctx context.Context) {
	k.t.Helper()
	k.moves++
	for _, args := range [][]string{{"addr", "flush", "dev", "lan0"}, {"addr", "add", fmt.Sprintf("192.168.42.%d/24", 255-k.moves-1), "dev", "lan0"}} {
		if _, err := k.stranger.Run(ctx, "ip", args...); err != nil {
			k.t.Fatal(err)
		}
	}
}

func besiege(ctx context.Context, t *testing.T) *siege {
	t.Helper()
	w, small := world(t)
	seed, bare, _ := begin(ctx, t, w, small)
	s, err := w.Until(ctx, seed, "m1 is on duty", onDuty)
	if err != nil {
		t.Fatal(err)
	}
	k := &siege{World: w, t: t, seed: seed, m1: bare, small: small, swarm: s.Swarm}
	if k.home, _, err = net.SplitHostPort(m1Node(s).Address); err != nil {
		t.Fatal(err)
	}
	if k.stranger, err = w.Lab.Host("stranger", w.Lan0); err != nil {
		t.Fatal(err)
	}
	if _, err := k.stranger.Run(ctx, "ip", "addr", "add", strangerAddress, "dev", "lan0"); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *siege) status(ctx context.Context) status.Status {
	k.t.Helper()
	s, err := k.m1.Status(ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

// puppet is a machine that the test plays itself: it was armed, has booted, and knows where its orders are.
func (k *siege) puppet(ctx context.Context, name string) (b *story.Bare, orders string) {
	k.t.Helper()
	b, err := k.NewBare(name, k.small)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, args := range [][]string{{"machine", "name", b.MAC.String(), name}, {"machine", "arm", b.MAC.String()}} {
		if out, err := k.m1.Offshoot(ctx, args...); err != nil {
			k.t.Fatal(err, out)
		}
	}
	script, err := b.Script(ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	if orders = story.AgentURL(script); orders == "" {
		k.t.Fatalf("no agent in the script of %s:\n%s", name, script)
	}
	return b, orders
}

// get fetches a page from inside a host.
func get(ctx context.Context, from *lab.Host, url string) (code int, body string, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: from.Dial}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(data), err
}

// ticket fetches a machine's orders, and returns the ticket in them.
func (k *siege) ticket(ctx context.Context, b *story.Bare, orders string) string {
	k.t.Helper()
	code, body, err := get(ctx, b.Host, orders+"/install")
	if err != nil || code != http.StatusOK {
		k.t.Fatalf("orders of %s: %d %s %v", b.Host, code, body, err)
	}
	var config struct {
		Join struct {
			Ticket string `json:"ticket"`
		} `json:"join"`
	}
	if err := json.Unmarshal([]byte(body), &config); err != nil || config.Join.Ticket == "" {
		k.t.Fatalf("no ticket in %s: %v", body, err)
	}
	return config.Join.Ticket
}

// shake opens a TLS connection from inside a host. Nobody checks the server here: strangers do not care.
func shake(ctx context.Context, from *lab.Host, addr, protocol string, certs ...tls.Certificate) (*tls.Conn, error) {
	raw, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: certs}
	if protocol != "" {
		config.NextProtos = []string{protocol}
	}
	c := tls.Client(raw, config)
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return c, err
	}
	return c, c.HandshakeContext(ctx)
}

// speak sends an HTTP request over a connection, and returns what comes back.
func speak(c *tls.Conn, request *http.Request) (int, string, error) {
	if err := request.Write(c); err != nil {
		return 0, "", err
	}
	data, err := io.ReadAll(io.LimitReader(c, 1<<20))
	if len(data) == 0 {
		return 0, "", fmt.Errorf("no answer: %w", err)
	}
	var code int
	if _, err := fmt.Sscanf(string(data), "HTTP/1.1 %d", &code); err != nil {
		return 0, string(data), err
	}
	return code, string(data), nil
}

// redeem tries a ticket with a fresh key.
func (k *siege) redeem(ctx context.Context, from *lab.Host, ticket, mac string) (code int, answer string) {
	k.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		k.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		k.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"ticket": ticket, "csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), "macs": []string{mac},
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return k.knock(ctx, from, body)
}

// joinDoor opens a connection to the join door.
func (k *siege) joinDoor(ctx context.Context, from *lab.Host) *tls.Conn {
	k.t.Helper()
	c, err := shake(ctx, from, k.home+":7400", "offshoot-join")
	if err != nil {
		k.t.Fatalf("the join door does not open: %v", err)
	}
	return c
}

// knock sends something to the join door.
func (k *siege) knock(ctx context.Context, from *lab.Host, body []byte) (code int, answer string) {
	k.t.Helper()
	c := k.joinDoor(ctx, from)
	defer func() { _ = c.Close() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+k.home+":7400/v1/redeem", bytes.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Close = true
	code, answer, err = speak(c, req)
	if err != nil {
		return 0, err.Error()
	}
	return code, answer
}

// forgedID is a certificate that says it is a node of this swarm, from an authority of the stranger's own.
func (k *siege) forgedID(node string) tls.Certificate {
	k.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		k.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: node}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs:        []*url.URL{{Scheme: "offshoot", Host: k.swarm, Path: "/node/" + node}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		k.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
