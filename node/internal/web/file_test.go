package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"offshoot/node/internal/driver"
	"offshoot/node/internal/install"
	"offshoot/swarm"
)

// debianHouse has a profile of Debian's own installer, and the first machine armed with it.
func debianHouse(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	p, _ := h.state.View().Profile("p")
	p.Name, p.Driver, p.Release, p.Image = "deb", "debian", "trixie", ""
	p.Params, p.Installer = json.RawMessage(`{"kernel_args":["console=ttyS0"]}`), map[string]string{"kernel": kernel, "initrd": initrd}
	h.must(swarm.PutProfile{Profile: p})
	h.must(swarm.ArmMachine{MAC: mac1, Profile: "deb"})
	return h
}

func (h *house) file(name string) *http.Response {
	return h.ask(request{path: "/b/" + nonce1 + "/" + name})
}

func TestArmedMachineBootsTheInstallerOfItsProfile(t *testing.T) {
	t.Parallel()
	h := debianHouse(t)
	h.script("starts the installer of debian", "kernel --name vmlinuz http://192.168.42.1:7480/artifact/"+kernel+"/kernel initrd=initrd.img auto=true",
		"url=http://192.168.42.1:7480/b/"+nonce1+"/preseed.cfg", "console=ttyS0 --- || goto failed", "initrd --name initrd.img http://192.168.42.1:7480/artifact/"+initrd+"/initrd")
	if got := h.machine().State; got != swarm.MachineArmed {
		t.Errorf("asking for the script made the machine %s", got)
	}
}

// TestFilesAreForTheMachineThatIsToBeInstalled: the checks are those of the install config.
func TestFilesAreForTheMachineThatIsToBeInstalled(t *testing.T) {
	t.Parallel()
	h := debianHouse(t)
	h.want(h.ask(request{path: "/b/" + nonce1 + "/preseed.cfg", from: addr2}), http.StatusConflict, "belongs to")
	h.want(h.ask(request{path: "/b/" + nonce2 + "/preseed.cfg", from: addr2}), http.StatusForbidden, "arm it with")
	h.want(h.ask(request{path: "/b/CCCC/preseed.cfg"}), http.StatusNotFound)
	h.neighbour = mac2
	h.want(h.file("preseed.cfg"), http.StatusConflict, "is used by")
	h.neighbour = ""
	h.want(h.file("preseed.cf"), http.StatusNotFound, "did you mean preseed.cfg?")
	if got := h.machine().State; got != swarm.MachineArmed {
		t.Errorf("what was refused made the machine %s", got)
	}
	body := h.want(h.file("preseed.cfg"), http.StatusOK, "mirror/http/hostname string 192.168.42.1:7480")
	if got := h.machine().State; got != swarm.MachineInstalling {
		t.Errorf("the installer has read its file, and the machine is %s", got)
	}
	h.want(h.file(driver.Hooks), http.StatusOK, "offshoot_sum='"+binary+"'")
	if len(h.minted) != 0 || strings.Contains(body, "os1.") {
		t.Error("a ticket was minted for a file that everybody on the segment can read")
	}
	h.must(swarm.HoldMachine{MAC: mac1, Reason: "wait"})
	h.want(h.file("preseed.cfg"), http.StatusForbidden, "held")
	h.must(swarm.ArmMachine{MAC: mac1, Profile: "p"})
	h.want(h.file("preseed.cfg"), http.StatusNotFound, "driver image has no") // the agent reads none
}

func TestInstallerIsNotToldWhatToDoBeforeThatIsWrittenDown(t *testing.T) {
	t.Parallel()
	h := debianHouse(t)
	h.refuse = func(swarm.Op) error { return errors.New("no quorum") }
	h.want(h.file("preseed.cfg"), http.StatusServiceUnavailable, "no quorum")
}

