package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"offshoot/node"
	"offshoot/node/status"
)

func newSnapshot(s *settings) *cobra.Command {
	var yes bool
	save := &cobra.Command{
		Use: "save FILE", Short: "Write everything that the swarm has decided to a file", Args: exactly("FILE (or - for standard output)"),
		Long: `save writes the swarm's whole state: machines, nodes, segments, leases, reservations, tickets, operators, diary and audit log.
Artifacts and private keys are not in it, but gossip keys and password hashes are: the file is a secret, and gets mode
0600. It appears under its name only when it is complete.`,
		Example: "  offshoot swarm snapshot save swarm.snapshot\n  offshoot swarm snapshot save - | age -r RECIPIENT -o swarm.snapshot.age",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if args[0] == "-" {
				if term.IsTerminal(int(os.Stdout.Fd())) {
					return usage("a snapshot is nothing for a terminal: name a file, or a program behind |")
				}
				return n.SaveSnapshot(ctx, os.Stdout)
			}
			size, err := writeWhole(args[0], func(w io.Writer) error { return n.SaveSnapshot(ctx, w) })
			if err != nil {
				return err
			}
			say(fmt.Sprintf("saved     %s, %d bytes; keep it where keys are kept", args[0], size))
			return nil
		}),
	}
	restore := &cobra.Command{
		Use: "restore FILE", Short: "Replace everything that the swarm has decided by what stands in a file", Args: exactly("FILE"),
		Long: `restore puts the swarm's state back to what it was when the file was saved. The leader does it, so it is asked; without quorum
see offshoot swarm recover --help. It shows first what that means, and asks.`,
		Example: "  offshoot swarm snapshot restore swarm.snapshot",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return usage("%w", err)
			}
			defer func() { _ = file.Close() }()
			info, err := file.Stat()
			if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
				return errors.Join(err, usage("%s is not a snapshot: it is no file, or empty", args[0]))
			}
			st, err := n.Status(ctx) // is anybody there, before it is asked for?
			if err != nil {
				return err
			}
			if err := leads(st, args[0]); err != nil {
				return err
			}
			plan(fmt.Sprintf("restoring swarm %s from %s (%d bytes, written %s):", st.Swarm, args[0], info.Size(), info.ModTime().Local().Format("2006-01-02 15:04:05")), []string{
				"LOST: everything that was decided since: leases, reservations, names, arming, tickets, operators",
				"an address that was leased since may be given to another machine while the first still uses it",
				"nodes that joined since are strangers and must be installed again; nodes that were evicted since are members again: evict them again at once",
				"operators that were revoked since are good again: revoke them again at once",
			}, nil)
			if err := confirm(ctx, "restore", yes); err != nil {
				return err
			}
			if err := n.RestoreSnapshot(ctx, file); err != nil {
				return err
			}
			say("restored  look at what it says now: offshoot swarm status")
			return nil
		}),
	}
	restore.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	return group("snapshot", "Save and restore the swarm's state", save, restore)
}

// leads says where a snapshot is restored, if not at the node that is asked.
func leads(st status.Status, file string) error {
	if st.Leader == st.Asked && st.Quorum {
		return nil
	}
	for _, n := range st.Nodes {
		if st.Quorum && n.Name == st.Leader && n.State != status.NodeLeft {
			return fmt.Errorf("snapshots are restored by the leader, which is %s: run this there, or: offshoot --operator FILE --endpoint %s swarm snapshot restore %s", n.Name, n.Address, file)
		}
	}
	return fmt.Errorf("%w: snapshots are restored by the leader, and there is none; see: offshoot swarm status", errNoQuorum)
}

// writeWhole writes a secret file that is either complete and on disk, or not there; a former one of that name is replaced only
// then. It returns the size in bytes.
func writeWhole(path string, write func(io.Writer) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("write %s: %w", path, err)
	}
	return info.Size(), os.Rename(f.Name(), path)
}
