package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"offshoot/node"
	"offshoot/node/status"
)

// changes are what flags say of a profile.
type changes struct {
	driver, release, arch string
	params                string   // file
	set                   []string // KEY=VALUE
	kernel, initrd, image string   // files, or digests of artifacts
	stage2, iso           string   // the same
	cloudInit             bool
	templates             []string // NAME=FILE
	agent                 agentFlags

	installer map[string]string // digests by name, of what the node has already
}

func (ch *changes) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&ch.driver, "driver", "", "how the system comes onto the machine: image, debian, ubuntu, fedora, centos-stream, almalinux, rocky, custom, …")
	f.StringVar(&ch.release, "release", "", "of the distribution, in its own word: trixie")
	f.StringVar(&ch.arch, "arch", "", "architecture, in the distribution's word (default amd64)")
	f.StringVar(&ch.params, "param", "", "YAML file with parameters, in place of all that there are")
	f.StringArrayVar(&ch.set, "set", nil, "KEY=VALUE: set one parameter; VALUE is YAML, and empty drops it (repeatable)")
	f.StringVar(&ch.kernel, "kernel", "", "file with the installer's kernel, or the digest of an artifact")
	f.StringVar(&ch.initrd, "initrd", "", "file with the installer's initrd, or a digest")
	f.StringVar(&ch.stage2, "stage2", "", "file with Anaconda itself, images/install.img of the distribution's tree, or a digest")
	f.StringVar(&ch.iso, "iso", "", "file with an ISO image that holds the installer, or a digest")
	f.StringVar(&ch.image, "image", "", "file with a disk image, for driver image, or a digest")
	f.BoolVar(&ch.cloudInit, "cloud-init", false, "the image has cloud-init: the same as --set cloud_init=true")
	ch.agent.flags(c)
	f.StringArrayVar(&ch.templates, "template", nil, "NAME=FILE: a template of your own in place of the driver's (repeatable)")
}

const profileHelp = `Files named here are sent to the node, which keeps them as artifacts and gives them to the others. Parameters:

  packages [LIST]          partitioning plain|btrfs|lvm   disk SELECTOR             kernel_args [LIST]
  users [{name, …}]        ssh_keys [LIST] (root's)       password_hash (root's)    installer_args [LIST]
  locale en_US.UTF-8       keyboard us                    timezone Etc/UTC          mirror NAME
  flavour server|minimal|workstation                      cloud_init true (driver image: the image has cloud-init)
  pre SHELL (in the installer, before a disk is touched)  post SHELL (in the installed system)

Not every driver does all of them; what one cannot do is refused, and so is every unknown word. What is not said of root's keys,
root's password and the disk is as the seed was told.

Machines of another architecture than the seed's need an agent of their own, and become nodes by a program of their own: --program
names an offshoot that was built for them. The agent's kernel is the one inside the image, or that of --live-kernel.`

func newProfileAdd(s *settings) *cobra.Command {
	var (
		ch   changes
		file string
	)
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a profile", Args: exactly("NAME"),
		Long: "add writes a profile down, after everything that an installer would choke on was looked for. Install a machine with it:\noffshoot machine arm MAC --profile NAME\n\n" +
			"For driver debian, without --kernel and --initrd, the installer comes out of Debian's signed archive (offshoot artifact add\ndebian-installer). " + profileHelp,
		Example: "  offshoot profile add shop --driver rocky --release 9.6 --iso Rocky-9.6-x86_64-dvd.iso --set flavour=server\n" +
			"  offshoot profile add lab --driver fedora --release 43 --kernel vmlinuz --initrd initrd.img --stage2 install.img --set mirror=fedora\n" +
			"  offshoot profile add cloud --driver image --image debian-13-genericcloud-amd64.qcow2 --cloud-init --set packages=[nginx]\n" +
			"  offshoot profile add web --driver debian --release trixie --set packages=[nginx,curl] --set partitioning=btrfs\n" +
			"  offshoot profile add web --driver debian --release trixie --kernel linux --initrd initrd.gz --param web.yaml\n" +
			"  offshoot profile add golden --driver image --image debian13.raw.zst\n" +
			"  offshoot profile add arm --driver image --arch arm64 --image debian13-arm64.raw.zst --program offshoot-arm64\n" +
			"  offshoot profile add web -f web.yaml",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			text := []byte{}
			if file != "" {
				var err error
				if text, err = readFile(file); err != nil {
					return usage("-f: %w", err)
				}
			} else if ch.driver == "" {
				return usage("profile add: --driver is missing: image, debian, …")
			} else if ch.driver == "debian" && ch.kernel == "" && ch.initrd == "" {
				if err := ch.acquire(ctx, n, args[0]); err != nil {
					return err
				}
			}
			if err := ch.put(ctx, n, args[0], text, node.PutHow{Create: true}); err != nil {
				return err
			}
			say("added     " + args[0] + ": offshoot machine arm MAC --profile " + args[0])
			return nil
		}),
	}
	ch.flags(c)
	c.Flags().StringVarP(&file, "file", "f", "", "YAML file with the whole profile, as of profile show (- is stdin)")
	return c
}

