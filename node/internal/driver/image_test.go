package driver_test

import (
	"strings"
	"testing"

	"offshoot/node/internal/driver"
)

func TestUserDataOfACloudImage(t *testing.T) {
	t.Parallel()
	for name, params := range map[string]driver.Params{
		"cloud-plain.yaml": {CloudInit: true},
		"cloud-full.yaml": full(func(p *driver.Params) {
			p.CloudInit, p.Mirror, p.KernelArgs, p.Pre = true, "debian", nil, "echo before"
		}),
	} {
		p := profile(t, "image", "", params)
		p.Image = digest("1")
		files := rendered(t, p)
		golden(t, name, files["user-data"])
		if !strings.Contains(files["meta-data"], "instance-id: example\n") {
			t.Errorf("meta-data: %s", files["meta-data"])
		}
		if _, there := files[driver.Hooks]; there {
			t.Error("the agent is given hooks")
		}
	}
}

// An image without cloud-init would ignore what it is told, and nobody would notice.
func TestWithoutCloudInitNothingIsPromised(t *testing.T) {
	t.Parallel()
	p := profile(t, "image", "", driver.Params{Packages: []string{"vim"}})
	p.Image = digest("1")
	if err := driver.Check(p); err == nil || !strings.Contains(err.Error(), "cloud_init: true") {
		t.Errorf("packages without cloud-init: %v", err)
	}
	p = profile(t, "image", "", driver.Params{Disk: "smallest"})
	p.Image = digest("1")
	if err := driver.Check(p); err != nil || len(driver.FilesOf(p)) > 0 {
		t.Errorf("an image of any kind: %v, files %q", err, driver.FilesOf(p))
	}
}
