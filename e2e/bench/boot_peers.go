package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"offshoot/e2e/lab"
)

// bootPeers are the servers that others use for the same, on hosts beside the seed, with the same files.
type bootPeers struct {
	files string // folder: boot programs, kernel, the installer's files
	nginx *lab.Host
}

const (
	tftpdAddress = "192.168.42.7"
	masqAddress  = "192.168.42.8"
	nginxAddress = "192.168.42.9"
	nginxPort    = "8000"
)

// program is the one of about 1 MB: shim. firmwareProgram is what firmware is told to load first.
const (
	program         = "shimx64.efi"
	firmwareProgram = "snponly.efi"
)

// startPeers copies the boot programs from the seed, so that all have the same, and starts the others.
func (b *boots) startPeers(ctx context.Context) error {
	b.peers.files = filepath.Join(b.dir, "files")
	if err := os.MkdirAll(b.peers.files, 0o755); err != nil {
		return err
	}
	own := visitor(b.world.Seed)
	defer own.CloseIdleConnections()
	for _, name := range []string{program, firmwareProgram} {
		if err := b.copyHere(ctx, own, "http://"+nodeAddress+":"+nodePort+"/boot/"+name, name); err != nil {
			return err
		}
	}
	tftpd, err := b.machine(ctx, "tftpd", tftpdAddress)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "tftpd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := startPeer(ctx, tftpd, dir, "in.tftpd", "-L", "-a", ":69", "-u", "root", "-s", b.peers.files); err != nil {
		return err
	}
	masq, err := b.machine(ctx, "masq", masqAddress)
	if err != nil {
		return err
	}
	if err := startMasq(ctx, masq, filepath.Join(b.dir, "masq"), b.peers.files); err != nil {
		return err
	}
	if b.peers.nginx, err = b.machine(ctx, "nginx", nginxAddress); err != nil {
		return err
	}
	return serveFiles(ctx, b.peers.nginx, filepath.Join(b.dir, "nginx"), nginxAddress, b.peers.files)
}

// copyHere takes a file of the seed for the others.
func (b *boots) copyHere(ctx context.Context, c *http.Client, url, name string) error {
	data, err := read(ctx, c, url)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.peers.files, name), data, 0o644)
}

// startMasq starts dnsmasq as a TFTP server that takes as many clients as there are, and with further flags as more.
func startMasq(ctx context.Context, h *lab.Host, dir, files string, more ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--enable-tftp", "--tftp-root=" + files,
		"--tftp-max=2000", "--quiet-tftp",
	}, more...)
	_, err := startPeer(ctx, h, dir, "dnsmasq", args...)
	return err
}

// serveFiles starts an nginx for a folder.
func serveFiles(ctx context.Context, h *lab.Host, dir, address, files string) error {
	at := address + ":" + nginxPort
	return startNginx(ctx, h, dir, at, fmt.Sprintf("access_log off; server { listen %s backlog=1024; root %s; }", at, files))
}

// loaderFor is a TFTP client on the client's machine.
func (b *boots) loaderFor(server string, window int) *loader {
	return &loader{
		open: func() (conn *net.UDPConn, err error) {
			err = b.client.Do(func() error {
				conn, err = net.ListenUDP("udp4", nil)
				return err
			})
			return conn, err
		},
		server: netip.AddrPortFrom(netip.MustParseAddr(server), 69), window: window, timeout: edk2Timeout, tries: edk2Tries,
	}
}

// ready waits until a server sends what it should by TFTP, byte by byte.
func (l *loader) ready(ctx context.Context, name string, want []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	short := *l
	short.timeout, short.tries = 500*time.Millisecond, 2
	for {
		var got bytes.Buffer
		_, err := short.load(name, &got)
		if err == nil && !bytes.Equal(got.Bytes(), want) {
			return fmt.Errorf("%s sends another %s", l.server, name)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
