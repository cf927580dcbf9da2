package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal: what is written to keys is typed.
type terminal struct{ keys, screen *os.File }

func openTerminal(t *testing.T) terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { _ = keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	return terminal{keys, screen}
}

// echoes says whether what is typed is shown.
func (p terminal) echoes(t *testing.T) bool {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(p.screen.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0
}

func (p terminal) awaitEcho(t *testing.T, want bool) {
	t.Helper()
	deadline, poll := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer poll.Stop()
	for p.echoes(t) != want {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("the terminal's echo did not become %t", want)
		}
	}
}

// words collects what a program says.
type words struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

// TestCtrlCEndsTheQuestionForAPassword: the terminal must echo again afterwards, or the operator's shell is blind.
func TestCtrlCEndsTheQuestionForAPassword(t *testing.T) {
	tty := openTerminal(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(image, []byte("no disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := &words{}
	c := exec.CommandContext(t.Context(), "offshoot", "seed", "--image", image, "--data-dir", filepath.Join(dir, "data")) // installed by TestMain
	c.Stdin, c.Stdout, c.Stderr = tty.screen, io.Discard, said
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	tty.awaitEcho(t, false)
	if _, err := tty.keys.WriteString("half a passw\x03"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
			t.Errorf("ended with %v, want exit code %d; it said %q", err, exitInterrupted, said)
		}
	case <-time.After(20 * time.Second):
		_, _ = c.Process.Kill(), <-ended
		t.Fatalf("Ctrl-C did not end it; it said %q", said)
	}
	tty.awaitEcho(t, true)
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("the data directory was made")
	}
}
