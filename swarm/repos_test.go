package swarm

import (
	"bytes"
	"strings"
	"testing"
)

func TestRepositoriesAreReplacedByNameAndDropped(t *testing.T) {
	h := founded(t)
	h.must(seedID, PutRepo{Repo{Name: "debian", Upstreams: []string{"http://a.example/debian"}, Keyring: []byte("k")}})
	changed := h.s.Changed()
	want := Repo{Name: "debian", Upstreams: []string{"https://b.example/", "http://a.example/debian"}, Keyring: []byte("k2"), Unlisted: true}
	h.must(seedID, PutRepo{want})
	select {
	case <-changed:
	default:
		t.Error("mirrors were not woken")
	}
	var b bytes.Buffer
	if err := h.s.Snapshot()(&b); err != nil {
		t.Fatal(err)
	}
	other := NewState()
	if err := other.Restore(&b); err != nil {
		t.Fatal(err)
	}
	for _, v := range []View{h.s.View(), other.View()} {
		if all := v.Repos(); len(all) != 1 || !all[0].Equal(want) {
			t.Fatalf("%+v", all)
		}
	}
	h.must(seedID, DropRepo{"debian"})
	h.refused(seedID, DropRepo{"debian"}, ErrNotFound)
	if n := len(h.s.View().Repos()); n != 0 {
		t.Fatalf("%d repositories", n)
	}
}

func TestRepositoriesThatMakeNoSenseAreRefused(t *testing.T) {
	h := founded(t)
	good := "http://a.example/debian"
	for name, r := range map[string]Repo{
		"no name":         {Upstreams: []string{good}},
		"path as name":    {Name: "../x", Upstreams: []string{good}},
		"dot":             {Name: ".", Upstreams: []string{good}},
		"upper case":      {Name: "Debian", Upstreams: []string{good}},
		"long name":       {Name: strings.Repeat("a", maxRepoName+1), Upstreams: []string{good}},
		"no upstream":     {Name: "x"},
		"many upstreams":  {Name: "x", Upstreams: strings.Fields(strings.Repeat(good+" ", maxUpstreams+1))},
		"not http":        {Name: "x", Upstreams: []string{"file:///etc"}},
		"no host":         {Name: "x", Upstreams: []string{"http:///x"}},
		"not a URL":       {Name: "x", Upstreams: []string{"http://%zz"}},
		"query":           {Name: "x", Upstreams: []string{good + "?a=b"}},
		"long URL":        {Name: "x", Upstreams: []string{good + strings.Repeat("x", maxURL)}},
		"endless keyring": {Name: "x", Upstreams: []string{good}, Keyring: make([]byte, maxKeyring+1)},
	} {
		t.Run(name, func(t *testing.T) { h.refused(seedID, PutRepo{r}, ErrInvalid) })
	}
	err := h.ask("ann", seedID, PutRepo{Repo{Name: "x", Upstreams: []string{"http://ann:sesame@a.example/"}}}).Err()
	if err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a password: %v", err)
	}
	for _, e := range h.s.View().Audit() {
		if strings.Contains(e.Text+e.Refused, "sesame") {
			t.Errorf("a password in the audit log: %+v", e)
		}
	}
	for i := range maxRepos {
		h.must(seedID, PutRepo{Repo{Name: "x" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Upstreams: []string{good}}})
	}
	h.refused(seedID, PutRepo{Repo{Name: "more", Upstreams: []string{good}}}, ErrFull)
	h.must(seedID, PutRepo{Repo{Name: "xaa", Upstreams: []string{good}}}) // it was there before
}
