// Package workset keeps lists of what installations fetch from package repositories: what the next installation of a profile
// will ask for. It records, merges, writes and reads such lists, and decides how long a node tries to have one.
//
// It does no I/O: who fetches a file comes in as a function. It decides nothing about repositories, and believes no path: whoever
// fetches checks it. Only node imports it.
package workset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of one list. Every node fetches it and reads it whole. An install of a desktop asks for some three thousand files.
const (
	MaxFiles = 10_000
	MaxBytes = 8 << 20 // as it is written down
	maxName  = 64      // of a repository
	maxPath  = 700     // ten thousand of them fit MaxBytes
)

// File is one file of a repository.
type File struct {
	Repo   string `json:"repo"`
	Path   string `json:"path"`
	Digest string `json:"sha256,omitempty"` // "" for metadata that changes under its name
	Size   int64  `json:"size"`
}

type name struct{ repo, path string }

func (f File) name() name { return name{f.Repo, f.Path} }

func (f File) check() error {
	switch {
	case f.Repo == "" || len(f.Repo) > maxName || f.Path == "" || len(f.Path) > maxPath:
		return fmt.Errorf("a file %.40q of repository %.40q: want names of 1 to %d and %d bytes", f.Path, f.Repo, maxPath, maxName)
	case f.Size < 0:
		return fmt.Errorf("file %q has %d bytes", f.Path, f.Size)
	case f.Digest != "" && len(f.Digest) != 64:
		return fmt.Errorf("file %q has no SHA-256: %.70q", f.Path, f.Digest)
	}
	return nil
}

// List is files in the order in which they were fetched: metadata stands before what it names.
type List []File

// Bytes is the size of all files.
func (l List) Bytes() int64 {
	var n int64
	for _, f := range l {
		n += f.Size
	}
	return n
}

// Encode is what Decode reads.
func (l List) Encode() ([]byte, error) { return json.Marshal(l) }

// Decode reads a list that another node wrote. What is unknown, too long, or stands there twice is an error.
func Decode(data []byte) (List, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("list of a working set: %d bytes, at most %d", len(data), MaxBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var l List
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("list of a working set: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("list of a working set: trailing data")
	}
	if len(l) > MaxFiles {
		return nil, fmt.Errorf("list of a working set: %d files, at most %d", len(l), MaxFiles)
	}
	seen := map[name]bool{}
	for _, f := range l {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("list of a working set: %w", err)
		}
		if seen[f.name()] {
			return nil, fmt.Errorf("list of a working set: file %q of %s stands there twice", f.Path, f.Repo)
		}
		seen[f.name()] = true
	}
	return l, nil
}

// Merge is what both lists have; more says that the latest has what the former has not, so that it is worth being written down.
// What was fetched last stands first, so that beyond the bound those files go that no install has asked for the longest: packages
// that a repository has replaced.
func Merge(former, latest List) (merged List, more bool) {
	known := map[name]string{}
	for _, f := range former {
		known[f.name()] = f.Digest
	}
	seen := map[name]bool{}
	for _, f := range latest {
		digest, ok := known[f.name()]
		more = more || !ok || digest != f.Digest
		seen[f.name()] = true
	}
	if !more {
		return former, false
	}
	merged = append(merged, latest...)
	for _, f := range former {
		if !seen[f.name()] {
			merged = append(merged, f)
		}
	}
	return merged[:min(len(merged), MaxFiles)], true
}
