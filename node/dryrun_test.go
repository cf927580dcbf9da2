package node

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/dhcp"
)

// strictLink hears what it was given, then that no more will come. It must not be spoken through.
type strictLink struct {
	t     *testing.T
	heard [][]byte
}

func (l *strictLink) Receive(buf []byte) (int, bool, error) {
	if len(l.heard) == 0 {
		return 0, false, io.EOF
	}
	n := copy(buf, l.heard[0])
	l.heard = l.heard[1:]
	return n, false, nil
}

func (l *strictLink) Send([]byte, dhcp.Destination, net.HardwareAddr) error {
	l.t.Error("a dry run has sent something")
	return errors.New("no")
}

func (l *strictLink) Close() error { return nil }

// TestDryRunSaysWhatItWouldAnswerAndSendsNothing: with the rules of the real server, of which it is one.
func TestDryRunSaysWhatItWouldAnswerAndSendsNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		mods  []dhcpv4.Modifier
		want  []string
		count int64
	}{
		{"a client", nil, []string{"answer ", "DISCOVER from client", "OFFER 192.168.42.", "(a free address of the pool)"}, 1},
		{"firmware", []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")), dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0})},
			[]string{"answer ", "DISCOVER from firmware BIOS", "file=undionly.kpxe"}, 1},
		{"UEFI HTTP boot", []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016")), dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 16})},
			[]string{"answer ", "DISCOVER from HTTP firmware EFI x64", "file=http://192.168.42.1:7480/boot/snponly.efi"}, 1},
		{"a lease of another server", []dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1)))}, []string{"silent ", "chose the server 192.0.2.1"}, 0},
	} {
		msg, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 7}, c.mods...)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var said []string
		r := rehearsal{
			mark: "offshoot ",
			o: Options{Logger: slog.New(slog.DiscardHandler), Say: func(line string) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, line)
			}},
			listen: func(dhcp.Config) (dhcp.Link, error) {
				return &strictLink{t: t, heard: [][]byte{[]byte("rubbish"), msg.ToBytes()}}, nil
			},
		}
		server, err := r.server("eth1", stance{address: netip.MustParsePrefix("192.168.42.1/24")})
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		missing := func(text string) bool { return len(said) != 1 || !strings.Contains(said[0], text) }
		if slices.ContainsFunc(append(c.want, "52:54:00:00:00:07"), missing) || r.answered.Load() != c.count {
			t.Errorf("%s: it said %q and counted %d, want %q and %d", c.name, said, r.answered.Load(), c.want, c.count)
		}
	}
}

// TestSwarmGoesOnWhereItWasFounded: a seed that is started again need not be told its network, and is not moved to another one.
func TestSwarmGoesOnWhereItWasFounded(t *testing.T) {
	t.Parallel()
	m := memory{Address: netip.MustParsePrefix("10.1.0.1/24")}
	if s, err := (Seed{}).resuming(m); err != nil || s.network() != m.Address {
		t.Errorf("it goes on on %s: %v", s.network(), err)
	}
	if _, err := (Seed{Network: m.Address}).resuming(m); err != nil {
		t.Error(err)
	}
	if _, err := (Seed{Network: netip.MustParsePrefix("10.2.0.1/24")}).resuming(m); err == nil {
		t.Error("it may be moved")
	}
}
