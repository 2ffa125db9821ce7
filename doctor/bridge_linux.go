// The finding about bridges of this machine that snoop. A bridge uses what it knows of members only if there is a
// querier: itself, or one whose queries it has received lately (br_multicast_querier_exists in
// net/bridge/br_private.h). Without a querier it forwards everything. When a querier goes away, the bridge forgets it
// (255 s) before the members (260 s). So a missing querier makes it withhold nothing, except from ports whose flooding
// is off (br_flood in net/bridge/br_forward.c).

package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// bridge is what rtnetlink reports about one bridge.
type bridge struct {
	snoops   bool
	queries  bool // it is a querier
	querier4 bool // there is a querier: the bridge or another
	querier6 bool
}

// Attributes in IFLA_BR_MCAST_QUERIER_STATE (include/uapi/linux/if_bridge.h).
const (
	querierIPAddress   = 1
	querierIPv6Address = 5
)

// parseBridge reads the IFLA_INFO_DATA of a bridge.
func parseBridge(data []byte) (b bridge) {
	on := func(typ uint16) bool { v := rtnl.Find(data, typ); return len(v) > 0 && v[0] != 0 }
	b.snoops, b.queries = on(unix.IFLA_BR_MCAST_SNOOPING), on(unix.IFLA_BR_MCAST_QUERIER)
	querier := rtnl.Find(data, unix.IFLA_BR_MCAST_QUERIER_STATE)
	b.querier4 = b.queries || rtnl.Find(querier, querierIPAddress) != nil
	// A bridge without an IPv6 address cannot ask for members. The querier's address is then shown as ::.
	addr, ok := netip.AddrFromSlice(rtnl.Find(querier, querierIPv6Address))
	b.querier6 = ok && !addr.IsUnspecified()
	return b
}

// checkBridges runs after the watch: nothing is wrong for groups that arrived.
func (c *checkup) checkBridges(s *system) {
	var done []int
	for _, i := range c.ifaces {
		index := i.Index
		if s.links[index].slaveKind == "bridge" {
			index = s.links[index].master
		}
		if s.links[index].kind == "bridge" && !slices.Contains(done, index) {
			c.checkQuerier(index, s)
			done = append(done, index)
		}
	}
}

func (c *checkup) checkQuerier(index int, s *system) {
	b, name := s.links[index].bridge, s.links[index].name
	if !b.snoops {
		return
	}
	var without []string
	silent := false
	for _, v4 := range []bool{true, false} {
		wanted := func(g netip.Addr) bool { return g.Is4() == v4 && isReported(g) }
		if slices.ContainsFunc(c.Groups, wanted) && !(v4 && b.querier4 || !v4 && b.querier6) {
			without = append(without, familyName(v4))
			silent = silent || c.someSilent(v4)
		}
	}
	if len(without) == 0 {
		return
	}
	if release() < "005.015" { // this version added IFLA_BR_MCAST_QUERIER_STATE
		c.notVisible(fmt.Sprintf("whether %s hears a querier: this version of Linux does not tell", name))
		return
	}
	var dry []string
	for _, l := range s.links {
		if l.master == index && l.slaveKind == "bridge" && l.noFlood {
			dry = append(dry, l.name)
		}
	}
	slices.Sort(dry)
	f := Finding{Code: NoQuerier, Severity: Info, Interface: name,
		Summary: fmt.Sprintf("the bridge snoops, and there is no querier for %s", strings.Join(without, " and ")),
		Detail: "rtnetlink shows mcast_snooping 1, mcast_querier 0 and no other querier. As long as it is so, the bridge " +
			"passes everything on. But other switches on its network, if they snoop, forget the members after some minutes.",
		Fix: fixQuerier(name)}
	if b.queries { // so the finding is about IPv6: the bridge needs an address to query
		f.Detail = "rtnetlink shows mcast_snooping 1 and mcast_querier 1, and no IPv6 address that the bridge would ask " +
			"from. As long as it is so, it passes everything on. But other switches on its network, if they snoop, forget " +
			"the members after some minutes."
		f.Fix = fixNoAddress(name, false)
	}
	switch {
	case len(dry) > 0:
		f.Severity = Warning
		f.Summary += ": it withholds groups from " + list(dry)
		f.Detail += fmt.Sprintf(" And %s, by rtnetlink with mcast_flood off, gets nothing, although members may be there: "+
			"without a querier a bridge does not go by what it has heard of them.", list(dry))
	case !silent:
		return
	}
	c.add(f)
}

// release returns the version of the kernel in a form that can be compared, such as 006.018.
func release() string {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) == nil {
		fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	}
	return fmt.Sprintf("%03d.%03d", major, minor)
}

// isReported reports whether switches learn from reports which hosts want the group. It is false for groups that go
// everywhere.
func isReported(g netip.Addr) bool {
	return !in(g, "224.0.0.0/24") && g != netip.IPv6LinkLocalAllNodes() && !g.IsInterfaceLocalMulticast()
}
