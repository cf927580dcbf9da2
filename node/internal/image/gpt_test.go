package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// memDisk is a disk in memory.
type memDisk []byte

func (d memDisk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }
func (d memDisk) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(d)) {
		return 0, errors.New("beyond the end")
	}
	return copy(d[off:], p), nil
}

func TestGrownTableIsWhatOthersUnderstand(t *testing.T) {
	disk := testDisk(t)
	grown := append(bytes.Clone(disk), make([]byte, 3*mib+512)...)
	if err := GrowGPT(memDisk(grown), int64(len(grown))); err != nil {
		t.Fatal(err)
	}
	before, err := readGPT(bytes.NewReader(disk))
	if err != nil {
		t.Fatal(err)
	}
	after, err := readGPT(bytes.NewReader(grown))
	if err != nil {
		t.Fatal(err)
	}
	last := uint64(len(grown)/sectorSize - 1)
	if !bytes.Equal(before.entries, after.entries) || before.header.Disk != after.header.Disk || after.header.Other != last {
		t.Errorf("got %+v", after.header)
	}
	if _, err := decodeHeader(grown[last*sectorSize:], last); err != nil {
		t.Errorf("backup: %v", err)
	}
	if at := len(disk) - sectorSize; string(grown[at:at+8]) == gptSignature {
		t.Error("the old backup header still stands in the middle of the disk")
	}
	if got := binary.LittleEndian.Uint32(grown[446+12:]); uint64(got) != last {
		t.Errorf("protective MBR covers %d sectors, want %d", got, last)
	}
	again := bytes.Clone(grown)
	if err := GrowGPT(memDisk(again), int64(len(again))); err != nil || !bytes.Equal(again, grown) {
		t.Errorf("a second time changes the disk, or fails: %v", err)
	}
	if sfdisk, err := exec.LookPath("sfdisk"); err == nil { // the foreign reader
		for name, p := range map[string][]byte{"fresh": disk, "grown": grown} {
			said, err := exec.Command(sfdisk, "--verify", save(t, "d", p)).CombinedOutput()
			if err != nil || !strings.Contains(string(said), "No errors detected") {
				t.Errorf("%s: %v: %s", name, err, said)
			}
		}
	}
}

func TestGrowLeavesOtherDisksAlone(t *testing.T) {
	blank := make(memDisk, mib)
	if err := GrowGPT(blank, mib); err != nil || !isZero(blank) {
		t.Errorf("disk without GPT: %v", err)
	}
	disk := testDisk(t)
	short := bytes.Clone(disk[:len(disk)-2*mib])
	if err := GrowGPT(memDisk(short), int64(len(short))); err == nil || !bytes.Equal(short, disk[:len(short)]) {
		t.Errorf("disk smaller than its table: %v", err)
	}
}

func TestDamagedTableIsAnError(t *testing.T) {
	disk := testDisk(t)[:mib]
	for name, at := range map[string]int{"header": sectorSize + 70, "entries": 2*sectorSize + 33} {
		p := bytes.Clone(disk)
		p[at] ^= 1
		if _, err := readGPT(bytes.NewReader(p)); err == nil || errors.Is(err, errNoGPT) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGRUBIsToldWhereItLies(t *testing.T) {
	boot, core := make([]byte, 512), make([]byte, 3*512+100)
	boot[510], boot[511] = 0x55, 0xaa
	core[508], core[510], core[511] = 3, grubSegment&0xff, grubSegment>>8
	if err := patchGRUB(boot, core, 2048); err != nil {
		t.Fatal(err)
	}
	if k, c := binary.LittleEndian.Uint64(boot[0x5c:]), binary.LittleEndian.Uint64(core[500:]); k != 2048 || c != 2049 {
		t.Errorf("boot.img loads sector %d, core.img goes on at %d", k, c)
	}
	core[508] = 4
	if patchGRUB(boot, core, 2048) == nil {
		t.Error("a core.img of another length than its list says was taken")
	}
	if patchGRUB(boot, make([]byte, 2*mib), 2048) == nil {
		t.Error("a core.img larger than its partition was taken")
	}
}
