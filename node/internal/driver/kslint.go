package driver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// lintKickstart says what Anaconda would choke on, or would not do as it stands there: a command, option or section that it does
// not know, a section that is not closed, a command twice of which the last would win. It is stricter than Anaconda, which takes
// older words as well, and looks into no file that is included.
func lintKickstart(text string) error {
	var (
		l       = ksLint{seen: map[string]int{}}
		section string
		opened  int
	)
	for i, line := range strings.Split(text, "\n") {
		at, bare := i+1, strings.TrimSpace(line)
		word, _, _ := strings.Cut(bare, " ")
		switch {
		case word == "%end":
			if section == "" {
				return fmt.Errorf("line %d: %%end closes nothing", at)
			}
			if bare != "%end" {
				return fmt.Errorf("line %d: words behind %%end", at)
			}
			section = ""
		case word == "%include" && (section == "" || section == "%packages"):
			if len(strings.Fields(bare)) != 2 {
				return fmt.Errorf("line %d: %%include takes one file", at)
			}
		case strings.HasPrefix(bare, "%"):
			if section != "" {
				return fmt.Errorf("line %d: %s, but %s of line %d is not closed by %%end", at, clip(word), section, opened)
			}
			if err := l.section(word, bare); err != nil {
				return fmt.Errorf("line %d: %w", at, err)
			}
			section, opened = word, at
		case section == "%packages":
			if err := lintPackage(bare); err != nil {
				return fmt.Errorf("line %d: %w", at, err)
			}
		case section != "" || bare == "" || bare[0] == '#':
		default:
			if err := l.command(line, at); err != nil {
				return fmt.Errorf("line %d: %w", at, err)
			}
		}
	}
	if section != "" {
		return fmt.Errorf("line %d: %s is not closed by %%end", opened, section)
	}
	for _, name := range []string{"%packages", "lang", "timezone", "rootpw"} {
		if _, ok := l.seen[name]; !ok {
			return fmt.Errorf("%s is missing: Anaconda would stop and ask", name)
		}
	}
	return nil
}

type ksLint struct{ seen map[string]int } // lines of what stood

func (l ksLint) section(name, line string) error {
	known, ok := ksSections[name]
	if !ok {
		return fmt.Errorf("section %q%s", clip(name), suggest(name, slices.Sorted(maps.Keys(ksSections))))
	}
	if name == "%packages" && l.seen[name] != 0 {
		return errors.New("%packages stands twice")
	}
	l.seen[name]++
	words, err := ksWords(line)
	if err != nil {
		return err
	}
	return known.check(name, words[1:])
}

func (l ksLint) command(line string, at int) error {
	words, err := ksWords(line)
	if err != nil {
		return err
	}
	name := words[0]
	known, ok := ksCommands[name]
	if !ok {
		return fmt.Errorf("command %q%s", clip(name), suggestNear(name, slices.Sorted(maps.Keys(ksCommands))))
	}
	if before, twice := l.seen[name]; twice && known.once {
		return fmt.Errorf("%s stands in line %d already", name, before)
	}
	l.seen[name] = at
	return known.check(name, words[1:])
}

// suggestNear is suggest without the whole list: there are too many to tell.
func suggestNear(word string, all []string) string {
	if near := Nearest(word, all); near != "" {
		return "; did you mean " + near + "?"
	}
	return " is not known"
}

// ksRule is what may stand behind a command or section.
type ksRule struct {
	once    bool
	flags   string // options without a value, separated by blanks, without dashes
	valued  string // options with one
	args    int    // words beside options, at most
	least   int    // and at least
	exclude string // pairs a|b of options that exclude each other
}

