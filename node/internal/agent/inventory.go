package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"offshoot/node/internal/install"
)

// scan reads the inventory from a tree that looks like /, through sysfs and procfs only. What firmware or a driver does
// not tell stays empty.
func scan(root string) (install.Inventory, error) {
	s := sysfs(root)
	inv := install.Inventory{
		Vendor: s.text("sys/class/dmi/id/sys_vendor"), Product: s.text("sys/class/dmi/id/product_name"),
		Serial: s.text("sys/class/dmi/id/product_serial"), UUID: strings.ToLower(s.text("sys/class/dmi/id/product_uuid")),
		BIOS:  strings.TrimSpace(s.text("sys/class/dmi/id/bios_vendor") + " " + s.text("sys/class/dmi/id/bios_version")),
		Disks: []install.Disk{}, NICs: []install.NIC{},
	}
	_, err := os.Stat(filepath.Join(root, "sys/firmware/efi"))
	inv.EFI = err == nil
	inv.CPU, inv.CPUs = s.cpus()
	inv.Memory = s.memory()
	if inv.Disks, err = s.disks(); err != nil {
		return inv, fmt.Errorf("list disks: %w", err)
	}
	if inv.NICs, err = s.nics(); err != nil {
		return inv, fmt.Errorf("list NICs: %w", err)
	}
	return inv, nil
}

// sysfs is the directory below which sys, proc and dev lie.
type sysfs string

// text is the content of an attribute without the padding that firmware likes, at most 256 bytes.
func (s sysfs) text(name string) string {
	raw, err := os.ReadFile(filepath.Join(string(s), name))
	if err != nil {
		return ""
	}
	t := strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == '\u007f' || r == '\ufffd' {
			return -1
		}
		return r
	}, string(raw)))
	return clip(t, 256)
}

func (s sysfs) number(name string) int64 {
	n, err := strconv.ParseInt(s.text(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s sysfs) cpus() (model string, count int) {
	raw, err := os.ReadFile(filepath.Join(string(s), "proc/cpuinfo"))
	if err != nil {
		return "", 0
	}
	sc := bufio.NewScanner(bytes.NewReader(raw))
	for sc.Scan() {
		key, value, _ := strings.Cut(sc.Text(), ":")
		switch strings.TrimSpace(key) {
		case "processor":
			count++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	return model, count
}

func (s sysfs) memory() int64 {
	raw, _ := os.ReadFile(filepath.Join(string(s), "proc/meminfo")) // empty: not known
	for l := range strings.Lines(string(raw)) {
		f := strings.Fields(l)
		if len(f) >= 2 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// disks lists whole block devices that hang on hardware.
func (s sysfs) disks() ([]install.Disk, error) {
	names, err := list(filepath.Join(string(s), "sys/block"))
	if err != nil {
		return nil, err
	}
	disks := []install.Disk{}
	for _, n := range names {
		b := "sys/block/" + n
		device, err := filepath.EvalSymlinks(filepath.Join(string(s), b, "device"))
		if err != nil { // loop, ram, dm, md, zram
			continue
		}
		size := s.number(b+"/size") * 512 // always in 512 byte sectors, whatever the disk's own are
		if size == 0 || strings.HasPrefix(n, "sr") || strings.HasPrefix(n, "fd") || strings.Contains(n, "boot") {
			continue
		}
		disks = append(disks, install.Disk{
			Path: "/dev/" + strings.ReplaceAll(n, "!", "/"), Size: size, Model: s.text(b + "/device/model"), Serial: s.serial(b),
			WWN: firstOf(s.text(b+"/wwid"), s.text(b+"/device/wwid")), ReadOnly: s.number(b+"/ro") == 1,
			Removable:  s.number(b+"/removable") == 1 || strings.Contains(device, "/usb"),
			Rotational: s.number(b+"/queue/rotational") == 1,
		})
	}
	return disks, nil
}

// serial knows the three places where drivers tell it: nvme and virtio in an attribute, SCSI in vital product data page 0x80.
func (s sysfs) serial(block string) string {
	if t := firstOf(s.text(block+"/serial"), s.text(block+"/device/serial")); t != "" {
		return t
	}
	page, err := os.ReadFile(filepath.Join(string(s), block, "device/vpd_pg80"))
	if err != nil || len(page) < 4 { // SPC-4 section 7.8.15: four bytes of header
		return ""
	}
	return strings.TrimSpace(strings.Trim(string(page[4:]), "\x00 "))
}

// nics lists Ethernet ports that hang on hardware.
func (s sysfs) nics() ([]install.NIC, error) {
	names, err := list(filepath.Join(string(s), "sys/class/net"))
	if err != nil {
		return nil, err
	}
	nics := []install.NIC{}
	for _, n := range names {
		dir := "sys/class/net/" + n
		if _, err := os.Stat(filepath.Join(string(s), dir, "device")); err != nil || s.number(dir+"/type") != 1 { // ARPHRD_ETHER
			continue
		}
		mac, err := net.ParseMAC(s.text(dir + "/address"))
		if err != nil {
			continue
		}
		driver, _ := os.Readlink(filepath.Join(string(s), dir, "device/driver")) // none: not known
		nics = append(nics, install.NIC{
			Name: n, MAC: mac.String(), Driver: strings.TrimPrefix(filepath.Base(driver), "."),
			Link: s.number(dir+"/carrier") == 1, Speed: max(int(s.number(dir+"/speed")), 0),
		})
	}
	return nics, nil
}

func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}
