// The choice of a default route on Windows. It needs no system call, and is tested on every system.

package route

import "cmp"

// winRoute is a route of the table.
type winRoute struct {
	bits     int    // prefix length of the destination
	loopback bool   // it leads to this host
	index    int    // of the interface
	up       bool   // the interface is up
	metric   uint64 // sum of the route's and the interface's, which can take more than 32 bits
}

// winDefault returns the index of the interface of the best default route, or 0 if there is none. The lowest metric
// wins, as in Windows itself. Of equals, the lower index wins, since the order of the table means nothing.
func winDefault(routes []winRoute) int {
	var best winRoute
	for _, r := range routes {
		if r.bits != 0 || r.loopback || r.index <= 0 || !r.up {
			continue
		}
		if best.index == 0 || cmp.Or(cmp.Compare(r.metric, best.metric), cmp.Compare(r.index, best.index)) < 0 {
			best = r
		}
	}
	return best.index
}
