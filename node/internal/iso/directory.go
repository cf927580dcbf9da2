package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// naming is which names the records of a tree have.
type naming int

const (
	plainNames     naming = iota // upper case, with a version: VMLINUZ.;1
	jolietNames                  // UCS-2
	rockRidgeNames               // in System Use entries
)

// same says whether a name in a directory is the one that is asked for.
func (n naming) same(have, asked string) bool {
	return have == asked || n == plainNames && strings.EqualFold(have, asked)
}

// Flags of a directory record (ECMA-119, 9.1.6).
const (
	flagDirectory   = 1 << 1
	flagMultiExtent = 1 << 7
)

// head is the first sector of a directory.
func (m *Image) head(dir entry) ([]byte, error) {
	if len(dir.extents) == 0 {
		return nil, errors.New("it is empty")
	}
	data := make([]byte, sector)
	if _, err := m.r.ReadAt(data, dir.extents[0].offset); err != nil {
		return nil, noEOF(err)
	}
	return data, nil
}

// list reads a directory, sorted by name.
func (m *Image) list(dir entry) ([]entry, error) {
	if dir.size > maxDirectory {
		return nil, fmt.Errorf("%w: a directory of %d bytes", ErrFormat, dir.size)
	}
	data := make([]byte, dir.size)
	if _, err := (&spans{m.r, dir.extents}).ReadAt(data, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, noEOF(err))
	}
	var out []entry
	var begun *entry // a file of which more extents follow
	for len(data) > 0 {
		n := int(data[0])
		if n == 0 { // records do not cross sectors
			at := int(dir.size) - len(data)
			data = data[min(len(data), sector-at%sector):]
			continue
		}
		if n < 34 || n > len(data) {
			return nil, fmt.Errorf("%w: a directory record of %d bytes", ErrFormat, n)
		}
		rec := data[:n]
		data = data[n:]
		if rec[32] == 1 && rec[33] <= 1 {
			continue // the directory itself, and the one above
		}
		e, err := m.named(rec)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if begun != nil && begun.name == e.name {
			e.extents = join(begun.extents, e.extents)
			e.size += begun.size
		}
		if begun = nil; rec[25]&flagMultiExtent != 0 {
			begun = &e
			continue
		}
		if fs.ValidPath(e.name) && e.name != "." && !strings.Contains(e.name, "/") {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(out, func(a, b entry) bool { return a.name == b.name }), nil
}

// join puts extents together; those that follow each other are one.
func join(a, b []extent) []extent {
	out := slices.Clone(a)
	for _, x := range b {
		if last := len(out) - 1; last >= 0 && out[last].offset+out[last].size == x.offset {
			out[last].size += x.size
			continue
		}
		out = append(out, x)
	}
	return out
}

// record reads what a directory record says of the bytes.
func (m *Image) record(rec []byte) (entry, error) {
	if rec[26] != 0 || rec[27] != 0 {
		return entry{}, errors.New("a file is interleaved")
	}
	x := extent{
		offset: (int64(binary.LittleEndian.Uint32(rec[2:])) + int64(rec[1])) * sector, // behind its extended attributes
		size:   int64(binary.LittleEndian.Uint32(rec[10:])),
	}
	if x.size > 0 && x.offset+x.size > m.size {
		return entry{}, fmt.Errorf("a file ends at %d, behind the image's %d bytes", x.offset+x.size, m.size)
	}
	at := rec[18:25]
	zone := time.FixedZone("", int(int8(at[6]))*15*60)
	e := entry{
		dir: rec[25]&flagDirectory != 0, size: x.size,
		modified: time.Date(1900+int(at[0]), time.Month(at[1]), int(at[2]), int(at[3]), int(at[4]), int(at[5]), 0, zone).UTC(),
	}
	if x.size > 0 {
		e.extents = []extent{x}
	}
	return e, nil
}

// named is record, with the name.
func (m *Image) named(rec []byte) (entry, error) {
	n := int(rec[32])
	if 33+n > len(rec) {
		return entry{}, errors.New("a name is longer than its record")
	}
	e, err := m.record(rec)
	if err != nil {
		return e, err
	}
	raw := rec[33 : 33+n]
	switch m.names {
	case jolietNames:
		e.name = withoutVersion(ucs2(raw))
	case rockRidgeNames:
		use := systemUse(rec)
		if err := m.extend(&e, use[min(m.skip, len(use)):]); err != nil {
			return e, err
		}
		if e.name != "" {
			break
		}
		fallthrough
	default:
		e.name = strings.TrimSuffix(withoutVersion(string(raw)), ".")
	}
	if e.name = strings.ToValidUTF8(e.name, "\ufffd"); e.link != "" {
		e.size, e.extents = int64(len(e.link)), nil
	}
	return e, nil
}

// systemUse is what stands behind the name of a record.
func systemUse(rec []byte) []byte {
	if len(rec) < 34 {
		return nil
	}
	at := 33 + int(rec[32])
	at += at % 2 // the next even offset
	return rec[min(at, len(rec)):]
}

func withoutVersion(name string) string {
	if at := strings.LastIndexByte(name, ';'); at > 0 {
		return name[:at]
	}
	return name
}

func ucs2(raw []byte) string {
	units := make([]uint16, len(raw)/2)
	for i := range units {
		units[i] = binary.BigEndian.Uint16(raw[2*i:])
	}
	return string(utf16.Decode(units))
}

// maxContinued bounds the continuation areas of one record, and what stands in each.
const (
	maxContinued = 32
	maxArea      = 64 << 10
)

// extend reads the entries of SUSP and Rock Ridge: a long name, where a link leads to, and where a directory lies that was moved
// because it would be too deep.
func (m *Image) extend(e *entry, use []byte) error {
	var link symlink
	for range maxContinued {
		var next extent
		for len(use) >= 4 && use[2] >= 4 && int(use[2]) <= len(use) {
			kind, body := string(use[:2]), use[4:use[2]]
			use = use[use[2]:]
			switch {
			case kind == "ST":
				use = nil
			case kind == "CE" && len(body) >= 24:
				next = extent{
					int64(binary.LittleEndian.Uint32(body))*sector + int64(binary.LittleEndian.Uint32(body[8:])),
					int64(binary.LittleEndian.Uint32(body[16:])),
				}
			case kind == "NM" && len(body) >= 1:
				e.name += string(body[1:])
			case kind == "SL" && len(body) >= 1:
				link.add(body[1:])
			case kind == "CL" && len(body) >= 4:
				if err := m.moved(e, binary.LittleEndian.Uint32(body)); err != nil {
					return err
				}
			}
		}
		if next.size == 0 {
			e.link = link.String()
			return nil
		}
		if next.size > maxArea || next.offset+next.size > m.size {
			return errors.New("a continuation area lies outside of the image")
		}
		use = make([]byte, next.size)
		if _, err := m.r.ReadAt(use, next.offset); err != nil {
			return noEOF(err)
		}
	}
	return errors.New("a record has too many continuation areas")
}

// moved makes of an entry the directory that lies at a block; its first record tells how long it is.
func (m *Image) moved(e *entry, block uint32) error {
	self, err := m.head(entry{extents: []extent{{int64(block) * sector, sector}}})
	if err != nil {
		return err
	}
	to, err := m.record(self)
	if err != nil {
		return err
	}
	e.dir, e.size, e.extents = true, to.size, to.extents
	return nil
}

// symlink gathers the components of SL entries (RRIP 1.12, 4.1.3).
type symlink struct {
	parts []string
	open  bool // the last component goes on in the next record
}

func (l *symlink) add(records []byte) {
	for len(records) >= 2 && 2+int(records[1]) <= len(records) {
		flags, text := records[0], string(records[2:2+records[1]])
		records = records[2+records[1]:]
		switch {
		case flags&2 != 0:
			text = "."
		case flags&4 != 0:
			text = ".."
		case flags&8 != 0:
			text = "" // the root: what is joined begins with a slash
		}
		if l.open {
			l.parts[len(l.parts)-1] += text
		} else {
			l.parts = append(l.parts, text)
		}
		l.open = flags&1 != 0
	}
}

// String is where the link leads to.
func (l *symlink) String() string {
	if len(l.parts) == 1 && l.parts[0] == "" {
		return "/"
	}
	return strings.Join(l.parts, "/")
}

// printable makes a name fit for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