func newProfileEdit(s *settings) *cobra.Command {
	var (
		ch   changes
		file string
	)
	c := &cobra.Command{
		Use: "edit NAME", Short: "Change a profile, in $EDITOR or by flags", Args: exactly("NAME"),
		Long: `edit opens the profile's YAML in $VISUAL, $EDITOR or vi. What cannot be understood is refused, and the file is kept, so that you can
go on with it. With flags it changes only what they say, and with -f it takes the whole profile from a file. Machines that are being
installed go on with what they have read.

` + profileHelp,
		Example: "  offshoot profile edit web\n  offshoot profile edit web --set timezone=Europe/Berlin --set packages=[nginx]\n  offshoot profile edit web -f web.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			flagged := false
			for _, name := range []string{"driver", "release", "arch", "param", "set", "kernel", "initrd", "stage2", "iso", "image", "cloud-init", "template", "program", "live-args"} {
				flagged = flagged || c.Flags().Changed(name)
			}
			return s.asking(func(ctx context.Context, n *node.Client, args []string) error {
				if file == "" && !flagged {
					return editProfile(ctx, n, args[0])
				}
				text, err := readFile(file)
				var how node.PutHow
				if file == "" {
					var p status.Profile
					p, err = n.Profile(ctx, args[0])
					text, how.Former = []byte(p.Document), sumOf(p.Document)
				} else if err == nil {
					_, err = n.Profile(ctx, args[0]) // edit makes no new one
				}
				if err == nil {
					err = ch.put(ctx, n, args[0], text, how)
				}
				if err == nil {
					say("changed   " + args[0])
				}
				return err
			})(c, args)
		},
	}
	ch.flags(c)
	c.Flags().StringVarP(&file, "file", "f", "", "YAML file with the whole profile (- is stdin)")
	return c
}

// readFile reads a file that a person wrote, or stdin for "-".
func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	if path == "-" {
		return io.ReadAll(io.LimitReader(os.Stdin, maxDocument))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDocument))
}

// maxDocument is more than a node takes, bytes: it says so.
const maxDocument = 512 << 10

