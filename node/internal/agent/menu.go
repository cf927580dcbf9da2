package agent

import (
	"fmt"
	"strconv"
	"strings"

	"offshoot/node/internal/install"
)

// menu is what a person at the console of a waiting machine reads and chooses from. It is pure: a line goes in, a wish comes out.
type menu struct {
	order install.Order
	disks []install.Disk // that could be installed to

	profile, disk string // chosen so far
}

// choice is one line of the menu.
type choice struct {
	text string
	take func() (*install.Request, string) // the wish, or what to say
}

func newMenu(order install.Order, disks []install.Disk) *menu {
	m := &menu{order: order}
	for _, d := range disks {
		if !d.Removable && !d.ReadOnly {
			m.disks = append(m.disks, d)
		}
	}
	return m
}

// text is the menu as it stands.
func (m *menu) text() string {
	var b strings.Builder
	switch {
	case m.disk != "":
		fmt.Fprintf(&b, "install %s on %s\n", m.profile, m.disk)
	case m.profile != "":
		fmt.Fprintf(&b, "install %s on which disk?\n", m.profile)
	default:
		m.head(&b)
	}
	for i, c := range m.choices() {
		fmt.Fprintf(&b, "  %d  %s\n", i+1, c.text)
	}
	b.WriteString("type a number, then Enter")
	return b.String()
}

func (m *menu) head(b *strings.Builder) {
	fmt.Fprintf(b, "%s (%s) waits, nothing is written to its disks: %s\n", m.order.Name, m.order.Machine, m.order.Text)
	for _, d := range m.disks {
		fmt.Fprintf(b, "     %s\n", d)
	}
	if len(m.order.Profiles) == 0 {
		fmt.Fprintf(b, "to install it, on a node: offshoot machine assign %s PROFILE\n", m.order.Machine)
	}
}

// choices are those of the question that stands.
func (m *menu) choices() []choice {
	back := choice{"back", func() (*install.Request, string) {
		m.profile, m.disk = "", ""
		return nil, m.text()
	}}
	var all []choice
	switch {
	case m.disk != "":
		return []choice{
			{"only if the disk holds nothing", func() (*install.Request, string) { return m.wish(false) }},
			{"in any case: WHAT THE DISK HOLDS IS LOST", func() (*install.Request, string) { return m.wish(true) }},
			back,
		}
	case m.profile != "":
		for _, d := range m.disks {
			all = append(all, choice{d.String(), func() (*install.Request, string) {
				m.disk = d.Path
				return nil, m.text()
			}})
		}
		return append(all, back)
	}
	for _, p := range m.order.Profiles {
		all = append(all, choice{"install " + p, func() (*install.Request, string) {
			m.profile = p
			return nil, m.text()
		}})
	}
	return append(all,
		choice{"wait", func() (*install.Request, string) { return nil, "waiting" }},
		choice{"start its own disk", func() (*install.Request, string) { return &install.Request{Wish: install.WishOwnDisk}, "" }},
		choice{"power off", func() (*install.Request, string) { return &install.Request{Wish: install.WishOff}, "" }},
	)
}

// wish is the install that was put together.
func (m *menu) wish(wipe bool) (*install.Request, string) {
	q := &install.Request{Wish: install.WishInstall, Profile: m.profile, Disk: m.disk, Wipe: wipe}
	m.profile, m.disk = "", ""
	return q, "asking the node"
}

// enter takes a line that was typed: a wish for the node, or what to show next.
func (m *menu) enter(line string) (wish *install.Request, text string) {
	all := m.choices()
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || n < 1 || n > len(all) {
		return nil, m.text()
	}
	return all[n-1].take()
}
