package story

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// Bare is a bare machine that is only a namespace: firmware, agent and operating system are played by processes on a disk
// that is a file. Switched off and on, it does what a machine would do.
type Bare struct {
	*World
	Host *lab.Host
	MAC  net.HardwareAddr
	Disk string

	small Small
	dir   string
	cut   atomic.Bool // the power was cut on purpose
}

// NewBare draws a machine that boots from lan0, and may have ports on other networks.
func (w *World) NewBare(name string, s Small, also ...*lab.Network) (*Bare, error) {
	h, err := w.Lab.Host(name, append([]*lab.Network{w.Lan0}, also...)...)
	if err != nil {
		return nil, err
	}
	b := &Bare{World: w, Host: h, MAC: h.MAC(w.Lan0), small: s, dir: filepath.Join(w.Lab.Dir(), name)}
	b.Disk = filepath.Join(b.dir, "disk.raw")
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(b.Disk)
	if err != nil {
		return nil, err
	}
	return b, errors.Join(f.Truncate(s.DiskSize+512<<20), f.Close())
}

// Boots says whether a BIOS would start this disk.
func (b *Bare) Boots() (bool, error) {
	f, err := os.Open(b.Disk)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	var signature [2]byte
	if _, err := f.ReadAt(signature[:], 510); err != nil {
		return false, err
	}
	return binary.LittleEndian.Uint16(signature[:]) == 0xaa55, nil
}

// script boots from the network as iPXE does, and returns the script that it was given.
func (b *Bare) script(ctx context.Context) (string, error) {
	var ack *dhcpv4.DHCPv4
	var url string
	err := b.Host.Do(func() error {
		c, err := nclient4.New("lan0", nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		ipxe := []dhcpv4.Modifier{
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0})),
		}
		ask, err := dhcpv4.NewDiscovery(b.MAC, ipxe...)
		if err != nil {
			return err
		}
		// Of a proxy's offer iPXE takes what to boot only.
		offer, err := c.SendAndRead(ctx, nclient4.DefaultServers, ask, func(p *dhcpv4.DHCPv4) bool {
			return p.MessageType() == dhcpv4.MessageTypeOffer && !p.YourIPAddr.IsUnspecified()
		})
		if err != nil {
			return err
		}
		lease, err := c.RequestFromOffer(ctx, offer, ipxe...)
		if err != nil {
			return err
		}
		if ack, url = lease.ACK, lease.ACK.BootFileName; url != "" {
			return nil
		}
		if ask, err = dhcpv4.NewDiscovery(b.MAC, ipxe...); err != nil {
			return err
		}
		proxy, err := c.SendAndRead(ctx, nclient4.DefaultServers, ask, func(p *dhcpv4.DHCPv4) bool {
			return p.MessageType() == dhcpv4.MessageTypeOffer && p.YourIPAddr.IsUnspecified() && p.BootFileName != ""
		})
		if err == nil {
			url = proxy.BootFileName
		}
		return err
	})
	if err != nil {
		return "", err
	}
	size, _ := ack.SubnetMask().Size()
	steps := [][]string{{"addr", "flush", "dev", "lan0"}, {"addr", "add", fmt.Sprintf("%s/%d", ack.YourIPAddr, size), "dev", "lan0"}}
	if router := ack.Router(); len(router) > 0 && !router[0].Equal(ack.ServerIPAddr) {
		steps = append(steps, []string{"route", "replace", "default", "via", router[0].String()})
	}
	for _, args := range steps {
		if out, err := b.Host.Run(ctx, "ip", args...); err != nil {
			return "", fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: b.Host.Dial}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("boot script: %s: %s", resp.Status, body)
	}
	return string(body), err
}

// Script boots from the network as iPXE does, and returns the script that the machine was given. Its port has the address then.
func (b *Bare) Script(ctx context.Context) (string, error) { return b.script(ctx) }

// AgentURL is where the agent that a boot script starts finds its orders, "" if it starts none.
func AgentURL(script string) string {
	if url := agentURL.FindStringSubmatch(script); url != nil {
		return url[1]
	}
	return ""
}

