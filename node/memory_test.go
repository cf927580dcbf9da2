package node

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"offshoot/swarm"
)

func TestMemoryComesBackAsItWasSavedForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, ok, err := loadMemory(dir); ok || err != nil {
		t.Fatalf("a directory that has never been a node: %t, %v", ok, err)
	}
	m := memory{
		Version: memoryVersion, Swarm: "5eed", Node: nodeID, Name: "m1", Port: mac1, Address: netip.MustParsePrefix("192.168.42.17/24"),
		Gateway: netip.MustParseAddr("192.168.42.1"), Segment: "s1", Keys: []string{"key"}, Members: []netip.AddrPort{netip.MustParseAddrPort("192.168.42.1:7401")},
	}
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	got, ok, err := loadMemory(dir)
	if err != nil || !ok || !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, %t, %v", got, ok, err)
	}
	if st, err := os.Stat(memoryPath(dir)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the gossip key lies open: %v, %v", st, err)
	}
}

func TestMemoryThatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content, words string
		version        bool
	}{
		"other version": {`{"version":2,"brain":"new"}`, "version 2, this offshoot reads 1: run the offshoot that wrote it, or choose another --data-dir", true},
		"no version":    {`{"swarm":"5eed"}`, "version 0", true},
		"unknown field": {`{"version":1,"swarm":"5eed","brain":"new"}`, "damaged", false},
		"half":          {`{"version":1,"swarm":"5e`, "damaged", false},
		"trailing":      {`{"version":1}{}`, "damaged", false},
		"empty":         {``, "damaged", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(memoryPath(dir), []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, ok, err := loadMemory(dir)
		if ok || err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), dir) || errors.Is(err, ErrVersion) != c.version {
			t.Errorf("%s: got %t, %v", name, ok, err)
		}
	}
}

// The lock belongs to an open file, so two openings in one process exclude each other as two processes do.
func TestDataDirectoryIsForOneProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("second: %v", err)
	}
	release()
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("after the first one ended: %v", err)
	}
	again()
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", st, err)
	}
}

func TestJournalKeepsTheLastTracesOfTheMachinesThatAskedLast(t *testing.T) {
	t.Parallel()
	j := newJournal()
	at := time.Unix(0, 0)
	add := func(mac swarm.MAC) { at = at.Add(1); j.add(at, mac, "dhcp", "DISCOVER", "OFFER", "") }
	for range tracesPerMachine + 10 {
		add(mac1)
	}
	traces := j.of(mac1)
	if len(traces) != tracesPerMachine || !traces[len(traces)-1].Time.Equal(at) || !traces[0].Time.Equal(at.Add(-tracesPerMachine+1)) {
		t.Errorf("%d traces", len(traces))
	}
	traces[0].What = "changed"
	if j.of(mac1)[0].What != "DISCOVER" {
		t.Error("a reader changed the journal")
	}
	for i := range tracedMachines - 1 {
		add(swarm.MAC(rune('a' + i)))
	}
	add(mac1) // asks again: not the oldest any more
	add(mac2)
	if len(j.of(mac1)) == 0 || len(j.of(mac2)) == 0 || len(j.of(swarm.MAC('a'))) != 0 || len(j.pages) != tracedMachines || j.order.Len() != tracedMachines {
		t.Errorf("%d machines are remembered, the first has %d traces", len(j.pages), len(j.of(mac1)))
	}
}
