package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
)

// MaxOrder bounds Order and Request, bytes: an order names the profiles of the swarm.
const MaxOrder = 64 << 10

// Do is what a machine in the boot environment is to do.
type Do string

const (
	DoWait    Do = "wait"    // nothing: it is free, or held
	DoInstall Do = "install" // fetch the config, and install
	DoRelease Do = "release" // wipe its disks
	DoOff     Do = "off"     // switch itself off; it will be woken
	DoRestart Do = "restart" // its disk is ready: start it
)

// Order is the answer to a machine in the boot environment that asks what to do next. It is asked for with the key of the one
// before, and answered as soon as there is another one, or after some seconds.
type Order struct {
	Do      Do     `json:"do"`
	Key     string `json:"key"`            // names this order: another key, another order
	Machine string `json:"machine"`        // MAC
	Name    string `json:"name"`           // of the machine
	Text    string `json:"text,omitempty"` // why, for who stands before it
	// Inventory: the node does not know yet what the machine is, and wants to be told.
	Inventory bool `json:"inventory,omitempty"`
	// Profiles are what may be asked for on the console; none if nothing may.
	Profiles []string `json:"profiles,omitempty"`

	Install string `json:"install,omitempty"` // id of what is done, for the events of a release
	Disk    string `json:"disk,omitempty"`    // of a release: see ParseSelector; "": all that are not removable
	Wipe    bool   `json:"wipe,omitempty"`    // of a release: also what offshoot did not install
	Discard bool   `json:"discard,omitempty"` // of a release: all blocks
}

// Sealed is the order with its key.
func (o Order) Sealed() Order {
	o.Key = ""
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%q", []any{o}) // a hash takes everything
	o.Key = fmt.Sprintf("%016x", h.Sum64())
	return o
}

// Validate names the first field that is wrong by its JSON path.
func (o Order) Validate() error {
	if !slices.Contains([]Do{DoWait, DoInstall, DoRelease, DoOff, DoRestart}, o.Do) {
		return fmt.Errorf("do: %q is unknown", clip(string(o.Do)))
	}
	if err := word("key", o.Key, 64); err != nil {
		return err
	}
	if err := mac("machine", o.Machine); err != nil {
		return err
	}
	if err := hostname("name", o.Name); err != nil {
		return err
	}
	if len(o.Text) > 4096 {
		return fmt.Errorf("text: %d bytes, want at most 4096", len(o.Text))
	}
	if o.Do == DoRelease {
		if err := word("install", o.Install, 64); err != nil {
			return err
		}
	}
	_, err := ParseSelector(o.Disk)
	return err
}

// DecodeOrder reads one Order of at most MaxOrder bytes and validates it.
func DecodeOrder(r io.Reader) (Order, error) {
	var o Order
	err := decode(r, MaxOrder, &o)
	if err == nil {
		err = o.Validate()
	}
	if err != nil {
		return Order{}, fmt.Errorf("order: %w", err)
	}
	return o, nil
}

// Wish is what somebody at the console of a free machine asks for.
type Wish string

const (
	WishInstall Wish = "install" // this profile on this disk
	WishOff     Wish = "off"     // the machine is about to switch itself off
	WishOwnDisk Wish = "disk"    // its own disk instead of the agent, at its next boot
)

// Request carries a wish to the node that serves the machine, which may refuse it.
type Request struct {
	Wish    Wish   `json:"wish"`
	Profile string `json:"profile,omitempty"`
	Disk    string `json:"disk,omitempty"` // see ParseSelector
	Wipe    bool   `json:"wipe,omitempty"`
}

// Encode is what DecodeRequest reads.
func (q Request) Encode() ([]byte, error) { return json.Marshal(q) }

// DecodeRequest reads one Request of at most MaxOrder bytes and validates it.
func DecodeRequest(r io.Reader) (Request, error) {
	var q Request
	err := decode(r, MaxOrder, &q)
	if err == nil {
		err = q.Validate()
	}
	if err != nil {
		return Request{}, fmt.Errorf("request: %w", err)
	}
	return q, nil
}

// Validate names the first field that is wrong by its JSON path.
func (q Request) Validate() error {
	if !slices.Contains([]Wish{WishInstall, WishOff, WishOwnDisk}, q.Wish) {
		return fmt.Errorf("wish: %q is unknown", clip(string(q.Wish)))
	}
	if q.Wish != WishInstall && (q.Profile != "" || q.Disk != "" || q.Wipe) {
		return errors.New("only an install has a profile and a disk")
	}
	if q.Wish == WishInstall && q.Profile == "" {
		return errors.New("profile: missing")
	}
	if _, err := ParseSelector(q.Disk); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	return nil
}
