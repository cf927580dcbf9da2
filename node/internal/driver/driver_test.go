package driver

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offshoot/swarm"
)

var update = flag.Bool("update", false, "write the goldens anew")

// digest is one that looks like one.
func digest(c string) string { return strings.Repeat(c, 64) }

// base is the default profile that a seed wrote down.
var base = swarm.Profile{
	Name: "default", Driver: "image", Image: digest("a"), Format: "raw.zst", Kernel: digest("b"), Initrd: digest("c"), Binary: digest("d"),
	RootHash: "$6$salt$0123456789abcdef", SSHKeys: []string{"ssh-ed25519 AAAA me"}, Disk: "smallest",
}

// of makes a profile of a document, as a node does.
func of(t *testing.T, yaml string) swarm.Profile {
	t.Helper()
	doc, err := ParseDocument([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	p, err := doc.Profile("web", base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const debianHead = "driver: debian\nrelease: trixie\ninstaller:\n  kernel: eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\n  initrd: ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\n"

// debianProfiles are parameter sets, each of which has its goldens.
var debianProfiles = map[string]string{
	"plain": debianHead,
	"btrfs": debianHead + "params: {partitioning: btrfs, disk: serial=S3Z8, kernel_args: [console=ttyS0, quiet], packages: [nginx, curl]}\n",
	"lvm": debianHead + `params:
  partitioning: lvm
  users:
    - {name: alice, full_name: Alice O'Neil, password_hash: $6$salt$0123456789abcdef, ssh_keys: [ssh-ed25519 AAAA alice], groups: [adm], sudo: true}
    - {name: bob}
  locale: de_DE.UTF-8
  keyboard: de
  timezone: Europe/Berlin
  mirror: deb13
  installer_args: [console=ttyS1]
  pre: |
    echo "it's pre"
  post: |
    cat <<END >/root/post
    $HOME 'quoted' \ {{not a template}}
    END
`,
}

func TestRenderedFilesOfDebian(t *testing.T) {
	t.Parallel()
	for name, yaml := range debianProfiles {
		p := of(t, yaml)
		if err := errors.Join(Check(p), p.Check()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range Lint(p) {
			t.Errorf("%s: %s", name, f)
		}
		d, err := See(p, Example, 7480)
		if err != nil {
			t.Fatal(err)
		}
		boot, err := BootOf(p, d)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", name, "boot"), []byte(boot.Kernel+"\n"+boot.Initrd+"\n"+strings.Join(boot.Args, " ")+"\n"))
		for _, file := range FilesOf(p) {
			text, err := Render(p, d, file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", name, file), text)
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestForeignReadersAcceptWhatIsRendered: debconf takes the preseeds, and a shell the hooks.
func TestForeignReadersAcceptWhatIsRendered(t *testing.T) {
	t.Parallel()
	for name := range debianProfiles {
		for file, with := range map[string][]string{"preseed.cfg": {"debconf-set-selections", "-c"}, "hooks.sh": {"sh", "-n"}, Hooks: {"sh", "-n"}} {
			if _, err := exec.LookPath(with[0]); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			out, err := exec.CommandContext(t.Context(), with[0], append(with[1:], filepath.Join("testdata", name, file))...).CombinedOutput()
			if err != nil || strings.Contains(string(out), "warning") {
				t.Errorf("%s/%s: %v: %s", name, file, err, out)
			}
		}
	}
}

// TestSnippetsReachTheShellAsTheyWereWritten: whatever an operator writes is data until the shell runs it.
func TestSnippetsReachTheShellAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"plain", "it's", `a\b "c" $d $(e) ` + "`f`", "two\nlines\n", "'", "", "OFFSHOOT\n'\\''"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q arrives as %q, %v", s, out, err)
		}
	}
}

func TestDocumentsAreReadStrictly(t *testing.T) {
	t.Parallel()
	for yaml, want := range map[string]string{
		"":                               "empty",
		"- a":                            "want lines such as",
		"driver: debian\nrelaese: x":     `line 2: there is no "relaese"; did you mean release?`,
		"params:\n  packges: [a]":        `line 2: there is no "packges" in params; did you mean packages?`,
		"params: {time-zone: Etc/UTC}":   "did you mean timezone?",
		"params: {users: [{naem: a}]}":   `there is no "naem" in users; did you mean name?`,
		"params: {zzz: 1}":               "there are: flavour",
		"driver: a\ndriver: b":           "driver",
		"a: &a [1]\nb: *a":               `there is no "a"`,
		"driver: &a debian\nrelease: *a": "say it again",
		"params: {packages: nginx}":      "line 1: cannot unmarshal",
		"driver: a\n---\ndriver: b":      "more than one document",
	} {
		if _, err := ParseDocument([]byte(yaml)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", yaml, err, want)
		}
	}
	if _, err := ParseDocument(make([]byte, MaxDocument+1)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a large one: %v", err)
	}
}

// TestDocumentsSurviveTheLedger: what is shown is what was written.
func TestDocumentsSurviveTheLedger(t *testing.T) {
	t.Parallel()
	for name, yaml := range debianProfiles {
		p := of(t, yaml)
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again swarm.Profile
		if err := json.Unmarshal(raw, &again); err != nil {
			t.Fatal(err)
		}
		doc, err := DocumentOf(again)
		if err != nil {
			t.Fatal(err)
		}
		text, err := doc.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if got := of(t, string(text)); !cmp.Equal(got, p) {
			t.Errorf("%s: %s", name, cmp.Diff(p, got))
		}
	}
}

func TestProfilesThatCannotBeInstalledAreRefused(t *testing.T) {
	t.Parallel()
	for yaml, want := range map[string]string{
		"driver: debain":                  "did you mean debian?",
		"driver: debian\nrelease: trixie": "installer: kernel is missing",
		"driver: image":                   "name its file with --image",
		"driver: image\nimage: " + digest("a") + "\nparams: {packages: [a]}":                 "packages: for an image that has cloud-init only",
		debianHead + "arch: arm64\nagent: {kernel: aaaaaa, initrd: bbbbbb, program: cccccc}": `arch: "arm64"`,
		strings.Replace(debianHead, "trixie", "trixy", 1):                                    "did you mean trixie?",
		strings.Replace(debianHead, "kernel:", "kernle:", 1):                                 "kernel is missing",
		debianHead + "templates: {preseed: x}":                                               "did you mean preseed.cfg?",
		debianHead + "params: {luks: true}":                                                  "luks: driver debian cannot encrypt a disk safely",
		debianHead + "params: {partitioning: zfs}":                                           "want plain, btrfs or lvm",
		debianHead + "params: {disk: biggest}":                                               `selector "biggest"`,
		debianHead + "params: {locale: \"de; rm\"}":                                          "locale",
		debianHead + "params: {timezone: ../x}":                                              "timezone",
		debianHead + "params: {packages: [\"a b\"]}":                                         "packages",
		debianHead + "params: {packages: [\"a\\nd-i x/y string z\"]}":                        "packages",
		debianHead + "params: {kernel_args: [\"a b\"]}":                                      "kernel_args",
		debianHead + "params: {password_hash: secret}":                                       "openssl passwd -6",
		debianHead + "params: {mirror: a/b}":                                                 "mirror",
		debianHead + "params: {users: [{name: Alice}]}":                                      "users[0]",
		debianHead + "params: {users: [{name: a}, {name: a}]}":                               "users[1]",
		debianHead + "params: {users: [{name: root}]}":                                       "users[0]",
		debianHead + "params: {users: [{name: a, full_name: \"a:b\"}]}":                      "full_name",
		debianHead + "params: {users: [{name: a, password_hash: secret}]}":                   "openssl passwd -6",
		debianHead + "params: {pre: \"a\\r\\nb\"}":                                           "pre",
		debianHead + "params: {installer_args: [" + strings.Repeat("a, ", 30) + "b]}":        "gets 41 arguments, and it takes 32",
	} {
		p := of(t, yaml)
		if err := Check(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", yaml, err, want)
		}
	}
}

// TestProfileSaysWhatTheSeedWasToldWhereItSaysNothing also holds the other way round: what it says counts.
func TestProfileSaysWhatTheSeedWasToldWhereItSaysNothing(t *testing.T) {
	t.Parallel()
	silent, err := ParamsOf(of(t, debianHead))
	if err != nil || silent.PasswordHash != base.RootHash || !slices.Equal(silent.SSHKeys, base.SSHKeys) || silent.Disk != "smallest" {
		t.Errorf("%+v, %v", silent, err)
	}
	own, err := ParamsOf(of(t, debianHead+"params: {password_hash: $6$salt$fedcba9876543210, ssh_keys: [ssh-rsa BBBB you], disk: /dev/vda}"))
	if err != nil || own.PasswordHash != "$6$salt$fedcba9876543210" || !slices.Equal(own.SSHKeys, []string{"ssh-rsa BBBB you"}) || own.Disk != "/dev/vda" {
		t.Errorf("%+v, %v", own, err)
	}
	armed := Example
	armed.Disk = "wwn=0x5"
	if d, err := See(of(t, debianHead), armed, 7480); err != nil || d.Params.Disk != "wwn=0x5" {
		t.Errorf("what the machine was armed with: %q, %v", d.Params.Disk, err)
	}
}

func TestTemplatesOfOperatorsAreBounded(t *testing.T) {
	t.Parallel()
	p := of(t, debianHead)
	d, err := See(p, Example, 7480)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"{{range 1000000000000}}{{end}}":                              "range goes over a field",
		"{{$n := 1000000000000}}{{range $n}}{{end}}":                  "range goes over a field",
		"{{range .Params.Packages | len}}{{end}}":                     "range goes over a field",
		"{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}": "defines no others",
		"{{template \"preseed.cfg\" .}}":                              "calls no others",
		"{{.Nothing}}":                                                "Nothing",
		"{{.Installer.nothing}}":                                      "nothing",
		"{{printf \"%999999d\" 1}}":                                   "larger than",
		"{{fail \"why\"}}":                                            "why",
		"{{call .Params}}":                                            "call",
		"{{if":                                                        "unclosed",
		"{{range .Others}}{{range .x}}{{range .y}}{{range .z}}{{end}}{{end}}{{end}}{{end}}": "3 deep",
	} {
		p.Templates = map[string]string{"preseed.cfg": text}
		if _, err := Render(p, d, "preseed.cfg"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	p.Templates["preseed.cfg"] = "mine {{.Hostname}}{{range .Params.SSHKeys}} {{.}}{{end}}"
	if got, err := Render(p, d, "preseed.cfg"); err != nil || string(got) != "mine node-123456 ssh-ed25519 AAAA me" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Render(p, d, "../common/"+Hooks); !errors.Is(err, ErrNoFile) {
		t.Errorf("a file that is none: %v", err)
	}
}

// TestPreseedsThatDebconfWouldChokeOnAreFound, and those that would stop the installer or tell a password to everybody.
func TestPreseedsThatDebconfWouldChokeOnAreFound(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile("testdata/plain/preseed.cfg")
	if err != nil {
		t.Fatal(err)
	}
	for add, want := range map[string]string{
		"d-i netcfg/enable\n":                               "want OWNER QUESTION TYPE VALUE",
		"d-i netcfg/enable bolean true\n":                   "did you mean boolean?",
		"d-i netcfg/enable boolean yes\n":                   "want true or false",
		"d-i partman/confirm boolean true\n":                "partman/confirm was answered on line",
		"d-i passwd/root-password password secret\n":        "a password in clear",
		"d-i partman-crypto/passphrase password secret\n":   "a password in clear",
		"d-i partman-auto/expert_recipe string a \\ \n b\n": "ends with a backslash and blanks",
	} {
		if err := (debian{}).Lint("preseed.cfg", append(slices.Clone(good), add...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", add, err, want)
		}
	}
	for _, question := range preseedAnswers {
		var rest []string
		for line := range strings.Lines(string(good)) {
			if !strings.Contains(line, " "+question+" ") {
				rest = append(rest, line)
			}
		}
		if err := (debian{}).Lint("preseed.cfg", []byte(strings.Join(rest, ""))); err == nil || !strings.Contains(err.Error(), question) {
			t.Errorf("without %s: %v", question, err)
		}
	}
	if err := (debian{}).Lint("preseed.cfg", good); err != nil {
		t.Error(err)
	}
}

// TestEveryDriverIsWhole: what a driver says of itself holds together.
func TestEveryDriverIsWhole(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		d, err := Of(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, param := range d.Params() {
			if !slices.Contains(ParamNames(), param) {
				t.Errorf("%s carries out %q, which is no parameter", name, param)
			}
		}
		p := swarm.Profile{Driver: name}
		for _, file := range d.Files(p) {
			text, err := source(p, file)
			if err == nil {
				_, err = compile(file, text)
			}
			if err != nil || !isFile(file) {
				t.Errorf("%s: %s: %v", name, file, err)
			}
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	for _, yaml := range debianProfiles {
		f.Add(yaml)
	}
	f.Fuzz(func(t *testing.T, yaml string) {
		doc, err := ParseDocument([]byte(yaml))
		if err != nil {
			return
		}
		p, err := doc.Profile("web", base)
		if err != nil || Check(p) != nil {
			return
		}
		for _, finding := range Lint(p) {
			t.Log(finding)
		}
	})
}
