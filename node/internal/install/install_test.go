package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func valid() Config {
	sum := strings.Repeat("ab", 32)
	return Config{
		Install: "0011223344556677", Machine: "52:54:00:00:00:01", Hostname: "m1",
		Image:    Image{URL: "http://192.168.42.1:7480/artifact/x/image", SHA256: sum, Size: 10, Format: FormatRawZstd, DiskSize: 100},
		RootHash: "$6$rounds=5000$salt$abcdefgh./", SSHKeys: []string{"ssh-ed25519 AAAA me@laptop"}, Binary: sum,
		Join: Join{
			Swarm: "s1", Ticket: "os1.id.secret", Pin: "pin", Endpoints: []string{"192.168.42.1:7400"}, Segment: "lan0",
			Address: netip.MustParsePrefix("192.168.42.17/24"), Gateway: netip.MustParseAddr("192.168.42.1"),
			MAC: "52:54:00:00:00:01", Name: "m1",
		},
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestConfigSurvivesTheWire(t *testing.T) {
	got, err := DecodeConfig(bytes.NewReader(encode(t, valid())))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, valid()) {
		t.Fatalf("got %+v", got)
	}
}

func TestValidationNamesTheField(t *testing.T) {
	for _, c := range []struct {
		field string
		spoil func(*Config)
	}{
		{"install:", func(c *Config) { c.Install = "" }},
		{"machine:", func(c *Config) { c.Machine = "52:54:00:00:00" }},
		{"machine:", func(c *Config) { c.Machine = "52-54-00-00-00-01" }},
		{"hostname:", func(c *Config) { c.Hostname = "a b" }},
		{"hostname:", func(c *Config) { c.Hostname = "" }},
		{"hostname:", func(c *Config) { c.Hostname = "a\nb" }},
		{"image.url:", func(c *Config) { c.Image.URL = "file:///etc/shadow" }},
		{"image.sha256:", func(c *Config) { c.Image.SHA256 = "AB" }},
		{"image.size:", func(c *Config) { c.Image.Size = 0 }},
		{"image.format:", func(c *Config) { c.Image.Format = "iso" }},
		{"image.disk_size:", func(c *Config) { c.Image.DiskSize = -1 }},
		{"image.infohash:", func(c *Config) { c.Image.InfoHash = strings.Repeat("A", 40) }},
		{"disk:", func(c *Config) { c.Disk = "biggest" }},
		{"root_hash:", func(c *Config) { c.RootHash = "$6$a$bcdefghijk:0:0" }},
		{"root_hash:", func(c *Config) { c.RootHash = "plain" }},
		{"ssh_keys[0]:", func(c *Config) { c.SSHKeys = []string{"a\nb"} }},
		{"binary:", func(c *Config) { c.Binary = "x" }},
		{"join.swarm:", func(c *Config) { c.Join.Swarm = "" }},
		{"join.ticket:", func(c *Config) { c.Join.Ticket = "secretword" }},
		{"join.pin:", func(c *Config) { c.Join.Pin = "" }},
		{"join.endpoints:", func(c *Config) { c.Join.Endpoints = nil }},
		{"join.endpoints[0]:", func(c *Config) { c.Join.Endpoints = []string{"host:7400"} }},
		{"join.segment:", func(c *Config) { c.Join.Segment = "" }},
		{"join.address:", func(c *Config) { c.Join.Address = netip.Prefix{} }},
		{"join.gateway:", func(c *Config) { c.Join.Gateway = netip.MustParseAddr("10.0.0.1") }},
		{"join.mac:", func(c *Config) { c.Join.MAC = "52:54:00:00:00:02" }},
		{"join.name:", func(c *Config) { c.Join.Name = "-" }},
	} {
		cfg := valid()
		c.spoil(&cfg)
		_, err := DecodeConfig(bytes.NewReader(encode(t, cfg)))
		if err == nil || !strings.Contains(err.Error(), c.field) {
			t.Errorf("want an error naming %s, got %v", c.field, err)
		}
		if err != nil && strings.Contains(err.Error(), "secretword") {
			t.Errorf("the error repeats the ticket: %v", err)
		}
	}
}

func TestDecodersRefuseWhatIsNotExactlyOneDocument(t *testing.T) {
	good := string(encode(t, valid()))
	for name, raw := range map[string]string{
		"unknown field": strings.Replace(good, `"install"`, `"extra":1,"install"`, 1),
		"trailing data": good + "{}",
		"truncated":     good[:len(good)-1],
		"oversize":      good + strings.Repeat(" ", MaxConfig),
		"empty":         "",
	} {
		if _, err := DecodeConfig(strings.NewReader(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEventsAreChecked(t *testing.T) {
	for raw, ok := range map[string]bool{
		`{"phase":"image","install":"a","percent":42}`:                                             true,
		`{"phase":"failed","failed":true,"final":true,"text":"x"}`:                                 true,
		`{"phase":"agent","inventory":{"efi":false,"cpus":1,"memory":1,"disks":null,"nics":null}}`: true,
		`{"phase":"party"}`:                 false,
		`{"phase":"image","percent":101}`:   false,
		`{"phase":"image","failed":true}`:   false,
		`{"phase":"failed"}`:                false,
		`{"phase":"image","install":"a b"}`: false,
	} {
		if _, err := DecodeEvent(strings.NewReader(raw)); (err == nil) != ok {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestNeighboursAreChecked(t *testing.T) {
	for raw, ok := range map[string]bool{
		`{"peers":[{"id":"5eed","address":"192.168.42.1:7400"}],"part":1,"parts":2}`: true,
		`{"peers":null,"part":0,"parts":0}`:                                          true,
		`{"peers":[{"id":"","address":"192.168.42.1:7400"}]}`:                        false,
		`{"peers":[{"id":"5eed","address":"192.168.42.1:0"}]}`:                       false,
		`{"peers":[{"id":"5eed","address":""}]}`:                                     false,
		`{"peers":[],"part":2,"parts":2}`:                                            false,
		`{"peers":[],"part":-1,"parts":2}`:                                           false,
		`{"peers":[],"parts":-1}`:                                                    false,
	} {
		if _, err := DecodeNeighbours(strings.NewReader(raw)); (err == nil) != ok {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestGatheredIsChecked(t *testing.T) {
	sum := strings.Repeat("1a", 32)
	for raw, ok := range map[string]bool{
		`{"sha256":"` + sum + `","size":7,"offset":1048576}`: true,
		`{"sha256":"` + sum + `","size":0,"offset":1048576}`: false,
		`{"sha256":"` + sum + `","size":7,"offset":0}`:       false,
		`{"sha256":"1a","size":7,"offset":1}`:                false,
	} {
		if _, err := DecodeGathered(strings.NewReader(raw)); (err == nil) != ok {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestSecretsStayOutOfLogs(t *testing.T) {
	var buf bytes.Buffer
	c := valid()
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("x", "config", c, "join", c.Join)
	if s := buf.String(); strings.Contains(s, "secret") || strings.Contains(s, "$6$") {
		t.Fatalf("logged: %s", s)
	}
}

func TestSelectorNeverGuesses(t *testing.T) {
	small := Disk{Path: "/dev/vda", Size: 10e9, Serial: "AB12", WWN: "naa.5002538e40a1"}
	big := Disk{Path: "/dev/vdb", Size: 100e9, Serial: "CD34"}
	twin := Disk{Path: "/dev/vdc", Size: 100e9}
	stick := Disk{Path: "/dev/sda", Size: 16e9, Removable: true, Serial: "USB1"}
	ro := Disk{Path: "/dev/sdb", Size: 50e9, ReadOnly: true}
	for _, c := range []struct {
		sel   string
		disks []Disk
		need  int64
		want  string // path, or a part of the error
	}{
		{"", []Disk{small}, 1e9, "/dev/vda"},
		{"", nil, 1e9, "no disk found"},
		{"", []Disk{small, stick}, 1e9, "/dev/vda"},
		{"", []Disk{stick}, 1e9, "removable"},
		{"", []Disk{small, big}, 1e9, "2 disks fit"},
		{"", []Disk{small, big}, 20e9, "/dev/vdb"},
		{"", []Disk{small}, 20e9, "too small, the image needs 20.0 GB"},
		{"", []Disk{ro}, 1, "read-only"},
		{"smallest", []Disk{big, small}, 1e9, "/dev/vda"},
		{"smallest", []Disk{big, small}, 20e9, "/dev/vdb"},
		{"smallest", []Disk{big, small, twin}, 20e9, "2 disks fit"},
		{"smallest", []Disk{stick, big}, 1e9, "/dev/vdb"},
		{"/dev/sda", []Disk{small, stick}, 1e9, "/dev/sda"},
		{"/dev/vda", []Disk{small}, 20e9, "too small"},
		{"/dev/vdz", []Disk{small}, 1e9, "another path"},
		{"serial=ab12", []Disk{small, big}, 1e9, "/dev/vda"},
		{"wwn=0x5002538E40A1", []Disk{small, big}, 1e9, "/dev/vda"},
		{"wwn=0x5002538E40A1", []Disk{big}, 1e9, "another WWN"},
		{"size>=50G", []Disk{small, big}, 1e9, "/dev/vdb"},
		{"size>=50G", []Disk{small, big, twin}, 1e9, "2 disks fit"},
		{"size>=1T", []Disk{small, big}, 1e9, "smaller than 1.0 TB"},
	} {
		sel, err := ParseSelector(c.sel)
		if err != nil {
			t.Errorf("%q: %v", c.sel, err)
			continue
		}
		got, err := sel.Choose(c.disks, c.need)
		if err != nil {
			got.Path = err.Error()
		}
		if (err == nil && got.Path != c.want) || !strings.Contains(got.Path, c.want) {
			t.Errorf("%q of %v for %d: got %q, want %q", c.sel, c.disks, c.need, got.Path, c.want)
		}
	}
}

func TestSelectorsThatMeanNothingAreRefused(t *testing.T) {
	for _, s := range []string{"sda", "/dev/", "/dev/../etc", "serial=", "wwn=", "size>=", "size>=-1", "size>=1X", "size>=9999999999T", "x\ny"} {
		if _, err := ParseSelector(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, valid()))
	f.Add(encode(f, valid().Join))
	f.Add([]byte(`{"phase":"image","percent":42,"inventory":{"disks":[{"path":"/dev/vda"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := DecodeConfig(bytes.NewReader(raw)); err == nil {
			if again, err := DecodeConfig(bytes.NewReader(encode(t, c))); err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
				t.Fatalf("accepted once, not twice: %v", err)
			}
		}
		_, _ = DecodeJoin(bytes.NewReader(raw))
		_, _ = DecodeEvent(bytes.NewReader(raw))
	})
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"", "smallest", "size>=5Gi", "serial=x", "/dev/sda"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sel, err := ParseSelector(s)
		if err == nil {
			_, _ = sel.Choose([]Disk{{Path: "/dev/vda", Size: 1}}, 1)
		}
	})
}
