// Package archive reads what package archives and publishers of images say of their files: signatures, Release and Packages,
// checksum files, and the packages themselves. What it returns was checked against what it was given, no more: a digest counts for as
// much as the text that it stood in. It does no I/O, and bounds what it reads. Only mirror, origin and node import it.
package archive

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// maxSignatures: Debian signs with three keys.
const maxSignatures = 16

// Unverified is said of what no signature vouches for.
const Unverified = "unverified"

// Keyring checks signatures; nil believes everything, and says so. It is safe for concurrent use.
type Keyring struct {
	keys openpgp.EntityList
	now  func() time.Time
}

// ReadKeyring reads keys, armored or not, as they lie in /usr/share/keyrings; no data is a nil Keyring. now judges whether keys and
// signatures have expired; nil is the clock.
func ReadKeyring(data []byte, now func() time.Time) (*Keyring, error) {
	if len(data) == 0 {
		return nil, nil
	}
	read := openpgp.ReadKeyRing
	if bytes.Contains(data, []byte("-----BEGIN PGP")) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(data))
	if err == nil && len(keys) == 0 {
		err = errors.New("it has no key")
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return &Keyring{keys: keys, now: now}, nil
}

// With is a keyring that has the keys of both.
func (k *Keyring) With(other *Keyring) *Keyring {
	if k == nil || other == nil {
		return cmp.Or(k, other)
	}
	return &Keyring{keys: append(slices.Clone(k.keys), other.keys...), now: k.now}
}

// maxSigner bounds the words for a signer; a name in a key may have any length.
const maxSigner = 100

// signerName is the key's id, and the name in it.
func signerName(e *openpgp.Entity) string {
	text := e.PrimaryKey.KeyIdString()
	if id := e.PrimaryIdentity(); id != nil && id.UserId != nil {
		text += " " + cmp.Or(id.UserId.Name, id.UserId.Email, id.Name)
		if id.UserId.Comment != "" { // Debian's say of which release a key is
			text += " (" + id.UserId.Comment + ")"
		}
	}
	var out strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) && r != utf8.RuneError && out.Len() < maxSigner {
			out.WriteRune(r)
		}
	}
	return strings.TrimSpace(out.String())
}

// splitClear takes a clear-signed message apart. Nothing may stand before or after it: apt and we must not read
// different texts in one file (CVE-2018-1000009 and its like).
func splitClear(data []byte) (*clearsign.Block, error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		if LooksLikeHTML(data) {
			return nil, ErrPortal
		}
		return nil, errors.New("it is not clear-signed")
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("the clear-signed message is damaged")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows the signature")
	}
	return block, nil
}

// Clear checks a clear-signed message and returns its text and who vouches for it.
func (k *Keyring) Clear(data []byte) (text []byte, by string, err error) {
	block, err := splitClear(data)
	if err != nil {
		return nil, "", err
	}
	by, err = k.check(block.Bytes, block.ArmoredSignature.Body)
	return block.Plaintext, by, err
}

// Detached checks a signature that stands beside its text, armored or not.
func (k *Keyring) Detached(text, signature []byte) (by string, err error) {
	if k == nil {
		return Unverified, nil
	}
	if LooksLikeHTML(signature) {
		return "", ErrPortal
	}
	if !bytes.HasPrefix(signature, []byte("-----BEGIN")) {
		return k.check(text, bytes.NewReader(signature))
	}
	block, err := armor.Decode(bytes.NewReader(signature))
	if err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	return k.check(text, block.Body)
}

// check wants one good signature by a key that we know. The others may be by keys that are newer than our keyring.
func (k *Keyring) check(text []byte, signatures io.Reader) (string, error) {
	if k == nil {
		return Unverified, nil
	}
	var causes []error
	packets := packet.NewReader(signatures)
	for range maxSignatures {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			causes = append(causes, err)
			break
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			causes = append(causes, errors.New("something else stands among the signatures"))
			break
		}
		var one bytes.Buffer
		if err := sig.Serialize(&one); err != nil {
			causes = append(causes, err)
			continue
		}
		signer, err := openpgp.CheckDetachedSignature(k.keys, bytes.NewReader(text), &one, &packet.Config{Time: k.now})
		if err == nil {
			return "signed by " + signerName(signer), nil
		}
		causes = append(causes, err)
	}
	return "", fmt.Errorf("no good signature by a known key: %w", errors.Join(causes...))
}
