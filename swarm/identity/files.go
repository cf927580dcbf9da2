package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFile replaces path as a whole: after a crash it holds the old bytes or the new ones.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // already closed, or the first error says more
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})
}

func encodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func parseCert(data []byte) (*x509.Certificate, error) {
	der, err := parsePEM(data, pemCert)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return cert, nil
}

// parseCA reads one authority's certificate.
func parseCA(data []byte) (*x509.Certificate, error) {
	cert, err := parseCert(data)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	if _, err := swarmOfCA(cert); err != nil {
		return nil, err
	}
	return cert, nil
}

// parseCAs reads the certificates of one authority or several, all of one swarm.
func parseCAs(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("authorities: %d bytes of PEM, the limit is %d", len(data), maxPEM)
	}
	var all []*x509.Certificate
	for len(all) == 0 || len(bytes.TrimSpace(data)) > 0 {
		one, rest := firstPEM(data)
		cert, err := parseCA(one)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && cert.URIs[0].Host != all[0].URIs[0].Host {
			return nil, fmt.Errorf("authorities: %w: %s and %s", ErrOtherSwarm, all[0].URIs[0].Host, cert.URIs[0].Host)
		}
		all, data = append(all, cert), rest
	}
	return all, nil
}

// firstPEM cuts the first PEM block off; without any, one is all that there is.
func firstPEM(data []byte) (one, rest []byte) {
	block, rest := pem.Decode(data)
	if block == nil {
		return data, nil
	}
	return data[:len(data)-len(rest)], rest
}

func parseKey(data []byte) (ed25519.PrivateKey, error) {
	der, err := parsePEM(data, pemKey)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("private key: not PKCS #8") // the parser's words could quote the key
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("private key: not Ed25519")
	}
	return ed, nil
}

// parsePEM wants exactly one block of this type.
func parsePEM(data []byte, kind string) ([]byte, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("%d bytes of PEM, the limit is %d", len(data), maxPEM)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("not one PEM block of type %s", kind)
	}
	return block.Bytes, nil
}
