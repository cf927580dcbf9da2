package driver_test

import (
	"strings"
	"testing"

	"offshoot/node/internal/driver"
)

func TestKickstartOfEveryDistribution(t *testing.T) {
	t.Parallel()
	plain := func(p *driver.Params) { p.Mirror = "mirror" }
	for _, c := range []struct {
		golden, driver, release string
		params                  driver.Params
	}{
		{"fedora-plain.ks", "fedora", "43", driver.Params{Mirror: "fedora"}},
		{"fedora-full.ks", "fedora", "43", full(func(p *driver.Params) {
			p.Mirror, p.Flavour, p.Partitioning, p.Pre = "fedora", "workstation", "btrfs", "echo before\n"
			p.Packages = append(p.Packages, "@development-tools")
		})},
		{"centos-stream-lvm.ks", "centos-stream", "10-stream", full(func(p *driver.Params) { plain(p); p.Flavour, p.Partitioning = "server", "lvm" })},
		{"almalinux.ks", "almalinux", "9.6", full(plain)},
		{"rocky.ks", "rocky", "10", full(plain)},
	} {
		t.Run(c.golden, func(t *testing.T) {
			t.Parallel()
			files := rendered(t, profile(t, c.driver, c.release, c.params))
			golden(t, c.golden, files["ks.cfg"])
			for name, text := range files {
				if strings.HasPrefix(name, "mirrors-") && strings.Count(text, "/repo/"+c.params.Mirror+"/") != 3 {
					t.Errorf("%s names not the three nodes:\n%s", name, text)
				}
			}
		})
	}
}

// A node may go while a machine is installed: Anaconda is told of others.
func TestAnacondaIsToldOfSeveralNodes(t *testing.T) {
	t.Parallel()
	p := profile(t, "fedora", "43", driver.Params{Mirror: "fedora"})
	d, err := driver.See(p, machine(), 7480)
	if err != nil {
		t.Fatal(err)
	}
	b, err := driver.BootOf(p, d)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(b.Args, " ")
	for _, want := range []string{
		"inst.ks=http://192.168.42.1:7480/b/AAAAAAAAAAAAAAAAAAAAAA/ks.cfg inst.ks=http://192.168.42.20:7480/b/AAAAAAAAAAAAAAAAAAAAAA/ks.cfg inst.ks=http://192.168.42.21:",
		"inst.stage2=http://192.168.42.1:7480/artifact/" + digest("f") + "/tree inst.stage2=http://192.168.42.20:7480/artifact/",
		" inst.ks.all ", " inst.stage2.all ", " inst.ks.sendmac ", " inst.waitfornet=60 ", " inst.leavebootorder ", "inst.syslog=192.168.42.1:514",
		"BOOTIF=01-52-54-00-12-34-56 ",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	if len(line) > 2000 {
		t.Errorf("%d bytes are more than a kernel takes", len(line))
	}
}

// What an ISO image holds need not be named, and everything comes out of it.
func TestInstallerOutOfAnISOImage(t *testing.T) {
	t.Parallel()
	p := profile(t, "rocky", "9", driver.Params{})
	p.Installer = map[string]string{"iso": digest("9")}
	files := rendered(t, p)
	d, err := driver.See(p, machine(), 7480)
	if err != nil {
		t.Fatal(err)
	}
	b, err := driver.BootOf(p, d)
	if err != nil {
		t.Fatal(err)
	}
	tree := "http://192.168.42.1:7480/iso/" + digest("9")
	if b.Kernel != tree+"/images/pxeboot/vmlinuz" || b.Initrd != tree+"/images/pxeboot/initrd.img" || !strings.Contains(strings.Join(b.Args, " "), "inst.stage2="+tree+" ") {
		t.Errorf("boots %+v", b)
	}
	if want := tree + "/AppStream/\n"; !strings.HasPrefix(files["mirrors-1"], want) {
		t.Errorf("packages come from %s, want %s", files["mirrors-1"], want)
	}
	p.Installer["kernel"] = digest("d") // one's own goes before the image's
	if d, err = driver.See(p, machine(), 7480); err != nil {
		t.Fatal(err)
	}
	if b, _ = driver.BootOf(p, d); !strings.HasSuffix(b.Kernel, "/artifact/"+digest("d")+"/kernel") {
		t.Errorf("boots %s", b.Kernel)
	}
}

func TestWhatAnacondaCannotDoIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		driver, release string
		params          driver.Params
		want            string
	}{
		{"fedora", "rawhide", driver.Params{Mirror: "m"}, "want something like 43"},
		{"rocky", "9", driver.Params{Mirror: "m", Partitioning: "btrfs"}, "no btrfs"},
		{"rocky", "9", driver.Params{}, "nothing to take packages from"},
		{"fedora", "43", driver.Params{Mirror: "m", Flavour: "sever"}, "did you mean server?"},
		{"fedora", "43", driver.Params{Mirror: "m", LUKS: true}, "luks: driver fedora cannot encrypt"},
		{"fedora", "43", driver.Params{Mirror: "m", Post: "echo\n %end\n%pre\nrm -rf /"}, "for its own"},
		{"debian", "trixie", driver.Params{Packages: []string{"@server"}}, "is a group"},
	} {
		err := driver.Check(profile(t, c.driver, c.release, c.params))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %+v: %v, want %q", c.driver, c.release, c.params, err, c.want)
		}
	}
}

func TestKickstartLinter(t *testing.T) {
	t.Parallel()
	good := "lang en_US.UTF-8\ntimezone Etc/UTC --utc\nrootpw --lock\n%packages\n@core\n-sendmail\n%end\n"
	for _, c := range []struct{ text, want string }{
		{good + "%post --nochroot\nif true; then echo %done; fi\n%end\n", "want nothing"},
		{good + "part / --fstype=ext4 --size 2000 --grow\nsshkey --username=root 'a \"b\" c' # why\n%include /tmp/x\n", "want nothing"},
		{good + "%post\necho\n", "line 8: %post is not closed by %end"},
		{good + "%post\n%pre\n%end\n", "line 9: %pre, but %post of line 8 is not closed"},
		{good + "%end\n", "line 8: %end closes nothing"},
		{good + "%packages\n%end\n", "stands twice"},
		{good + "%pots\n%end\n", "did you mean %post?"},
		{good + "%post --nochrot\n%end\n", "did you mean nochroot?"},
		{good + "lang de_DE.UTF-8\n", "lang stands in line 1 already"},
		{good + "langg de\n", "did you mean lang?"},
		{good + "autopart --type\n", "--type needs a value"},
		{good + "zerombr yes\n", "1 words beside its options"},
		{good + "firewall --disabled=yes\n", "takes no value"},
		{good + "url --url=http://a --mirrorlist=http://b\n", "exclude each other"},
		{good + "user --name=a --name=b\n", "--name stands twice"},
		{good + "rootpw 'open\n", "is not closed"},
		{strings.Replace(good, "@core", "vim tmux", 1), "one package a line"},
		{strings.Replace(good, "rootpw --lock\n", "", 1), "rootpw is missing"},
	} {
		p := profile(t, "fedora", "43", driver.Params{Mirror: "m"})
		p.Templates = map[string]string{"ks.cfg": c.text}
		found := "want nothing"
		for _, f := range driver.Lint(p) {
			found = f.String()
		}
		if !strings.Contains(found, c.want) {
			t.Errorf("%q: %s, want %q", c.text, found, c.want)
		}
	}
}
