package swarm

import "testing"

func TestMachinesAreArmedWithProfilesForTheirArchitectureOnly(t *testing.T) {
	h := founded(t)
	const mac, other = MAC("52:54:00:00:00:01"), MAC("52:54:00:00:00:02")
	arm := Profile{Name: "arm", Driver: "image", Arch: "aarch64", Image: digestOf("a"), Kernel: digestOf("b"), Initrd: digestOf("c"), Binary: digestOf("d")}
	h.must(seedID, PutProfile{Profile: arm})
	h.refused(seedID, LearnArch{MAC: mac, Arch: "arm64"}, ErrNotFound)
	h.must(seedID, ArmMachine{MAC: mac, Profile: "arm"}) // not seen yet: it may be anything
	h.must(seedID, LearnArch{MAC: mac, Arch: "arm64"})
	h.must(seedID, LearnArch{MAC: mac, Arch: "arm64"})
	told := 0
	for _, e := range h.s.View().Events(mac) {
		if e.Kind == "arch" {
			told++
		}
	}
	if m, _ := h.s.View().Machine(mac); m.Architecture() != "arm64" || told != 1 {
		t.Errorf("it is %q, told %d times", m.Architecture(), told)
	}
	h.must(seedID, ArmMachine{MAC: mac, Profile: "arm"})
	h.refused(seedID, ArmMachine{MAC: mac, Profile: "p"}, ErrConflict)
	h.must(seedID, LearnArch{MAC: mac, Arch: "amd64"}) // its network card is in another machine now
	h.must(seedID, ArmMachine{MAC: mac, Profile: "p"})
	h.refused(seedID, ArmMachine{MAC: mac, Profile: "arm"}, ErrConflict)

	h.must(seedID, SeeMachine{MAC: other, Segment: "s1"})
	h.must(seedID, LearnArch{MAC: other, Arch: "amd64"}) // as everybody
	if m, _ := h.s.View().Machine(other); m.Arch != "" {
		t.Errorf("written down: %q", m.Arch)
	}
}
