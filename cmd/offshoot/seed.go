package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/GehirnInc/crypt"
	_ "github.com/GehirnInc/crypt/sha512_crypt" // registers crypt.SHA512
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"offshoot/node"
)

type seedFlags struct {
	network, within, image, kernel, modules, disk, passwordHash, sshKey, expand, name, kernelArgs string
	voters, vlan                                                                                  int
	metrics                                                                                       string
	probe                                                                                         time.Duration
	autoApprove, dryRun, leaveBootOrder                                                           bool
	config, mode                                                                                  string
	interfaces                                                                                    []string
	from                                                                                          map[string]string // where the file set a flag: FILE:LINE: flag
}

// wrong is a mistake in a flag, with where it was set.
func (f *seedFlags) wrong(flag, format string, args ...any) error {
	return usage("%s"+format, append([]any{cmp.Or(f.from[flag], "--"+flag)}, args...)...)
}

func newSeed(s *settings) *cobra.Command {
	f := &seedFlags{}
	c := &cobra.Command{
		Use:   "seed",
		Short: "Found a swarm on this machine and install the machines on its ports",
		Long: `seed founds a swarm and serves a segment: DHCP, TFTP, HTTP boot and the disk image. A machine
that boots from the network there is installed if it is armed (offshoot machine arm MAC) or if
--auto-approve arms every machine that shows itself. When an installed machine has joined, it takes
over, and this one can be unplugged.

Of several ports (--interface eth1,eth2) the first is that segment. Each other one gets a segment of its own when nobody serves there,
and this machine routes between them: before it is unplugged, something else must, or the nodes do not reach each other.

Started again on the same data directory, seed goes on where it was; --image is needed only the
first time. Ctrl-C hands everything over first; a second Ctrl-C leaves at once.

Where another DHCP server gives the addresses, seed becomes its proxy: it says what to boot and gives no address, needs
one itself on that port, and the machines that it installs have theirs from that server. --mode says which of the two
it may be; what it is and why stands in its first lines.

Will it break my network? offshoot detect looks before anything is served. --dry-run goes further: it probes, listens on
the port, and says of each DHCP packet what would have been answered and why, or why not. It answers nothing, gives the
port no address, and founds nothing. Since nobody gets an address, it does not see how a boot would go on.`,
		Example: `  sudo offshoot seed --interface eth1 --image debian13.raw.zst
  sudo offshoot seed --image debian13.raw.zst --ssh-key ~/.ssh/id_ed25519.pub --auto-approve
  sudo offshoot seed --config seed.yaml
  sudo offshoot seed --interface eth1,eth2 --image debian13.raw.zst --ssh-key id.pub
  sudo offshoot seed --interface eth1 --vlan 42 --image debian13.raw.zst
  sudo offshoot seed --interface eth0 --mode proxy --image debian13.raw.zst --ssh-key id.pub
  sudo offshoot seed --interface eth1 --dry-run`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if f.config != "" {
				all, err := readConfig(f.config, os.Stdin)
				if err == nil {
					f.from, err = applyConfig(c, f.config, all)
				}
				if err != nil {
					return err
				}
			}
			return f.run(c.Context(), s)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.config, "config", "", "file with these flags, a line \"flag: value\" each in YAML, such as offshoot detect -o yaml prints; - reads stdin. Flags on the command line win")
	fl.BoolVar(&f.dryRun, "dry-run", false, "answer nothing: say what would be answered to the machines on the port, until Ctrl-C")
	fl.StringSliceVarP(&f.interfaces, "interface", "i", nil, "Ethernet port to serve (default: the one with link, no address and no default route); of several the first gets --network, each other a segment of --range")
	fl.IntVar(&f.vlan, "vlan", 0, "802.1Q VLAN on --interface that is served instead of what travels there without a tag; its device is made, and removed at the end")
	fl.StringVar(&f.mode, "mode", node.ModeAuto, "full: give addresses, and refuse beside another DHCP server; proxy: never give one; auto: full if no other answers, else proxy")
	fl.StringVar(&f.network, "network", "", "our address on the segment, with the length of its network (default 192.168.42.1/24; as a proxy the one that the port has)")
	fl.StringVar(&f.within, "range", "", "where further segments are cut from (default 10.42.0.0/16, or another one where this host reaches that already)")
	fl.StringVar(&f.image, "image", "", "disk image to install: raw, raw.zst, raw.xz or qcow2")
	fl.StringVar(&f.kernel, "live-kernel", "", "kernel of the network-boot environment (default: the one inside the image)")
	fl.StringVar(&f.modules, "live-modules", "", "its module tree …/lib/modules/VERSION")
	fl.StringVar(&f.kernelArgs, "live-args", "console=tty0 console=ttyS0,115200 panic=30", "kernel arguments of the network-boot environment")
	fl.StringVar(&f.disk, "disk", "", "disk to install to: /dev/NAME, serial=…, wwn=…, size>=…, smallest (default: the only one that is not removable)")
	fl.BoolVar(&f.leaveBootOrder, "leave-boot-order", false, "leave the boot order of UEFI firmware as an installation made it (default: the network is put first again)")
	fl.StringVar(&f.passwordHash, "password-hash", "", "crypt(5) hash of the new machines' root password; FILE with a leading @")
	fl.StringVar(&f.sshKey, "ssh-key", "", "file with public keys that may log in as root on new machines")
	fl.BoolVar(&f.autoApprove, "auto-approve", false, "arm every machine that shows itself, once")
	fl.StringVar(&f.expand, "expand", "auto", "open segments on other ports of installed nodes: auto or never")
	fl.IntVar(&f.voters, "voters", node.DefaultVoters, "how many nodes at most vote on the ledger; odd")
	fl.DurationVar(&f.probe, "probe", 10*time.Second, "how long to listen for other DHCP servers before serving; at least 1s")
	metricsFlag(c, &f.metrics)
	fl.StringVar(&f.name, "name", "", "name of this node (default: the host name)")
	return c
}

