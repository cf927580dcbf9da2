package web

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

const (
	openly   = "/grub/open.cfg"
	securely = "/grub/secure.cfg"
)

// TestGRUBIsToldByItsAddress: it knows no nonce, so who asks is whoever has the lease, and gets that boot's.
func TestGRUBIsToldByItsAddress(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	h.want(h.ask(request{path: openly}), http.StatusOK, "linux '(http,192.168.42.1:7480)/artifact/"+kernel+"/vmlinuz'", "'offshoot.url=http://192.168.42.1:7480/b/"+nonce1+"'")
	h.want(h.ask(request{path: openly, from: addr2}), http.StatusOK, "starts the agent")
	<-h.noted
	<-h.noted
}

// TestRefusalOfGRUBIsAConfiguration: GRUB runs whatever comes, also with an error, and must not ask again without a pause.
func TestRefusalOfGRUBIsAConfiguration(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	refused := func(q request, why string) {
		t.Helper()
		body := h.want(h.ask(q), http.StatusOK, "waits: ", why)
		if !strings.HasPrefix(body, "echo '") || strings.Contains(body, nonce1) || strings.Count(body, "\n") != 2 || !strings.HasSuffix(body, "\nsleep 10\n") {
			t.Errorf("more than a reason and a pause:\n%s", body)
		}
	}
	refused(request{path: openly, from: netip.MustParseAddr("192.168.42.99")}, "leased to nobody")
	refused(request{path: securely, from: netip.MustParseAddr("10.9.9.9")}, "leased to nobody")
	h.neighbour = mac2
	refused(request{path: securely}, "is used by "+string(mac2))
	h.neighbour, h.duty = "", false
	refused(request{path: securely}, "does not hold duty")
	if got := h.machine().Loader; got != swarm.LoaderAuto {
		t.Errorf("learned %q from who was refused", got)
	}
}

func TestInstalledMachineIsSentToItsDiskByGRUB(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseInstalled, Final: true, Percent: 100}), http.StatusOK)
	if s := h.want(h.ask(request{path: securely}), http.StatusOK, "chainloader"); strings.Contains(s, "linux") {
		t.Errorf("an installed machine is started into a kernel:\n%s", s)
	}
	<-h.noted
}

// TestSecureBootIsLearnedFromGRUB: nobody else knows it. What an operator chose for the machine stands.
func TestSecureBootIsLearnedFromGRUB(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.want(h.ask(request{path: openly}), http.StatusOK)
	<-h.noted
	if got := h.machine().Loader; got != swarm.LoaderAuto {
		t.Errorf("learned %q of a machine without Secure Boot", got)
	}
	for _, c := range []struct{ chosen, want swarm.Loader }{{swarm.LoaderIPXE, swarm.LoaderIPXE}, {swarm.LoaderAuto, swarm.LoaderSigned}} {
		h.must(swarm.SetLoader{MAC: mac1, Loader: c.chosen})
		h.want(h.ask(request{path: securely}), http.StatusOK)
		if c.want == swarm.LoaderSigned {
			<-h.learned
		}
		if got := h.machine().Loader; got != c.want {
			t.Errorf("chosen %q: learned %q", c.chosen, got)
		}
	}
	learned := 0
	for _, e := range h.state.View().Events(mac1) {
		if e.Kind == "secure-boot" {
			learned++
		}
	}
	if learned != 1 {
		t.Errorf("%d lines on the timeline, want one", learned)
	}
}

// TestGRUBFindsItsFirstLines wherever a build of it looks, and shim finds GRUB although it writes two slashes.
func TestGRUBFindsItsFirstLines(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.duty = false // these are the same for every machine
	for _, path := range []string{"/grub/grub.cfg", "/EFI/debian/grub.cfg", "/grub.cfg"} {
		h.want(h.ask(request{path: path}), http.StatusOK, "source '(http,192.168.42.1:7480)/grub/'$question")
		h.want(h.ask(request{path: path, method: http.MethodHead}), http.StatusOK)
	}
	h.want(h.ask(request{path: "/boot//grubx64.efi"}), http.StatusOK, "MZ")
	h.want(h.ask(request{path: "/boot/shimx64.efi"}), http.StatusOK, "MZ")
	h.want(h.ask(request{path: "/boot/revocations_sku.efi"}), http.StatusNotFound)
	h.want(h.ask(request{path: "/grub/x86_64-efi/fs.lst"}), http.StatusNotFound)
}
