package node

import (
	"fmt"
	"net/netip"

	"offshoot/node/internal/segment"
	"offshoot/swarm"
)

// Modes of a seed, as --mode names them.
const (
	ModeAuto  = "auto"  // full where nobody answers, proxy where a server of others gives addresses
	ModeFull  = "full"  // gives addresses, and refuses to beside another server
	ModeProxy = "proxy" // never gives one
)

// CheckMode says whether a mode is one.
func CheckMode(mode string) error {
	if mode != ModeAuto && mode != ModeFull && mode != ModeProxy {
		return fmt.Errorf("%q: want auto, full or proxy", mode)
	}
	return nil
}

// stance is how a seed serves its segment, and why.
type stance struct {
	mode    swarm.Mode
	address netip.Prefix // its own; of a proxy one that it has from elsewhere
	why     string
}

// stand decides by what a probe of the port has heard. It never serves in full beside another server, and as a proxy only with
// an address that the machines can reach.
func (s Seed) stand(port segment.Port, servers []segment.Server) (stance, error) {
	for _, other := range servers {
		if other.Boots() {
			return stance{}, fmt.Errorf("%w: %s on %s. It tells machines what to boot, and two of those send them now here, now there: switch that off there, unplug it, or name another port with --interface",
				ErrForeignDHCP, other, port.Name)
		}
	}
	switch {
	case len(servers) == 0 && s.Mode != ModeProxy:
		return stance{swarm.ModeFull, s.network(), "no other DHCP server answers"}, nil
	case s.Mode == ModeFull:
		return stance{}, fmt.Errorf("%w: %s on %s. Two would break that network: unplug it, name another port with --interface, or be its proxy with --mode proxy",
			ErrForeignDHCP, servers[0], port.Name)
	}
	why := "--mode proxy, though no other DHCP server answers now: without one machines get no address"
	if len(servers) > 0 {
		why = fmt.Sprintf("the DHCP server %s gives the addresses", servers[0])
	}
	address, err := s.footing(port, servers)
	return stance{swarm.ModeProxy, address, why}, err
}

// footing is the address of a proxy: what the operator named, else what the port has.
func (s Seed) footing(port segment.Port, servers []segment.Server) (netip.Prefix, error) {
	var own netip.Prefix
	for _, a := range port.Addrs {
		if a.Addr().Is4() && !own.IsValid() && reaches(a, servers) {
			own = a
		}
	}
	switch {
	case s.Network.IsValid() && own.IsValid() && s.Network != own:
		return own, fmt.Errorf("%s has the address %s already: leave --network out, since a proxy takes no second one", port.Name, own)
	case s.Network.IsValid() && !reaches(s.Network, servers):
		return own, fmt.Errorf("%w: %s on %s. It gives %s, which --network %s does not reach: name an address of that network that was set aside for this machine",
			ErrForeignDHCP, servers[0], port.Name, gives(servers[0]), s.Network)
	case s.Network.IsValid():
		return s.Network, nil
	case own.IsValid():
		return own, nil
	case len(servers) == 0:
		return own, fmt.Errorf("a proxy needs an address on %s, and it has none: get one first (dhclient %s), or name one that was set aside for this machine with --network ADDRESS/LENGTH",
			port.Name, port.Name)
	}
	return own, fmt.Errorf("%w: %s on %s. Beside it this seed can be a proxy, which needs an address of that network (%s): get one first (dhclient %s), "+
		"or name one that was set aside for this machine with --network ADDRESS/LENGTH. Or unplug it, or name another port with --interface",
		ErrForeignDHCP, servers[0], port.Name, gives(servers[0]), port.Name)
}

// reaches says whether machines with the addresses of these servers are on the network of an address of ours.
func reaches(ours netip.Prefix, servers []segment.Server) bool {
	for _, other := range servers {
		if given := other.Offer.Address; given.IsValid() && !ours.Masked().Contains(given) {
			return false
		}
	}
	return true
}

// gives names the network of a server's addresses.
func gives(s segment.Server) string {
	switch o := s.Offer; {
	case o.Network.IsValid():
		return o.Network.String()
	case o.Address.IsValid():
		return o.Address.String()
	}
	return "addresses of a network that it did not say"
}

// yield is what the holder of a segment decides when it hears which servers of others are there now. Where we gave addresses it
// is silent at once; it becomes their proxy when they have been asked, if they give addresses of the same network: with others
// machines would not reach us. Nil: it is served so already.
func yield(s swarm.Segment, others []segment.Server) swarm.Op {
	if why := blocks(s, others); why != "" {
		if s.Blocked == why {
			return nil
		}
		return swarm.BlockSegment{Segment: s.ID, Reason: why}
	}
	to := swarm.SetMode{Segment: s.ID}
	switch {
	case s.Foreign(): // its own server may be away for a while
		to.Mode = swarm.ModeProxy
	case len(others) > 0:
		to.Mode, to.Reason = swarm.ModeProxy, fmt.Sprintf("another DHCP server answers there: %s", others[0])
	}
	if s.Blocked == "" && s.Mode == to.Mode && s.Beside == to.Reason {
		return nil
	}
	return to
}

// blocks says why nobody may serve a segment beside these servers.
func blocks(s swarm.Segment, others []segment.Server) string {
	for _, other := range others {
		if other.Boots() {
			return fmt.Sprintf("another server tells machines there what to boot: %s", other)
		}
	}
	for _, other := range others {
		switch given := other.Offer.Address; {
		case (!given.IsValid() || !other.Asked) && !s.Foreign(): // until it is known what it does
			return fmt.Sprintf("another DHCP server answers there: %s", other)
		case given.IsValid() && !s.Network.Contains(given):
			return fmt.Sprintf("another DHCP server answers there: %s. It gives addresses of %s, from which machines do not reach a node on %s",
				other, gives(other), s.Network)
		}
	}
	return ""
}
