package install

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Selector says which disk of a machine is meant. The zero Selector means the only disk that is not removable.
type Selector struct {
	path, serial, wwn string
	atLeast           int64
	smallest          bool
}

// ParseSelector reads one of:
//
//	""               the only disk that is not removable
//	/dev/sda         that path
//	serial=S3Z8NB0K  the disk with this serial number (upper and lower case are the same)
//	wwn=0x5002538e…  the disk with this world wide name
//	size>=500G       the only disk of at least this size (K M G T: powers of 1000; Ki Mi Gi Ti: of 1024)
//	smallest         the smallest disk that the image fits on
func ParseSelector(s string) (Selector, error) {
	bad := fmt.Errorf("selector %q, want /dev/…, serial=…, wwn=…, size>=… or smallest", clip(s))
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) || len(s) > 256 {
		return Selector{}, bad
	}
	if s == "" {
		return Selector{}, nil
	}
	if s == "smallest" {
		return Selector{smallest: true}, nil
	}
	if strings.HasPrefix(s, "/dev/") && len(s) > len("/dev/") && !strings.Contains(s, "..") {
		return Selector{path: s}, nil
	}
	if v, ok := strings.CutPrefix(s, "serial="); ok && v != "" {
		return Selector{serial: v}, nil
	}
	if v, ok := strings.CutPrefix(s, "wwn="); ok && v != "" {
		return Selector{wwn: v}, nil
	}
	if v, ok := strings.CutPrefix(s, "size>="); ok {
		n, err := parseSize(v)
		if err != nil {
			return Selector{}, err
		}
		return Selector{atLeast: n}, nil
	}
	return Selector{}, bad
}

// Choose returns the one disk that s means and that takes need bytes. It never guesses: no match and several matches are
// errors that list what there is.
func (s Selector) Choose(disks []Disk, need int64) (Disk, error) {
	var fit []Disk
	var why []string
	for _, d := range disks {
		if reason := s.rejects(d, need); reason != "" {
			why = append(why, "  "+d.String()+": "+reason)
			continue
		}
		fit = append(fit, d)
	}
	switch {
	case len(disks) == 0:
		return Disk{}, errors.New("no disk found: is there a driver for its controller in the boot environment?")
	case len(fit) == 0:
		return Disk{}, fmt.Errorf("no disk fits:\n%s", strings.Join(why, "\n"))
	case len(fit) > 1 && s.smallest:
		slices.SortStableFunc(fit, func(a, b Disk) int { return int(min(max(a.Size-b.Size, -1), 1)) })
		if fit[0].Size < fit[1].Size {
			return fit[0], nil
		}
		fit = slices.DeleteFunc(fit, func(d Disk) bool { return d.Size > fit[0].Size })
		fallthrough
	case len(fit) > 1:
		var list strings.Builder
		for _, d := range fit {
			list.WriteString("\n  " + d.String())
		}
		return Disk{}, fmt.Errorf("%d disks fit, name one by path, serial= or wwn=:%s", len(fit), list.String())
	}
	return fit[0], nil
}

// rejects returns why d is not meant, or nothing.
func (s Selector) rejects(d Disk, need int64) string {
	named := s.path != "" || s.serial != "" || s.wwn != ""
	switch {
	case s.path != "" && s.path != d.Path:
		return "another path"
	case s.serial != "" && !strings.EqualFold(s.serial, d.Serial):
		return "another serial number"
	case s.wwn != "" && !strings.EqualFold(bareWWN(s.wwn), bareWWN(d.WWN)):
		return "another WWN"
	case d.ReadOnly:
		return "read-only"
	case d.Removable && !named: // a name that was spelled out is consent
		return "removable"
	case d.Size < need:
		return fmt.Sprintf("too small, the image needs %s", HumanSize(need))
	case d.Size < s.atLeast:
		return "smaller than " + HumanSize(s.atLeast)
	}
	return ""
}

// bareWWN drops the prefixes under which the same name goes in sysfs, udev and on stickers.
func bareWWN(s string) string {
	s = strings.ToLower(s)
	for _, p := range []string{"naa.", "eui.", "wwn-", "0x"} {
		s = strings.TrimPrefix(s, p)
	}
	return s
}

// String is d for people: path, size, model, serial.
func (d Disk) String() string {
	parts := []string{d.Path, HumanSize(d.Size)}
	if d.Model != "" {
		parts = append(parts, d.Model)
	}
	if d.Serial != "" {
		parts = append(parts, "serial "+d.Serial)
	}
	return strings.Join(parts, " ")
}

// HumanSize is n bytes in the unit that disks are sold in (powers of 1000).
func HumanSize(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTPkiB")
	unit := strings.TrimSuffix(s[len(digits):], "B")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("size %q, want a number with K, M, G, T or Ki, Mi, Gi, Ti", clip(s))
	}
	mult := map[string]int64{
		"": 1, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
	}[unit]
	if mult == 0 || n > (1<<62)/mult {
		return 0, fmt.Errorf("size %q, want a number with K, M, G, T or Ki, Mi, Gi, Ti", clip(s))
	}
	return n * mult, nil
}
