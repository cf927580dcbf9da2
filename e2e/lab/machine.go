package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// powerOnTimeout bounds the time from starting QEMU to its monitor's first answer: milliseconds, seconds on a machine
// that is busy with other machines.
const powerOnTimeout = 60 * time.Second

// Machine is a QEMU virtual machine with its own firmware. It is made switched off. Its methods may be called from
// several goroutines.
type Machine struct {
	lab   *Lab
	name  string
	spec  MachineSpec
	dir   string
	ports []port

	mu   sync.Mutex
	run  *run         // nil before the first Start
	down map[int]bool // pulled cables, by port
	kill bool         // Kill was called on this run: its end is no error

	expect sync.Mutex // guards read
	read   int        // bytes of the plain console that WaitConsole is done with
}

// run is one life of a machine, from power-on to power-off.
type run struct {
	cmd     *Cmd
	monitor *monitor
	done    chan struct{}
	err     error // after done
}

// Machine makes a machine with one port on each network of its spec. Its files lie in a folder of its name.
func (l *Lab) Machine(name string, spec MachineSpec) (*Machine, error) {
	spec, err := spec.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	if err := l.take(name); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	m := &Machine{lab: l, name: name, spec: spec, dir: filepath.Join(l.dir, name), down: map[int]bool{}}
	// A machine is new in every lab: an old disk or boot order must not decide how it starts.
	if err := errors.Join(os.RemoveAll(m.dir), os.MkdirAll(m.dir, 0o755)); err != nil {
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	if err := os.WriteFile(m.Console(), nil, 0o644); err != nil {
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	for i, n := range spec.Networks {
		p := port{network: n, wire: l.port(), mac: l.mac(name, i)}
		err := l.wires.ip("tuntap", "add", p.wire, "mode", "tap")
		if err == nil {
			err = n.attach(p.wire, name)
		}
		if err != nil {
			return nil, fmt.Errorf("machine %s: network %s: %w", name, n, err)
		}
		m.ports = append(m.ports, p)
	}
	l.mu.Lock()
	l.machines = append(l.machines, m)
	l.mu.Unlock()
	return m, nil
}

// String is the machine's name.
func (m *Machine) String() string { return m.name }

// MAC is the address of port i, counted as in the spec's Networks.
func (m *Machine) MAC(i int) net.HardwareAddr { return m.ports[i].mac }

// Console is the path of the serial log: everything that firmware, kernel and programs wrote to ttyS0, of all runs.
func (m *Machine) Console() string { return filepath.Join(m.dir, "console.log") }

// Disk is the path of the qcow2 image. It exists after the first Start; read it only while the machine is off.
func (m *Machine) Disk() string { return filepath.Join(m.dir, "disk.qcow2") }

func (m *Machine) files() files {
	return files{disk: m.Disk(), console: m.Console(), vars: filepath.Join(m.dir, "vars.fd")}
}

// Start switches the machine on and returns when its CPUs run. After Kill or power-off it may be started again, and has
// its disk and firmware settings as they were. A reboot of the guest is not an end.
func (m *Machine) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil && !m.run.ended() {
		return fmt.Errorf("start %s: it is running", m.name)
	}
	if err := m.prepare(); err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	r, err := m.launch()
	if err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	m.run, m.kill = r, false
	ctx, cancel := context.WithTimeout(ctx, powerOnTimeout)
	defer cancel()
	if err := m.powerOn(ctx, r); err != nil {
		r.stop()
		return fmt.Errorf("start %s: %w%s", m.name, err, m.complaint())
	}
	m.lab.log.Info("machine is on", "machine", m.name, "pid", r.cmd.Process.Pid)
	return nil
}

// prepare makes the disk and the UEFI variable store, if they are not there yet.
func (m *Machine) prepare() error {
	f := m.files()
	if m.spec.hasDisk() && !exists(f.disk) {
		args := []string{"create", "-q", "-f", "qcow2"}
		if m.spec.Base != "" {
			base, err := filepath.Abs(m.spec.Base)
			if err != nil {
				return err
			}
			format, err := imageFormat(base)
			if err != nil {
				return err
			}
			args = append(args, "-b", base, "-F", format)
		}
		args = append(args, f.disk)
		if m.spec.Disk > 0 {
			args = append(args, strconv.FormatInt(m.spec.Disk, 10))
		}
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("make disk: %w: %s", err, bytes.TrimSpace(out))
		}
	}
	if m.spec.Firmware.ovmf() && !exists(f.vars) {
		_, store := m.spec.Firmware.images()
		vars, err := os.ReadFile(store)
		if err != nil {
			return fmt.Errorf("UEFI variables: %w", err)
		}
		if err := os.WriteFile(f.vars, vars, 0o600); err != nil {
			return fmt.Errorf("UEFI variables: %w", err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// imageFormat looks at the magic number only; everything that is not qcow2 counts as raw.
func imageFormat(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return "", fmt.Errorf("base image %s: %w", path, err)
	}
	if string(magic) == "QFI\xfb" {
		return "qcow2", nil
	}
	return "raw", nil
}

// launch starts QEMU with its CPUs stopped.
func (m *Machine) launch() (*run, error) {
	nics := make([]nic, len(m.ports))
	for i, p := range m.ports {
		nics[i] = nic{tap: p.wire, mac: p.mac}
	}
	// Not the caller's context: the machine outlives the call.
	program, _ := m.spec.Firmware.emulator(KVM())
	cmd := m.lab.wires.command(context.Background(), program, m.spec.arguments(m.name, KVM(), m.files(), nics)...)
	cmd.Dir = m.dir
	log, err := os.Create(filepath.Join(m.dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // QEMU has its own copy
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &run{cmd: cmd, monitor: newMonitor(out, in, m.lab.log.With("machine", m.name)), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		<-r.monitor.gone // Wait closes the pipe, so all must be read before
		r.err = cmd.Wait()
	}()
	return r, nil
}

// powerOn plugs the cables as SetLink left them and lets the CPUs run.
func (m *Machine) powerOn(ctx context.Context, r *run) error {
	if err := r.monitor.handshake(ctx); err != nil {
		return err
	}
	for i := range m.ports {
		if m.down[i] {
			if err := setLink(ctx, r.monitor, i, false); err != nil {
				return err
			}
		}
	}
	return r.monitor.execute(ctx, "cont", nil)
}

func setLink(ctx context.Context, q *monitor, i int, up bool) error {
	return q.execute(ctx, "set_link", map[string]any{"name": fmt.Sprintf("nic%d", i), "up": up})
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// stop kills QEMU and waits until it is gone.
func (r *run) stop() {
	r.cmd.id.kill()
	<-r.done
}

// Kill pulls the power plug: what the guest had not flushed may be lost. No error, and nothing to do, if it is off.
func (m *Machine) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil && !m.run.ended() {
		m.kill = true
		m.run.stop()
		m.lab.log.Info("machine is off", "machine", m.name)
	}
}

// Wait returns when the machine is off: nil after Kill or when the guest switched itself off, else why QEMU ended.
func (m *Machine) Wait(ctx context.Context) error {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to switch off: %w", m.name, ctx.Err())
	case <-r.done:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.err != nil && !(m.run == r && m.kill) {
		return fmt.Errorf("machine %s ended: %w%s", m.name, r.err, m.complaint())
	}
	return nil
}

// complaint is what QEMU said last, for errors.
func (m *Machine) complaint() string {
	text, err := os.ReadFile(filepath.Join(m.dir, "qemu.log"))
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return ""
	}
	return "; QEMU says: " + strings.Join(lastLines(text, 3), " / ")
}

// Running says whether the machine has power.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run != nil && !m.run.ended()
}

// live is the monitor of a machine that is on.
func (m *Machine) live() (*monitor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == nil || m.run.ended() {
		return nil, errMachineOff
	}
	return m.run.monitor, nil
}

func (m *Machine) execute(ctx context.Context, command string) error {
	q, err := m.live()
	if err == nil {
		err = q.execute(ctx, command, nil)
	}
	if err != nil {
		return fmt.Errorf("machine %s: %w", m.name, err)
	}
	return nil
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.execute(ctx, "system_reset") }

// PowerButton presses the power button shortly: an operating system that listens shuts itself down.
func (m *Machine) PowerButton(ctx context.Context) error { return m.execute(ctx, "system_powerdown") }

// Pause stops all CPUs and the guest's clocks, the monotonic ones too: after Resume the guest has not noticed.
func (m *Machine) Pause(ctx context.Context) error { return m.execute(ctx, "stop") }

// Resume lets a paused machine go on.
func (m *Machine) Resume(ctx context.Context) error { return m.execute(ctx, "cont") }

// SetLink plugs (true) or pulls (false) the cable of the machine's port on n; also while it is off.
func (m *Machine) SetLink(ctx context.Context, n *Network, up bool) error {
	i := 0
	for i < len(m.ports) && m.ports[i].network != n {
		i++
	}
	if i == len(m.ports) {
		return fmt.Errorf("machine %s is not on network %s", m.name, n)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down[i] = !up
	if m.run == nil || m.run.ended() {
		return nil
	}
	if err := setLink(ctx, m.run.monitor, i, up); err != nil {
		return fmt.Errorf("machine %s: %w", m.name, err)
	}
	return nil
}