var agentURL = regexp.MustCompile(`offshoot\.url=(\S+)`)

// ErrUnbootable: the machine was told to start a disk that nothing can start.
var ErrUnbootable = errors.New("told to boot a disk that does not boot")

// Life is the life of the machine, from power-on for ever: it boots from the network until it is told to start its own
// disk, or nobody on the network answers and its disk boots, and then runs the node that the agent left there. It ends with
// ctx, or when something is wrong beyond repair.
func (b *Bare) Life(ctx context.Context) error {
	silent := 0
	for ctx.Err() == nil {
		script, err := b.script(ctx)
		switch url := agentURL.FindStringSubmatch(script); {
		case err != nil:
			b.o.Logger.Debug("no boot script yet", "error", err)
			silent++
			if boots, _ := b.Boots(); boots && silent > 1 { // as firmware does, after the network the disk
				if err := b.system(ctx); !b.cut.Swap(false) {
					return err
				}
			}
		case url != nil:
			if err := b.agent(ctx, url[1]); err != nil && ctx.Err() == nil {
				b.o.Logger.Debug("agent ended", "error", err)
			}
		case strings.Contains(script, "sanboot"):
			if err := b.system(ctx); !b.cut.Swap(false) {
				return err
			}
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil
		}
	}
	return nil
}

