package mirror

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"offshoot/node/internal/archive"
)

// through streams a file from a source to one client without keeping it: there is no room. The end is held back until
// the whole has matched, as ever; each client costs the upstream a transfer of its own.
func (m *Mirror) through(v *visit, t *target) error {
	var errs []error
	for _, s := range t.repo.sources() {
		for _, p := range t.paths {
			err := m.throughFrom(v, t, s, p)
			if err == nil {
				m.tell(v, t.Sum.String(), t.Size, t.by)
				return nil
			}
			if v.w.status != 0 {
				return err
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m *Mirror) throughFrom(v *visit, t *target, s *source, p string) error {
	a, err := s.get(v.r.Context(), question{path: p, checked: true, hops: v.hops})
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	if err := announced(a, t.Size); err != nil {
		return err
	}
	v.w.Header().Set("Content-Length", strconv.FormatInt(t.Size, 10))
	hash := sha256.New()
	held := make([]byte, 0, holdBack+copySize)
	total := int64(0)
	for {
		n, err := a.Read(held[len(held):cap(held)])
		_, _ = hash.Write(held[len(held) : len(held)+n])
		held = held[:len(held)+n]
		total += int64(n)
		if total > t.Size {
			return errWrongBytes
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err != nil {
			break
		}
		if out := len(held) - holdBack; out > 0 {
			if err := v.w.send(held[:out]); err != nil {
				return err
			}
			held = held[:copy(held, held[out:])]
		}
	}
	t.repo.count(s, total)
	if total != t.Size || archive.Sum(hash.Sum(nil)) != t.Sum {
		s.note(errWrongBytes)
		return errWrongBytes
	}
	return v.w.send(held)
}

// serveUnlisted is for what no metadata names: refused, or passed on as it comes if the operator wants that.
func (m *Mirror) serveUnlisted(v *visit) error {
	if !v.repo.PassUnlisted {
		return fmt.Errorf("no metadata that was read here names it (apt-get update?): %w", errMissing)
	}
	if v.repo.misses.has(v.path) {
		return errMissing
	}
	if !v.repo.luck.try() {
		return fmt.Errorf("%w: too many were asked for that are not listed", errBusy)
	}
	var errs []error
	for _, s := range v.repo.sources() {
		a, err := s.get(v.r.Context(), question{path: v.path, hops: v.hops})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer func() { _ = a.Close() }()
		v.w.Header().Set("Content-Type", "application/octet-stream")
		if a.ContentLength >= 0 {
			v.w.Header().Set("Content-Length", strconv.FormatInt(a.ContentLength, 10))
		}
		n, err := io.Copy(v.w, a)
		v.repo.count(s, n)
		if err != nil && v.w.status == 0 {
			v.w.status = http.StatusOK // nothing else may be answered now
		}
		return err
	}
	err := errors.Join(errs...)
	if errors.Is(err, errMissing) {
		v.repo.misses.add(v.path)
	}
	return err
}
