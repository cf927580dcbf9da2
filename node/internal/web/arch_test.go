package web

import (
	"net/http"
	"strings"
	"testing"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

// TestMachineBootsWhatIsForItsArchitecture: what waits is started with the agent of any profile that fits; what is installed, with
// its own profile or not at all.
func TestMachineBootsWhatIsForItsArchitecture(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.must(swarm.LearnArch{MAC: mac1, Arch: "arm64"})
	h.script("waits: no profile is for arm64", "sleep 10")

	digest := func(c string) string { return strings.Repeat(c, 64) }
	arm := swarm.Profile{
		Name: "arm", Driver: "image", Arch: "arm64", Image: digest("e"), Format: "raw", Kernel: digest("b"), Initrd: digest("c"), Binary: digest("d"), Args: "panic=30",
	}
	h.must(swarm.PutProfile{Profile: arm})
	if script := h.script("/artifact/"+arm.Kernel+"/vmlinuz", "/artifact/"+arm.Initrd+"/initrd", "panic=30"); strings.Contains(script, "waits") {
		t.Error(script)
	}
	if result, err := h.propose(t.Context(), swarm.ArmMachine{MAC: mac1}); err != nil || result.Err() == nil {
		t.Errorf("armed with the default profile, which is for amd64: %v", err)
	}

	h.must(swarm.ArmMachine{MAC: mac1, Profile: "arm"})
	h.script("/artifact/" + arm.Kernel + "/vmlinuz")
	h.must(swarm.LearnArch{MAC: mac1, Arch: "amd64"}) // another machine, with its network card
	h.script("waits: profile arm is for arm64, and the firmware of", "says amd64")
	if o := h.order("", "b1"); o.Do != install.DoWait || !strings.Contains(o.Text, "profile arm is for arm64") {
		t.Errorf("order %+v", o)
	}
	h.want(h.ask(request{path: "/b/" + nonce1 + "/install"}), http.StatusForbidden, "profile arm is for arm64")
}
