//go:build wire

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// installerTree is what the ISO is made of: many files in one directory, long names, depth, links, sizes around a sector.
func installerTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		".disk/info":          `Debian GNU/Linux 13.1.0 "Trixie" - Official amd64 NETINST with firmware 20250906-10:22`,
		"install.amd/vmlinuz": strings.Repeat("kernel", 100_000), "install.amd/initrd.gz": strings.Repeat("initrd", 300_000),
		"a/b/c/d/e/f/g/h/i/deep": "deep", strings.Repeat("long", 50): "a long name", "empty": "", "sector": strings.Repeat("x", 2048), "sector+1": strings.Repeat("x", 2049),
	}
	for i := range 300 {
		files[fmt.Sprintf("pool/main/l/libx/libx-%03d_1.0+b1_amd64.deb", i)] = strings.Repeat("y", i*7)
	}
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "dists/trixie"), 0o755), os.Symlink("trixie", filepath.Join(root, "dists/stable")),
		os.WriteFile(filepath.Join(root, "dists/trixie/Release"), []byte("release"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestInstallersISOIsServedFileByFile: xorriso makes an image, somebody signs its checksum, an operator adds it, a machine reads
// every file of it from the node by HTTP; damaged bytes are found.
func TestInstallersISOIsServedFileByFile(t *testing.T) {
	t.Parallel()
	lab.Need(t, "xorriso")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, small := world(t)
	seed, _, err := w.Seeded(ctx, small)
	if err != nil {
		t.Fatal(err)
	}
	tree, dir := installerTree(t), t.TempDir()
	image, keyring := filepath.Join(dir, "debian-13.1.0-amd64-netinst.iso"), filepath.Join(dir, "keys.gpg")
	if out, err := seed.Host.Run(ctx, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-joliet-long", "-V", "Debian 13.1.0 amd64 n", "-o", image, tree); err != nil {
		t.Fatalf("xorriso: %v: %s", err, out)
	}
	signFile(t, image, keyring)
	if out, err := seed.Offshoot(ctx, "artifact", "add", "--iso", image, "--keyring", keyring); err != nil {
		t.Fatalf("add: %v: %s", err, out)
	}
	digest := ""
	if s, err := seed.Status(ctx); err != nil {
		t.Fatal(err)
	} else if at := slices.IndexFunc(s.Artifacts, func(a status.Artifact) bool { return a.Name == filepath.Base(image) }); at < 0 || !strings.HasPrefix(s.Artifacts[at].Verified, "signed by ") {
		t.Fatalf("it is not among the artifacts, or not signed: %+v", s.Artifacts)
	} else {
		digest = s.Artifacts[at].Digest
	}
	shown, err := seed.Offshoot(ctx, "artifact", "show", digest)
	if err != nil || !strings.Contains(shown, "Debian 13.1.0 amd64") || !strings.Contains(shown, "/iso/"+digest+"/install.amd/vmlinuz") {
		t.Errorf("show: %v: %s", err, shown)
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: seed.Host.Dial}}
	defer client.CloseIdleConnections()
	served := 0
	err = filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(tree, p)
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		want, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		got, err := fetchFrom(ctx, client, digest, rel)
		if err == nil && string(got) != string(want) {
			err = errors.New("they differ")
		}
		if err != nil {
			return fmt.Errorf("%s: %d bytes, want %d: %w", rel, len(got), len(want), err)
		}
		served++
		return nil
	})
	if err != nil || served < 300 {
		t.Errorf("%d files were served: %v", served, err)
	}
	if got, err := fetchFrom(ctx, client, digest, "dists/stable/Release"); err != nil || string(got) != "release" {
		t.Errorf("through a link: %q, %v", got, err)
	}
	if out, err := seed.Offshoot(ctx, "artifact", "verify"); err != nil {
		t.Errorf("verify: %v: %s", err, out)
	}
}

// signFile puts SHA256SUMS and its signature beside a file, as Debian does.
func signFile(t *testing.T, file, keyring string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := lab.NewPublisher(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	sums := fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(data), filepath.Base(file))
	signature, err := key.Signature(sums)
	beside := filepath.Join(filepath.Dir(file), "SHA256SUMS")
	if err := errors.Join(err, os.WriteFile(beside, sums, 0o644), os.WriteFile(beside+".sign", signature, 0o644), os.WriteFile(keyring, key.Keyring, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func fetchFrom(ctx context.Context, client *http.Client, digest, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://192.168.42.1:7480/iso/"+digest+"/"+strings.ReplaceAll(path, "+", "%2B"), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	return data, err
}
