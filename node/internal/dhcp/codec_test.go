package dhcp

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FuzzCodecAgreesWithTheLibrary holds our reading and writing against the library's, which is the reference.
func FuzzCodecAgreesWithTheLibrary(f *testing.F) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatalf("no captured packets: %v", err)
	}
	for _, path := range files {
		raw := load(f, strings.TrimSuffix(filepath.Base(path), ".hex"))
		f.Add(raw)
		f.Add(raw[:len(raw)-1])
		twice, err := dhcpv4.FromBytes(raw)
		if err != nil {
			f.Fatal(err)
		}
		twice.Options[optionRelay], twice.Options[200], twice.Options[201] = []byte("\x05\x04\x0a\x00\x00\x01"), []byte(strings.Repeat("long", 100)), nil
		f.Add(twice.ToBytes())
	}
	var p dhcpv4.DHCPv4 // used again and again, as the server does
	f.Fuzz(func(t *testing.T, raw []byte) {
		want, wrong := dhcpv4.FromBytes(raw)
		before := string(raw)
		if err := parse(raw, &p); (err == nil) != (wrong == nil) {
			t.Fatalf("we say %v, the library %v", err, wrong)
		}
		if string(raw) != before {
			t.Fatal("reading has changed the packet")
		}
		if wrong != nil {
			return
		}
		if diff := cmp.Diff(*want, p, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-library +ours):\n%s", diff)
		}
		if diff := cmp.Diff(want.ToBytes(), encode(nil, &p)); diff != "" {
			t.Fatalf("(-library +ours):\n%s", diff)
		}
		for code := range 256 {
			c := dhcpv4.GenericOptionCode(code)
			if want.IsOptionRequested(c) != asksFor(&p, c) {
				t.Fatalf("option %d is asked for: %v", code, asksFor(&p, c))
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	for _, name := range []string{"dhclient-discover", "dhclient-request", "ipxe-bios-request"} {
		b.Run(name, func(b *testing.B) {
			raw, cfg := load(b, name), testConfig()
			var p dhcpv4.DHCPv4
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				c, err := decode(raw, &p)
				if err != nil {
					b.Fatal(err)
				}
				plan := Decide(day, &p, c, View{Duty: Full, Candidate: c.Requested, Reserved: c.Requested, NewNonce: nonce}, cfg)
				if plan.Reply != nil {
					out = encode(out[:0], plan.Reply)
				}
			}
		})
	}
}
