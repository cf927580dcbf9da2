//go:build wire || metal

package lab

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"golang.org/x/sys/unix"
)

func testLab(t *testing.T, wants ...string) *Lab {
	t.Helper()
	Need(t, append(wants, Wire)...)
	l, err := New(Options{Dir: t.TempDir(), Name: "labtest", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		assertClean(t, l.prefix)
	})
	return l
}

// assertClean fails if a namespace of the lab is left.
func assertClean(t *testing.T, prefix string) {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			t.Errorf("namespace %s is left", e.Name())
		}
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func mustRun(t *testing.T, h *Host, args ...string) string {
	t.Helper()
	return must[string](t)(h.Run(t.Context(), args[0], args[1:]...))
}

// eventually waits for a condition, and fails with the condition's last error.
func eventually(t *testing.T, within time.Duration, condition func() error) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("after %s: %v", within, err)
		}
	}
}

type pair struct {
	lab  *Lab
	lan  *Network
	a, b *Host
}

func twoHosts(t *testing.T) pair {
	t.Helper()
	l := testLab(t)
	lan := must[*Network](t)(l.Network("lan0"))
	a, b := must[*Host](t)(l.Host("a", lan)), must[*Host](t)(l.Host("b", lan))
	mustRun(t, a, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan0")
	mustRun(t, b, "ip", "addr", "add", "192.0.2.2/24", "dev", "lan0")
	return pair{l, lan, a, b}
}

// echo serves one TCP connection after the other inside a host.
func echo(t *testing.T, h *Host, address string) {
	t.Helper()
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
}

func say(conn net.Conn, word string) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, word+"\n"); err != nil {
		return err
	}
	back, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && back != word+"\n" {
		err = errors.New("heard " + back)
	}
	return err
}

