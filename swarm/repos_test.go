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
	want := Repo{
		Name: "debian", Upstreams: []string{"https://b.example/", "http://a.example/debian"}, Keyring: []byte("k2"), Unlisted: true,
		Proxy: "https://proxy.example:3128", Limit: 20_000_000,
	}
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
		"proxy by name":   {Name: "x", Upstreams: []string{good}, Proxy: "proxy.example:3128"},
		"proxy of socks":  {Name: "x", Upstreams: []string{good}, Proxy: "socks5://proxy.example:1080"},
		"proxy: no host":  {Name: "x", Upstreams: []string{good}, Proxy: "http://:3128"},
		"proxy with path": {Name: "x", Upstreams: []string{good}, Proxy: "http://proxy.example:3128/x"},
		"proxy, query":    {Name: "x", Upstreams: []string{good}, Proxy: "http://proxy.example:3128/?a=b"},
		"negative limit":  {Name: "x", Upstreams: []string{good}, Limit: -1},
		"limit too small": {Name: "x", Upstreams: []string{good}, Limit: minRate - 1},
		"limit too large": {Name: "x", Upstreams: []string{good}, Limit: maxRate + 1},
		"long proxy":      {Name: "x", Upstreams: []string{good}, Proxy: "http://" + strings.Repeat("x", maxURL)},
	} {
		t.Run(name, func(t *testing.T) { h.refused(seedID, PutRepo{r}, ErrInvalid) })
	}
	for _, r := range []Repo{
		{Name: "x", Upstreams: []string{"http://ann:sesame@a.example/"}},
		{Name: "x", Upstreams: []string{good}, Proxy: "http://ann:sesame@proxy.example:3128"},
		{Name: "x", Upstreams: []string{good}, Proxy: "http://ann:sesame@proxy.example:31%28"},
	} {
		err := h.ask("ann", seedID, PutRepo{r}).Err()
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("a password: %v", err)
		}
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

// TestRepositoriesOfBeforeAreReadAndUnderstoodByAll: a field that older nodes do not know is written only when it is used.
func TestRepositoriesOfBeforeAreReadAndUnderstoodByAll(t *testing.T) {
	old := `{"v":1,"id":"1","time":"2026-01-01T00:00:00Z","by":"seed","op":"put-repo","args":{"repo":{"name":"x","upstreams":["http://a.example/"]}}}`
	c, err := DecodeCommand([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	plain := Repo{Name: "x", Upstreams: []string{"http://a.example/"}}
	if got := c.Op.(PutRepo).Repo; !got.Equal(plain) || got.Check() != nil {
		t.Errorf("%+v, %v", got, got.Check())
	}
	if again, err := c.Encode(); err != nil || string(again) != old {
		t.Errorf("%s, %v", again, err)
	}
	proxied, limited := plain, plain
	proxied.Proxy, limited.Limit = "http://proxy.example:3128", minRate
	for i, want := range []int{1, 2, 2} {
		r := []Repo{plain, proxied, limited}[i]
		if got := (Command{Op: PutRepo{r}}).Protocol(); got != want {
			t.Errorf("%+v takes protocol %d, want %d", r, got, want)
		}
		if r.Equal(plain) != (i == 0) {
			t.Errorf("%+v: the mirror would not notice", r)
		}
	}
}
