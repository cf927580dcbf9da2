package live

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// wanted are the parts of a module tree that a machine can need to reach the network and its disks, matched as prefixes of
// paths. What these depend on comes along by itself.
var wanted = []string{
	"kernel/drivers/ata/", "kernel/drivers/scsi/", "kernel/drivers/message/fusion/", "kernel/drivers/nvme/host/nvme.",
	"kernel/drivers/nvme/host/nvme-core.", "kernel/drivers/block/virtio_blk.", "kernel/drivers/block/loop.",
	"kernel/drivers/block/xen-blkfront.", "kernel/drivers/block/mtip32xx/", "kernel/drivers/mmc/core/",
	"kernel/drivers/mmc/host/sdhci", "kernel/drivers/nvdimm/", "kernel/drivers/virtio/", "kernel/drivers/hv/hv_vmbus.",
	"kernel/drivers/hv/hv_utils.", "kernel/drivers/pci/controller/", "kernel/drivers/char/hw_random/virtio-rng.",
	"kernel/drivers/usb/host/", "kernel/drivers/usb/storage/usb-storage.", "kernel/drivers/usb/storage/uas.",
	"kernel/drivers/hid/hid.", "kernel/drivers/hid/hid-generic.", "kernel/drivers/hid/usbhid/usbhid.",
	"kernel/drivers/net/ethernet/", "kernel/drivers/net/virtio_net.", "kernel/drivers/net/xen-netfront.",
	"kernel/drivers/net/hyperv/", "kernel/drivers/net/vmxnet3/", "kernel/drivers/net/phy/", "kernel/drivers/net/mdio/",
	"kernel/drivers/net/usb/", "kernel/net/packet/af_packet.",
	"kernel/fs/ext4/", "kernel/fs/xfs/", "kernel/fs/btrfs/", "kernel/fs/fat/", "kernel/fs/efivarfs/",
	"kernel/fs/nls/nls_cp437.", "kernel/fs/nls/nls_ascii.", "kernel/fs/nls/nls_iso8859-1.", "kernel/fs/nls/nls_utf8.",
	"kernel/crypto/crc32c", "kernel/crypto/xxhash", "kernel/crypto/blake2b", "kernel/crypto/sha256",
	"kernel/arch/x86/crypto/crc32", "kernel/lib/libcrc32c.", "kernel/lib/crc",
}

// unwanted are below wanted, but serve no machine that is being installed: targets, storage over networks that need
// configuring first, tapes, test drivers, switch ASICs.
var unwanted = []string{
	"kernel/drivers/scsi/scsi_debug.", "kernel/drivers/scsi/st.", "kernel/drivers/scsi/ch.", "kernel/drivers/scsi/osst.",
	"kernel/drivers/scsi/iscsi_", "kernel/drivers/scsi/libiscsi", "kernel/drivers/scsi/be2iscsi/", "kernel/drivers/scsi/bnx2i/",
	"kernel/drivers/scsi/cxgbi/", "kernel/drivers/scsi/qedi/", "kernel/drivers/scsi/qedf/", "kernel/drivers/scsi/bnx2fc/",
	"kernel/drivers/scsi/fcoe/", "kernel/drivers/scsi/libfc/", "kernel/drivers/scsi/xen-scsi", "kernel/drivers/scsi/pcmcia/",
	"kernel/drivers/scsi/sg.", "kernel/drivers/scsi/sr_mod.", "kernel/drivers/scsi/scsi_transport_iscsi.",
	"kernel/drivers/ata/pata_legacy.", "kernel/drivers/virtio/virtio_balloon.", "kernel/drivers/virtio/virtio_mem.",
	"kernel/drivers/virtio/virtio_vdpa.", "kernel/drivers/virtio/virtio_input.", "kernel/drivers/net/ethernet/mellanox/mlxsw/",
	"kernel/drivers/net/ethernet/netronome/", "kernel/drivers/usb/host/u132", "kernel/drivers/usb/host/sl811",
}

type moduleFile struct {
	path     string // below the tree, with slashes
	size     int64
	modified int64 // nanoseconds
}

// name is what the kernel calls the module: no directory, no suffix, underscores.
func (f moduleFile) name() string {
	base, _, _ := strings.Cut(filepath.Base(f.path), ".ko")
	return canonical(base)
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// listModules returns every module of the tree in the order of its path.
func listModules(dir string) ([]moduleFile, error) {
	var files []moduleFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() || !isModule(path) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, moduleFile{path: filepath.ToSlash(rel), size: info.Size(), modified: info.ModTime().UnixNano()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("list modules: none in %s: want the directory lib/modules/<release> of the kernel", dir)
	}
	return files, nil
}

func isModule(path string) bool {
	for _, end := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// isWanted decides by path alone.
func isWanted(path string) bool {
	has := func(prefix string) bool { return strings.HasPrefix(path, prefix) }
	return slices.ContainsFunc(wanted, has) && !slices.ContainsFunc(unwanted, has)
}

// module is one driver as it goes into the initramfs.
type module struct {
	path     string // ends in .ko
	data     []byte // as the kernel wants it, signature included
	depends  []string
	aliases  []string
	soft     []string // "pre" dependencies: names or aliases
	firmware []string
}

// selectModules reads the wanted modules and all that these depend on, ordered by path.
func selectModules(dir string, files []moduleFile) ([]module, error) {
	byName := make(map[string]moduleFile, len(files))
	for _, f := range files {
		byName[f.name()] = f
	}
	var queue []string
	for _, f := range files {
		if isWanted(f.path) {
			queue = append(queue, f.name())
		}
	}
	seen := make(map[string]bool)
	var out []module
	for len(queue) > 0 {
		name := canonical(queue[0])
		queue = queue[1:]
		f, ok := byName[name]
		if !ok || seen[name] { // not in the tree: built in, or an alias of a soft dependency
			continue
		}
		seen[name] = true
		m, err := readModule(dir, f)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", f.path, err)
		}
		queue = append(append(queue, m.depends...), m.soft...)
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

func readModule(dir string, f moduleFile) (module, error) {
	data, err := decompress(filepath.Join(dir, f.path))
	if err != nil {
		return module{}, err
	}
	base, _, _ := strings.Cut(f.path, ".ko")
	m := module{path: base + ".ko", data: data}
	return m, m.readInfo()
}

// readInfo takes what depmod would know from the section .modinfo: a list of key=value, each ended by NUL.
func (m *module) readInfo() error {
	file, err := elf.NewFile(bytes.NewReader(m.data))
	if err != nil {
		return err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return errors.New("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			m.depends = append(m.depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			if pre, ok := strings.CutPrefix(value, "pre: "); ok {
				pre, _, _ = strings.Cut(pre, " post:")
				m.soft = append(m.soft, strings.Fields(pre)...)
			}
		case "firmware":
			m.firmware = append(m.firmware, value)
		}
	}
	return nil
}

// maxModule bounds what one compressed module may unpack to; the largest drivers have 10 MB.
const maxModule = 128 << 20

func decompress(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		z, zerr := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if zerr != nil {
			return nil, zerr
		}
		defer z.Close()
		r = z
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("larger than %d bytes", maxModule)
	}
	return data, err
}
