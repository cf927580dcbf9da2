//go:build wire

package segment

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// need skips what this machine cannot run, or fails where CI promises it.
func need(t *testing.T, tools ...string) {
	t.Helper()
	missing := func(why string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI promises this tier: %s", why)
		}
		t.Skip(why)
	}
	if os.Geteuid() != 0 {
		missing("needs root for network namespaces")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(tool + " is not installed")
		}
	}
}

// space is a network namespace without a name: it is gone when its last thread, socket and handle are.
type space struct {
	t  *testing.T
	ns netns.NsHandle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	err := onOwnThread(func() (err error) {
		if s.ns, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.ns.Close() })
	return s
}

// onOwnThread runs fn on a thread that ends with it, because a thread that changed its namespace must not be reused.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- fn()
	}()
	return <-done
}

// do runs fn on a thread inside the namespace.
func (s *space) do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return err
		}
		return fn()
	})
}

// must is do for steps whose failure ends the test.
func (s *space) must(fn func() error) {
	s.t.Helper()
	if err := s.do(fn); err != nil {
		s.t.Fatal(err)
	}
}

// serve runs a service of the product inside the namespace; stop ends it and demands that it ended without error.
func (s *space) serve(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.do(func() error { return run(ctx) }) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// start runs a foreign program inside the namespace until stop, or until the test ends.
func (s *space) start(name string, args ...string) (stop func()) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	s.must(cmd.Start) // a child inherits the namespace of the thread that forks it
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says "killed"
		if s.t.Failed() {
			s.t.Logf("%s: %s", name, out.String())
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// cable joins two namespaces with a veth pair; both ends are up.
func cable(a *space, nameA string, b *space, nameB string) {
	a.t.Helper()
	a.must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.ns)})
	})
	a.up(nameA)
	b.up(nameB)
	a.await(nameA)
	b.await(nameB)
}

func (s *space) link(name string, change func(netlink.Link) error) {
	s.t.Helper()
	s.must(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return change(l)
	})
}

func (s *space) up(name string)   { s.t.Helper(); s.link(name, netlink.LinkSetUp) }
func (s *space) down(name string) { s.t.Helper(); s.link(name, netlink.LinkSetDown) }

func (s *space) add(l netlink.Link) { s.t.Helper(); s.must(func() error { return netlink.LinkAdd(l) }) }

// tryAdd is add for kinds of links that not every kernel has.
func (s *space) tryAdd(l netlink.Link) bool {
	s.t.Helper()
	err := s.do(func() error { return netlink.LinkAdd(l) })
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		s.t.Fatal(err)
	}
	return err == nil
}

func (s *space) address(name, prefix string) {
	s.t.Helper()
	s.link(name, func(l netlink.Link) error {
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: netOf(netip.MustParsePrefix(prefix))})
	})
}

// await returns the port once it has link.
func (s *space) await(name string) (p Port) {
	s.t.Helper()
	s.must(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p, err = AwaitLink(ctx, name)
		return err
	})
	return p
}

// port reads the port as it is now.
func (s *space) port(name string) (p Port) {
	s.t.Helper()
	s.must(func() (err error) { p, err = PortByName(name); return err })
	return p
}

func (s *space) has(name, prefix string) bool {
	s.t.Helper()
	return slices.Contains(s.port(name).Addrs, netip.MustParsePrefix(prefix))
}

// journal opens a journal as a starting node does.
func (s *space) journal(path string) (j *Journal) {
	s.t.Helper()
	s.must(func() (err error) { j, err = OpenJournal(path, quiet()); return err })
	return j
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}
