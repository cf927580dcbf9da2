package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSocketIsForItsOwnerAndGroupOnly(t *testing.T) {
	t.Parallel()
	dir := serve(t, &clerk{})
	for deadline := time.Now().Add(5 * time.Second); ; { // it is narrowed right after it was opened
		st, err := os.Stat(Socket(dir))
		if err == nil && st.Mode().Perm() == 0o660 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("mode %v, %v", st.Mode(), err)
		}
		<-time.After(time.Millisecond)
	}
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deadSocket(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, dir, Handler(&clerk{}, Local)) }()
	answers(t, dir)
	if _, err := NewClient(dir).Status(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// deadSocket is what a process leaves that was killed.
func deadSocket(t *testing.T, dir string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: Socket(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnreachableNodeIsSaidWithTheNextStep(t *testing.T) {
	t.Parallel()
	missing, dead := t.TempDir(), t.TempDir()
	deadSocket(t, dead)
	for name, dir := range map[string]string{"no socket": missing, "no directory": filepath.Join(missing, "nowhere"), "nobody listens": dead} {
		_, err := NewClient(dir).Status(t.Context())
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		for _, word := range []string{Socket(dir), "systemctl status offshoot", "--data-dir"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q lacks %q", name, err, word)
			}
		}
	}
}

func TestSocketThatMayNotBeOpenedIsSaid(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may open every socket")
	}
	dir := serve(t, &clerk{})
	if err := os.Chmod(Socket(dir), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("got %v", err)
	}
}

// Asked to leave, a node stops; the operator must hear the answer all the same.
func TestAnswerToLeaveArrivesAlthoughTheSocketCloses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		_, _ = io.WriteString(w, "null")
	})
	go func() { done <- Serve(ctx, dir, handler) }()
	answers(t, dir)
	if err := NewClient(dir).Leave(t.Context()); err != nil {
		t.Errorf("operator hears %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSocketThatCannotBeOpenedIsAnError(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nowhere")
	if err := Serve(t.Context(), dir, Handler(&clerk{}, Local)); err == nil || !strings.Contains(err.Error(), "operator socket") {
		t.Errorf("got %v", err)
	}
}
