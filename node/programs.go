package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kernelPrograms shows the boot programs as files that have no name and lie in memory (memfd_create(2)), so that the kernel sends them
// by itself: those in this binary are copied for each client. Each is made when it is first asked for.
type kernelPrograms struct {
	fs.FS

	mu   sync.Mutex
	made map[string]*os.File
}

// Open opens a program once more: each reader has a position of its own.
func (k *kernelPrograms) Open(name string) (fs.File, error) {
	made, err := k.file(name)
	if err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", made.Fd()))
}

func (k *kernelPrograms) file(name string) (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.made[name]; f != nil {
		return f, nil
	}
	data, err := fs.ReadFile(k.FS, name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("hold %s in memory: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(fmt.Errorf("hold %s in memory: %w", name, err), f.Close())
	}
	if k.made == nil {
		k.made = map[string]*os.File{}
	}
	k.made[name] = f
	return f, nil
}
