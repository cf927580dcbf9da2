package mirror

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"strings"

	"offshoot/node/internal/archive"
)

// maxRepomdFiles: real ones have a few dozen.
const maxRepomdFiles = 1000

// repomd is what repomd.xml says: the files of the metadata, and which of them lists the packages.
type repomd struct {
	names   map[string]archive.File
	primary string
}

// parseRepomd reads repomd.xml. Files whose checksum is no SHA-256 are left out, and so refused.
func parseRepomd(text []byte) (repomd, error) {
	if archive.LooksLikeHTML(text) {
		return repomd{}, archive.ErrPortal
	}
	var doc struct {
		XMLName xml.Name `xml:"repomd"`
		Data    []struct {
			Type     string `xml:"type,attr"`
			Checksum struct {
				Type string `xml:"type,attr"`
				Sum  string `xml:",chardata"`
			} `xml:"checksum"`
			Location struct {
				Href string `xml:"href,attr"`
				Base string `xml:"base,attr"`
			} `xml:"location"`
			Size string `xml:"size"`
		} `xml:"data"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return repomd{}, fmt.Errorf("repomd.xml: %w", err)
	}
	if len(doc.Data) > maxRepomdFiles {
		return repomd{}, fmt.Errorf("repomd.xml: %w", archive.ErrTooMuch)
	}
	r := repomd{names: map[string]archive.File{}}
	for _, d := range doc.Data {
		if d.Checksum.Type != "sha256" || d.Location.Base != "" {
			continue
		}
		name, err := archive.CleanName(d.Location.Href)
		if err != nil {
			return repomd{}, fmt.Errorf("repomd.xml: %.80q: %w", d.Location.Href, err)
		}
		s, err := archive.ParseSum(strings.TrimSpace(d.Checksum.Sum))
		if err != nil {
			return repomd{}, fmt.Errorf("repomd.xml: %s: %w", name, err)
		}
		size, err := archive.ParseSize(strings.TrimSpace(d.Size))
		if err != nil {
			return repomd{}, fmt.Errorf("repomd.xml: %s: %w", name, err)
		}
		r.names[name] = archive.File{Sum: s, Size: size}
		if d.Type == "primary" {
			r.primary = name
		}
	}
	if r.primary == "" {
		return repomd{}, errors.New("repomd.xml: it names no primary with a SHA-256")
	}
	return r, nil
}

// parsePrimary reads the packages of a primary.xml, tag by tag: encoding/xml takes ten times as long, and holds any
// text as a whole. What is not in the form that createrepo_c writes is skipped, and so refused.
func parsePrimary(r io.Reader) (index, error) {
	x := index{}
	in := bufio.NewReaderSize(r, 64<<10)
	var p struct{ name, size, digest string }
	inChecksum := false
	for {
		text, err := readUntil(in, '<')
		if errors.Is(err, io.EOF) {
			return x, nil
		}
		if err != nil {
			return nil, err
		}
		if inChecksum {
			p.digest = strings.TrimSpace(text)
			inChecksum = false
		}
		tag, err := readUntil(in, '>')
		if err != nil {
			return nil, fmt.Errorf("within a tag: %w", noEOF(err))
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(tag, "/"), " ")
		switch name {
		case "package":
			p.name, p.size, p.digest = "", "", ""
		case "checksum":
			inChecksum = attribute(tag, "type") == "sha256"
		case "size":
			p.size = attribute(tag, "package")
		case "location":
			if attribute(tag, "xml:base") == "" { // else it lies on another server
				p.name = attribute(tag, "href")
			}
		case "/package":
			if p.name == "" || p.digest == "" {
				continue
			}
			if err := x.add(p.name, p.size, p.digest); err != nil {
				return nil, err
			}
		}
	}
}

// readUntil returns what stands before the mark, cut where the buffer is full.
func readUntil(in *bufio.Reader, mark byte) (string, error) {
	text, err := in.ReadSlice(mark)
	if errors.Is(err, bufio.ErrBufferFull) {
		head := string(text[:4*archive.MaxName])
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice(mark)
		}
		return head, err
	}
	return string(bytes.TrimSuffix(text, []byte{mark})), err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// attribute is the value of an attribute, "" if it is missing.
func attribute(tag, name string) string {
	_, rest, ok := strings.Cut(tag, " "+name+"=")
	if !ok || rest == "" || (rest[0] != '"' && rest[0] != '\'') {
		return ""
	}
	value, _, ok := strings.Cut(rest[1:], rest[:1])
	if !ok {
		return ""
	}
	return html.UnescapeString(value)
}
