package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// uevents listens to the kernel's own announcements of devices (not udev's: there is none). It knows when the last one came.
type uevents struct {
	f *os.File

	mu   sync.Mutex
	last time.Time
}

func listenUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	// A server announces some thousand devices within a moment.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	return &uevents{f: os.NewFile(uintptr(fd), "uevent"), last: time.Now()}, nil
}

// run calls added for the modalias of every new device until ctx ends.
func (u *uevents) run(ctx context.Context, added func(modalias string)) {
	stop := context.AfterFunc(ctx, func() { _ = u.f.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := u.f.Read(buf)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // ENOBUFS: some were lost; the devices of a server hang on more than one event
			u.touch()
			if pause(ctx, 10*time.Millisecond) != nil {
				return
			}
			continue
		}
		action, modalias := parseUevent(buf[:n])
		if action != "" {
			u.touch()
		}
		if action == "add" && modalias != "" {
			added(modalias)
		}
	}
}

func (u *uevents) touch() {
	u.mu.Lock()
	u.last = time.Now()
	u.mu.Unlock()
}

// quiet is for how long no device was announced.
func (u *uevents) quiet() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Since(u.last)
}

// parseUevent reads "action@path", NUL, and KEY=value pairs, each ended by NUL.
func parseUevent(msg []byte) (action, modalias string) {
	head, rest, ok := bytes.Cut(msg, []byte{0})
	action, _, at := strings.Cut(string(head), "@")
	if !ok || !at {
		return "", ""
	}
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		if v, ok := bytes.CutPrefix(field, []byte("MODALIAS=")); ok {
			modalias = string(v)
		}
	}
	return action, modalias
}
