package origin

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"offshoot/node/internal/archive"
)

const (
	headTime = 30 * time.Second // until a server answers
	idleTime = time.Minute      // until it sends more
	attempts = 4                // in a row that bring nothing
	// maxList bounds what is read into memory: Debian's InRelease has 140 KB, its SHA256SUMS 80.
	maxList = 8 << 20
	// maxFile bounds what nobody told the size of.
	maxFile = 64 << 30
)

// want is what a list says of a file.
type want struct {
	digest string // SHA-256 or SHA-512 in hexadecimal digits; "": nobody told
	size   int64  // bytes; -1: nobody told
}

// statusError is an answer that brings no file.
type statusError int

func (e statusError) Error() string {
	return fmt.Sprintf("it answers %d %s", e, http.StatusText(int(e)))
}

// missing says that a server has no such file, rather than that nobody knows.
func missing(err error) bool {
	var code statusError
	return errors.As(err, &code) && (code == http.StatusNotFound || code == http.StatusGone)
}

// get reads a list.
func (f *Fetcher) get(ctx context.Context, u *url.URL) ([]byte, error) {
	if err := f.open(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var data []byte
	err := f.insist(ctx, func() (int64, error) {
		resp, err := f.ask(ctx, u, 0)
		if err != nil {
			return 0, err
		}
		defer func() { _ = resp.Body.Close() }()
		data, err = archive.ReadAll(resp.Body, maxList)
		return 0, err
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", plain(u), err)
	}
	return data, nil
}

// ask sends one request; from is how many bytes are here already.
func (f *Fetcher) ask(ctx context.Context, u *url.URL, from int64) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if from > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && (from == 0 || resp.StatusCode != http.StatusPartialContent) {
		_ = resp.Body.Close()
		return nil, statusError(resp.StatusCode)
	}
	return resp, nil
}

// insist tries again while that may help: it came further than ever, or the failures in a row are few.
func (f *Fetcher) insist(ctx context.Context, try func() (reached int64, err error)) error {
	best := int64(0)
	for failures := 0; ; {
		reached, err := try()
		var code statusError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &code) && code < 500 && code != http.StatusTooManyRequests, errors.Is(err, archive.ErrTooMuch), errors.Is(err, syscall.ENOSPC):
			return err
		}
		if failures++; reached > best {
			best, failures = reached, 1
		}
		if failures >= attempts {
			return err
		}
		pause := time.Second << failures
		if f.pause != nil {
			pause = f.pause(failures)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// listed brings a file that is returned as it is.
func (f *Fetcher) listed(ctx context.Context, u *url.URL, w want, name, by string) (File, error) {
	file := File{Name: name, Origin: plain(u), Verified: by}
	if len(w.digest) == hex.EncodedLen(sha256.Size) {
		file.SHA256 = w.digest
	}
	if file.SHA256 != "" && f.Have != nil && f.Have(file.SHA256) {
		return file, nil
	}
	var err error
	if file.Path, err = f.download(ctx, u, path.Base(u.Path), w); err == nil {
		f.done = append(f.done, file.Path)
	}
	return file, err
}

// download brings a file, which is called what, to the disk and checks it. What is known by its digest goes on where it was broken off, also the next time;
// of the rest nothing stays.
func (f *Fetcher) download(ctx context.Context, u *url.URL, what string, w want) (_ string, err error) {
	if err := f.open(); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch %s: %w", plain(u), err)
		}
	}()
	name := filepath.Join(f.out, "download")
	if w.digest != "" {
		name = filepath.Join(f.Dir, w.digest[:64]+".part")
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", fmt.Errorf("%s: another offshoot is fetching it: %w", name, err)
	}
	for began := size(file); ; began = 0 {
		err := f.insist(ctx, func() (int64, error) { return f.more(ctx, u, file, what, w) })
		if err == nil {
			err = check(file, w)
		}
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, ErrMismatch) && began > 0: // what lay here may be to blame
			if err := file.Truncate(0); err != nil {
				return "", err
			}
		case errors.Is(err, ErrMismatch), errors.Is(err, archive.ErrTooMuch), size(file) == 0:
			return "", errors.Join(err, os.Remove(name))
		default:
			return "", err
		}
	}
}

// size is how much is here; 0 if that cannot be told.
func size(file *os.File) int64 {
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// more appends what the server has of the file, and says how far that reached.
func (f *Fetcher) more(ctx context.Context, u *url.URL, file *os.File, what string, w want) (reached int64, err error) {
	have, err := file.Seek(0, io.SeekEnd)
	if err != nil || have == w.size {
		return 0, err
	}
	if w.size >= 0 && have > w.size || w.digest == "" { // not ours, or nobody could tell whether it is the same file still
		if have, err = 0, file.Truncate(0); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := f.ask(ctx, u, have)
	var code statusError
	if errors.As(err, &code) && code == http.StatusRequestedRangeNotSatisfiable { // all of it is here, or too much of it
		if check(file, w) == nil {
			return 0, nil
		}
		return 0, errors.Join(file.Truncate(0), errors.New("it has changed: from the start"))
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusPartialContent && !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(have, 10)+"-") {
		return 0, errors.Join(file.Truncate(0), errors.New("it sends another range than was asked for"))
	}
	if resp.StatusCode == http.StatusOK {
		have = 0
	}
	if err := errors.Join(file.Truncate(have), seek(file, have)); err != nil {
		return 0, err
	}
	total, most := w.size, w.size
	if total < 0 {
		if most = maxFile; resp.ContentLength >= 0 {
			total = have + resp.ContentLength
		}
	}
	if total > most {
		return 0, archive.ErrTooMuch
	}
	idle := time.AfterFunc(idleTime, func() { cancel(errors.New("it has stalled")) })
	defer idle.Stop()
	body := &archive.BoundedReader{R: resp.Body, Left: most - have + 1}
	_, err = io.Copy(&watched{file, func(n int64) {
		idle.Reset(idleTime)
		if have += n; f.Say != nil {
			f.Say(what, have, total)
		}
	}}, body)
	switch {
	case err != nil:
		return have, errors.Join(err, context.Cause(ctx))
	case total >= 0 && have < total:
		return have, io.ErrUnexpectedEOF
	case have > most:
		return 0, errors.Join(archive.ErrTooMuch, file.Truncate(0))
	}
	return have, nil
}

func seek(file *os.File, at int64) error {
	_, err := file.Seek(at, io.SeekStart)
	return err
}

// watched tells how much was written.
type watched struct {
	w     io.Writer
	wrote func(n int64)
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.wrote(int64(n))
	return n, err
}

// check compares a file with what its list says.
func check(file io.ReadSeeker, w want) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := newHash(w.digest)
	n, err := io.Copy(sum, file)
	switch {
	case err != nil:
		return err
	case w.size >= 0 && n != w.size:
		return fmt.Errorf("%w: it has %d bytes, want %d", ErrMismatch, n, w.size)
	case w.digest != "" && hex.EncodeToString(sum.Sum(nil)) != w.digest:
		return fmt.Errorf("%w: its digest is %x, want %s", ErrMismatch, sum.Sum(nil), w.digest)
	}
	return nil
}

// newHash is the one that a digest was made by.
func newHash(digest string) hash.Hash {
	if len(digest) == hex.EncodedLen(sha512.Size) {
		return sha512.New()
	}
	return sha256.New()
}
