package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
)

// addFlags are what `artifact add` can be told.
type addFlags struct {
	node.Source
	release, arch string
	mirror        string
	keyring       string
	tree          bool
}

// debianFiles are the words that stand for files of Debian's archive.
var debianFiles = map[string]func(ctx context.Context, a *node.Acquirer, release, arch string) ([]status.Artifact, error){
	"debian-installer": func(ctx context.Context, a *node.Acquirer, release, arch string) ([]status.Artifact, error) {
		kernel, initrd, err := a.DebianInstaller(ctx, release, arch)
		return []status.Artifact{kernel, initrd}, err
	},
	"debian-boot": func(ctx context.Context, a *node.Acquirer, release, arch string) ([]status.Artifact, error) {
		return a.DebianBoot(ctx, release, arch)
	},
	"debian-kernel": func(ctx context.Context, a *node.Acquirer, release, arch string) ([]status.Artifact, error) {
		return a.DebianKernel(ctx, release, arch)
	},
}

func newAdd(s *settings) *cobra.Command {
	var (
		f addFlags
		o output
	)
	c := &cobra.Command{
		Use: "add FILE|URL|debian-installer|debian-boot|debian-kernel", Short: "Add a file, a download or an installer, and keep what vouches for it",
		Args: exactly("FILE, URL, debian-installer, debian-boot or debian-kernel"),
		Long: `add brings a file into the swarm. It is fetched and checked here, with the keys of this host, and sent to the node that is asked; what is
broken off goes on the next time. What vouches for it is shown by: offshoot artifact show

  debian-installer   kernel and initrd of Debian's installer, from the signed archive
  debian-boot        shim and GRUB as signed for Secure Boot, for disks and for the network
  debian-kernel      the kernel that an installed system gets
  URL                with a signed checksum file: the one beside it, or --sums. A signature that is missing is refused without
                     --unverified; one that is wrong always is
  FILE               your own; with --sums it is checked against a signed checksum file

--iso wants an ISO image, and looks for its checksums also beside a FILE. Its files are then served one by one, without unpacking it:
http://NODE:7480/iso/DIGEST/PATH. --tree takes kernel and initrd of an installation tree with a .treeinfo, which nobody signs: rather
add the ISO.

Keys are those that this host has for the distribution (/usr/share/keyrings, /usr/share/distribution-gpg-keys, /etc/pki/rpm-gpg), or
--keyring FILE; they are never taken from a mirror. Debian's archive is the one of this host's apt sources, or --mirror URL.

An artifact that no profile needs lies on the node that was asked only, and goes when its disk is full: offshoot artifact pin`,
		Example: `  offshoot artifact add debian-installer --release 13
  offshoot artifact add debian-boot --release 13 --arch arm64
  offshoot artifact add --iso https://images.example.net/debian-13.1.0-amd64-netinst.iso
  offshoot artifact add https://images.example.net/noble-server-cloudimg-amd64.img --keyring ubuntu-cloudimage-keyring.gpg
  offshoot artifact add golden.raw.zst`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := f.check(args[0]); err != nil {
				return err
			}
			show := &meter{progress: newProgress(), now: time.Now, each: true}
			all, err := f.add(ctx, &node.Acquirer{Client: n, Mirror: f.mirror, Keyring: f.keyring, Say: show.step}, args[0])
			show.draw(time.Now(), "")
			if errors.Is(err, node.ErrUnsigned) {
				return usage("%w", err)
			}
			if err != nil {
				return err
			}
			for _, a := range all {
				say("added     " + plain(a.Name) + "  " + plain(a.Verified))
			}
			return o.print(all, func() error { return printArtifacts(os.Stdout, all) })
		}),
	}
	o.flag(c)
	fl := c.Flags()
	fl.BoolVar(&f.ISO, "iso", false, "it is an ISO image, and its files are to be served")
	fl.BoolVar(&f.tree, "tree", false, "URL is that of an installation tree with a .treeinfo")
	fl.StringVar(&f.Sums, "sums", "", "URL or file of the checksums; its signature is in it, or beside it (.gpg, .sign, .asc, .sig)")
	fl.StringVar(&f.keyring, "keyring", "", "file with the only OpenPGP keys that count (default: this host's, of the distribution)")
	fl.StringVar(&f.Name, "name", "", "what to call it (default: as the file is called)")
	fl.BoolVar(&f.Unverified, "unverified", false, "take it though nothing vouches for it")
	fl.StringVar(&f.release, "release", "13", "release of Debian: 12 or 13")
	fl.StringVar(&f.arch, "arch", "amd64", "architecture: amd64 or arm64")
	fl.StringVar(&f.mirror, "mirror", "", "URL of a Debian archive (default: that of this host's apt sources)")
	return c
}

