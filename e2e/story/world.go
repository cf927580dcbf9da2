// Package story tells scenarios against the built binary, in a lab: who is there, what happens, what must be true then. The
// demo shows one, the metal tier tests it. It knows the product only from outside, by its commands and the status document.
package story

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// Options say what a story is played with.
type Options struct {
	Binary string // the built offshoot
	Image  string // a golden image that it made
	Dir    string // work folder: disks, logs, captures
	Say    func(line string)
	Logger *slog.Logger
	Fourth bool // a fourth machine installs itself beside the third, so that they have each other to get pieces from
	Terse  bool // the daemons log as little as they do for a user: writing costs time, too
}

// World is a lab with a seed on lan0 and an operator who can reach both networks.
type World struct {
	Lab        *lab.Lab
	Lan0, Lan1 *lab.Network
	Seed       *lab.Host
	Operator   *lab.Host
	Captures   map[string]*lab.Capture
	Boot       string // the boot programs that the operator chooses for all machines, "" for none
	ROM        string // of the machines' boot ports, "" for QEMU's iPXE

	o       Options
	started time.Time
	signer  ssh.Signer
	keyFile string
	seed    *Daemon
	shown   map[string]string // by MAC: what was said last
}

// Daemon is an offshoot that runs on a host of the lab.
type Daemon struct {
	Host    *lab.Host
	DataDir string
	Log     string // path of what it said
	binary  string
	cmd     *lab.Cmd
	ended   chan struct{}
	err     error
}

// The operator's addresses: outside of the pools.
const (
	operatorLan0 = "192.168.42.5/24"
	operatorLan1 = "10.42.0.5/24"
)

// NewWorld draws the lab: two networks, a seed, an operator.
func NewWorld(o Options) (w *World, err error) {
	w = &World{o: o, started: time.Now(), Captures: map[string]*lab.Capture{}, shown: map[string]string{}}
	if w.Lab, err = lab.New(lab.Options{Dir: o.Dir, Name: "story", Logger: o.Logger}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.Lan0, err = w.Lab.Network("lan0"); err != nil {
		return w, err
	}
	if w.Lan1, err = w.Lab.Network("lan1"); err != nil {
		return w, err
	}
	if w.Seed, err = w.Lab.Host("seed", w.Lan0); err != nil {
		return w, err
	}
	if w.Operator, err = w.Lab.Host("operator", w.Lan0, w.Lan1); err != nil {
		return w, err
	}
	for _, a := range [][2]string{{"lan0", operatorLan0}, {"lan1", operatorLan1}} {
		if out, err := w.Operator.Run(context.Background(), "ip", "addr", "add", a[1], "dev", a[0]); err != nil {
			return w, fmt.Errorf("operator on %s: %w: %s", a[0], err, out)
		}
	}
	for _, n := range []*lab.Network{w.Lan0, w.Lan1} {
		if w.Captures[n.String()], err = n.Capture(filepath.Join(w.Lab.Dir(), n.String()+".pcap")); err != nil {
			return w, err
		}
	}
	return w, w.makeKey()
}

// Close removes everything but the work folder.
func (w *World) Close() error { return w.Lab.Close() }

// makeKey makes the operator's SSH key.
func (w *World) makeKey() error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if w.signer, err = ssh.NewSignerFromKey(private); err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	w.keyFile = filepath.Join(w.Lab.Dir(), "operator.pub")
	return os.WriteFile(w.keyFile, ssh.MarshalAuthorizedKey(key), 0o644)
}

// Say writes a line with the time since the story began.
func (w *World) Say(format string, args ...any) {
	at := time.Since(w.started).Round(time.Second)
	w.o.Say(fmt.Sprintf("%02d:%02d  %s", int(at.Minutes()), int(at.Seconds())%60, fmt.Sprintf(format, args...)))
}

// StartSeed starts the seed on lan0 with further flags.
func (w *World) StartSeed(ctx context.Context, flags ...string) (*Daemon, error) {
	args := append([]string{"seed", "--interface", "lan0", "--image", w.o.Image, "--ssh-key", w.keyFile, "--name", "seed"}, flags...)
	d, err := w.Start(ctx, w.Seed, filepath.Join(w.Lab.Dir(), "seed"), args...)
	w.seed = d
	return d, err
}

// Serving starts a seed, and waits until it serves.
func (w *World) Serving(ctx context.Context, flags ...string) (*Daemon, status.Status, error) {
	seed, err := w.StartSeed(ctx, flags...)
	if err != nil {
		return nil, status.Status{}, err
	}
	s, err := w.Until(ctx, seed, "the seed serves", func(s status.Status) string {
		if len(s.Segments) == 0 || s.Segments[0].Holder != "seed" || !s.Nodes[0].Warm {
			return "not yet"
		}
		return ""
	})
	return seed, s, err
}

// Held waits until a node has the duty for a network, and gives it to nobody.
func (w *World) Held(ctx context.Context, asked *Daemon, network, holder string) error {
	_, err := w.Until(ctx, asked, holder+" serves "+network, func(s status.Status) string {
		for _, seg := range s.Segments {
			if seg.Network == network && seg.Holder == holder && seg.Next == "" {
				return ""
			}
		}
		return fmt.Sprintf("segments %+v", s.Segments)
	})
	return err
}