func (f *seedFlags) run(ctx context.Context, s *settings) error {
	seed := &node.Seed{
		Image: f.image, Kernel: f.kernel, Modules: f.modules, Disk: f.disk, KernelArgs: f.kernelArgs, Voters: f.voters,
		LeaveBootOrder: f.leaveBootOrder, AutoApprove: f.autoApprove, Expand: f.expand == "auto", Probe: node.ProbeFor(f.probe), Mode: f.mode,
	}
	if len(f.interfaces) > 0 {
		seed.Interface, seed.Further = f.interfaces[0], f.interfaces[1:]
	}
	var err error
	if f.network != "" {
		if seed.Network, err = node.ParseNetwork(f.network); err != nil {
			return f.wrong("network", ": %w", err)
		}
	}
	if f.within != "" {
		if seed.Range, err = node.ParseRange(f.within); err != nil {
			return f.wrong("range", ": %w", err)
		}
	}
	switch {
	case f.expand != "auto" && f.expand != "never":
		return f.wrong("expand", " %q: want auto or never", f.expand)
	case f.voters < 1 || f.voters%2 == 0:
		return f.wrong("voters", " %d: want an odd number, so that no half of them can be stuck", f.voters)
	case f.probe < time.Second:
		return f.wrong("probe", " %v: other DHCP servers need at least a second to answer", f.probe)
	case (f.kernel == "") != (f.modules == ""):
		return usage("--live-kernel and --live-modules belong together")
	}
	if f.vlan != 0 {
		if err := node.CheckVLAN(f.vlan); err != nil {
			return f.wrong("vlan", ": %w", err)
		}
		if len(f.interfaces) != 1 {
			return usage("--vlan %d: name the one port that it is on with --interface", f.vlan)
		}
		seed.VLAN = uint16(f.vlan)
	}
	if err := node.CheckMode(f.mode); err != nil {
		return f.wrong("mode", " %w", err)
	}
	if err := node.CheckDisk(f.disk); err != nil {
		return f.wrong("disk", ": %w", err)
	}
	if f.image != "" {
		if info, err := os.Stat(f.image); err != nil {
			return f.wrong("image", ": %w", err)
		} else if !info.Mode().IsRegular() {
			return f.wrong("image", ": %s is not a file", f.image)
		}
		if err := f.access(ctx, seed); err != nil {
			return err
		}
	}
	o := node.Options{Seed: seed, Name: f.name, Metrics: f.metrics}
	if f.dryRun {
		return s.dryRun(ctx, o)
	}
	return s.runNode(ctx, o)
}