// check refuses what contradicts itself, before anything is fetched.
func (f *addFlags) check(what string) error {
	_, debian := debianFiles[what]
	switch {
	case debian && (f.ISO || f.tree || f.Sums != "" || f.Unverified || f.Name != ""):
		return usage("%s comes from the signed archive: --iso, --tree, --sums, --unverified and --name are for files and URLs", what)
	case f.tree && (f.ISO || f.Sums != "" || f.Name != ""):
		return usage("--tree is for an installation tree: --iso, --sums and --name are for one file")
	case !debian && f.mirror != "":
		return usage("--mirror is for debian-installer, debian-boot and debian-kernel")
	case f.keyring != "" && f.tree:
		return usage("--tree: nobody signs a .treeinfo, so --keyring has nothing to check")
	case f.keyring != "" && !debian && !f.ISO && f.Sums == "" && !strings.Contains(what, "://"):
		return usage("--keyring: which checksum file did somebody sign? Name it with --sums")
	}
	return nil
}

func (f *addFlags) add(ctx context.Context, a *node.Acquirer, what string) ([]status.Artifact, error) {
	if bring, ok := debianFiles[what]; ok {
		return bring(ctx, a, f.release, f.arch)
	}
	if f.tree {
		return a.Tree(ctx, what, f.Unverified)
	}
	f.At = what
	one, err := a.File(ctx, f.Source)
	if errors.Is(err, os.ErrNotExist) && !strings.Contains(what, "://") {
		return nil, usage("%w", err)
	}
	return []status.Artifact{one}, err
}

func newVerify(s *settings) *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "verify [DIGEST...]", Short: "Hash the node's bytes of artifacts again, and say what vouches for each",
		Long: `verify reads what the node that is asked has on its disk, all of it or the artifacts that are named, and compares it with the SHA-256.
Damaged bytes are thrown away: a node that needs them fetches them again from the others. Exit code 1: something is damaged, or was
named and is not there.`,
		Example: "  offshoot artifact verify\n  offshoot artifact verify 5f2b9c31a0de",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if len(args) == 0 {
				all, err := n.Artifacts(ctx)
				if err != nil {
					return err
				}
				for _, a := range all {
					if a.Here {
						args = append(args, a.Digest)
					}
				}
			}
			bad, all := 0, []status.Verification{}
			for _, digest := range args {
				v, err := n.VerifyArtifact(ctx, digest)
				if err != nil {
					return err
				}
				if !v.Good {
					bad++
				}
				all = append(all, v)
			}
			if err := o.print(all, func() error { return printVerified(os.Stdout, all) }); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d artifacts are not good on this node", bad, len(all))
			}
			return nil
		}),
	}
	o.flag(c)
	return c
}

func newShow(s *settings) *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "show DIGEST", Short: "Show one artifact: where it came from, what vouches for it, who has it", Args: exactly("DIGEST"),
		Long: `show prints what is known of an artifact, the chain of signatures and lists that vouches for it link by link, and of an installer's ISO
image what it installs and boots. DIGEST is the SHA-256 or its beginning, as in: offshoot artifact list`,
		Example: "  offshoot artifact show 5f2b9c31a0de",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			a, err := n.Artifact(ctx, args[0])
			if err != nil {
				return err
			}
			return o.print(a, func() error { return printArtifact(os.Stdout, a) })
		}),
	}
	o.flag(c)
	return c
}
