package segment

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the kernel routes that offshoot made (`ip route show proto 79`). The kernel gives the number no
// meaning; it is above those that routing daemons have registered in rtnetlink.h at the low end and far from the BGP..EIGRP
// block at 186 to 192.
const RouteProtocol = 79

// routeMetric keeps our routes beside an administrator's, which have a lower metric unless told otherwise and so win:
// replacing a route replaces whatever has the same destination and the same metric, whoever made it.
const routeMetric = 4279

// SyncRoutes makes the kernel's main table hold exactly these routes under the given protocol number. New and changed
// routes are set before stale ones go. Routes of others are never touched. A route whose gateway is not reachable yet
// does not keep the others from being set; the error names each that failed.
func SyncRoutes(routes []Route, protocol int) error {
	have, err := routesOf(protocol)
	if err != nil {
		return err
	}
	set, remove := diffRoutes(have, routes)
	var errs []error
	for _, r := range set {
		if err := netlink.RouteReplace(kernelRoute(r, protocol)); err != nil {
			errs = append(errs, fmt.Errorf("route %s via %s: %w", r.Dst, r.Via, err))
		}
	}
	for _, r := range remove {
		if err := netlink.RouteDel(kernelRoute(r, protocol)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s via %s: %w", r.Dst, r.Via, err))
		}
	}
	return errors.Join(errs...)
}

// diffRoutes says what to set and what to remove. A changed gateway is a set alone: it replaces the old route, as both
// have one destination and one metric.
func diffRoutes(have, want []Route) (set, remove []Route) {
	via := make(map[netip.Prefix]netip.Addr, len(want))
	for _, r := range want {
		via[r.Dst] = r.Via
	}
	same := make(map[netip.Prefix]bool, len(have))
	for _, r := range have {
		gw, wanted := via[r.Dst]
		switch {
		case !wanted:
			remove = append(remove, r)
		case gw == r.Via:
			same[r.Dst] = true
		}
	}
	for _, r := range want {
		if !same[r.Dst] {
			set = append(set, r)
		}
	}
	return set, remove
}

func routesOf(protocol int) ([]Route, error) {
	filter := &netlink.Route{Protocol: netlink.RouteProtocol(protocol)}
	found, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var routes []Route
	for _, r := range found {
		dst, ok := prefixOf(r.Dst)
		via, okVia := addrOf(r.Gw)
		if ok && okVia && r.Priority == routeMetric {
			routes = append(routes, Route{Dst: dst, Via: via})
		}
	}
	return routes, nil
}

func kernelRoute(r Route, protocol int) *netlink.Route {
	return &netlink.Route{
		Dst: netOf(r.Dst), Gw: r.Via.AsSlice(), Priority: routeMetric,
		Protocol: netlink.RouteProtocol(protocol), Table: unix.RT_TABLE_MAIN,
	}
}