// dryRun says what a node would do. Nothing is handed over at its end, so that a signal ends it at once.
func (s *settings) dryRun(ctx context.Context, o node.Options) error {
	p := newProgress()
	log, err := s.loggerTo(p)
	if err != nil {
		return err
	}
	o.DataDir, o.Version, o.Logger, o.Say = s.dataDir, version, log, p.say
	return node.DryRun(ctx, o)
}

// access finds out how people get into the new machines: somebody must be able to.
func (f *seedFlags) access(ctx context.Context, seed *node.Seed) error {
	if f.sshKey != "" {
		data, err := os.ReadFile(f.sshKey)
		if err != nil {
			return f.wrong("ssh-key", ": %w", err)
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			switch {
			case line == "" || line[0] == '#':
			case strings.Contains(line, "PRIVATE KEY"):
				return f.wrong("ssh-key", ": %s is a private key, which must not leave this machine; name its .pub file", f.sshKey)
			case !strings.Contains(line, " AAAA"): // each begins with a length of less than 2^14
				return f.wrong("ssh-key", ": %s holds a line that is not a public key in the form of OpenSSH", f.sshKey)
			default:
				seed.SSHKeys = append(seed.SSHKeys, line)
			}
		}
	}
	seed.RootHash = f.passwordHash
	if path, ok := strings.CutPrefix(f.passwordHash, "@"); ok {
		data, err := os.ReadFile(path)
		if err != nil {
			return f.wrong("password-hash", ": %w", err)
		}
		seed.RootHash = strings.TrimSpace(string(data))
	}
	if seed.RootHash != "" && !strings.HasPrefix(seed.RootHash, "$") {
		return f.wrong("password-hash", ": this is not a crypt(5) hash; make one with: openssl passwd -6")
	}
	if seed.RootHash != "" || len(seed.SSHKeys) > 0 {
		return nil
	}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	if f.dryRun && terminal {
		return nil // it would be asked
	}
	if !terminal {
		return usage("nobody could log in to the new machines: give --ssh-key FILE or --password-hash HASH, or run this on a terminal to be asked")
	}
	hash, err := askPassword(ctx)
	seed.RootHash = hash
	return err
}

// askPassword returns the SHA-512 crypt hash of a password that was typed twice. The password itself is kept nowhere.
func askPassword(ctx context.Context) (string, error) {
	in := int(os.Stdin.Fd())
	before, err := term.GetState(in)
	if err != nil {
		return "", fmt.Errorf("ask for a password: %w", err)
	}
	type answer struct {
		typed []byte
		err   error
	}
	ask := func(prompt string) ([]byte, error) {
		_, _ = fmt.Fprint(os.Stderr, prompt)
		defer say("")
		answers := make(chan answer, 1)
		go func() {
			typed, err := term.ReadPassword(in)
			answers <- answer{typed, err}
		}()
		select {
		case a := <-answers:
			return a.typed, a.err
		case <-ctx.Done(): // Ctrl-C is a signal, which ends no read
			return nil, errors.Join(ctx.Err(), term.Restore(in, before))
		}
	}
	first, err := ask("root password of new machines: ")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if len(first) == 0 {
		return "", usage("an empty password is none; give --ssh-key FILE if nobody shall log in with one")
	}
	second, err := ask("once more: ")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if string(first) != string(second) {
		return "", usage("the two passwords differ")
	}
	hash, err := crypt.SHA512.New().Generate(first, nil)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return hash, nil
}

