package api

import (
	"offshoot/swarm"
)

// ArmRequest is the body of POST /v1/machines/{mac}/arm.
type ArmRequest struct {
	Profile string `json:"profile,omitempty"`
	Disk    string `json:"disk,omitempty"`
	Wipe    bool   `json:"wipe,omitempty"`
	User    string `json:"user,omitempty"` // who it is reserved for from now on
}

func arm(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b ArmRequest) (swarm.Op, error) {
		return swarm.ArmMachine{MAC: mac, Profile: b.Profile, Disk: b.Disk, Wipe: b.Wipe, User: b.User}, nil
	})
}

// ReleaseRequest is the body of POST /v1/machines/{mac}/release.
type ReleaseRequest struct {
	Disk    string `json:"disk,omitempty"` // the only one; none: all that are not removable
	Wipe    bool   `json:"wipe,omitempty"` // also what offshoot did not install
	Discard bool   `json:"discard,omitempty"`
}

func release(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b ReleaseRequest) (swarm.Op, error) {
		return swarm.ReleaseMachine{MAC: mac, Disk: b.Disk, Wipe: b.Wipe, Discard: b.Discard}, nil
	})
}

// wakeAnswer says where the magic packet went.
type wakeAnswer struct {
	Segment string `json:"segment"`
}

func wake(q *request, mac swarm.MAC) (any, error) {
	var none struct{}
	if err := q.read(&none); err != nil {
		return nil, err
	}
	segment, err := q.desk.Wake(q.Context(), q.caller.Actor(), mac)
	return wakeAnswer{segment}, err
}

// UserRequest is the body of POST /v1/machines/{mac}/reserve. No user lifts a reservation.
type UserRequest struct {
	User string `json:"user"`
}

func reserveMachine(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b UserRequest) (swarm.Op, error) { return swarm.ReserveMachine{MAC: mac, User: b.User}, nil })
}

// LabelRequest is the body of POST /v1/machines/{mac}/label.
type LabelRequest struct {
	Set  map[string]string `json:"set,omitempty"`
	Drop []string          `json:"drop,omitempty"`
}

func labelMachine(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b LabelRequest) (swarm.Op, error) {
		return swarm.LabelMachine{MAC: mac, Set: b.Set, Drop: b.Drop}, nil
	})
}

// OwnDiskRequest is the body of POST /v1/machines/{mac}/own-disk. No method is what the machine's model wants.
type OwnDiskRequest struct {
	Method string `json:"method"`
}

func ownDisk(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b OwnDiskRequest) (swarm.Op, error) { return swarm.SetOwnDisk{MAC: mac, Method: b.Method}, nil })
}

// UnknownRequest is the body of POST /v1/unknown.
type UnknownRequest struct {
	Unknown string `json:"unknown"` // free, wait, off
}

func unknown(q *request) (any, error) {
	return decide(q, func(b UnknownRequest) (swarm.Op, error) {
		return swarm.SetUnknown{Unknown: swarm.Unknown(b.Unknown)}, nil
	})
}

// ConsoleRequest is the body of POST /v1/console-installs.
type ConsoleRequest struct {
	On bool `json:"on"`
}

func consoleInstalls(q *request) (any, error) {
	return decide(q, func(b ConsoleRequest) (swarm.Op, error) { return swarm.SetConsoleInstalls{On: b.On}, nil })
}
