package driver

import (
	"errors"
	"fmt"
	"slices"

	"offshoot/swarm"
)

// image writes a disk image: our own agent does it. An image with cloud-init, as distributions make them for clouds, is told
// the rest by files that the agent leaves where cloud-init's datasource NoCloud looks for them.
type image struct{}

var _ Driver = image{}

// anyImage are the parameters that the agent carries out itself, whatever is in the image.
var anyImage = []string{"disk", "ssh_keys", "password_hash"}

func (image) Params() []string {
	return append(slices.Clone(anyImage), "cloud_init", "packages", "users", "locale", "keyboard", "timezone", "mirror", "pre", "post")
}

func (image) Boots() []string { return nil }

func (image) Check(p swarm.Profile, params Params) error {
	if p.Image == "" {
		return errors.New("image: driver image writes one: name its file with --image")
	}
	own, err := stated(p)
	if err != nil {
		return err
	}
	for _, name := range own.set() {
		if !params.CloudInit && !slices.Contains(anyImage, name) {
			return fmt.Errorf("params: %s: for an image that has cloud-init only: say cloud_init: true", name)
		}
	}
	return nil
}

func (image) Args(Data) []string { return nil }

func (image) Files(p swarm.Profile) []string {
	if params, err := stated(p); err != nil || !params.CloudInit {
		return nil
	}
	return []string{"user-data", "meta-data"}
}

// maxSeed bounds what travels to the agent within its config, bytes.
const maxSeed = 48 << 10

// Lint implements Driver. What cloud-init itself would say comes from `cloud-init schema`, which the tests ask.
func (image) Lint(file string, text []byte) error {
	if len(text) > maxSeed {
		return fmt.Errorf("%d bytes, at most %d", len(text), maxSeed)
	}
	if file != "user-data" {
		return nil
	}
	_, err := lintCloudConfig(text)
	return err
}
