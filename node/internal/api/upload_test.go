package api

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"offshoot/node/status"
)

func TestUploadCarriesWhatTheOperatorSaysOfIt(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	client := NewClient(serve(t, desk))
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	sent := int64(0)
	a, err := client.Upload(t.Context(), file, Upload{Name: "linux & co", Origin: "http://x.test/?a=b", Verified: "signed by X: A → B", SHA256: "ab"}, func(n, size int64) { sent = n })
	if err != nil || a.Name != "linux & co" || sent != 5 {
		t.Errorf("%+v, %v, %d bytes", a, err, sent)
	}
	if want := `store {Name:linux & co Origin:http://x.test/?a=b Verified:signed by X: A → B SHA256:ab}: "bytes" of 5 bytes`; !slices.Equal(desk.did, []string{want}) {
		t.Errorf("%q", desk.did)
	}
	desk.err = errors.New("no room")
	if _, err := client.Upload(t.Context(), file, Upload{Name: "x"}, nil); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
	if w := ask(&clerk{}, http.MethodPut, "/v1/artifacts", "bytes"); w.Code != http.StatusBadRequest {
		t.Errorf("without a name: %d %s", w.Code, w.Body)
	}
	for _, bad := range []string{file + "none", t.TempDir()} {
		if _, err := client.Upload(t.Context(), bad, Upload{Name: "x"}, nil); err == nil {
			t.Errorf("%s was sent", bad)
		}
	}
}

func TestOneArtifactIsShownAndVerifiedByTheBeginningOfItsDigest(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	client := NewClient(serve(t, desk))
	if a, err := client.Artifact(t.Context(), "abcdef12"); err != nil || a.Name != "image" || a.Medium == nil || a.Medium.Distribution != "Debian" {
		t.Errorf("%+v, %v", a, err)
	}
	if v, err := client.VerifyArtifact(t.Context(), "abcdef5"); err != nil || !v.Good || !slices.Equal(desk.did, []string{"verify abcdef5678"}) {
		t.Errorf("%+v, %v, %q", v, err, desk.did)
	}
	for begin, says := range map[string]string{"abcdef": "2 artifacts begin", "abc": "6 digits at least", "ffffff": "not known"} {
		if _, err := client.Artifact(t.Context(), begin); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", begin, err)
		}
	}
	if !(status.Artifact{Verified: "unverified: nobody signed it"}).Unverified() || (status.Artifact{Verified: "built here"}).Unverified() {
		t.Error("what is unverified is mistaken")
	}
}
