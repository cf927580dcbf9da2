package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"offshoot/node/internal/mirror"
	"offshoot/node/internal/workset"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// served is called by the mirror after each file that it gave out.
func (s *sets) served(f mirror.Served) {
	s.recorder.Note(f.Install, workset.File{Repo: f.Repo, Path: f.Path, Digest: f.Digest, Size: f.Size})
}

// recordPause is the time between two attempts to write a working set down.
const recordPause = 10 * time.Second

// record writes down what an install has fetched here once its machine says that it is installed. Several nodes may have served
// it; each adds what it saw.
func (s *sets) record(ctx context.Context) error {
	for {
		changed := s.state.Changed()
		failed := false
		for _, install := range s.recorder.Installs() {
			m, known := machineOf(s.state.View(), install)
			switch {
			case known && m.State == swarm.MachineInstalling:
				continue
			case known && m.State == swarm.MachineInstalled:
				if err := s.write(ctx, m.Profile, s.recorder.Files(install)); err != nil {
					failed = true
					s.log.Info("working set is not written down yet", "profile", m.Profile, "machine", m.Name, "error", err)
					continue
				}
			}
			s.recorder.Forget(install) // an install that failed says nothing of what one needs
		}
		var retry <-chan time.Time
		if failed {
			retry = time.After(recordPause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry:
		}
	}
}

func machineOf(view swarm.View, install string) (swarm.Machine, bool) {
	for _, m := range view.Machines() {
		if m.Install == install {
			return m, true
		}
	}
	return swarm.Machine{}, false
}

// write adds files to the working set of a profile.
func (s *sets) write(ctx context.Context, profile string, files workset.List) error {
	for range 3 { // another node may be quicker, and then its list is the one to add to
		former, there := s.state.View().WorkingSet(profile)
		var known workset.List
		if there {
			var err error
			if known, err = s.list(ctx, former); err != nil {
				// Nobody has it any more, or only who is away: what was just seen to be fetched is worth more.
				s.log.Warn("working set is begun anew: its list cannot be had", "profile", profile, "error", err)
			}
		}
		merged, more := workset.Merge(known, files)
		if !more {
			return nil
		}
		data, err := merged.Encode()
		if err != nil || len(data) > workset.MaxBytes {
			return errors.Join(err, fmt.Errorf("a list of %d bytes, at most %d", len(data), workset.MaxBytes))
		}
		a, err := s.store.PublishReader(ctx, bytes.NewReader(data))
		if err != nil {
			return err
		}
		set := swarm.WorkingSet{Profile: profile, Digest: string(a.Digest), Size: a.Size, Files: len(merged), Bytes: merged.Bytes()}
		err = s.decide(ctx, swarm.PutWorkingSet{Set: set, Former: former.Digest})
		if errors.Is(err, swarm.ErrConflict) {
			continue
		}
		if errors.Is(err, swarm.ErrNotFound) || err == nil {
			s.log.Info("working set is written down", "profile", profile, "files", set.Files, "bytes", set.Bytes, "error", err)
			return nil
		}
		return err
	}
	return swarm.ErrConflict
}

// listTime bounds the fetching of a list: peers that have it send it at once.
const listTime = time.Minute

// list reads the list of a working set, from the nodes around if it is not here.
func (s *sets) list(ctx context.Context, set swarm.WorkingSet) (workset.List, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	d := share.Digest(set.Digest)
	if err := s.fetch(ctx, d, set.Size, nil); err != nil {
		return nil, err
	}
	f, err := s.store.Open(d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, workset.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	return workset.Decode(data)
}