func (r ksRule) check(name string, words []string) error {
	flags, valued := strings.Fields(r.flags), strings.Fields(r.valued)
	args, set := 0, []string{}
	for i := 0; i < len(words); i++ {
		option, ok := strings.CutPrefix(words[i], "--")
		if !ok {
			args++
			continue
		}
		option, value, given := strings.Cut(option, "=")
		switch {
		case slices.Contains(flags, option) && !given:
		case slices.Contains(flags, option):
			return fmt.Errorf("%s: --%s takes no value", name, option)
		case slices.Contains(valued, option):
			if !given && i+1 < len(words) && !strings.HasPrefix(words[i+1], "--") {
				i++
				value = words[i]
			}
			if value == "" {
				return fmt.Errorf("%s: --%s needs a value", name, option)
			}
		default:
			return fmt.Errorf("%s: there is no --%s%s", name, clip(option), suggestNear(option, append(flags, valued...)))
		}
		if slices.Contains(set, option) {
			return fmt.Errorf("%s: --%s stands twice", name, option)
		}
		set = append(set, option)
	}
	if args < r.least || args > r.args {
		return fmt.Errorf("%s: %d words beside its options, want %d to %d", name, args, r.least, r.args)
	}
	for pair := range strings.FieldsSeq(r.exclude) {
		a, b, _ := strings.Cut(pair, "|")
		if slices.Contains(set, a) && slices.Contains(set, b) {
			return fmt.Errorf("%s: --%s and --%s exclude each other", name, a, b)
		}
	}
	return nil
}

// ksSections are those of pykickstart. Those of scripts may stand several times.
var ksSections = map[string]ksRule{
	"%packages":    {flags: "default excludedocs ignoremissing nocore multilib exclude-weakdeps ignorebroken inst-langs", valued: "timeout retries"},
	"%pre":         {flags: "erroronfail", valued: "interpreter log"},
	"%pre-install": {flags: "erroronfail", valued: "interpreter log"},
	"%post":        {flags: "nochroot erroronfail", valued: "interpreter log"},
	"%onerror":     {flags: "erroronfail", valued: "interpreter log"},
	"%traceback":   {flags: "erroronfail", valued: "interpreter log"},
	"%addon":       {args: 8, least: 1, flags: "enable disable", valued: "reserve-mb"},
}

// ksCommands are those of Fedora 38 and Enterprise Linux 8 and later, as far as a machine that nobody sits at can use them.
var ksCommands = map[string]ksRule{
	"text": {once: true, flags: "non-interactive"}, "cmdline": {once: true}, "graphical": {once: true, flags: "non-interactive"},
	"reboot": {once: true, flags: "eject kexec"}, "poweroff": {once: true}, "halt": {once: true}, "shutdown": {once: true},
	"firstboot": {once: true, flags: "disable enable reconfig", exclude: "disable|enable"}, "eula": {once: true, flags: "agreed"},
	"lang": {once: true, args: 1, least: 1, valued: "addsupport"}, "keyboard": {once: true, args: 1, valued: "vckeymap xlayouts switch"},
	"timezone":   {once: true, args: 1, least: 1, flags: "utc nontp", valued: "ntpservers"},
	"timesource": {flags: "ntp-disable", valued: "ntp-server ntp-pool"},
	"network": {
		flags: "activate nodefroute nodns noipv4 noipv6 no-activate", valued: "bootproto device hostname ip netmask gateway nameserver onboot mtu " +
			"ipv6 ipv6gateway bondslaves bondopts vlanid interfacename teamslaves teamconfig bridgeslaves bridgeopts bindto ipv4-dns-search ipv6-dns-search",
		exclude: "activate|no-activate",
	},
	"firewall": {once: true, flags: "enabled disabled ssh http ftp smtp use-system-defaults", valued: "port trust service remove-service", exclude: "enabled|disabled"},
	"selinux":  {once: true, flags: "enforcing permissive disabled", exclude: "enforcing|permissive enforcing|disabled permissive|disabled"},
	"services": {once: true, valued: "enabled disabled"}, "authselect": {once: true, args: 16, flags: "force"},
	"rootpw": {once: true, args: 1, flags: "iscrypted plaintext lock allow-ssh", exclude: "iscrypted|plaintext"},
	"user": {
		flags: "iscrypted plaintext lock", valued: "name gecos groups homedir password shell uid gid", exclude: "iscrypted|plaintext",
	},
	"group": {valued: "name gid"}, "sshkey": {args: 1, least: 1, valued: "username"}, "sshpw": {args: 1, least: 1, flags: "iscrypted plaintext lock sshkey", valued: "username"},
	"url":  {once: true, flags: "noverifyssl", valued: "url mirrorlist metalink proxy sslcacert sslclientcert sslclientkey", exclude: "url|mirrorlist url|metalink mirrorlist|metalink"},
	"repo": {flags: "install noverifyssl ignoregroups", valued: "name baseurl mirrorlist metalink proxy cost excludepkgs includepkgs sslcacert", exclude: "baseurl|mirrorlist baseurl|metalink"},
	"nfs":  {once: true, valued: "server dir opts"}, "harddrive": {once: true, valued: "partition dir"}, "cdrom": {once: true},
	"module": {flags: "disable", valued: "name stream"}, "skipx": {once: true}, "xconfig": {once: true, flags: "startxonboot", valued: "defaultdesktop"},
	"zerombr": {once: true}, "ignoredisk": {once: true, flags: "interactive", valued: "drives only-use", exclude: "drives|only-use"},
	"clearpart":  {once: true, flags: "all linux none initlabel cdl", valued: "drives list disklabel", exclude: "all|linux all|none linux|none"},
	"bootloader": {once: true, flags: "disabled nombr leavebootorder sdboot extlinux", valued: "append boot-drive driveorder location password iscrypted timeout default"},
	"autopart":   {once: true, flags: "encrypted nohome noswap noboot nolvm cdl", valued: "type fstype passphrase escrowcert cipher luks-version pbkdf pbkdf-memory"},
	"reqpart":    {once: true, flags: "add-boot"}, "mount": {args: 2, least: 2, valued: "reformat mkfsoptions mountoptions"},
	"part": {
		args: 1, least: 1, flags: "grow asprimary recommended noformat encrypted hibernation", valued: "size maxsize fstype fsoptions fsprofile mkfsoptions label ondisk ondrive onpart usepart uuid passphrase luks-version",
	},
	"raid":     {args: 16, least: 1, flags: "noformat useexisting encrypted", valued: "device level fstype spares fsoptions label chunksize passphrase"},
	"volgroup": {args: 17, least: 1, flags: "noformat useexisting", valued: "pesize reserved-space reserved-percent"},
	"logvol": {
		args: 1, least: 1, flags: "grow noformat useexisting encrypted recommended thinpool thin hibernation", valued: "vgname name size maxsize percent fstype fsoptions mkfsoptions label poolname metadatasize chunksize passphrase cachepvs cachesize cachemode",
	},
	"btrfs":   {args: 17, least: 1, flags: "noformat useexisting subvol", valued: "data metadata label name parent mkfsoptions"},
	"logging": {once: true, valued: "host port level"}, "updates": {once: true, args: 1}, "rescue": {once: true, flags: "nomount romount"},
	"iscsi": {valued: "target ipaddr port user password reverse-user reverse-password iface"}, "iscsiname": {once: true, args: 1, least: 1},
	"realm": {once: true, args: 16, least: 1}, "snapshot": {args: 1, least: 1, valued: "name when"}, "driverdisk": {args: 1, valued: "source biospart"},
}