// runNode runs a node with its words, its diary and its progress on the terminal.
func (s *settings) runNode(ctx context.Context, o node.Options) error {
	if o.Metrics != "" {
		if _, _, err := net.SplitHostPort(o.Metrics); err != nil {
			return usage("--metrics %q: want HOST:PORT, such as 127.0.0.1:7490", o.Metrics)
		}
	}
	p := newProgress()
	log, err := s.loggerTo(p)
	if err != nil {
		return err
	}
	o.DataDir, o.Version, o.Logger, o.Say = s.dataDir, version, log, p.say
	n, err := node.New(o)
	if err != nil {
		return err
	}
	showing, stop := context.WithCancel(context.WithoutCancel(ctx))
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		p.follow(showing, n.Fetching)
	}()
	defer func() {
		stop()
		<-shown
	}()
	return runNode(ctx, n, p.say)
}

// runNode runs a node until it ends. The first signal hands everything over, the second one leaves at once.
func runNode(ctx context.Context, n *node.Node, say func(line string)) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	again, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if !n.Ephemeral() {
		stop() // an installed machine that restarts comes back: its duties pass by themselves if it does not
		return <-ended
	}
	say("stopping  handing everything over; Ctrl-C again leaves at once")
	leaving, giveUp := context.WithCancel(again)
	defer giveUp()
	left := make(chan error, 1)
	go func() { left <- n.Leave(leaving) }()
	select {
	case err := <-ended:
		return err
	case <-again.Done():
	case err := <-left:
		if err == nil {
			say("stopped   everything is handed over")
			stop()
			return <-ended
		}
		if errors.Is(err, node.ErrNotStarted) {
			break
		}
		say("stopping  " + err.Error())
		say("          the swarm stays in its data directory: started again, this node goes on. Ctrl-C leaves now")
		select {
		case err := <-ended:
			return err
		case <-again.Done():
		}
	}
	stop()
	if err := <-ended; err != nil {
		return err
	}
	return context.Canceled // not all was handed over: callers are told by the exit code
}

func newNode(s *settings) *cobra.Command {
	var metrics string
	c := &cobra.Command{
		Use:   "node",
		Short: "Run an installed machine as a node (its systemd unit does)",
		Long: `node is what the unit offshoot.service runs on every machine that offshoot installed. On the first
boot it redeems the ticket that the installation left, joins the swarm, and gets ready to take over;
later it resumes by itself, even when no other node is there.`,
		Example: "  offshoot node --metrics 127.0.0.1:7490",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.runNode(c.Context(), node.Options{Metrics: metrics})
		},
	}
	metricsFlag(c, &metrics)
	return c
}

func newAgent(s *settings) *cobra.Command {
	var o node.AgentOptions
	c := &cobra.Command{
		Use: "agent", Hidden: true, Args: exactly(),
		Short: "Install one disk as the network-boot environment does, as an ordinary process",
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := s.logger()
			if err != nil {
				return err
			}
			err = node.Install(c.Context(), o, log)
			if errors.Is(err, fs.ErrNotExist) {
				return usage("%w", err)
			}
			return err
		},
	}
	c.Flags().StringVar(&o.URL, "url", "", "boot address of this machine, http://ADDRESS:7480/b/NONCE")
	c.Flags().StringVar(&o.Disk, "disk", "", "the one disk that exists: a device, or a file of a disk's size")
	c.Flags().StringVar(&o.Dir, "scratch", "", "directory for mount points (default: the system's temporary one)")
	return c
}