// Start runs an offshoot on a host. It is killed with the lab, not with ctx.
func (w *World) Start(ctx context.Context, on *lab.Host, dataDir string, args ...string) (*Daemon, error) {
	d := &Daemon{Host: on, DataDir: dataDir, Log: dataDir + ".log", binary: w.o.Binary, ended: make(chan struct{})}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	args = append(args, "--data-dir", dataDir)
	if !w.o.Terse {
		args = append(args, "--verbose")
	}
	d.cmd = on.Command(context.WithoutCancel(ctx), w.o.Binary, args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		d.err = errors.Join(d.cmd.Wait(), log.Close())
		close(d.ended)
	}()
	return d, nil
}

// Kill ends the daemon as a loss of power would, and waits until it is gone.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Signal(syscall.SIGKILL) // gone already: fine
	<-d.ended
}

// Interrupt is Ctrl-C.
func (d *Daemon) Interrupt() error { return d.cmd.Process.Signal(syscall.SIGINT) }

// Ended is closed when the daemon has stopped by itself or was killed; Err says how.
func (d *Daemon) Ended() <-chan struct{} { return d.ended }

// Err is how the daemon ended.
func (d *Daemon) Err() error { return d.err }

// Offshoot runs a command against the daemon, on its host.
func (d *Daemon) Offshoot(ctx context.Context, args ...string) (string, error) {
	return d.Host.Run(ctx, d.binary, append(args, "--data-dir", d.DataDir)...)
}

// Status asks the daemon.
func (d *Daemon) Status(ctx context.Context) (status.Status, error) {
	out, err := d.Offshoot(ctx, "status", "-o", "json")
	return parseStatus(out, err)
}

// parseStatus accepts the status of a swarm without quorum, whose exit code is not 0.
func parseStatus(out string, err error) (status.Status, error) {
	var s status.Status
	if json.NewDecoder(strings.NewReader(out)).Decode(&s) != nil {
		return s, fmt.Errorf("status: %w: %s", err, strings.TrimSpace(out))
	}
	return s, nil
}

// View is somewhere to ask for the status.
type View interface {
	Status(ctx context.Context) (status.Status, error)
}

// Shell is a machine that the operator is logged in to.
type Shell struct {
	Name   string
	client *ssh.Client
}

// Login waits until a machine can be logged in to, and does so.
func (w *World) Login(ctx context.Context, name, address string) (*Shell, error) {
	config := &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // a machine of this lab, whose key was made a minute ago
	}
	for {
		client, err := w.connect(ctx, address, config)
		if err == nil {
			return &Shell{Name: name, client: client}, nil
		}
		if ended := pause(ctx, 2*time.Second); ended != nil {
			return nil, fmt.Errorf("log in to %s at %s: %w (%w)", name, address, ended, err)
		}
	}
}

func (w *World) connect(ctx context.Context, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	conn, err := w.Operator.Dial(ctx, "tcp", address+":22")
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return ssh.NewClient(c, channels, requests), conn.SetDeadline(time.Time{})
}

// Run runs a command on the machine and returns what it printed.
func (s *Shell) Run(ctx context.Context, command string) (string, error) {
	session, err := s.client.NewSession()
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.Name, err)
	}
	defer func() { _ = session.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	var out, words bytes.Buffer
	session.Stdout, session.Stderr = &out, &words
	if err := session.Run(command); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", s.Name, command, err, strings.TrimSpace(words.String()))
	}
	return out.String(), nil
}

// Status asks the node on the machine.
func (s *Shell) Status(ctx context.Context) (status.Status, error) {
	out, err := s.Run(ctx, "offshoot status -o json")
	return parseStatus(out, err)
}

// Close logs out.
func (s *Shell) Close() error { return s.client.Close() }

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Until asks for the status again and again until it is as wanted, showing what changes. want returns what is still missing,
// "" when all is there.
func (w *World) Until(ctx context.Context, v View, what string, want func(status.Status) string) (status.Status, error) {
	missing, last := "no answer yet", error(nil)
	for {
		if s, err := v.Status(ctx); err != nil {
			last = err
		} else {
			last = nil
			w.show(s)
			if missing = want(s); missing == "" {
				return s, nil
			}
		}
		if w.seed != nil {
			select {
			case <-w.seed.ended:
				if v == View(w.seed) {
					return status.Status{}, fmt.Errorf("wait until %s: the seed ended: %w; its log is %s", what, w.seed.err, w.seed.Log)
				}
			default:
			}
		}
		if err := pause(ctx, time.Second); err != nil {
			err = fmt.Errorf("wait until %s: %w: %s", what, err, missing)
			if last != nil {
				err = fmt.Errorf("%w (last error: %w)", err, last)
			}
			return status.Status{}, err
		}
	}
}

// show says in a line for each machine what has changed.
func (w *World) show(s status.Status) {
	for _, m := range s.Machines {
		line := m.State
		switch {
		case m.State == "installing" && m.Phase == "image":
			line = fmt.Sprintf("installing: image %d %%", m.Percent/20*20)
		case m.State == "installing" && m.Phase != "":
			line = "installing: " + m.Phase
		case m.State == "held":
			line = "held: " + m.Reason
		}
		for _, n := range s.Nodes {
			if n.ID != m.Node || m.Node == "" {
				continue
			}
			line = fmt.Sprintf("node, %s, %s", n.State, n.Role)
			if n.Warm {
				line += ", warm"
			}
			if len(n.Duties) > 0 {
				line += ", on duty for " + strings.Join(n.Duties, " and ")
			}
		}
		if w.shown[m.MAC] != line {
			w.shown[m.MAC] = line
			w.Say("%-4s  %s", m.Name, line)
		}
	}
}
