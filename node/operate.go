package node

import (
	"fmt"
	"net"
	"os"
	"time"

	"offshoot/node/internal/api"
	"offshoot/swarm/identity"
)

// NewOperatorClient makes a client of the swarm over the network, as the operator of a file that `offshoot operator add` wrote.
// endpoint, host:port of a peer port, is asked instead of those in the file; empty takes these.
func NewOperatorClient(path, endpoint string) (*Client, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds a private key, and others may read it: chmod 600 %s", path, path)
	}
	file, err := identity.DecodeOperatorFile(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if endpoint != "" {
		if _, _, err := net.SplitHostPort(endpoint); err != nil {
			return nil, fmt.Errorf("endpoint %q: want HOST:PORT; the port is %d", endpoint, PeerPort)
		}
		file.Endpoints = []string{endpoint}
	}
	if end := file.NotAfter(); time.Now().After(end) {
		return nil, fmt.Errorf("%s has expired at %s; an admin makes a new one: offshoot operator add %s --role %s -o FILE", path, end.UTC().Format(time.RFC3339), file.Name, file.Role)
	}
	return api.NewRemote(file.Dial), nil
}

// EvictRequest says how a node is evicted.
type EvictRequest = api.EvictRequest

// RepoRequest is a repository that is to be mirrored.
type RepoRequest = api.RepoRequest

// Range is a run of addresses that leases are taken from.
type Range = api.Range

// ErrForbidden: the operator may not do this, or is not one.
var ErrForbidden = api.ErrForbidden
