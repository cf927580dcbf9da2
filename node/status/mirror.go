package status

import "time"

// Mirror is what one node's mirror of package repositories has done since it began, and what is wrong with it.
type Mirror struct {
	Repos    []Repo       `json:"repos"`
	Sets     []WorkingSet `json:"sets"`
	Problems []string     `json:"problems"` // sentences for people
}

// How far a node is with a working set.
const (
	SetFetching   = "fetching"
	SetComplete   = "complete"
	SetIncomplete = "incomplete"  // tried again from time to time
	SetLeft       = "not-fetched" // the node expects to leave, and fetches none
)

// WorkingSet is what installs of a profile fetch through the mirrors, and how much of it the node has.
type WorkingSet struct {
	Profile string `json:"profile"`
	Digest  string `json:"digest"` // of the list of its files
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
	State   string `json:"state"`
	Here    int    `json:"here"`              // files that were here when last tried
	Gone    int    `json:"gone,omitempty"`    // files that no source knows any more
	Problem string `json:"problem,omitempty"` // why some could not be fetched
}

// Repo is one repository.
type Repo struct {
	Name      string      `json:"name"`
	Upstreams []string    `json:"upstreams"`
	Above     []string    `json:"above"`  // mirrors of other nodes that are asked instead
	Signed    bool        `json:"signed"` // a keyring vouches for it; else it is held to its own sums only
	Unlisted  bool        `json:"unlisted,omitempty"`
	Proxy     string      `json:"proxy,omitempty"` // on the way to the upstreams, for whoever asks them
	Limit     int64       `json:"limit,omitempty"` // bytes per second that a node takes from the upstreams; 0: no limit
	States    []RepoState `json:"states,omitempty"`
	Pins      int         `json:"pins"` // clients and installations that are held to one state

	// Bytes that clients got from the disk, and that came from other mirrors and from upstreams.
	FromDisk      int64 `json:"from_disk"`
	FromMirrors   int64 `json:"from_mirrors"`
	FromUpstreams int64 `json:"from_upstreams"`
	Mismatches    int64 `json:"mismatches"` // files that no source has as the metadata names them
}

// RepoState is the newest state of one folder with metadata.
type RepoState struct {
	Dir        string    `json:"dir"`
	Verified   string    `json:"verified"` // "signed by KEY" or "unverified"
	Checked    time.Time `json:"checked"`  // when a source last said that this is the newest
	ValidUntil time.Time `json:"valid_until,omitzero"`
	Stale      string    `json:"stale,omitempty"` // why it may be out of date
}
