package status

import "time"

// Exchange is what the node that answers has moved since it began, and what it moves now.
type Exchange struct {
	Fetched   int64 `json:"fetched"`    // by BitTorrent: bytes that were new here
	Served    int64 `json:"served"`     // by BitTorrent: bytes that others got from here
	BadPieces int   `json:"bad_pieces"` // pieces that were not what the infohash says: thrown away, and their sender dropped
	Open      int   `json:"open"`       // torrents that are open now
	Stored    int64 `json:"stored"`     // bytes of artifacts on the disk, packages of mirrored repositories among them

	Bytes        Traffic  `json:"bytes"`        // of artifacts, whichever way they went
	Repositories Received `json:"repositories"` // bytes of mirrored package repositories
}

// Traffic is bytes by where they came from and where they went.
type Traffic struct {
	Received Received `json:"received"`
	Sent     Sent     `json:"sent"`
}

// Received is bytes by source.
type Received struct {
	Disk     int64 `json:"disk"`     // were here when they were needed
	Segment  int64 `json:"segment"`  // from nodes that share a segment with this one
	Uplink   int64 `json:"uplink"`   // from nodes of other segments
	Upstream int64 `json:"upstream"` // from outside of the swarm
}

// Sum is all of them.
func (r Received) Sum() int64 { return r.Disk + r.Segment + r.Uplink + r.Upstream }

// Sent is bytes by who got them.
type Sent struct {
	Segment int64 `json:"segment"` // nodes that share a segment with this one
	Uplink  int64 `json:"uplink"`  // nodes of other segments
	Boot    int64 `json:"boot"`    // machines that boot or install, by plain HTTP
	Install int64 `json:"install"` // machines that install themselves, in pieces
}

// Sum is all of them.
func (s Sent) Sum() int64 { return s.Segment + s.Uplink + s.Boot + s.Install }

// Fetch is an artifact on its way to the node that answers.
type Fetch struct {
	Digest string    `json:"digest"`
	Name   string    `json:"name"`
	Size   int64     `json:"size"`
	Done   int64     `json:"done"`  // bytes that are here
	Rate   float64   `json:"rate"`  // bytes per second, over the last seconds
	Peers  int       `json:"peers"` // that it is connected to
	Began  time.Time `json:"began"`
	ETA    float64   `json:"eta,omitempty"` // seconds that are left at this rate; 0: nobody can tell
}

// Left is how long the rest takes at the present rate; ok is false if nothing comes.
func (f Fetch) Left() (d time.Duration, ok bool) {
	if f.Rate < 1 || f.Done > f.Size {
		return 0, false
	}
	return time.Duration(float64(f.Size-f.Done) / f.Rate * float64(time.Second)), true
}
