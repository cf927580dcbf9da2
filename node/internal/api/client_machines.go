package api

import (
	"context"

	"offshoot/swarm"
)

// Arm makes the next network boot of a machine an install.
func (c *Client) Arm(ctx context.Context, mac swarm.MAC, r ArmRequest) error {
	return c.onMachine(ctx, mac, "arm", r, nil)
}

// Release has the next network boot of a machine wipe its disks.
func (c *Client) Release(ctx context.Context, mac swarm.MAC, r ReleaseRequest) error {
	return c.onMachine(ctx, mac, "release", r, nil)
}

// Wake sends a magic packet to a machine, and says on which segment.
func (c *Client) Wake(ctx context.Context, mac swarm.MAC) (segment string, err error) {
	var answer wakeAnswer
	err = c.onMachine(ctx, mac, "wake", nil, &answer)
	return answer.Segment, err
}

// Reserve keeps a machine for a user; none lifts that.
func (c *Client) Reserve(ctx context.Context, mac swarm.MAC, user string) error {
	return c.onMachine(ctx, mac, "reserve", UserRequest{user}, nil)
}

// Label puts labels on a machine, and takes others off.
func (c *Client) Label(ctx context.Context, mac swarm.MAC, set map[string]string, drop []string) error {
	return c.onMachine(ctx, mac, "label", LabelRequest{set, drop}, nil)
}

// OwnDisk chooses how a machine is told to start its own disk; "" is what its model wants.
func (c *Client) OwnDisk(ctx context.Context, mac swarm.MAC, method string) error {
	return c.onMachine(ctx, mac, "own-disk", OwnDiskRequest{method}, nil)
}

// SetUnknown changes what machines do that nobody asked for: free, wait, off.
func (c *Client) SetUnknown(ctx context.Context, unknown string) error {
	return c.call(ctx, "POST", "/v1/unknown", UnknownRequest{unknown}, nil)
}

// SetConsoleInstalls says whether free machines may be installed from their console.
func (c *Client) SetConsoleInstalls(ctx context.Context, on bool) error {
	return c.call(ctx, "POST", "/v1/console-installs", ConsoleRequest{on}, nil)
}

func (c *Client) onMachine(ctx context.Context, mac swarm.MAC, verb string, body, answer any) error {
	return c.call(ctx, "POST", "/v1/machines/"+string(mac)+"/"+verb, body, answer)
}