// editProfile lets a person change a profile in an editor. Nothing that was typed is lost.
func editProfile(ctx context.Context, n *node.Client, name string) error {
	p, err := n.Profile(ctx, name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp("", "offshoot-"+filepath.Base(name)+"-*.yaml") // 0600: hashes stand in it
	if err != nil {
		return err
	}
	path := f.Name()
	_, err = f.WriteString(p.Document)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	editor := "vi"
	for _, name := range []string{"EDITOR", "VISUAL"} {
		if e := os.Getenv(name); e != "" {
			editor = e
		}
	}
	words := strings.Fields(editor)
	edit := exec.CommandContext(ctx, words[0], append(words[1:], path)...)
	edit.Stdin, edit.Stdout, edit.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := edit.Run(); err != nil {
		return fmt.Errorf("%s: %w; what you wrote is in %s", editor, err, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if bytes.Equal(text, []byte(p.Document)) {
		say("unchanged " + name)
		return os.Remove(path)
	}
	if err := n.PutProfile(ctx, name, text, node.PutHow{Former: sumOf(p.Document)}); err != nil {
		return fmt.Errorf("%w\nwhat you wrote is in %s; mend it, then: offshoot profile edit %s -f %s", err, path, name, path)
	}
	say("changed   " + name)
	return os.Remove(path)
}

// sumOf is what a document is recognised by when its profile is changed.
func sumOf(document string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(document))) }

// put makes the document that the flags describe, has it checked, sends the files that it needs, and writes it down.
func (ch *changes) put(ctx context.Context, n *node.Client, name string, text []byte, how node.PutHow) error {
	files := map[string]string{} // by digest
	dir, err := os.MkdirTemp("", "offshoot-agent-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := ch.agent.build(ctx, dir, ch, files); err != nil {
		return err
	}
	if text, err = ch.document(text, files); err != nil {
		return err
	}
	if len(files) > 0 {
		check := how
		check.Check = true
		if err := n.PutProfile(ctx, name, text, check); err != nil {
			return err
		}
		if err := send(ctx, n, files); err != nil {
			return err
		}
	}
	return n.PutProfile(ctx, name, text, how)
}

// debianNumbers are the releases whose installer Debian's archive holds in a package.
var debianNumbers = map[string]string{"bookworm": "12", "trixie": "13"}

// acquire brings kernel and initrd of Debian's installer out of the signed archive, unless something else of the profile is wrong.
func (ch *changes) acquire(ctx context.Context, n *node.Client, name string) error {
	nothing := strings.Repeat("0", sha256.Size*2)
	ch.installer = map[string]string{"kernel": nothing, "initrd": nothing}
	text, err := ch.document(nil, map[string]string{})
	if err == nil {
		err = n.PutProfile(ctx, name, text, node.PutHow{Create: true, Check: true})
	}
	if err != nil {
		return err
	}
	arch := ch.arch
	if arch == "" {
		arch = "amd64"
	}
	show := &meter{progress: newProgress(), now: time.Now}
	kernel, initrd, err := (&node.Acquirer{Client: n, Say: show.step}).DebianInstaller(ctx, debianNumbers[ch.release], arch)
	show.draw(time.Now(), "")
	if err != nil {
		return fmt.Errorf("bring Debian's installer: %w; or name its files: --kernel FILE --initrd FILE", err)
	}
	for _, a := range []status.Artifact{kernel, initrd} {
		say("added     " + plain(a.Name) + "  " + plain(a.Verified))
	}
	ch.installer = map[string]string{"kernel": kernel.Digest, "initrd": initrd.Digest}
	return nil
}

// send uploads what the node has not.
func send(ctx context.Context, n *node.Client, files map[string]string) error {
	all, err := n.Artifacts(ctx)
	if err != nil {
		return err
	}
	for _, digest := range slices.Sorted(maps.Keys(files)) {
		path := files[digest]
		if slices.ContainsFunc(all, func(a status.Artifact) bool { return a.Digest == digest && a.Here }) {
			continue
		}
		show, drawn := newProgress(), time.Now()
		a, err := n.Upload(ctx, path, node.Upload{Name: filepath.Base(path), SHA256: digest}, func(sent, size int64) {
			now := time.Now()
			if now.Sub(drawn) < progressStep {
				return
			}
			drawn = now
			show.draw(now, fmt.Sprintf("sending   %3d %%  %s  %s", sent*100/max(size, 1), megabytes(size), plain(filepath.Base(path))))
		})
		show.draw(time.Now(), "")
		if err != nil {
			return fmt.Errorf("send %s: %w", path, err)
		}
		say(fmt.Sprintf("sent      %s, %s, %.12s", filepath.Base(path), megabytes(a.Size), a.Digest))
	}
	return nil
}

// document applies the flags to a document. The digests of files are noted in files.
func (ch *changes) document(text []byte, files map[string]string) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, usage("the profile: %w", err)
	}
	if root.Kind == 0 {
		root = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, usage("the profile: want lines such as \"driver: debian\"")
	}
	for _, w := range []struct{ key, value string }{{"driver", ch.driver}, {"release", ch.release}, {"arch", ch.arch}} {
		if w.value != "" {
			setKey(top, w.key, &yaml.Node{Kind: yaml.ScalarNode, Value: w.value, Tag: "!!str"})
		}
	}
	if err := ch.artifacts(top, files); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(ch.installer)) {
		setKey(subMap(top, "installer"), name, &yaml.Node{Kind: yaml.ScalarNode, Value: ch.installer[name], Tag: "!!str"})
	}
	for _, name := range slices.Sorted(maps.Keys(ch.agent.built)) {
		setKey(subMap(top, "agent"), name, &yaml.Node{Kind: yaml.ScalarNode, Value: ch.agent.built[name], Tag: "!!str"})
	}
	if err := ch.parameters(top); err != nil {
		return nil, err
	}
	for _, word := range ch.templates {
		name, path, ok := strings.Cut(word, "=")
		if !ok {
			return nil, usage("--template %q: want NAME=FILE", word)
		}
		text, err := readFile(path)
		if err != nil {
			return nil, usage("--template: %w", err)
		}
		setKey(subMap(top, "templates"), name, &yaml.Node{Kind: yaml.ScalarNode, Value: string(text), Tag: "!!str"})
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err := errors.Join(e.Encode(&root), e.Close())
	return out.Bytes(), err
}