// Install installs the machine, which then stays switched off.
func (b *Bare) Install(ctx context.Context) error {
	for ctx.Err() == nil {
		script, err := b.script(ctx)
		switch url := AgentURL(script); {
		case err == nil && url != "":
			err = b.agent(ctx, url)
		case err == nil && strings.Contains(script, "sanboot"):
			return nil
		}
		if err != nil {
			b.o.Logger.Debug("not installed yet", "machine", b.Host, "error", err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// PowerLoss cuts the power for a moment.
func (b *Bare) PowerLoss(ctx context.Context) error {
	pid, err := b.pid(ctx)
	if err != nil {
		return err
	}
	b.cut.Store(true)
	if out, err := b.Host.Run(ctx, "kill", "-9", pid); err != nil {
		return fmt.Errorf("cut the power of m1: %w: %s", err, out)
	}
	return nil
}

func (b *Bare) agent(ctx context.Context, url string) error {
	log, err := os.OpenFile(filepath.Join(b.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// A machine whose agent hears nothing for long is switched off and on again.
	bounded, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	c := b.Host.Command(bounded, b.o.Binary, "agent", "--url", url, "--disk", b.Disk, "--scratch", b.dir, "--verbose")
	c.Stdout, c.Stderr = log, log
	return c.Run()
}

// system runs what the agent left on the disk, from the disk.
func (b *Bare) system(ctx context.Context) error {
	if boots, err := b.Boots(); err != nil || !boots {
		return errors.Join(err, ErrUnbootable)
	}
	root := filepath.Join(b.dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	mount := fmt.Sprintf("loop,offset=%d,sizelimit=%d", b.small.RootOffset, b.DiskRoot())
	script := fmt.Sprintf("mount -o %s %s %s && exec %s/usr/local/bin/offshoot node --verbose --data-dir %s/var/lib/offshoot",
		mount, b.Disk, root, root, root)
	log, err := os.OpenFile(filepath.Join(b.dir, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	if out, err := b.Host.Run(ctx, "ip", "addr", "flush", "dev", "lan0"); err != nil {
		return fmt.Errorf("restart: %w: %s", err, out)
	}
	// In a mount namespace of its own: the mount ends with the process.
	c := b.Host.Command(ctx, "unshare", "--mount", "sh", "-c", script)
	c.Stdout, c.Stderr = log, log
	if err := c.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("the node on the disk ended: %w; its log is %s", err, log.Name())
	}
	return nil
}

// DiskRoot is the size of the root file system, bytes; the agent may have grown it to the end of the disk.
func (b *Bare) DiskRoot() int64 {
	info, err := os.Stat(b.Disk)
	if err != nil {
		return b.small.RootSize
	}
	return info.Size() - b.small.RootOffset
}

// Offshoot asks the node on the disk.
func (b *Bare) Offshoot(ctx context.Context, args ...string) (string, error) {
	// The socket lies on a file system that only the node's mount namespace sees.
	pid, err := b.pid(ctx)
	if err != nil {
		return "", err
	}
	root := filepath.Join(b.dir, "root", "var/lib/offshoot")
	return b.Host.Run(ctx, "nsenter", append([]string{"--mount", "--target", pid, b.o.Binary}, append(args, "--data-dir", root)...)...)
}

// Log is the path of what its node said.
func (b *Bare) Log() string { return filepath.Join(b.dir, "node.log") }

// OnDisk runs a program of this machine in the root of the disk's file system, while the node runs there.
func (b *Bare) OnDisk(ctx context.Context, args ...string) (string, error) {
	pid, err := b.pid(ctx)
	if err != nil {
		return "", err
	}
	enter := []string{"--mount", "--target", pid, "env", "-C", filepath.Join(b.dir, "root")}
	return b.Host.Run(ctx, "nsenter", append(enter, args...)...)
}

func (b *Bare) pid(ctx context.Context) (string, error) {
	out, err := b.Host.Run(ctx, "pgrep", "-f", filepath.Join(b.dir, "root")+"/usr/local/bin/offshoot node")
	if err != nil {
		return "", errors.New("the node does not run yet")
	}
	lines := strings.Fields(out)
	return lines[len(lines)-1], nil
}

// Status asks the node on the disk.
func (b *Bare) Status(ctx context.Context) (status.Status, error) {
	out, err := b.Offshoot(ctx, "status", "-o", "json")
	return parseStatus(out, err)
}

// freeze makes the disk stand still while a node runs on it: a copy of a file system that is being written is not one.
func (b *Bare) freeze() (thaw func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := b.pid(ctx); err != nil {
		return func() {}, nil //nolint:nilerr // nobody runs there, so nobody writes
	}
	if _, err := b.OnDisk(ctx, "fsfreeze", "--freeze", "."); err != nil {
		return nil, fmt.Errorf("freeze the disk: %w", err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, _ = b.OnDisk(ctx, "fsfreeze", "--unfreeze", ".") // its node may have been killed, and the mount with it
	}, nil
}

// Whole says whether the disk holds everything that the agent is to leave: its last file, and the ballast to the last byte.
func (b *Bare) Whole() (bool, error) {
	thaw, err := b.freeze()
	if err != nil {
		return false, err
	}
	defer thaw()
	root := filepath.Join(b.dir, "part.ext4")
	defer func() { _ = os.Remove(root) }()
	from, err := os.Open(b.Disk)
	if err != nil {
		return false, err
	}
	defer func() { _ = from.Close() }()
	to, err := os.Create(root)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, b.small.RootOffset, b.DiskRoot()))
	if err := errors.Join(err, to.Close()); err != nil {
		return false, err
	}
	// The node removes the ticket once it has redeemed it, and has a memory by then.
	ticket, err := regular(root, "/var/lib/offshoot/join.json", "")
	if err != nil || !ticket {
		if ticket, err = regular(root, "/var/lib/offshoot/node.json", ""); err != nil || !ticket {
			return false, err
		}
	}
	ballast, err := regular(root, "/ballast", fmt.Sprintf("Size: %d", ballastSize))
	if err != nil || !ballast {
		return false, err
	}
	return regular(root, "/usr/local/bin/offshoot", "")
}

// regular asks a file system in a file for a file of it, whose description must contain what is wanted.
func regular(system, path, wanted string) (bool, error) {
	out, err := exec.Command("debugfs", "-R", "stat "+path, system).CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("debugfs: %w: %s", err, out)
	}
	return strings.Contains(string(out), "Type: regular") && strings.Contains(string(out), wanted), nil
}
