package driver

import (
	"errors"

	"offshoot/swarm"
)

// image writes a disk image: our own agent does it, and there is no file that anybody else reads.
type image struct{}

var _ Driver = image{}

func (image) Params() []string { return []string{"disk", "ssh_keys", "password_hash"} }
func (image) Boots() []string  { return nil }

func (image) Check(p swarm.Profile, _ Params) error {
	if p.Image == "" {
		return errors.New("image: driver image writes one: name its file with --image")
	}
	return nil
}

func (image) Args(Data) []string           { return nil }
func (image) Files(swarm.Profile) []string { return nil }
func (image) Lint(string, []byte) error    { return nil }
