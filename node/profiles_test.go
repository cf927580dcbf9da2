package node

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"offshoot/node/internal/driver"
	"offshoot/swarm"
)

// stocked is a swarm with a default profile, and two artifacts that a profile can name.
func stocked(t *testing.T) *book {
	t.Helper()
	b := newBook(t)
	digest := func(c string) string { return strings.Repeat(c, 64) }
	b.apply("", swarm.PutProfile{Default: true, Profile: swarm.Profile{
		Name: "default", Driver: "image", Image: digest("a"), Format: "raw", Kernel: digest("b"), Initrd: digest("c"), Binary: digest("d"), RootHash: "$6$salt$0123456789abcdef",
	}})
	for _, c := range []string{"a", "e", "f", "1"} {
		b.apply("", swarm.PutArtifact{Artifact: swarm.Artifact{Digest: digest(c), Size: 7}})
	}
	b.apply("", swarm.PutArtifact{Artifact: swarm.Artifact{Digest: "1" + strings.Repeat("2", 63)}})
	return b
}

const webDocument = "driver: debian\nrelease: trixie\ninstaller: {kernel: eeeeee, initrd: ffffffff}\n"

func TestProfileIsCheckedBeforeItIsWrittenDown(t *testing.T) {
	t.Parallel()
	b := stocked(t)
	p, err := draft(b.state.View(), "web", []byte(webDocument), PutHow{Create: true})
	if err != nil || p.Installer["kernel"] != strings.Repeat("e", 64) || p.Binary != strings.Repeat("d", 64) || p.RootHash == "" || p.Image != "" || p.Check() != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	b.apply("ann", swarm.PutProfile{Profile: p})
	for document, want := range map[string]string{
		"drvier: debian":                                                "did you mean driver?",
		"driver: debian\nrelease: trixie":                               "kernel is missing",
		strings.Replace(webDocument, "eeeeee", "eeeee", 1):              "0 artifacts begin with",
		strings.Replace(webDocument, "eeeeee", "999999", 1):             "0 artifacts begin with",
		webDocument + "params: {locale: 'de;'}":                         "locale",
		webDocument + "templates: {preseed.cfg: 'd-i a/b bolean true'}": "preseed.cfg: line 1",
		webDocument + "templates: {preseed.cfg: '{{.Nothing}}'}":        "Nothing",
	} {
		if _, err := draft(b.state.View(), "web", []byte(document), PutHow{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", document, err, want)
		}
	}
	if _, err := draft(b.state.View(), "web", []byte(webDocument), PutHow{Create: true}); err == nil || !strings.Contains(err.Error(), "offshoot profile edit web") {
		t.Errorf("one that is there: %v", err)
	}
	unknown := strings.Replace(webDocument, "eeeeee", strings.Repeat("9", 64), 1)
	if _, err := draft(b.state.View(), "db", []byte(unknown), PutHow{Check: true}); err != nil {
		t.Errorf("only checked, before its kernel is sent: %v", err)
	}
}

// TestDocumentThatWasChangedSinceIsRecognised by its sum, as whoever read it has it.
func TestDocumentThatWasChangedSinceIsRecognised(t *testing.T) {
	t.Parallel()
	b := stocked(t)
	for _, release := range []string{"trixie", "bookworm"} {
		p, err := draft(b.state.View(), "web", []byte(strings.Replace(webDocument, "trixie", release, 1)), PutHow{})
		if err != nil {
			t.Fatal(err)
		}
		former := b.state.View()
		b.apply("ann", swarm.PutProfile{Profile: p})
		doc, err := driver.DocumentOf(p)
		if err != nil {
			t.Fatal(err)
		}
		text, err := doc.YAML()
		if err != nil {
			t.Fatal(err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(text))
		if q, err := profileOf(b.state.View(), "web", sum); err != nil || !q.Equal(p) {
			t.Errorf("as it was read: %+v, %v", q, err)
		}
		if _, err := profileOf(former, "web", sum); err == nil || !strings.Contains(err.Error(), "changed by somebody else") {
			t.Errorf("another one: %v", err)
		}
	}
}

// TestProfileKeepsWhatItsDocumentDoesNotSay: its agent and its program are its own, once it is there.
func TestProfileKeepsWhatItsDocumentDoesNotSay(t *testing.T) {
	t.Parallel()
	b := stocked(t)
	p, err := draft(b.state.View(), "web", []byte(webDocument), PutHow{})
	if err != nil {
		t.Fatal(err)
	}
	p.Args = "console=ttyS0"
	b.apply("ann", swarm.PutProfile{Profile: p})
	again, err := draft(b.state.View(), "web", []byte(webDocument+"params: {locale: C.UTF-8}"), PutHow{})
	if err != nil || again.Args != "console=ttyS0" || string(again.Params) != `{"locale":"C.UTF-8"}` {
		t.Errorf("%+v, %v", again, err)
	}
	image, err := draft(b.state.View(), "golden", []byte("driver: image\nimage: "+strings.Repeat("a", 64)), PutHow{})
	if err != nil || image.Format != "raw" {
		t.Errorf("the image of the default profile, whose format is known: %+v, %v", image, err)
	}
	image, err = draft(b.state.View(), "golden", []byte("driver: image\nimage: eeeeee"), PutHow{})
	if err != nil || image.Format != "" || image.Image != strings.Repeat("e", 64) {
		t.Errorf("another image, into which nobody has looked yet: %+v, %v", image, err)
	}
}

func TestProfileListSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	b := stocked(t)
	b.apply("ann", swarm.ArmMachine{MAC: "52:54:00:00:00:01", Profile: "default"})
	p, _ := b.state.View().Profile("default")
	line := profileLine(b.state.View(), p)
	if !line.Default || line.Arch != "amd64" || line.Machines != 1 || line.Bytes != 7 || len(line.Missing) != 3 {
		t.Errorf("%+v", line)
	}
}

// TestProfileOfAnotherArchitectureHasAnAgentOfItsOwn, which its document shows; that of profiles which take the default one is not shown.
func TestProfileOfAnotherArchitectureHasAnAgentOfItsOwn(t *testing.T) {
	t.Parallel()
	b := stocked(t)
	document := "driver: image\narch: arm64\nimage: eeeeee\n"
	if _, err := draft(b.state.View(), "arm", []byte(document), PutHow{}); err == nil || !strings.Contains(err.Error(), "--program") {
		t.Errorf("with the agent of amd64: %v", err)
	}
	if _, err := draft(b.state.View(), "arm", []byte(document+"agent: {kernel: ffffff}"), PutHow{}); err == nil || !strings.Contains(err.Error(), "it takes a kernel, an initrd and a program") {
		t.Errorf("half of one: %v", err)
	}
	if _, err := draft(b.state.View(), "arm", []byte(document+"agent: {kernel: ffffff, initrd: 999999, program: aaaaaa}"), PutHow{}); err == nil || !strings.Contains(err.Error(), "agent.initrd: 0 artifacts") {
		t.Errorf("of an artifact that nobody has: %v", err)
	}
	p, err := draft(b.state.View(), "arm", []byte(document+"agent: {kernel: ffffff, initrd: '111111', program: aaaaaa, args: quiet}"), PutHow{})
	if err != nil || p.Kernel != strings.Repeat("f", 64) || p.Initrd != strings.Repeat("1", 64) || p.Binary != strings.Repeat("a", 64) || p.Args != "quiet" {
		t.Fatalf("%+v, %v", p, err)
	}
	b.apply("ann", swarm.PutProfile{Profile: p})
	doc, err := driver.DocumentOf(p)
	if err != nil || doc.Agent.Program != p.Binary {
		t.Errorf("%+v, %v", doc, err)
	}
	doc.Agent = driver.Environment{}
	text, err := doc.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := draft(b.state.View(), "arm", text, PutHow{}); err != nil || again.Kernel != p.Kernel {
		t.Errorf("a document that does not say it: %+v, %v", again, err)
	}
	if doc, err := driver.DocumentOf(swarm.Profile{Name: "x", Driver: "image", Kernel: p.Kernel}); err != nil || doc.Agent != (driver.Environment{}) {
		t.Errorf("shown for amd64: %+v, %v", doc, err)
	}
}