// lintPackage looks at one line of %packages: a package, a group, an environment, one that is left out.
func lintPackage(line string) error {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	name := strings.TrimPrefix(words[0], "-")
	if strings.HasPrefix(name, "@") {
		for _, option := range words[1:] {
			if option != "--nodefaults" && option != "--optional" {
				return fmt.Errorf("group %s: there is no %q", clip(name), clip(option))
			}
		}
		words = words[:1]
	}
	if len(words) > 1 {
		return fmt.Errorf("%q: one package a line", clip(line))
	}
	if name = strings.TrimLeft(name, "@^"); name == "" || strings.ContainsAny(name, `"'$;&|<>()`) {
		return fmt.Errorf("%q is no package", clip(line))
	}
	return nil
}

// ksWords splits a line as a shell would; a comment ends it.
func ksWords(line string) (out []string, err error) {
	var word strings.Builder
	open, begun := rune(0), false
	for rest := []rune(line); len(rest) > 0; rest = rest[1:] {
		r := rest[0]
		switch {
		case open != 0 && r == open:
			open = 0
		case open != '\'' && r == '\\' && len(rest) > 1:
			word.WriteRune(rest[1])
			rest, begun = rest[1:], true
		case open != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			open, begun = r, true
		case r == ' ' || r == '\t':
			if begun {
				out, begun = append(out, word.String()), false
				word.Reset()
			}
		case r == '#' && !begun:
			rest = rest[len(rest)-1:]
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if open != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", open)
	}
	if begun {
		out = append(out, word.String())
	}
	if len(out) == 0 {
		return nil, errors.New("nothing but quotes")
	}
	return out, nil
}
