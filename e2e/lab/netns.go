package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// namespacePath is where `ip netns` keeps its names.
func namespacePath(name string) string { return "/run/netns/" + name }

// namespace is one network namespace of the lab, known to `ip netns`.
type namespace struct {
	lab  *Lab
	name string
	file *os.File
}

func (l *Lab) namespace(short string) (*namespace, error) {
	n := &namespace{lab: l, name: l.prefix + "-" + short}
	if err := l.state.addNamespace(n.name); err != nil {
		return nil, err
	}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make namespace %s: %w: %s", n.name, err, bytes.TrimSpace(out))
	}
	var err error
	if n.file, err = os.Open(namespacePath(n.name)); err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	l.mu.Lock()
	l.spaces = append(l.spaces, n)
	l.mu.Unlock()
	return n, n.ip("link", "set", "lo", "up")
}

func (n *namespace) close() error { return n.file.Close() }

// ip runs one command of iproute2 inside the namespace.
func (n *namespace) ip(args ...string) error {
	out, err := exec.Command("ip", append([]string{"-n", n.name}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip -n %s %s: %w: %s", n.name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// offloadsOff makes an interface send what a wire would carry: complete checksums (DHCP clients that read raw frames
// drop others) and frames no longer than the MTU.
func (n *namespace) offloadsOff(name string) error {
	out, err := exec.Command("ip", "netns", "exec", n.name, "ethtool", "-K", name, "tx", "off", "gso", "off", "gro", "off").CombinedOutput()
	if err != nil {
		return fmt.Errorf("offloads of %s in %s: %w: %s", name, n.name, err, bytes.TrimSpace(out))
	}
	return nil
}

// do calls fn on a thread inside the namespace and brings that thread home. Only if it cannot come home it is given up:
// the end of a thread kills the children with Pdeathsig that it ever started, for whomever.
func (n *namespace) do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		defer func() { _ = home.Close() }()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("leave namespace %s: %w", n.name, back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func (n *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: want a literal address and port: %w", n.name, err)
	}
	err = n.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", n.name, err)
	}
	return conn, nil
}

func (n *namespace) command(ctx context.Context, name string, args ...string) *Cmd {
	// `ip netns exec` replaces itself by the program, so the pid is the program's; it also gives the program a /sys that
	// shows this namespace's interfaces.
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name, name}, args...)...)
	return newCmd(n.lab, c)
}

func (n *namespace) run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := n.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s in %s: %w: %s", name, strings.Join(args, " "), n.name, err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// interfaceIndex is the number of an interface inside the namespace.
func (n *namespace) interfaceIndex(name string) (index int, err error) {
	err = n.do(func() error {
		ifi, err := net.InterfaceByName(name)
		if err == nil {
			index = ifi.Index
		}
		return err
	})
	return index, err
}
