package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stateName = "lab.json"
	lockName  = "lab.lock"
	// sweepTimeout bounds how long killed processes may take to vanish. SIGKILL works at once; a QEMU of 4 GiB under a
	// loaded kernel took a second to give its memory back.
	sweepTimeout = 10 * time.Second
)

// Sweep removes what a crashed lab left behind: the processes and namespaces that its state file names, and nothing
// else. A folder without a state file is clean. A lab that still lives is an error.
func Sweep(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, stateName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, err := openState(dir)
	if err != nil {
		return err
	}
	return errors.Join(s.sweep(), s.close())
}

// record is what must be removed. It is written before a namespace is made and right after a process is started.
type record struct {
	Boot       string    `json:"boot"` // of the kernel; after a reboot nothing in here exists any more
	Namespaces []string  `json:"namespaces"`
	Processes  []process `json:"processes"`
}

// process is a pid together with the time at which it started, so that a later owner of the same pid is not mistaken
// for it. Each one leads its own process group.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, proc(5) stat field 22
}

// stateFile is the record on disk, guarded against a second lab in the same folder by a lock that dies with us.
type stateFile struct {
	path string
	lock *os.File

	mu  sync.Mutex
	rec record
}

func openState(dir string) (*stateFile, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	s := &stateFile{path: filepath.Join(dir, stateName), lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("folder %s is in use by a running lab: %w", dir, err), lock.Close())
	}
	data, err := os.ReadFile(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, errors.Join(fmt.Errorf("read lab state: %w", err), s.close())
	default:
		if err := json.Unmarshal(data, &s.rec); err != nil {
			return nil, errors.Join(fmt.Errorf("read lab state %s: %w (remove it, then look at `ip netns`)", s.path, err), s.close())
		}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read boot id: %w", err), s.close())
	}
	if id := string(bytes.TrimSpace(boot)); s.rec.Boot != id {
		s.rec = record{Boot: id}
	}
	return s, nil
}

// close gives the folder free.
func (s *stateFile) close() error { return s.lock.Close() }

// update changes the record and writes it. With nothing left to remove the file goes away.
func (s *stateFile) update(change func(*record)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.rec)
	if len(s.rec.Namespaces)+len(s.rec.Processes) == 0 {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove lab state: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(s.rec)
	if err != nil {
		return fmt.Errorf("encode lab state: %w", err)
	}
	if err := os.WriteFile(s.path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	return nil
}

func (s *stateFile) addNamespace(name string) error {
	return s.update(func(r *record) { r.Namespaces = append(r.Namespaces, name) })
}

func (s *stateFile) addProcess(p process) error {
	return s.update(func(r *record) { r.Processes = append(r.Processes, p) })
}

func (s *stateFile) dropProcess(p process) error {
	return s.update(func(r *record) {
		r.Processes = slices.DeleteFunc(r.Processes, func(q process) bool { return p == q })
	})
}

// sweep removes everything in the record. What could not be removed stays in it, for the next attempt.
func (s *stateFile) sweep() error {
	s.mu.Lock()
	rec := record{Namespaces: slices.Clone(s.rec.Namespaces), Processes: slices.Clone(s.rec.Processes)}
	s.mu.Unlock()

	var errs []error
	stuck := func() []process {
		return slices.DeleteFunc(slices.Clone(rec.Processes), func(p process) bool { return !p.alive() })
	}
	if err := killUntilGone(stuck); err != nil {
		errs = append(errs, err)
	}
	var kept []string
	for _, name := range rec.Namespaces {
		if err := removeNamespace(name); err != nil {
			errs = append(errs, err)
			kept = append(kept, name)
		}
	}
	left := stuck()
	errs = append(errs, s.update(func(r *record) { r.Namespaces, r.Processes = kept, left }))
	return errors.Join(errs...)
}

// removeNamespace kills whatever runs in a namespace that a lab made, grandchildren included, and removes it.
func removeNamespace(name string) error {
	path := namespacePath(name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := killUntilGone(func() []process { return processesIn(path) }); err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		return fmt.Errorf("remove namespace %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// killUntilGone kills what list returns, with its process group, until list is empty.
func killUntilGone(list func() []process) error {
	deadline := time.NewTimer(sweepTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		left := list()
		if len(left) == 0 {
			return nil
		}
		for _, p := range left {
			p.kill()
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return fmt.Errorf("processes survive SIGKILL for %s: %v", sweepTimeout, left)
		}
	}
}

// processOf identifies a running process. Zombies count as gone: only their parent can bury them.
func processOf(pid int) (process, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	start, dead, ok := parseStat(string(data))
	return process{PID: pid, Start: start}, ok && !dead
}

// parseStat reads proc(5) stat: field 3 is the state, field 22 the start time. The command in field 2 is in parentheses
// and may itself hold blanks and parentheses.
func parseStat(stat string) (start uint64, dead, ok bool) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, false, false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, false, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0] == "Z" || fields[0] == "X", err == nil
}

func (p process) alive() bool {
	now, ok := processOf(p.PID)
	return ok && now == p
}

// kill ends a process and its group, and nobody else: a process that has ended may have left its pid to another, and pid 0
// would mean ourselves.
func (p process) kill() {
	if p.PID <= 1 || !p.alive() {
		return
	}
	// ESRCH means done already; other errors show as a process that does not go away.
	if pgid, err := unix.Getpgid(p.PID); err == nil && pgid == p.PID {
		_ = unix.Kill(-p.PID, syscall.SIGKILL)
	}
	_ = unix.Kill(p.PID, syscall.SIGKILL)
}

// processesIn lists the processes of a network namespace, except ourselves.
func processesIn(path string) []process {
	var want, have unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &have); err != nil || have.Ino != want.Ino || have.Dev != want.Dev {
			continue
		}
		if p, ok := processOf(pid); ok {
			found = append(found, p)
		}
	}
	return found
}