// TestHooksReportWithoutAnInstallID: they are shell, and say no more than they must. The agent's words are held to its id.
func TestHooksReportWithoutAnInstallID(t *testing.T) {
	t.Parallel()
	h := debianHouse(t)
	h.want(h.event(install.Event{Phase: install.PhaseInstaller, Text: "too early"}), http.StatusOK)
	if got := h.reports(); len(got) != 0 {
		t.Fatalf("reported before it began: %v", got)
	}
	h.want(h.file("preseed.cfg"), http.StatusOK)
	h.want(h.event(install.Event{Phase: install.PhaseInstaller, Text: "runs"}), http.StatusOK)
	h.want(h.event(install.Event{Phase: install.PhasePackages, Text: "unpacks"}), http.StatusOK)
	if got := h.reports(); len(got) != 2 || got[1].Install != h.machine().Install || got[1].Phase != "packages" {
		t.Errorf("%+v", got)
	}
	h.want(h.event(install.Event{Phase: install.PhaseFailed, Failed: true, Final: true, Text: "no disk fits"}), http.StatusOK)
	if m := h.machine(); m.State != swarm.MachineHeld || m.Reason != "no disk fits" {
		t.Errorf("machine is %s: %s", m.State, m.Reason)
	}
	agent := newHouse(t)
	agent.arm()
	agent.config()
	agent.want(agent.event(install.Event{Phase: install.PhaseInstalled}), http.StatusOK)
	if got := agent.reports(); len(got) != 0 || agent.machine().State != swarm.MachineInstalling {
		t.Errorf("an event without an id counts for a machine with the agent: %+v", got)
	}
}

func TestConfigForAnotherInstallerHasNoImage(t *testing.T) {
	t.Parallel()
	h := debianHouse(t)
	c := h.config()
	if c.Image != (install.Image{}) || c.Disk != "smallest" || c.RootHash == "" || c.Binary != binary || c.Join.Ticket == "" {
		t.Errorf("%+v", c)
	}
}

// TestPreviewIsWhatTheMachineGets, byte for byte.
func TestPreviewIsWhatTheMachineGets(t *testing.T) {
	t.Parallel()
	h := debianHouse(t)
	view := h.state.View()
	p, _ := view.Profile("deb")
	lease, _ := view.LeaseByNonce(nonce1)
	files, err := Preview(view, h.machine(), p, Place{Lease: lease, Self: self})
	if err != nil || len(files) != 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if got := h.script(); got != files[0].Text {
		t.Errorf("script:\n%s\nwas shown as\n%s", got, files[0].Text)
	}
	for _, f := range files[1:] {
		if got := text(t, h.file(f.Name)); got != f.Text {
			t.Errorf("%s:\n%s\nwas shown as\n%s", f.Name, got, f.Text)
		}
	}
}

// TestConfigCarriesWhatCloudInitIsTold: the agent leaves it on the disk, since nobody serves it when the system first starts.
func TestConfigCarriesWhatCloudInitIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	p, _ := h.state.View().Profile("p")
	p.Params = json.RawMessage(`{"cloud_init":true,"packages":["vim"]}`)
	h.must(swarm.PutProfile{Profile: p})
	h.arm()
	cfg := h.config()
	if !strings.Contains(cfg.CloudInit["user-data"], "packages: [\"vim\"]\n") || !strings.Contains(cfg.CloudInit["meta-data"], "instance-id: "+cfg.Install+"\n") {
		t.Errorf("cloud-init is told %q", cfg.CloudInit)
	}
	p.Params = nil
	h.must(swarm.PutProfile{Profile: p})
	if cfg = h.config(); cfg.CloudInit != nil {
		t.Errorf("an image without cloud-init is given %q", cfg.CloudInit)
	}
}

// TestDisklessMachineGetsNoConfig: G5 for machines that are never installed, also if a wish to install them is in the ledger.
func TestDisklessMachineGetsNoConfig(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	p, _ := h.state.View().Profile("p")
	p.Name, p.Driver, p.Image = "thin", swarm.DriverDiskless, ""
	p.Params, p.Installer = json.RawMessage(`{"root":"nfs:192.168.42.5:/srv"}`), map[string]string{"kernel": kernel, "initrd": initrd}
	h.must(swarm.PutProfile{Profile: p})
	h.must(swarm.ArmMachine{MAC: mac1, Profile: "thin", Wipe: true})
	h.script("kernel --name vmlinuz http://192.168.42.1:7480/artifact/"+kernel+"/kernel", "root=/dev/nfs nfsroot=192.168.42.5:/srv")
	for range 2 {
		h.want(h.ask(request{path: "/b/" + nonce1 + "/install"}), http.StatusForbidden, "arm it with")
		h.want(h.file(driver.Hooks), http.StatusForbidden)
	}
	if len(h.minted) != 0 || h.machine().State != swarm.MachineNetboot {
		t.Errorf("%d tickets, the machine is %s", len(h.minted), h.machine().State)
	}
}

// TestStage2HasATreeOfItsOwn: Anaconda asks for images/install.img below the URL that it is given, after .treeinfo.
func TestStage2HasATreeOfItsOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.want(h.ask(request{path: "/artifact/" + image + "/tree/images/install.img"}), http.StatusOK)
	h.want(h.ask(request{path: "/artifact/" + image + "/tree/.treeinfo"}), http.StatusNotFound)
}