func TestHostsOfOneNetworkReachEachOtherAndTheCaptureShowsIt(t *testing.T) {
	p := twoHosts(t)
	c := must[*Capture](t)(p.lan.Capture(filepath.Join(p.lab.Dir(), "lan0.pcap")))
	echo(t, p.b, "192.0.2.2:7")
	conn := must[net.Conn](t)(p.a.Dial(t.Context(), "tcp", "192.0.2.2:7"))
	long := strings.Repeat("x", 4000)
	if err := say(conn, long); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if addr := mustRun(t, p.a, "ip", "-o", "link", "show", "lan0"); !strings.Contains(addr, p.a.MAC(p.lan).String()) {
		t.Errorf("host a does not have the address that MAC tells: %s", addr)
	}
	count := func() (fromA, fromB, tooLong int) {
		err := readFrames(c.Path(), func(frame []byte, info gopacket.CaptureInfo) {
			if at := info.Timestamp; time.Since(at).Abs() > time.Minute {
				t.Errorf("a frame of %s", at)
			}
			if info.Length > 1514 {
				tooLong++
			}
			switch net.HardwareAddr(frame[6:12]).String() {
			case p.a.MAC(p.lan).String():
				fromA++
			case p.b.MAC(p.lan).String():
				fromB++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return fromA, fromB, tooLong
	}
	eventually(t, 5*time.Second, func() error { // while it runs
		if a, b, _ := count(); a < 5 || b < 5 {
			return errors.New("too few frames")
		}
		return nil
	})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, _, long := count(); long > 0 {
		t.Errorf("%d frames are longer than a wire carries", long)
	}
}

func TestAPulledCableIsSeenInsideAndCarriesNothing(t *testing.T) {
	p := twoHosts(t)
	echo(t, p.b, "192.0.2.2:7")
	carrier := func(want string) func() error {
		return func() error {
			got, err := p.a.Run(t.Context(), "cat", "/sys/class/net/lan0/carrier")
			if err == nil && strings.TrimSpace(got) != want {
				err = errors.New("carrier is " + got)
			}
			return err
		}
	}
	eventually(t, 5*time.Second, carrier("1"))
	if err := p.a.SetLink(p.lan, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, carrier("0"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if conn, err := p.a.Dial(ctx, "tcp", "192.0.2.2:7"); err == nil {
		t.Error("connected through a pulled cable", conn.Close())
	}
	if err := p.a.SetLink(p.lan, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, carrier("1"))
	conn := must[net.Conn](t)(p.a.Dial(t.Context(), "tcp", "192.0.2.2:7"))
	if err := say(conn, "hello"); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
}

func TestDialRefusesNamesBecauseTheirLookupWouldRunOutside(t *testing.T) {
	p := twoHosts(t)
	if conn, err := p.a.Dial(t.Context(), "tcp", "localhost:7"); err == nil {
		t.Error("dialled a name", conn.Close())
	}
}

func TestHostSeesItsOwnInterfacesOnlyAndTheOutsideNoneOfThem(t *testing.T) {
	p := twoHosts(t)
	if got := strings.Fields(mustRun(t, p.a, "ls", "/sys/class/net")); strings.Join(got, " ") != "lan0 lo" {
		t.Errorf("host sees %q", got)
	}
	if _, err := net.InterfaceByName("lan0"); err == nil {
		t.Error("the lab's network shows outside")
	}
}

func TestCommandEndsWithItsContextWithItsChildren(t *testing.T) {
	p := twoHosts(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := p.a.Command(ctx, "sh", "-c", "sleep 1000 & sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if n := len(processesIn(namespacePath(p.a.Namespace()))); n != 3 {
			return errors.New("the children have not started")
		}
		return nil
	})
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended well")
	}
	eventually(t, 5*time.Second, func() error {
		if left := processesIn(namespacePath(p.a.Namespace())); len(left) > 0 {
			return errors.New("processes are left")
		}
		return nil
	})
}

func TestCloseKillsEverythingMayBeRepeatedAndRefusesNewWork(t *testing.T) {
	p := twoHosts(t)
	// setsid: out of the process group, so that only the namespace tells that it is ours.
	cmd := p.a.Command(context.Background(), "sh", "-c", "setsid sleep 1000 & sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path := namespacePath(p.a.Namespace())
	eventually(t, 5*time.Second, func() error {
		if len(processesIn(path)) != 3 {
			return errors.New("the children have not started")
		}
		return nil
	})
	pids := processesIn(path)
	for range 2 {
		if err := p.lab.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		if pid.alive() {
			t.Errorf("process %v is alive", pid)
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended well")
	}
	if _, err := p.lab.Network("late"); !errors.Is(err, errClosed) {
		t.Errorf("network after close: %v", err)
	}
	if err := p.a.Command(t.Context(), "true").Run(); !errors.Is(err, errClosed) {
		t.Errorf("command after close: %v", err)
	}
	if exists(filepath.Join(p.lab.Dir(), stateName)) {
		t.Error("the state file is left")
	}
}

// crashDir tells the test binary, started by TestASweepRemovesWhatAKilledLabLeft, to be the lab that is killed.
const crashDir = "LAB_TEST_CRASH_DIR"

func TestASweepRemovesWhatAKilledLabLeft(t *testing.T) {
	Need(t, Wire)
	if dir := os.Getenv(crashDir); dir != "" {
		beKilled(t, dir)
		return
	}
	for _, how := range []string{"Sweep", "New"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			t.Cleanup(func() { _ = Sweep(dir) }) // where the test fails
			// Not -test.v's output: what the child prints is not this test's.
			child := exec.Command(os.Args[0], "-test.run=^TestASweepRemovesWhatAKilledLabLeft$")
			child.Env = append(os.Environ(), crashDir+"="+dir)
			err := child.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(interface{ Signaled() bool }).Signaled() == false {
				t.Fatalf("the child was not killed: %v", err)
			}
			s := must[*stateFile](t)(openState(dir))
			rec := s.rec
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			if len(rec.Namespaces) != 2 || len(rec.Processes) != 1 {
				t.Fatalf("the state does not show what is left: %+v", rec)
			}
			eventually(t, 5*time.Second, func() error { // Pdeathsig, without any sweep
				if rec.Processes[0].alive() {
					return errors.New("the killed lab's command is alive")
				}
				return nil
			})
			left := processesIn(namespacePath(rec.Namespaces[1]))
			if len(left) != 2 {
				t.Fatalf("want two grandchildren for the sweep, have %v", left)
			}
			if how == "Sweep" {
				err = Sweep(dir)
			} else {
				var l *Lab
				if l, err = New(Options{Dir: dir, Name: "labtest"}); err == nil {
					err = l.Close()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range left {
				if p.alive() {
					t.Errorf("grandchild %v is alive", p)
				}
			}
			for _, name := range rec.Namespaces {
				assertClean(t, name)
			}
		})
	}
}

// beKilled makes a lab with a command and a grandchild in it and kills itself.
func beKilled(t *testing.T, dir string) {
	l := must[*Lab](t)(New(Options{Dir: dir, Name: "labtest"}))
	h := must[*Host](t)(l.Host("h"))
	cmd := h.Command(context.Background(), "sh", "-c", "setsid sleep 1000 & sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if len(processesIn(namespacePath(h.Namespace()))) != 3 {
			return errors.New("the children have not started")
		}
		return nil
	})
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	<-t.Context().Done()
}
