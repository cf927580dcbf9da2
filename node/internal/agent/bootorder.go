package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// efiVars is where Linux shows the variables of UEFI firmware (efivarfs), and the name space of those that the specification
// defines (UEFI 2.10, 3.3).
const (
	efiVars   = "/sys/firmware/efi/efivars"
	efiGlobal = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	// efiAttributes: non-volatile, seen by boot services and at runtime. They stand before the value.
	efiAttributes = 7
)

// networkFirst puts the entry that this boot came from, which was one for the network, first in the boot order of the firmware:
// an installation that put its disk there would take the machine out of our hands. Nothing is written if it is first already, or
// on a machine without UEFI.
func networkFirst(dir string) (changed bool, err error) {
	current, err := readEntries(dir, "BootCurrent")
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(current) != 1 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	order, err := readEntries(dir, "BootOrder")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if len(order) > 0 && order[0] == current[0] {
		return false, nil
	}
	want := append(current, slices.DeleteFunc(order, func(e uint16) bool { return e == current[0] })...)
	value := binary.LittleEndian.AppendUint32(nil, efiAttributes)
	for _, e := range want {
		value = binary.LittleEndian.AppendUint16(value, e)
	}
	// In one write and without truncation: efivarfs takes each write for the whole variable.
	f, err := os.OpenFile(filepath.Join(dir, "BootOrder"+efiGlobal), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return false, err
	}
	_, err = f.Write(value)
	return err == nil, errors.Join(err, f.Close())
}

// readEntries reads a variable that lists boot entries.
func readEntries(dir, name string) ([]uint16, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name+efiGlobal))
	if err != nil {
		return nil, err
	}
	if len(raw) < 4 || len(raw)%2 != 0 || len(raw) > 4096 {
		return nil, fmt.Errorf("UEFI variable %s has %d bytes", name, len(raw))
	}
	var all []uint16
	for raw = raw[4:]; len(raw) > 0; raw = raw[2:] {
		all = append(all, binary.LittleEndian.Uint16(raw))
	}
	return all, nil
}
