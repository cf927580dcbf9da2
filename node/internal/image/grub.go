package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Where GRUB's first two stages keep what an installer must fill in: GRUB 2's include/grub/i386/pc/boot.h.
const (
	grubKernelSector = 0x5c           // boot.img: 64 bit sector of core.img
	grubDriveCheck   = 0x66           // boot.img: a jump, replaced by NOPs on hard disks
	grubBlockList    = 512 - 12       // core.img, first sector: {start uint64, sectors uint16, segment uint16}
	grubSegment      = 0x800 + 512/16 // where the second sector is loaded
)

// readGRUB takes GRUB's stages from the directory that the hook filled, and makes them fit this disk.
func readGRUB(dir string) (boot, core []byte, err error) {
	if boot, err = os.ReadFile(filepath.Join(dir, "boot.img")); err != nil {
		return nil, nil, err
	}
	if core, err = os.ReadFile(filepath.Join(dir, "core.img")); err != nil {
		return nil, nil, err
	}
	return boot, core, patchGRUB(boot, core, mib/sectorSize)
}

// patchGRUB does what grub-bios-setup does for a core.img that lies in one piece from sector at on.
func patchGRUB(boot, core []byte, at uint64) error {
	if len(boot) != sectorSize || boot[510] != 0x55 || boot[511] != 0xaa {
		return errors.New("boot.img is not a boot sector")
	}
	if len(core) <= sectorSize || len(core) > biosPartSize {
		return fmt.Errorf("core.img of %d bytes does not fit into the BIOS boot partition", len(core))
	}
	list := core[grubBlockList:sectorSize]
	rest := (len(core) - 1) / sectorSize // sectors after the first
	if got := int(binary.LittleEndian.Uint16(list[8:])); got != rest {
		return fmt.Errorf("core.img names %d sectors and has %d", got, rest)
	}
	if got := binary.LittleEndian.Uint16(list[10:]); got != grubSegment {
		return fmt.Errorf("core.img loads to segment %#x instead of %#x", got, grubSegment)
	}
	binary.LittleEndian.PutUint64(list, at+1)
	binary.LittleEndian.PutUint64(boot[grubKernelSector:], at)
	boot[grubDriveCheck], boot[grubDriveCheck+1] = 0x90, 0x90
	return nil
}

// diskFrame is all of the disk around its file systems: head is MBR, GPT and BIOS boot partition, up to the ESP; tail is the
// backup GPT after a root file system of rootSize bytes.
func diskFrame(rootSize int64, boot, core []byte) (head, tail io.Reader, err error) {
	if rootSize <= 0 || rootSize%mib != 0 {
		return nil, nil, fmt.Errorf("root file system of %d bytes is not a multiple of 1 MiB", rootSize)
	}
	size := rootOffset + rootSize + mib
	h, entries := newGPT(size, []newPartition{
		{typeBIOSBoot, "bios", mib, biosPartSize},
		{typeESP, "esp", espOffset, espSize},
		{typeRootX64, "root", rootOffset, rootSize},
	})
	sectors := uint64(size / sectorSize)
	first := make([]byte, espOffset)
	copy(first, boot)
	protectiveMBR(first, sectors)
	copy(first[sectorSize:], h.encode(1, sectors-1, 2, entries))
	copy(first[2*sectorSize:], entries)
	copy(first[mib:], core)
	last := make([]byte, mib)
	copy(last[mib-(gptTable+1)*sectorSize:], entries)
	copy(last[mib-sectorSize:], h.encode(sectors-1, 1, sectors-1-gptTable, entries))
	return bytes.NewReader(first), bytes.NewReader(last), nil
}
