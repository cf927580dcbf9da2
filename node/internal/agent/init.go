package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"offshoot/node/internal/install"
)

const (
	settleTime  = 1500 * time.Millisecond // without a new device the hardware counts as complete
	settleLimit = 45 * time.Second        // RAID controllers take their time; a disk that comes later is not seen
	afterCrash  = 15 * time.Second
	lostTime    = 3 * time.Minute // longer than a node takes to restart, and than a duty takes to be given away
)

// Main is PID 1 of the network-booted environment: drivers, network, Install, restart. It never returns, because the kernel
// would panic: what goes wrong is printed, and tried again after a pause.
func Main(ctx context.Context, join Join) {
	early := mounts() // consoles are found by what they show
	console, lines := openConsoles()
	say(console, "offshoot agent starts")
	go reap()
	for {
		err := early
		if err == nil {
			err = boot(ctx, console, lines, join)
		}
		switch early = mounts(); {
		case err == nil:
			say(console, "restarting from disk")
			restart(console)
		case errors.Is(err, ErrLost):
			say(console, "%v: booting from the network again", err)
			restart(console)
		case errors.Is(err, ErrOff):
			powerOff(console)
		}
		say(console, "stopped: %v", err)
		say(console, "starting over in %v", afterCrash)
		_ = pause(context.Background(), afterCrash) // cannot fail: nothing ends this context
	}
}

// boot is one life from bare kernel to a finished disk. A panic in it is one more error.
func boot(ctx context.Context, console io.Writer, lines <-chan string, join Join) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	url, mac, verbose, err := parseCmdline(string(line))
	if err != nil {
		return err
	}
	log := consoleLogger(console, verbose)
	silenceIPv6(log)

	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	m, err := newMachine(log)
	if err != nil {
		return err
	}
	all.Go(func() { m.events.run(ctx, m.drivers.want) })
	start := time.Now()
	if err := m.drivers.coldplug(ctx, "/sys/devices"); err != nil {
		return err
	}
	m.drivers.want("af_packet")
	nic, err := bootNIC(ctx, mac, log)
	if err != nil {
		return err
	}
	address, err := acquire(ctx, nic)
	if err != nil {
		return err
	}
	defer address.close()
	all.Go(func() { address.keep(ctx, log) })
	say(console, "ready after %.1f s (%.1f s since the kernel started): %s has %s, serving node %s",
		time.Since(start).Seconds(), uptime().Seconds(), nic.Attrs().Name, address.address(), url[:strings.LastIndex(url, "/")+1])
	err = Install(ctx, Options{URL: url, Logger: log, Console: console, Lines: lines, System: m, Join: join, Lost: lostTime})
	if errors.Is(err, ErrOff) {
		if err := wakeOnLAN(nic.Attrs().Name); err != nil {
			say(console, "whether a magic packet will wake this machine is up to its firmware: %v", err)
		}
	}
	return err
}

// machine is the System of PID 1.
type machine struct {
	events  *uevents
	drivers *drivers
}

var _ System = (*machine)(nil)

func newMachine(log *slog.Logger) (*machine, error) {
	d, err := newDrivers(log)
	if err != nil {
		return nil, err
	}
	u, err := listenUevents()
	if err != nil {
		return nil, err
	}
	return &machine{events: u, drivers: d}, nil
}

// Inventory waits until no new devices appear: whether a disk is the only one can be said only then.
func (m *machine) Inventory(ctx context.Context) (install.Inventory, error) {
	deadline := time.Now().Add(settleLimit)
	for {
		inv, err := scan("/")
		if err != nil {
			return inv, err
		}
		quiet := m.events.quiet() >= settleTime && len(inv.Disks) > 0
		if quiet || time.Now().After(deadline) {
			return inv, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return inv, err
		}
	}
}

// Need loads modules and waits for nothing: their device nodes are there when finit_module returns.
func (m *machine) Need(_ context.Context, modules ...string) {
	for _, name := range modules {
		m.drivers.want(name)
	}
}

// NetworkFirst looks at the firmware's variables, which are there on machines with UEFI.
func (m *machine) NetworkFirst(ctx context.Context) (bool, error) {
	if _, err := os.Stat(filepath.Dir(efiVars)); err != nil {
		return false, nil //nolint:nilerr // a machine with a BIOS
	}
	m.Need(ctx, "efivarfs")
	if !mounted(efiVars) {
		if err := unix.Mount("efivarfs", efiVars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return false, fmt.Errorf("mount efivarfs: %w", err)
		}
	}
	return networkFirst(efiVars)
}

// Scratch is /mnt of the initramfs.
func (m *machine) Scratch() string { return "/mnt" }

// mounts makes what a kernel alone does not. Done already is fine.
func mounts() error {
	for _, m := range []struct{ kind, dir, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", "mode=0755"}, {"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"}, {"tmpfs", "/mnt", "mode=0700"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if mounted(m.dir) {
			continue
		}
		err := unix.Mount(m.kind, m.dir, m.kind, unix.MS_NOSUID, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	return nil
}

// mounted compares devices: a mount point lies on another one than its parent.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

// reap collects children that the kernel gives to PID 1. We start none ourselves, so no one else waits for any.
func reap() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGCHLD)
	for range ch {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}

// powerOff switches the machine off. It returns only if the kernel does not do it.
func powerOff(console io.Writer) {
	say(console, "switching off; on a node, to wake it: offshoot machine wake MAC")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say(console, "power off: %v; please switch the machine off", err)
	}
}

// restart ends this machine's time with us. It returns only if the kernel does not do it.
func restart(console io.Writer) {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		say(console, "restart: %v; please restart the machine", err)
	}
}

func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
