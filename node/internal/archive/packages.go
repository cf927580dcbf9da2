package archive

import (
	"fmt"
	"io"
	"slices"
)

// maxPackagesBytes bounds one list of packages after decompression; Debian's main has 57 MB.
const maxPackagesBytes = 1 << 30

// Package is one stanza of a Packages file.
type Package struct {
	Name, Version string
	Depends       string // as it stands there
	Path          string // below the archive's base
	File
}

// FindPackages reads a Packages file whose name tells how it is compressed, and returns the stanzas of these packages, all versions.
func FindPackages(name string, r io.Reader, wanted ...string) ([]Package, error) {
	plain, err := Decompress(name, r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = plain.Close() }()
	var (
		out          []Package
		p            Package
		size, digest string
	)
	err = Stanzas(&BoundedReader{R: plain, Left: maxPackagesBytes}, func(key, value []byte) {
		switch string(key) {
		case "Package":
			p.Name = string(value)
		case "Version":
			p.Version = string(value)
		case "Depends":
			p.Depends = string(value)
		case "Filename":
			p.Path = string(value)
		case "Size":
			size = string(value)
		case "SHA256":
			digest = string(value)
		}
	}, func() (err error) {
		defer func() { p, size, digest = Package{}, "", "" }()
		if !slices.Contains(wanted, p.Name) {
			return nil
		}
		if p.Path, err = CleanName(p.Path); err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		if p.Sum, err = ParseSum(digest); err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		if p.Size, err = ParseSize(size); err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		out = append(out, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}
