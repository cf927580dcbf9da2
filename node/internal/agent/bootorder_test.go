package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestNetworkIsPutFirstInTheBootOrder(t *testing.T) {
	const none = "-"
	for name, c := range map[string]struct {
		current, order, want string // as efivarfs shows them
		changed              bool
	}{
		"an installation put its disk first": {"\x06\x00\x00\x00\x03\x00", "\x07\x00\x00\x00\x07\x00\x01\x00\x03\x00", "\x07\x00\x00\x00\x03\x00\x07\x00\x01\x00", true},
		"it is first":                        {"\x06\x00\x00\x00\x03\x00", "\x07\x00\x00\x00\x03\x00\x07\x00", "\x07\x00\x00\x00\x03\x00\x07\x00", false},
		"it is not in it":                    {"\x06\x00\x00\x00\x03\x00", "\x07\x00\x00\x00\x07\x00", "\x07\x00\x00\x00\x03\x00\x07\x00", true},
		"there is no order":                  {"\x06\x00\x00\x00\x03\x00", none, "\x07\x00\x00\x00\x03\x00", true},
		"a BIOS":                             {none, none, none, false},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{"BootCurrent": c.current, "BootOrder": c.order} {
			if text == none {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file+efiGlobal), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		changed, err := networkFirst(dir)
		if err != nil || changed != c.changed {
			t.Errorf("%s: changed %t, %v", name, changed, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "BootOrder"+efiGlobal))
		if err != nil && c.want != none || c.want != none && !bytes.Equal(got, []byte(c.want)) {
			t.Errorf("%s: boot order %x, %v; want %x", name, got, err, c.want)
		}
	}
	dir := t.TempDir()
	for file, text := range map[string]string{"BootCurrent": "\x06\x00\x00\x00\x03\x00", "BootOrder": "\x07"} {
		if err := os.WriteFile(filepath.Join(dir, file+efiGlobal), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if changed, err := networkFirst(dir); err == nil || changed {
		t.Error("a boot order that nobody can read was replaced")
	}
}
