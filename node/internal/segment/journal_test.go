package segment

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJournalThatIsNotUnderstoodIsKept(t *testing.T) {
	for name, text := range map[string]string{
		"garbage":         "\x00\x01",
		"empty":           "",
		"other version":   `{"version":2,"boot":"b","netns":"n","changes":[]}`,
		"unknown field":   `{"version":1,"boot":"b","netns":"n","changes":[],"x":1}`,
		"trailing":        `{"version":1,"boot":"b","netns":"n","changes":[]}{}`,
		"nowhere":         `{"version":1,"changes":[]}`,
		"unknown change":  `{"version":1,"boot":"b","netns":"n","changes":[{"id":1,"op":"format"}]}`,
		"no port":         `{"version":1,"boot":"b","netns":"n","changes":[{"id":1,"op":"up"}]}`,
		"no address":      `{"version":1,"boot":"b","netns":"n","changes":[{"id":1,"op":"address","port":"eth0"}]}`,
		"trailing brace":  `{"version":1,"boot":"b","netns":"n","changes":[]}}`,
		"trailing letter": `{"version":1,"boot":"b","netns":"n","changes":[]}x`,
	} {
		path := filepath.Join(t.TempDir(), "undo.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenJournal(path, quiet())
		if !errors.Is(err, ErrJournal) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s: the file changed: %v", name, err)
		}
	}
}

func TestChangeIsWrittenDownBeforeItIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "undo.json")
	j, err := OpenJournal(path, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing to undo, yet: %v", err)
	}
	power := errors.New("power loss")
	_, err = j.do(change{Op: opUp, Port: "nosuch0"}, func() error {
		f, err := readJournal(path)
		if err != nil || len(f.Changes) != 1 || f.Changes[0].Port != "nosuch0" {
			t.Errorf("while the change is made: %+v, %v", f, err)
		}
		return power
	})
	if !errors.Is(err, power) {
		t.Error(err)
	}
	// The next start: the interface is not there, so there is nothing left to undo.
	if err := Undo(path, quiet()); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || left != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestUnwritableJournalPreventsTheChange(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := &Journal{path: filepath.Join(blocked, "undo.json"), log: quiet()}
	if _, err := j.do(change{Op: opUp, Port: "p"}, func() error { t.Error("the change was made"); return nil }); err == nil {
		t.Error("no error")
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","netns":"n","changes":[{"id":1,"op":"address","port":"eth0","prefix":"10.0.0.1/24"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeJournal(b); err != nil && !errors.Is(err, ErrJournal) {
			t.Error(err)
		}
	})
}
