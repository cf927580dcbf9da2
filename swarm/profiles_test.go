package swarm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// someDigest is one that looks like one.
func someDigest(c string) string { return strings.Repeat(c, 64) }

func debianProfile(name string) Profile {
	return Profile{
		Name: name, Driver: "debian", Release: "trixie", Kernel: someDigest("b"), Initrd: someDigest("c"), Binary: someDigest("d"),
		Params: json.RawMessage(`{"packages":["curl"]}`), Installer: map[string]string{"kernel": someDigest("e"), "initrd": someDigest("f")},
	}
}

// TestProfilesOfBeforeAreReadAndUnderstoodByAll: what a node of protocol 1 wrote down means the same to everybody.
func TestProfilesOfBeforeAreReadAndUnderstoodByAll(t *testing.T) {
	old := `{"v":1,"id":"1","time":"2026-01-01T00:00:00Z","by":"seed","op":"put-profile","args":{"profile":{"name":"Old Name","driver":"image","image":"aa","format":"raw","kernel":"bb","initrd":"cc","binary":"dd"},"default":true}}`
	c, err := DecodeCommand([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Encode(); err != nil || string(again) != old {
		t.Errorf("%s, %v", again, err)
	}
	if c.Protocol() != 1 {
		t.Errorf("it takes protocol %d", c.Protocol())
	}
	h := founded(t)
	h.must(seedID, c.Op)
	for field, p := range map[string]Profile{
		"release": {Release: "x"}, "arch": {Arch: "x"}, "params": {Params: json.RawMessage("{}")}, "templates": {Templates: map[string]string{}}, "installer": {Installer: map[string]string{}},
	} {
		if got := (Command{Op: PutProfile{Profile: p}}).Protocol(); got != 3 {
			t.Errorf("a profile with %s takes protocol %d", field, got)
		}
	}
}

func TestProfilesAreBoundedAndWellFormed(t *testing.T) {
	h := founded(t)
	h.must(seedID, PutProfile{Profile: debianProfile("web")})
	for name, spoil := range map[string]func(*Profile){
		"name":            func(p *Profile) { p.Name = "Web 1" },
		"driver":          func(p *Profile) { p.Driver = "" },
		"params":          func(p *Profile) { p.Params = json.RawMessage(fmt.Sprintf("%q", strings.Repeat("x", maxParams))) },
		"canonical":       func(p *Profile) { p.Params = json.RawMessage(`{"a": 1}`) },
		"templates":       func(p *Profile) { p.Templates = map[string]string{"x": strings.Repeat("x", maxTemplates)} },
		"number of them":  func(p *Profile) { p.Templates = many(func(i int) string { return "" }) },
		"installer":       func(p *Profile) { p.Installer = many(func(int) string { return someDigest("a") }) },
		"digest":          func(p *Profile) { p.Installer = map[string]string{"kernel": "aa"} },
		"agent":           func(p *Profile) { p.Kernel = "" },
		"digest of image": func(p *Profile) { p.Image = "aa" },
	} {
		p := debianProfile("bad")
		spoil(&p)
		if err := p.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if name != "canonical" { // encoding makes it so
			h.refused(seedID, PutProfile{Profile: p}, ErrInvalid)
		}
	}
	for i := len(h.s.View().Profiles()); i < maxProfiles; i++ {
		h.must(seedID, PutProfile{Profile: debianProfile(fmt.Sprintf("p%d", i))})
	}
	h.refused(seedID, PutProfile{Profile: debianProfile("one-more")}, ErrFull)
	h.must(seedID, PutProfile{Profile: debianProfile("web")}) // changing one always fits
}

func many(value func(int) string) map[string]string {
	out := map[string]string{}
	for i := range maxParts + 1 {
		out[fmt.Sprint(i)] = value(i)
	}
	return out
}

func TestNodesNeedWhatTheInstallersOfTheProfilesBoot(t *testing.T) {
	p := debianProfile("web")
	want := []string{someDigest("b"), someDigest("c"), someDigest("d"), someDigest("f"), someDigest("e")}
	if got := p.Needs(); !slices.Equal(got, want) {
		t.Errorf("needs %v, want %v", got, want)
	}
}

// TestProfileThatSomebodyElseChangedIsNotWrittenOver: of two who change what both have read, the second one is told.
func TestProfileThatSomebodyElseChangedIsNotWrittenOver(t *testing.T) {
	h := founded(t)
	read := debianProfile("web")
	h.must(seedID, PutProfile{Profile: read})
	first, second := read, read
	first.Release, second.Release = "bookworm", "forky"
	h.must(seedID, PutProfile{Profile: first, Instead: &read})
	h.refused(seedID, PutProfile{Profile: second, Instead: &read}, ErrConflict)
	h.must(seedID, PutProfile{Profile: second, Instead: &first})
	if p, _ := h.s.View().Profile("web"); p.Release != "forky" {
		t.Errorf("%+v", p)
	}
	if got := (Command{Op: PutProfile{Instead: &read}}).Protocol(); got != 3 {
		t.Errorf("read by nodes of protocol %d, which would write over it", got)
	}
}

func TestProfileInUseIsNotRemoved(t *testing.T) {
	h := founded(t)
	h.must(seedID, PutProfile{Profile: debianProfile("web")})
	h.refused(seedID, DropProfile{Name: "gone"}, ErrNotFound)
	h.refused(seedID, DropProfile{Name: "p"}, ErrConflict) // what unknown machines get
	h.must(seedID, PutWorkingSet{Set: WorkingSet{Profile: "web", Digest: someDigest("1"), Size: 1, Files: 1}})
	h.must(seedID, ArmMachine{MAC: m1, Profile: "web"})
	h.refused(seedID, DropProfile{Name: "web"}, ErrConflict)
	h.must(seedID, HoldMachine{MAC: m1, Reason: "wait"})
	h.must(seedID, DropProfile{Name: "web"})
	view := h.s.View()
	if _, ok := view.Profile("web"); ok {
		t.Error("it is still there")
	}
	if _, ok := view.WorkingSet("web"); ok {
		t.Error("its working set is still fetched ahead")
	}
}

// TestInstallersReportOnceTheyHaveBegun: what a foreign installer says counts from when it has read what to do, not before.
func TestInstallersReportOnceTheyHaveBegun(t *testing.T) {
	h := founded(t)
	h.must(seedID, PutProfile{Profile: debianProfile("web")})
	h.must(seedID, NameMachine{MAC: m1, Name: "m1"})
	h.refused(seedID, BeginInstall{MAC: m1}, ErrNotArmed)
	h.refused(seedID, BeginInstall{MAC: m2}, ErrNotFound)
	h.must(seedID, ArmMachine{MAC: m1, Profile: "web"})
	m, _ := h.s.View().Machine(m1)
	h.refused(seedID, ReportInstall{MAC: m1, Install: m.Install, Phase: "installer"}, ErrNotArmed)
	h.must(seedID, BeginInstall{MAC: m1})
	h.must(seedID, BeginInstall{MAC: m1}) // it reads several files
	h.must(seedID, ReportInstall{MAC: m1, Install: m.Install, Phase: "installer"})
	h.must(seedID, ReportInstall{MAC: m1, Install: m.Install, Phase: PhaseFailed, Text: "no disk", Final: true})
	h.refused(seedID, BeginInstall{MAC: m1}, ErrNotArmed)
}

// TestDisklessMachineIsNeverArmed: what boots from the network for good gets no ticket, and its profile does not begin to write disks.
func TestDisklessMachineIsNeverArmed(t *testing.T) {
	h := founded(t)
	diskless := debianProfile("thin")
	diskless.Driver, diskless.Release = DriverDiskless, ""
	h.must(seedID, PutProfile{Profile: diskless})
	h.must(seedID, ArmMachine{MAC: m1, Profile: "thin", Wipe: true})
	m, _ := h.s.View().Machine(m1)
	if m.State != MachineNetboot || m.Install != "" {
		t.Errorf("it is %s, arming %q", m.State, m.Install)
	}
	h.refused(seedID, MintTicket{ID: "t", Hash: "h", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(time.Hour)}, ErrNotArmed)
	h.refused(seedID, DropProfile{Name: "thin"}, ErrConflict)
	h.refused(seedID, PutProfile{Profile: debianProfile("thin")}, ErrConflict)
	h.must(seedID, HoldMachine{MAC: m1, Reason: "wait"})
	h.must(seedID, PutProfile{Profile: debianProfile("thin")})
	h.must(seedID, ArmMachine{MAC: m1, Profile: "thin"})
	h.refused(seedID, PutProfile{Profile: diskless}, ErrConflict) // the other way
	if got := (Command{Op: PutProfile{Profile: Profile{Driver: DriverDiskless}}}).Protocol(); got != 3 {
		t.Errorf("a diskless profile takes protocol %d", got)
	}
}
