package driver

import (
	"fmt"
	"slices"

	"offshoot/swarm"
)

// debian is Debian's own installer, told by a preseed.
type debian struct{}

var _ Driver = debian{}

// debianReleases are those whose installer the preseed was written for.
var debianReleases = []string{"bookworm", "trixie"}

func (debian) Params() []string {
	return []string{
		"packages", "partitioning", "disk", "users", "ssh_keys", "password_hash", "locale", "keyboard", "timezone", "kernel_args",
		"installer_args", "mirror", "pre", "post",
	}
}

func (debian) Boots() []string { return []string{"kernel", "initrd"} }

func (debian) Check(p swarm.Profile, _ Params) error {
	if !slices.Contains(debianReleases, p.Release) {
		return fmt.Errorf("release: %q%s", clip(p.Release), suggest(p.Release, debianReleases))
	}
	return nil
}

func (debian) Files(swarm.Profile) []string { return []string{"preseed.cfg"} }

func (debian) Args(d Data) []string {
	return append([]string{"auto=true", "priority=critical", "url=" + d.URL + "/preseed.cfg"}, d.Params.InstallerArgs...)
}

func (debian) Lint(string, []byte) error { return nil }
