package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"offshoot/node/status"
)

// Socket is the path of a node's operator socket.
func Socket(dataDir string) string { return filepath.Join(dataDir, "offshoot.sock") }

// Group is whose members may use the socket beside root, if there is such a group. They can do everything that root can ask for.
const Group = "offshoot"

// maxSocketPath is what fits into a sockaddr_un with its final zero (unix(7)), bytes.
const maxSocketPath = 107

// Serve answers on the node's socket until ctx ends. Its callers are named by Local.
func Serve(ctx context.Context, dataDir string, h http.Handler) error {
	path := Socket(dataDir)
	if len(path) > maxSocketPath {
		return fmt.Errorf("the operator socket %s has a path of %d bytes, sockets can have %d: choose a shorter --data-dir", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the old operator socket: %w", err) // we hold the directory's lock: it is a dead one
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open the operator socket: %w", err)
	}
	if err := admitGroup(dataDir, path); err != nil {
		return errors.Join(fmt.Errorf("open the operator socket: %w", err), l.Close())
	}
	return ServeOn(ctx, l, h)
}

// admitGroup lets the group get to the socket: through the data directory, where it can read nothing that is secret, and list
// nothing. Whoever comes another way is stopped by Local.
func admitGroup(dataDir, path string) error {
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	g, err := user.LookupGroup(Group)
	if err != nil {
		return nil //nolint:nilerr // a host without the group has root only
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil || os.Geteuid() != 0 {
		return err // only root can give files away
	}
	return errors.Join(os.Chown(path, -1, gid), os.Chown(dataDir, -1, gid), os.Chmod(dataDir, 0o710))
}

// ServeOn answers on a listener until ctx ends, and closes it. Its connections have been through their TLS handshake, or are
// those of a unix socket.
func ServeOn(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ConnContext: withPeer,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Asked "leave", the answer goes out after the rest of the node has stopped: give it a moment.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return err
}

// peerKey finds the credentials of a socket's other end in a request's context.
type peerKey struct{}

// withPeer asks the kernel once for each connection who opened it: the answer holds for whoever did so, not for whom the
// descriptor was passed on to.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *syscall.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

// Local names the caller on the other end of the socket, by the kernel's word (SO_PEERCRED, unix(7)): root, the user that this
// node runs as, and members of the group offshoot. All of them are admins.
func Local(r *http.Request) (Caller, error) {
	cred, ok := r.Context().Value(peerKey{}).(*syscall.Ucred)
	if !ok {
		return Caller{}, errors.New("the kernel does not say who opened this connection")
	}
	name := "?"
	account, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10))
	if err == nil {
		name = account.Username
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() && !inGroup(cred, account) {
		return Caller{}, fmt.Errorf("%w: %s (uid %d) is neither root nor in the group %s: use sudo, or as root: usermod -aG %s %s", ErrForbidden, name, cred.Uid, Group, Group, name)
	}
	return Caller{Name: fmt.Sprintf("%s (uid %d)", name, cred.Uid), Role: status.OperatorAdmin, From: "local socket"}, nil
}

// inGroup says whether the caller has the group, as its own or as one of its account's.
func inGroup(cred *syscall.Ucred, account *user.User) bool {
	g, err := user.LookupGroup(Group)
	if err != nil {
		return false
	}
	if g.Gid == strconv.FormatUint(uint64(cred.Gid), 10) {
		return true
	}
	if account == nil {
		return false
	}
	all, err := account.GroupIds()
	return err == nil && slices.Contains(all, g.Gid)
}