// artifacts notes the digests of what was named.
func (ch *changes) artifacts(top *yaml.Node, files map[string]string) error {
	for _, f := range []struct{ group, key, path string }{
		{"installer", "kernel", ch.kernel}, {"installer", "initrd", ch.initrd}, {"installer", "stage2", ch.stage2}, {"installer", "iso", ch.iso},
		{"", "image", ch.image},
	} {
		if f.path == "" {
			continue
		}
		digest := f.path
		if _, err := os.Stat(f.path); err == nil || !digestWord.MatchString(f.path) {
			if digest, err = digestOf(f.path); err != nil {
				return usage("--%s: %w", f.key, err)
			}
			files[digest] = f.path
		}
		in := top
		if f.group != "" {
			in = subMap(top, f.group)
		}
		setKey(in, f.key, &yaml.Node{Kind: yaml.ScalarNode, Value: digest, Tag: "!!str"})
	}
	return nil
}

// digestWord is the digest of an artifact, or its beginning.
var digestWord = regexp.MustCompile(`^[0-9a-f]{6,64}$`)

func (ch *changes) parameters(top *yaml.Node) error {
	if ch.params != "" {
		text, err := readFile(ch.params)
		if err == nil {
			err = node.CheckParams(text)
		}
		var params yaml.Node
		if err == nil {
			err = yaml.Unmarshal(text, &params)
		}
		if err != nil {
			return usage("--param %s: %w", ch.params, err)
		}
		setKey(top, "params", params.Content[0])
	}
	if ch.cloudInit {
		setKey(subMap(top, "params"), "cloud_init", &yaml.Node{Kind: yaml.ScalarNode, Value: "true", Tag: "!!bool"})
	}
	for _, word := range ch.set {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return usage("--set %q: want KEY=VALUE", word)
		}
		var v yaml.Node
		if err := yaml.Unmarshal([]byte(value), &v); err != nil {
			return usage("--set %s: %w", key, err)
		}
		if v.Kind == 0 {
			setKey(subMap(top, "params"), key, nil)
			continue
		}
		setKey(subMap(top, "params"), key, v.Content[0])
	}
	return nil
}

// subMap is the mapping under a key, made if it is not there.
func subMap(in *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == key && in.Content[i+1].Kind == yaml.MappingNode {
			return in.Content[i+1]
		}
	}
	m := &yaml.Node{Kind: yaml.MappingNode}
	setKey(in, key, m)
	return m
}

// setKey replaces the value of a key; nil drops it.
func setKey(in *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value != key {
			continue
		}
		if value == nil {
			in.Content = slices.Delete(in.Content, i, i+2)
			return
		}
		in.Content[i+1] = value
		return
	}
	if value != nil {
		in.Content = append(in.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key, Tag: "!!str"}, value)
	}
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
