package mirror

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fedora writes a repository as createrepo_c does.
func fedora(t testing.TB, files map[string][]byte, key *signer, pkgs ...pkg) {
	t.Helper()
	var primary bytes.Buffer
	fmt.Fprintf(&primary, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metadata xmlns=\"http://linux.duke.edu/metadata/common\" xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\" packages=\"%d\">\n", len(pkgs))
	for _, p := range pkgs {
		files["os/Packages/"+p.name+".rpm"] = p.data
		fmt.Fprintf(&primary, "<package type=\"rpm\">\n  <name>%s</name>\n  <arch>x86_64</arch>\n  <version epoch=\"0\" ver=\"1\" rel=\"1\"/>\n", p.name)
		fmt.Fprintf(&primary, "  <checksum type=\"sha256\" pkgid=\"YES\">%s</checksum>\n  <summary>a &lt;b&gt;</summary>\n", textSum(string(p.data)))
		fmt.Fprintf(&primary, "  <size package=\"%d\" installed=\"5\" archive=\"6\"/>\n  <location href=\"Packages/%s.rpm\"/>\n  <format>\n    <rpm:license>MIT</rpm:license>\n  </format>\n</package>\n", len(p.data), p.name)
	}
	primary.WriteString("</metadata>\n")
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	list := z.EncodeAll(primary.Bytes(), nil)
	name := "repodata/" + textSum(string(list)) + "-primary.xml.zst"
	files["os/"+name] = list
	files["os/repodata/repomd.xml"] = fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo" xmlns:rpm="http://linux.duke.edu/metadata/rpm">
  <revision>1</revision>
  <data type="primary">
    <checksum type="sha256">%s</checksum>
    <location href="%s"/>
    <size>%d</size>
  </data>
</repomd>
`, textSum(string(list)), name, len(list))
	if key != nil {
		files["os/repodata/repomd.xml.asc"] = key.detached(t, files["os/repodata/repomd.xml"])
	}
}

func TestRepositoryOfDNF(t *testing.T) {
	key := newSigner(t)
	files := map[string][]byte{}
	fedora(t, files, &key, small, big)
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring})
	for name, data := range files { // in any order: the list of packages is fetched when it is needed
		if name == "os/repodata/repomd.xml" {
			continue
		}
		h.want("os/repodata/repomd.xml", files["os/repodata/repomd.xml"])
		h.want(name, data)
	}
	h.restart()
	u.Close()
	for name, data := range files {
		h.want(name, data)
	}
	h.wantCode("os/Packages/other.rpm", 404, "names it")
}

func TestRepomdIsHeldToItsSignature(t *testing.T) {
	key := newSigner(t)
	files := map[string][]byte{}
	fedora(t, files, nil, small)
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring})
	h.wantCode("os/repodata/repomd.xml", 502, "repomd.xml.asc") // with a keyring there must be one
	free := newHouse(t, Repo{Upstreams: []string{u.URL}})
	free.want("os/repodata/repomd.xml", files["os/repodata/repomd.xml"])
	u.change(func(f map[string][]byte) { f["os/Packages/small.rpm"] = spoil(small.data) })
	free.wantCode("os/Packages/small.rpm", 502, "do not match")
	u.change(func(f map[string][]byte) { f["os/repodata/repomd.xml"] = []byte("<html>Log in</html>") })
	portal := newHouse(t, Repo{Upstreams: []string{u.URL}})
	portal.wantCode("os/repodata/repomd.xml", 502, "captive portal")
}
