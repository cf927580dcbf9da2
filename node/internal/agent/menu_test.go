package agent

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offshoot/node/internal/install"
)

var menuDisks = []install.Disk{{Path: "/dev/sda", Size: 500e9}, {Path: "/dev/sdb", Size: 16e9, Removable: true}, {Path: "/dev/sdc", Size: 4e12}}

func menuOf(profiles ...string) *menu {
	return newMenu(install.Order{Do: install.DoWait, Name: "m1", Machine: testMAC, Text: "free", Profiles: profiles}, menuDisks)
}

func TestMenuLeadsToAnInstall(t *testing.T) {
	for name, c := range map[string]struct {
		typed string
		want  *install.Request
	}{
		"an empty disk":     {"2 2 1", &install.Request{Wish: install.WishInstall, Profile: "db", Disk: "/dev/sdc"}},
		"a disk with data":  {"1 1 2", &install.Request{Wish: install.WishInstall, Profile: "web", Disk: "/dev/sda", Wipe: true}},
		"back, and another": {"1 3 2 1 1", &install.Request{Wish: install.WishInstall, Profile: "db", Disk: "/dev/sda"}},
		"back at the end":   {"1 1 3 1", nil},
		"slips":             {"1 x 7 0 -1 1", nil},
		"wait":              {"3", nil},
		"its own disk":      {"4", &install.Request{Wish: install.WishOwnDisk}},
		"power off":         {"5", &install.Request{Wish: install.WishOff}},
	} {
		m := menuOf("web", "db")
		var got *install.Request
		for _, line := range strings.Fields(c.typed) {
			if got != nil {
				t.Fatalf("%s: a wish before %q was typed: %+v", name, line, got)
			}
			got, _ = m.enter(line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got != nil {
			if err := got.Validate(); err != nil {
				t.Errorf("%s: the node would refuse it: %v", name, err)
			}
		}
	}
}

func TestMenuWithoutTheRightSaysWhatToTypeOnANode(t *testing.T) {
	m := menuOf()
	text := m.text()
	for _, want := range []string{"m1 (" + testMAC + ")", "nothing is written", "/dev/sda 500.0 GB", "/dev/sdc", "offshoot machine assign " + testMAC + " PROFILE", "1  wait", "3  power off"} {
		if !strings.Contains(text, want) {
			t.Errorf("the menu lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "install ") && strings.Contains(text, "  1  install") || strings.Contains(text, "/dev/sdb") {
		t.Errorf("the menu offers what it must not:\n%s", text)
	}
}

// Whatever is typed into a menu that allows no installs asks for none.
func FuzzMenuAsksOnlyForWhatItMay(f *testing.F) {
	f.Add("1\n1\n2")
	f.Fuzz(func(t *testing.T, typed string) {
		closed, open := menuOf(), menuOf("web")
		for _, line := range strings.Split(typed, "\n") {
			if q, _ := closed.enter(line); q != nil && q.Wish == install.WishInstall {
				t.Fatalf("asked for %+v", q)
			}
			if q, _ := open.enter(line); q != nil {
				if err := q.Validate(); err != nil || q.Disk == "/dev/sdb" {
					t.Fatalf("asked for %+v: %v", q, err)
				}
			}
		}
	})
}
