package lab

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Suite is where the metadata of a Publisher's archives lies.
const Suite = "dists/stable"

// Package is one package of an archive. Apt and mirrors look at its digest only: what is inside may be noise, unless someone is to
// unpack it.
type Package struct {
	Name string
	Data []byte
}

// NoisePackage has contents that do not compress, the same ones for the same name.
func NoisePackage(name string, size int) Package {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(data) // never fails
	return Package{name, data}
}

// RealPackage is one that dpkg can unpack. All that is in it is a file of noise.
func RealPackage(name string, size int) (Package, error) {
	noise := NoisePackage(name, size)
	return FilePackage(name, map[string][]byte{"." + noise.Installed(): noise.Data})
}

// FilePackage is one that dpkg can unpack, with these files ("./usr/share/x").
func FilePackage(name string, files map[string][]byte) (Package, error) {
	p := Package{Name: name}
	control, err := tarball(map[string][]byte{"./control": []byte(p.control())})
	if err != nil {
		return p, err
	}
	data, err := tarball(files)
	if err != nil {
		return p, err
	}
	var out bytes.Buffer // deb(5), ar(5); all members have an even length, and need no padding
	out.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", control}, {"data.tar", data}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(member.data))
		out.Write(member.data)
	}
	p.Data = out.Bytes()
	return p, nil
}

// tarball holds files.
func tarball(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644})
		if err == nil {
			_, err = w.Write(files[name])
		}
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return out.Bytes(), nil
}

// Installed is where the file of a RealPackage ends up.
func (p Package) Installed() string { return "/usr/share/" + p.Name + "/noise" }

func (p Package) control() string {
	return fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.net>\nDescription: test\n", p.Name)
}

// Path is where the package lies in the archive.
func (p Package) Path() string { return "pool/main/" + p.Name + "_1_amd64.deb" }

// Publisher makes Debian archives, and signs them with a key of its own. Without one (the zero Publisher) nobody signs them.
type Publisher struct {
	Keyring []byte // the public half

	entity *openpgp.Entity
	born   time.Time
}

// NewPublisher makes a key. The key and all signatures bear this time.
func NewPublisher(born time.Time) (*Publisher, error) {
	p := &Publisher{born: born}
	var err error
	if p.entity, err = openpgp.NewEntity("Archive", "", "archive@example.net", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: p.now}); err != nil {
		return nil, fmt.Errorf("make an archive's key: %w", err)
	}
	var public bytes.Buffer
	if err := p.entity.Serialize(&public); err != nil {
		return nil, fmt.Errorf("make an archive's key: %w", err)
	}
	p.Keyring = public.Bytes()
	return p, nil
}

func (p *Publisher) now() time.Time { return p.born }

func (p *Publisher) config() *packet.Config {
	return &packet.Config{DefaultHash: crypto.SHA256, Time: p.now}
}

// ClearSigned is a text with the signature around it, as in InRelease.
func (p *Publisher) ClearSigned(text []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, p.entity.PrivateKey, p.config())
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// Signature stands in a file of its own, as in Release.gpg.
func (p *Publisher) Signature(text []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&out, p.entity, bytes.NewReader(text), p.config()); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return out.Bytes(), nil
}

// Dearmor is a signature as the bytes that its armor is around.
func Dearmor(signature []byte) ([]byte, error) {
	block, err := armor.Decode(bytes.NewReader(signature))
	if err != nil {
		return nil, fmt.Errorf("dearmor: %w", err)
	}
	return io.ReadAll(block.Body)
}

// Publish writes an archive with these packages to files, by their path. Lists of earlier states stay there by their hash, as
// publishers keep them. Further fields of Release come as lines.
func (p *Publisher) Publish(files map[string][]byte, at time.Time, fields string, packages ...Package) error {
	var text bytes.Buffer
	for _, k := range packages {
		files[k.Path()] = k.Data
		text.WriteString(k.control())
		fmt.Fprintf(&text, "Filename: %s\nSize: %d\nSHA256: %x\n\n", k.Path(), len(k.Data), sha256.Sum256(k.Data))
	}
	asXZ, err := XZ(text.Bytes())
	if err != nil {
		return err
	}
	asGzip, err := Gzip(text.Bytes())
	if err != nil {
		return err
	}
	const dir = "main/binary-amd64/"
	lists := map[string][]byte{
		dir + "Packages": text.Bytes(), dir + "Packages.xz": asXZ, dir + "Packages.gz": asGzip, dir + "Release": []byte("Archive: stable\nArchitecture: amd64\n"),
	}
	var release bytes.Buffer
	fmt.Fprintf(&release, "Origin: Test\nSuite: stable\nCodename: stable\nArchitectures: amd64\nComponents: main\nDate: %s\n%sAcquire-By-Hash: yes\nSHA256:\n",
		at.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), fields)
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		digest := fmt.Sprintf("%x", sha256.Sum256(lists[name]))
		fmt.Fprintf(&release, " %s %d %s\n", digest, len(lists[name]), name)
		files[Suite+"/"+name] = lists[name]
		files[Suite+"/"+dir+"by-hash/SHA256/"+digest] = lists[name]
	}
	files[Suite+"/Release"] = release.Bytes()
	if p.entity == nil {
		return nil
	}
	if files[Suite+"/InRelease"], err = p.ClearSigned(release.Bytes()); err != nil {
		return err
	}
	files[Suite+"/Release.gpg"], err = p.Signature(release.Bytes())
	return err
}

// XZ compresses.
func XZ(data []byte) ([]byte, error) {
	return compress(data, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
}

// Gzip compresses.
func Gzip(data []byte) ([]byte, error) {
	return compress(data, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
}

func compress(data []byte, by func(io.Writer) (io.WriteCloser, error)) ([]byte, error) {
	var out bytes.Buffer
	w, err := by(&out)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return out.Bytes(), nil
}
