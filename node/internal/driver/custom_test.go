package driver_test

import (
	"slices"
	"strings"
	"testing"

	"offshoot/node/internal/driver"
)

func TestOwnKernelGetsOwnArgumentsAndFiles(t *testing.T) {
	t.Parallel()
	p := profile(t, "custom", "", driver.Params{Packages: []string{"vim"}})
	p.Templates = map[string]string{
		"cmdline":     "console=ttyS0 answers={{.URL}}/answers.txt\n mac={{.MAC}}",
		"answers.txt": "install {{join \",\" .Params.Packages}} on {{.Hostname}}; . hooks: {{.URL}}/offshoot.sh\n",
	}
	files := rendered(t, p)
	if want := "install vim on node-123456; . hooks: " + driver.Example.URL + "/offshoot.sh\n"; files["answers.txt"] != want {
		t.Errorf("answers.txt is %q, want %q", files["answers.txt"], want)
	}
	if files[driver.Hooks] == "" {
		t.Error("the hooks are not there")
	}
	d, err := driver.See(p, machine(), 7480)
	if err != nil {
		t.Fatal(err)
	}
	b, err := driver.BootOf(p, d)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"console=ttyS0", "answers=" + d.URL + "/answers.txt", "mac=52:54:00:12:34:56"}; !slices.Equal(b.Args, want) {
		t.Errorf("arguments %q, want %q", b.Args, want)
	}
	p.Templates = nil
	if b, err = driver.BootOf(p, d); err != nil || !slices.Contains(b.Args, "offshoot.url="+d.URL) {
		t.Errorf("arguments without a template: %q, %v", b.Args, err)
	}
}

func TestFilesOfDriverCustomStayInTheirPlace(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"install": "want a plain name", "offshoot.sh": "want a plain name", "../x": "name of a file", ".hidden": "name of a file", "good.txt": "",
	} {
		p := profile(t, "custom", "", driver.Params{})
		p.Templates = map[string]string{name: "text"}
		if err := driver.Check(p); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	p := profile(t, "custom", "", driver.Params{})
	p.Templates = map[string]string{"cmdline": "quiet ${net0/mac}"}
	if found := driver.Lint(p); len(found) == 0 {
		t.Error("arguments that iPXE would expand are taken")
	}
}
