package segment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"offshoot/swarm"
)

// journalVersion changes when an older offshoot could no longer undo what a newer one wrote.
const journalVersion = 1

// operation is what was changed.
type operation string

const (
	opUp      operation = "up"      // Port was down
	opAddress operation = "address" // Prefix was added to Port
	opForward operation = "forward" // ip_forward was 0
	opRoutes  operation = "routes"  // routes with our protocol number were set
	opVLAN    operation = "vlan"    // Port, a VLAN device, was made
)

// change is one line of the journal: enough to undo it, and to see whether it is still as we left it.
type change struct {
	ID     int          `json:"id"`
	Op     operation    `json:"op"`
	Port   string       `json:"port,omitempty"`
	MAC    swarm.MAC    `json:"mac,omitempty"`
	Prefix netip.Prefix `json:"prefix,omitzero"`
}

// journalFile is the whole file. Boot and Netns say where the changes were made: what the kernel held in an earlier boot,
// or holds in another network namespace, is not ours to undo here.
type journalFile struct {
	Version int      `json:"version"`
	Boot    string   `json:"boot"`
	Netns   string   `json:"netns"`
	Changes []change `json:"changes"`
}

// Journal changes links, addresses, routes and forwarding, and remembers each change in a file before it is made, so that
// it can be undone by this process when it stops, or by the next one if this one was killed. Safe for concurrent use; all
// calls must come from threads of one network namespace.
type Journal struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	file journalFile
	last int
}

// OpenJournal first undoes what an earlier run left behind, as far as it is still as that run left it, and then starts an
// empty journal. The file exists only while there is something to undo. A file that cannot be understood is ErrJournal;
// it stays where it is.
func OpenJournal(path string, log *slog.Logger) (*Journal, error) {
	j := &Journal{path: path, log: log}
	here, err := whereabouts()
	if err != nil {
		return nil, err
	}
	left, err := readJournal(path)
	if err != nil {
		return nil, err
	}
	if left.Boot != "" && (left.Boot != here.Boot || left.Netns != here.Netns) {
		log.Info("undo journal of another boot or namespace dropped", "path", path, "changes", len(left.Changes))
		left.Changes = nil
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale undo journal: %w", err)
		}
	}
	here.Changes = left.Changes
	j.file = here
	for _, c := range here.Changes {
		j.last = max(j.last, c.ID)
	}
	if len(left.Changes) > 0 {
		log.Info("undoing what an earlier run left behind", "path", path, "changes", len(left.Changes))
	}
	if err := j.Undo(); err != nil {
		return nil, err
	}
	return j, nil
}

// Undo undoes what the journal at path still holds; nothing to do is no error.
func Undo(path string, log *slog.Logger) error {
	_, err := OpenJournal(path, log)
	return err
}

// Undo undoes every change that stands in the journal, the newest first. What was changed again by others since is left
// alone. What could not be undone stays in the journal for the next try, and is named in the error.
func (j *Journal) Undo() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := make([]int, len(j.file.Changes))
	for i, c := range j.file.Changes {
		ids[i] = c.ID
	}
	return j.undo(ids)
}

// undo reverts the named changes, newest first. The caller holds the lock.
func (j *Journal) undo(ids []int) error {
	var errs []error
	for _, c := range slices.Backward(slices.Clone(j.file.Changes)) {
		if !slices.Contains(ids, c.ID) {
			continue
		}
		done, err := revert(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", c, err))
			continue
		}
		if done {
			j.log.Debug("change undone", "change", c.String())
		} else {
			j.log.Debug("change not undone: no longer as we left it", "change", c.String())
		}
		j.file.Changes = slices.DeleteFunc(j.file.Changes, func(o change) bool { return o.ID == c.ID })
		if err := j.save(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// do writes the change down and then makes it. The caller holds the lock. A change that failed stays written: it may have
// been made in part, and undoing what was not made does nothing.
func (j *Journal) do(c change, carryOut func() error) (id int, err error) {
	j.last++
	c.ID = j.last
	j.file.Changes = append(j.file.Changes, c)
	if err := j.save(); err != nil {
		j.file.Changes = j.file.Changes[:len(j.file.Changes)-1]
		return 0, err
	}
	if err := carryOut(); err != nil {
		return c.ID, fmt.Errorf("%s: %w", c, err)
	}
	j.log.Debug("change made", "change", c.String())
	return c.ID, nil
}

// undoer is the closure that callers get: it reverts the given changes once.
func (j *Journal) undoer(ids []int) func() error {
	return func() error {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.undo(ids)
	}
}

func (c change) String() string {
	parts := []string{string(c.Op)}
	if c.Port != "" {
		parts = append(parts, c.Port)
	}
	if c.Prefix.IsValid() {
		parts = append(parts, c.Prefix.String())
	}
	return strings.Join(parts, " ")
}

// save replaces the file in one step, on the disk before it returns; an empty journal is no file.
func (j *Journal) save() error {
	if len(j.file.Changes) == 0 {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove undo journal: %w", err)
		}
		return nil
	}
	b, err := json.MarshalIndent(j.file, "", "  ")
	if err != nil {
		return fmt.Errorf("encode undo journal: %w", err)
	}
	dir := filepath.Dir(j.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write undo journal: %w", err)
	}
	f, err := os.CreateTemp(dir, filepath.Base(j.path)+".*")
	if err != nil {
		return fmt.Errorf("write undo journal: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write undo journal: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write undo journal: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write undo journal: %w", err)
	}
	return nil
}

// readJournal returns an empty journal when there is no file.
func readJournal(path string) (journalFile, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return journalFile{}, nil
	}
	if err != nil {
		return journalFile{}, fmt.Errorf("read undo journal: %w", err)
	}
	f, err := decodeJournal(b)
	if err != nil {
		return journalFile{}, fmt.Errorf("%s: %w: check the port's addresses by hand, then remove the file", path, err)
	}
	return f, nil
}

func decodeJournal(b []byte) (journalFile, error) {
	var f journalFile
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return journalFile{}, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return journalFile{}, fmt.Errorf("%w: trailing data", ErrJournal)
	}
	if f.Version != journalVersion {
		return journalFile{}, fmt.Errorf("%w: version %d, this offshoot writes %d", ErrJournal, f.Version, journalVersion)
	}
	if f.Boot == "" || f.Netns == "" {
		return journalFile{}, fmt.Errorf("%w: does not say where it was written", ErrJournal)
	}
	for _, c := range f.Changes {
		onPort := c.Op == opUp || c.Op == opAddress || c.Op == opVLAN
		switch {
		case onPort && c.Port == "", c.Op == opAddress && !c.Prefix.IsValid():
			return journalFile{}, fmt.Errorf("%w: change %d is incomplete", ErrJournal, c.ID)
		case !onPort && c.Op != opForward && c.Op != opRoutes:
			return journalFile{}, fmt.Errorf("%w: unknown operation %q", ErrJournal, c.Op)
		}
	}
	return f, nil
}

// whereabouts is an empty journal of this boot and this network namespace.
func whereabouts() (journalFile, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return journalFile{}, fmt.Errorf("read boot id: %w", err)
	}
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return journalFile{}, fmt.Errorf("read network namespace: %w", err)
	}
	return journalFile{Version: journalVersion, Boot: strings.TrimSpace(string(boot)), Netns: ns}, nil
}
