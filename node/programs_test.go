package node

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"syscall"
	"testing"
	"testing/fstest"
)

func TestProgramsInKernelMemoryAreReadEachFromItsBeginning(t *testing.T) {
	want := bytes.Repeat([]byte("MZ"), 5000)
	programs := &kernelPrograms{FS: fstest.MapFS{"snponly.efi": {Data: want}}}
	for range 2 {
		f, err := programs.Open("snponly.efi")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.(syscall.Conn); !ok {
			t.Errorf("the kernel cannot send a %T", f)
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		_ = f.Close()
	}
	if _, err := programs.Open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that does not exist: %v", err)
	}
}
