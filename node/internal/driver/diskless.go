package driver

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"offshoot/swarm"
)

// diskless installs nothing: the machine has its root on the network, and boots so every time. Its state is swarm.MachineNetboot, in
// which there is no install config and no ticket; no disk of it is ever written by us.
type diskless struct{}

var (
	_ Driver    = diskless{}
	_ sanBooter = diskless{}
)

// sanBooter is a driver whose machines can start a disk on the network instead of a kernel.
type sanBooter interface {
	// San is its address, for a profile that names no kernel; "" if there is one.
	San(d Data) string
}

// Dialects of the kernel arguments that say where the root is: whose initrd reads them.
const (
	dialectDebian = "initramfs-tools"
	dialectDracut = "dracut"
)

func (diskless) Params() []string { return []string{"root", "flavour", "kernel_args"} }
func (diskless) Boots() []string  { return []string{"kernel", "initrd"} }

var (
	nfsRoot   = regexp.MustCompile(`^nfs:[a-zA-Z0-9.-]+:/[a-zA-Z0-9._/%-]*(,[a-z0-9=,.]+)?$`)
	iscsiRoot = regexp.MustCompile(`^iscsi:[a-zA-Z0-9.-]+:[0-9]*:[0-9]*:[0-9a-f-]*:[a-z0-9.:%-]+$`)
)

func (diskless) Check(p swarm.Profile, params Params) error {
	iscsi := strings.HasPrefix(params.Root, "iscsi:")
	switch {
	case !nfsRoot.MatchString(params.Root) && !iscsiRoot.MatchString(params.Root):
		return fmt.Errorf("params: root: %q, want nfs:SERVER:/PATH[,OPTIONS] or iscsi:SERVER:PROTOCOL:PORT:LUN:TARGET (RFC 4173)", clip(params.Root))
	case strings.Contains(strings.NewReplacer("%h", "", "%m", "").Replace(params.Root), "%"):
		return errors.New("params: root: % stands before h (host name) and m (MAC) only")
	case iscsi && !strings.Contains(params.Root, "%"):
		return errors.New("params: root: one iSCSI target for all machines would be written by several: put %h (host name) or %m (MAC) into it")
	case params.Flavour != "" && !slices.Contains([]string{dialectDebian, dialectDracut}, params.Flavour):
		return fmt.Errorf("params: flavour: %q, want %s or %s, whichever made the initrd", clip(params.Flavour), dialectDebian, dialectDracut)
	case !iscsi && len(p.Installer) == 0:
		return errors.New("installer: kernel and initrd are missing: only iSCSI can be started without")
	case len(p.Installer) == 0 && len(params.KernelArgs) > 0:
		return errors.New("params: kernel_args: there is no kernel of the profile's: they stand on the iSCSI disk")
	}
	return nil
}

// root is where this machine's root is: server and path, or the target with its five fields.
func (d Data) root() string {
	kind, rest, _ := strings.Cut(d.Params.Root, ":")
	return kind + ":" + strings.NewReplacer("%h", d.Hostname, "%m", strings.ReplaceAll(string(d.MAC), ":", "-")).Replace(rest)
}

// Initiator is the machine's name towards iSCSI targets, the one that iPXE gives itself by the host name.
func (d Data) Initiator() string { return "iqn.2010-04.org.ipxe:" + strings.ToLower(d.Hostname) }

// San implements sanBooter.
func (diskless) San(d Data) string {
	if len(d.Installer) > 0 {
		return ""
	}
	return d.root()
}

func (diskless) Args(d Data) []string {
	kind, rest, _ := strings.Cut(d.root(), ":")
	mode := "ro" // what all machines share, none of them may write
	if strings.Contains(d.Params.Root, "%") {
		mode = "rw"
	}
	args := []string{"ip=dhcp", "BOOTIF=01-" + strings.ReplaceAll(string(d.MAC), ":", "-"), mode}
	switch {
	case kind == "nfs" && d.Params.Flavour == dialectDracut:
		path, options, _ := strings.Cut(rest, ",")
		if options != "" {
			path += ":" + options
		}
		args = append(args, "root=nfs:"+path)
	case kind == "nfs":
		args = append(args, "root=/dev/nfs", "nfsroot="+rest)
	case d.Params.Flavour == dialectDracut:
		args = append(args, "root=LABEL=root", "netroot=iscsi:"+rest, "rd.iscsi.initiator="+d.Initiator(), "rd.iscsi.ibft=1")
	default:
		server, tail, _ := strings.Cut(rest, ":")
		fields := strings.SplitN(tail, ":", 4) // protocol, port, LUN, target
		args = append(args, "root=LABEL=root", "iscsi_initiator="+d.Initiator(), "iscsi_target_ip="+server, "iscsi_target_name="+fields[3])
		if fields[1] != "" {
			args = append(args, "iscsi_target_port="+fields[1])
		}
	}
	for _, own := range d.Params.KernelArgs { // the profile's own root= goes before ours
		if strings.HasPrefix(own, "root=") {
			args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "root=LABEL") })
		}
	}
	return append(args, d.Params.KernelArgs...)
}

func (diskless) Files(swarm.Profile) []string { return nil }
func (diskless) Lint(string, []byte) error    { return nil }
