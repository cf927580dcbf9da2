package workset

import "sync"

// maxInstalls bounds the installations that are recorded at once: more than a segment has addresses.
const maxInstalls = 256

// Recorder remembers what installations fetch until they have ended. It is for many goroutines, and blocks none of them. What a
// node has recorded is lost when it restarts: then the list lacks what was fetched before, until a later installation brings it.
type Recorder struct {
	mu   sync.Mutex
	all  map[string]*recording
	tick uint64
}

type recording struct {
	files List
	seen  map[name]bool
	used  uint64
}

// Note adds a file to what an installation has fetched.
func (r *Recorder) Note(install string, f File) {
	if install == "" || f.check() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tick++
	rec := r.all[install]
	if rec == nil {
		if len(r.all) >= maxInstalls {
			r.dropIdle()
		}
		if r.all == nil {
			r.all = map[string]*recording{}
		}
		rec = &recording{seen: map[name]bool{}}
		r.all[install] = rec
	}
	rec.used = r.tick
	if !rec.seen[f.name()] && len(rec.files) < MaxFiles {
		rec.seen[f.name()] = true
		rec.files = append(rec.files, f)
	}
}

// dropIdle forgets the installation that has asked for nothing the longest. The caller holds mu.
func (r *Recorder) dropIdle() {
	idle := ""
	for id, rec := range r.all {
		if idle == "" || rec.used < r.all[idle].used {
			idle = id
		}
	}
	delete(r.all, idle)
}

// Installs are those that are being recorded.
func (r *Recorder) Installs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for id := range r.all {
		out = append(out, id)
	}
	return out
}

// Files is what an installation has fetched so far, in its order.
func (r *Recorder) Files(install string) List {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.all[install]; rec != nil {
		return append(List(nil), rec.files...)
	}
	return nil
}

// Forget ends the recording of an installation.
func (r *Recorder) Forget(install string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, install)
}

// Digests are the files of all installations that are being recorded.
func (r *Recorder) Digests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, rec := range r.all {
		for _, f := range rec.files {
			if f.Digest != "" {
				out = append(out, f.Digest)
			}
		}
	}
	return out
}
