package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"offshoot": main})
}

// TestScripts runs testdata/script/*.txtar: what an operator types, and what comes back. None of them needs root, and none
// may get as far as touching a network: they are run as root as well.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("OFFSHOOT_DATA_DIR", e.WorkDir+"/data")
			e.Setenv("OFFSHOOT_OPERATOR", "")
			e.Setenv("TZ", "UTC")
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "deadsocket": deadsocket, "fakenode": fakenode, "mode": mode},
	})
}

// exits runs a program and wants an exit code: "exits 2 offshoot frobnicate". What it printed is then looked at with
// stdout and stderr, as after exec.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

// deadsocket leaves a unix socket that nobody listens on.
func deadsocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: deadsocket PATH")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[0]), Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// fakenode answers on a data directory's socket from files, until the script ends: GET /v1/status is answered with the file
// answers/GET_v1_status; with answers/GET_v1_status.after, once something was changed; with the code 409 and the words in
// answers/POST_v1_voters.409, if there is one. What has no file is answered with null. What was asked stands in the file asked.
func fakenode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fakenode DATADIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	l, err := net.Listen("unix", filepath.Join(dir, "offshoot.sock"))
	ts.Check(err)
	f := &fake{answers: ts.MkAbs("answers"), log: ts.MkAbs("asked")}
	ts.Check(os.WriteFile(f.log, nil, 0o600))
	server := &http.Server{Handler: f, ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	ts.Defer(func() {
		ts.Check(server.Close())
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			ts.Fatalf("fakenode: %v", err)
		}
	})
}

type fake struct {
	answers, log string
	mu           sync.Mutex
	changed      bool
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	name := filepath.Join(f.answers, r.Method+strings.ReplaceAll(r.URL.Path, "/", "_"))
	if r.Method != http.MethodGet {
		f.changed = true
	}
	line := strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body))
	log, err := os.ReadFile(f.log)
	if err == nil {
		err = os.WriteFile(f.log, append(log, line+"\n"...), 0o600)
	}
	if err != nil {
		panic(err)
	}
	for _, code := range []int{http.StatusBadRequest, http.StatusForbidden, http.StatusConflict, http.StatusPreconditionFailed, http.StatusServiceUnavailable} {
		if words, err := os.ReadFile(fmt.Sprintf("%s.%d", name, code)); err == nil {
			http.Error(w, string(words), code)
			return
		}
	}
	answer := []byte("null")
	if data, err := os.ReadFile(name); err == nil {
		answer = data
	}
	if data, err := os.ReadFile(name + ".after"); err == nil && f.changed {
		answer = data
	}
	_, _ = w.Write(answer)
}

// mode wants a file to have certain rights: "mode 600 alice.operator".
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}
