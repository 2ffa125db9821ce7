// What Linux shows any user about its network, in /proc/net, /proc/sys/net and over rtnetlink, and the findings that
// rest on it. All of it is read on the calling thread, and so is about the network namespace of that thread: /proc/net
// alone would be about that of the main thread.

package doctor

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/hint"
	"github.com/go-multicast/mcast/internal/procudp"
	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// hasCarrier reports whether the interface has a carrier: something is at the other end.
func hasCarrier(i mcast.Interface) bool { return i.Flags&net.FlagRunning != 0 }

// failure returns the cause of a failure to join.
func failure(err error) int {
	switch e := (*mcast.OpError)(nil); {
	case errors.Is(err, unix.EADDRINUSE):
		return failedPort
	case errors.Is(err, unix.ENOBUFS) && errors.As(err, &e) && !e.Source.IsValid():
		return failedMemberships
	}
	return failedOtherwise
}

// system is one reading of the tables and counters.
type system struct {
	joined   []membership
	versions map[string]string // of IGMP, by name of the interface
	sockets  []procudp.Socket
	counters map[string]uint64 // the counter of broadcasts is read before the others
	later    map[string]uint64 // the counters of netstat, read after them
	routes4  []textRoute
	routes6  []textRoute
	links    map[int]link
	rules    *ruleset // of the firewall, read before the watch; nil: not read, or not visible
}

// link is what package mcast does not report about an interface.
type link struct {
	name      string
	kind      string // such as bridge or veth; empty for a network card
	master    int
	slaveKind string
	elsewhere bool   // what it is linked to, such as the other end of a veth, is in another network namespace
	noFlood   bool   // as a port of a bridge it is sent only what the bridge knows to be wanted there
	bridge    bridge // if the link is a bridge
}

func (c *checkup) look() *system {
	s := &system{counters: make(map[string]uint64), links: make(map[int]link)}
	s.joined, s.versions = parseIGMP(c.read("igmp"))
	s.joined = append(s.joined, parseIGMP6(c.read("igmp6"))...)
	s.sockets = slices.Concat(procudp.Parse(c.read("udp")), procudp.Parse(c.read("udp6")))
	for _, file := range []string{"netstat", "snmp", "snmp6"} {
		maps.Copy(s.counters, parseCounters(c.read(file)))
	}
	s.later = parseCounters(c.read("netstat"))
	s.routes4, s.routes6 = parseRoutes(c.read("route")), parseRoutes6(c.read("ipv6_route"))
	if err := s.lookAtLinks(); err != nil {
		c.notVisible(fmt.Sprintf("which interfaces belong to bridges (%v)", err))
	}
	return s
}

// lookAtLinks lists the interfaces.
func (s *system) lookAtLinks() error {
	conn, err := rtnl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer conn.Close()
	links, err := conn.Links()
	for _, l := range links {
		s.links[l.Index] = newLink(l)
	}
	return err
}

// read returns a file of /proc/net. A kernel without IPv6 lacks some.
func (c *checkup) read(file string) string {
	text, err := os.ReadFile("/proc/thread-self/net/" + file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.notVisible(err.Error())
	}
	return string(text)
}

// newLink returns what the findings need of a message.
func newLink(m rtnl.Link) link {
	l := link{name: m.Name, kind: m.Kind, master: m.Master, slaveKind: m.MasterKind, elsewhere: m.PeerAway}
	if l.slaveKind == "bridge" {
		flood := rtnl.Find(m.PortData, unix.IFLA_BRPORT_MCAST_FLOOD)
		l.noFlood = len(flood) > 0 && flood[0] == 0
	}
	if l.kind == "bridge" {
		l.bridge = parseBridge(m.Data)
	}
	return l
}

// master returns the name of the bridge, bond or other master that receives what arrives on the interface, or an empty
// string. A VRF receives nothing, and B.A.T.M.A.N. receives frames of its own type only.
func (s *system) master(index int) string {
	l := s.links[index]
	if l.master == 0 || l.slaveKind == "vrf" || l.slaveKind == "batadv" {
		return ""
	}
	return s.links[l.master].name
}

// fallback reports whether the interface is a fallback tunnel that is still down. Linux makes these tunnels in each
// network namespace once their modules are loaded (net.core.fb_tunnels_only_for_init_net).
func (*system) fallback(i mcast.Interface) bool {
	names := []string{"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "sit0", "ip6tnl0", "ip6gre0", "ip6_vti0"}
	return i.Flags&net.FlagUp == 0 && slices.Contains(names, i.Name)
}

// vrf returns the index of the VRF that the interface belongs to, or 0.
func (s *system) vrf(index int) int {
	if l := s.links[index]; l.slaveKind == "vrf" {
		return l.master
	}
	return 0
}

// parameter reads a kernel parameter.
func parameter(path string) (int, bool) {
	text, err := os.ReadFile("/proc/sys/" + path)
	n, err2 := strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil && err2 == nil
}

// checkSystem makes the findings that need no watch. It runs before doctor joins the groups, so the tables show what
// other programs have.
func (c *checkup) checkSystem(s *system) {
	for _, i := range c.ifaces {
		if master := s.master(i.Index); master != "" {
			c.add(Finding{Code: BridgePort, Severity: Error, Interface: i.Name,
				Summary: fmt.Sprintf("the interface belongs to %s, which gets what comes in", master),
				Detail: fmt.Sprintf("rtnetlink shows %s as its master (%s). A group that is joined on the interface itself "+
					"receives nothing.", master, cmp.Or(s.links[i.Index].slaveKind, "of an unnamed kind")),
				Fix: fixJoinMaster(master, i.Name)})
		}
		if i.IsLoopback() {
			c.checkLoRoute(i, s)
		}
		c.checkVersions(i, s)
	}
	c.checkPathFilter(s)
	c.checkLimits()
	c.checkManyDefaults(s)
	c.checkOthersJoined(s)
	c.checkVRF(s)
}

// Flags of routes (include/uapi/linux/route.h and ipv6_route.h).
const (
	routeUp     = 0x1
	routeReject = 0x200
	routeLocal  = 0x80000000
)

// checkLoRoute looks for the route that IPv6 multicast over lo needs. The kernel turns a route that is not of type
// local into a reject route, and drops what is sent through it without an error.
func (c *checkup) checkLoRoute(lo mcast.Interface, s *system) {
	for _, g := range c.Groups {
		if g.Is4() {
			continue
		}
		var best *textRoute
		for i, r := range s.routes6 {
			better := best == nil || r.dst.Bits() > best.dst.Bits() || r.dst.Bits() == best.dst.Bits() && r.metric < best.metric
			if r.ifName == lo.Name && r.dst.Bits() > 0 && r.dst.Contains(g) && better {
				best = &s.routes6[i]
			}
		}
		f := Finding{Code: LoRoute, Severity: Error, Group: g, Interface: lo.Name, Fix: fixLoRoute(lo.Name)}
		switch {
		case best == nil:
			f.Summary = "the loopback interface has no route for IPv6 multicast"
			f.Detail = "/proc/net/ipv6_route shows none that leads to the group by it. Sending fails with \"network is " +
				"unreachable\"."
		case best.flags&routeLocal == 0 || best.flags&routeReject != 0:
			f.Summary = fmt.Sprintf("the route %s of the loopback interface is not of type local", best.dst)
			f.Detail = "/proc/net/ipv6_route shows it without the flag of local routes. Sending succeeds, and the kernel " +
				"drops it all."
			f.Fix = fixReplaceLoRoute(lo.Name, best.dst)
		default:
			continue
		}
		c.add(f)
	}
}

// checkVersions finds interfaces whose reports name no sources.
func (c *checkup) checkVersions(i mcast.Interface, s *system) {
	for _, g := range c.Groups {
		if len(c.sources(g)) == 0 || !usable(i, g) || i.IsLoopback() {
			continue
		}
		f := Finding{Code: IGMPVersion, Severity: Info, Group: g, Interface: i.Name}
		if sourceSpecific(g) {
			f.Severity = Warning // routers do not accept IGMPv2 reports for these (RFC 4604, section 2.2)
		}
		consequence := " Sources are filtered on this host, and not told to switches and routers."
		if g.Is4() {
			version := s.versions[i.Name]
			if version != "V1" && version != "V2" {
				continue
			}
			f.Summary = fmt.Sprintf("sources are named, but the interface speaks IGMP%s", strings.ToLower(version))
			f.Detail = "/proc/net/igmp shows that version: an old querier on the network, or force_igmp_version, has " +
				"lowered it." + consequence
			f.Fix = fixIGMPVersion(i.Name)
		} else {
			all, _ := parameter("net/ipv6/conf/all/force_mld_version")
			own, ok := parameter("net/ipv6/conf/" + i.Name + "/force_mld_version")
			if all == 0 && ok {
				all = own
			}
			c.notVisible("whether an old querier has lowered MLD to version 1: Linux does not tell")
			if all != 1 {
				continue
			}
			f.Summary = "sources are named, but the interface speaks MLDv1"
			f.Detail = "The kernel parameter force_mld_version, of all interfaces or of this one, is 1." + consequence
			f.Fix = fixMLDVersion(i.Name)
		}
		c.add(f)
	}
}

// pathFilter returns the mode of the reverse path filter. The larger of two parameters counts (IN_DEV_RPFILTER in
// include/linux/inetdevice.h).
func pathFilter(name string) (mode int, text string, ok bool) {
	all, ok := parameter("net/ipv4/conf/all/rp_filter")
	own, ok2 := parameter("net/ipv4/conf/" + name + "/rp_filter")
	text = fmt.Sprintf("net.ipv4.conf.all.rp_filter is %d and that of %s is %d; the larger one counts", all, name, own)
	return max(all, own), text, ok && ok2
}

// checkPathFilter checks for each source whether the kernel would accept a packet from it. It does not report a source
// that one of the interfaces accepts.
func (c *checkup) checkPathFilter(s *system) {
	for _, source := range c.Sources {
		if !source.Is4() {
			continue
		}
		var drops []Finding
		taken := false
		for _, i := range c.ifaces {
			if !usable(i, source) {
				continue // another finding reports that
			}
			r, err := lookUp(source, s.vrf(i.Index))
			if err != nil {
				c.notVisible(fmt.Sprintf("the route to %s (%v)", source, err))
				return
			}
			if f, dropped := filtered(i, source, r, s); dropped {
				drops = append(drops, f)
			} else {
				taken = true
			}
		}
		if !taken {
			c.Report.Findings = append(c.Report.Findings, drops...)
		}
	}
}

// filtered reports whether the kernel drops packets of a source that arrive on the interface, as fib_validate_source in
// net/ipv4/fib_frontend.c decides. For loopback, and for what cannot be read, it returns false.
func filtered(i mcast.Interface, source netip.Addr, r lookedUp, s *system) (f Finding, dropped bool) {
	mode, modeText, ok := pathFilter(i.Name)
	if !ok || i.IsLoopback() {
		return f, false
	}
	conf := "net/ipv4/conf/" + i.Name
	acceptAll, _ := parameter("net/ipv4/conf/all/accept_local")
	acceptOwn, _ := parameter(conf + "/accept_local")
	own := r.kind == unix.RTN_LOCAL
	here := slices.Contains(r.hops, i.Index)

	f = Finding{Code: RPFilter, Severity: Error, Interface: i.Name,
		Summary: fmt.Sprintf("the kernel drops what the source %s sends", source)}
	switch {
	case here: // an own address, too: copies of what this interface sends do not arrive on a wire
		return f, false
	case own && acceptAll == 0 && acceptOwn == 0:
		f.Code = AcceptLocal
		f.Detail = "It is an address of this machine itself, by rtnetlink, and of another interface. The kernel takes " +
			"packets with such a source that come by a wire for forged, and drops them without a counter: accept_local " +
			"is 0, for all interfaces and for this one."
		f.Fix = fixAcceptLocal(i.Name)
	case r.kind == 0 && mode != 0:
		f.Detail = fmt.Sprintf("There is no route to it (ip route get %s), and %s.", source, modeText)
		f.Fix = fixRouteTo(source, i.Name)
	case mode == 1 && len(r.hops) > 0 && (own || r.kind == unix.RTN_UNICAST):
		f.Detail = fmt.Sprintf("The route to it leads by %s (ip route get %s), and %s: packets from it that come in by "+
			"another interface are dropped.", s.links[r.hops[0]].name, source, modeText)
		f.Fix = fixLoosePathFilter(i.Name)
	default:
		return f, false
	}
	return f, true
}

// lookedUp is the route that the kernel would use: its type, or 0 if there is none, and its interfaces.
type lookedUp struct {
	kind byte
	hops []int
}

// lookUp asks the kernel for its route to an address, in a VRF if vrf is not 0.
func lookUp(dst netip.Addr, vrf int) (found lookedUp, err error) {
	conn, err := rtnl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return found, err
	}
	defer conn.Close()
	// RTM_F_FIB_MATCH (4.13) makes the kernel return the entry of the table, with all its next hops, and not one that
	// it chose.
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = unix.AF_INET, 32
	binary.NativeEndian.PutUint32(body[8:], unix.RTM_F_FIB_MATCH)
	body = append(body, rtnl.Attr(unix.RTA_DST, dst.AsSlice())...)
	if vrf != 0 {
		body = append(body, rtnl.Attr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(vrf)))...)
	}
	err = conn.Request(unix.RTM_GETROUTE, 0, body, func(m rtnl.Message) bool {
		if r, ok := rtnl.ParseRoute(m.Body); ok && m.Type == unix.RTM_NEWROUTE {
			found = newLookedUp(r)
		}
		return true
	})
	if refused := (*rtnl.Error)(nil); errors.As(err, &refused) {
		return lookedUp{}, nil // each type of route that rejects has its own error
	}
	return found, err
}

// newLookedUp returns what the findings need of a route.
func newLookedUp(route rtnl.Route) (r lookedUp) {
	switch route.Kind {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return r
	}
	r.kind = route.Kind
	for _, h := range route.Hops {
		r.hops = append(r.hops, h.Index)
	}
	return r
}

// checkLimits finds limits that a program meets if it joins all groups on one socket. This module does not do that.
// What it could not join is reported as an error, elsewhere.
func (c *checkup) checkLimits() {
	const others = " That is Linux's limit for one socket. Sockets of this module have a system socket for each " +
		"group and interface, and more where sources need them; others fail with ENOBUFS."
	groups := 0
	for _, g := range c.Groups {
		if g.Is4() {
			groups++
		}
	}
	const memberships = "net/ipv4/igmp_max_memberships"
	if limit, ok := parameter(memberships); ok && groups*len(c.ifaces) > limit {
		want := groups * len(c.ifaces)
		c.add(Finding{Code: MembershipLimit, Severity: Info,
			Summary: fmt.Sprintf("a socket can have %d IPv4 memberships, and these are %d", limit, want),
			Detail: fmt.Sprintf("%s is %d, and %d IPv4 groups on %d interfaces were asked for.", memberships, limit, groups,
				len(c.ifaces)) + others,
			Fix: hint.Sysctl(memberships, strconv.Itoa(want))})
	}
	for _, g := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		name, want := "net/ipv4/igmp_max_msf", len(c.sources(g))
		if g.Is6() {
			name = "net/ipv6/mld_max_msf"
		}
		if limit, ok := parameter(name); ok && want > limit {
			c.add(Finding{Code: SourceLimit, Severity: Info,
				Summary: fmt.Sprintf("a socket can have %d %s sources of a group, and these are %d", limit,
					familyName(g.Is4()), want),
				Detail: fmt.Sprintf("%s is %d.", name, limit) + others,
				Fix:    hint.Sysctl(name, strconv.Itoa(want))})
		}
	}
}

// defaultMetrics returns the lowest metric of the default routes through each interface.
func defaultMetrics(routes []textRoute) map[string]uint64 {
	lowest := make(map[string]uint64)
	for _, r := range routes {
		if r.dst.Bits() != 0 || r.flags&routeUp == 0 || r.flags&routeReject != 0 {
			continue
		}
		if m, known := lowest[r.ifName]; !known || r.metric < m {
			lowest[r.ifName] = r.metric
		}
	}
	return lowest
}

// checkManyDefaults reports which interface senders use if they name none, where there is more than one answer.
func (c *checkup) checkManyDefaults(s *system) {
	for _, v4 := range []bool{true, false} {
		if !c.hasFamily(v4) {
			continue
		}
		routes := s.routes6
		if v4 {
			routes = s.routes4
		}
		lowest := defaultMetrics(routes)
		if len(lowest) < 2 {
			continue
		}
		least := slices.Min(slices.Collect(maps.Values(lowest)))
		var texts, best []string
		for name, metric := range lowest {
			texts = append(texts, fmt.Sprintf("%s (metric %d)", name, metric))
			if metric == least {
				best = append(best, name)
			}
		}
		slices.Sort(texts)
		f := Finding{Code: MultipleDefault, Severity: Info,
			Summary: fmt.Sprintf("there are %s default routes by several interfaces: %s", familyName(v4), list(texts)),
			Detail: "This is what /proc/net/route and /proc/net/ipv6_route show. Who sends without naming an interface " +
				"uses that of the lowest metric, which may not be where the receivers are.",
			Fix: fixNameForSenders}
		switch {
		case len(best) > 1 && !c.named:
			f.Severity = Warning
			f.Detail += " Several have the lowest metric: which of them it is may change."
		case len(best) == 1 && len(c.ifaces) == 1 && c.ifaces[0].Name == best[0]:
			continue // all agree
		}
		c.add(f)
	}
}

// onPort returns the sockets that receive the group, or would if it were joined.
func (s *system) onPort(group netip.Addr, port uint16) (all []procudp.Socket) {
	return slices.DeleteFunc(slices.Clone(s.sockets), func(u procudp.Socket) bool { return !u.Takes(group, port) })
}

// checkOthersJoined checks whether the program that should receive has joined.
func (c *checkup) checkOthersJoined(s *system) {
	for _, g := range c.Groups {
		var on []string
		for _, m := range s.joined {
			if m.group == g {
				on = append(on, m.ifName)
			}
		}
		var missing []string
		for _, i := range c.ifaces {
			if usable(i, g) && !slices.Contains(on, i.Name) {
				missing = append(missing, i.Name)
			}
		}
		enough := slices.ContainsFunc(c.ifaces, func(i mcast.Interface) bool { return slices.Contains(on, i.Name) })
		if len(missing) == 0 || enough && !c.named {
			continue
		}
		f := Finding{Code: NotJoined, Severity: Info, Group: g,
			Summary: "no program on this machine has joined the group on " + list(missing),
			Detail:  "/proc/net/igmp and /proc/net/igmp6 did not show it there before this examination joined it by itself.",
			Fix:     "start the program that receives, and have it join the group on " + list(missing)}
		if len(missing) == 1 {
			f.Interface = missing[0]
		}
		users := s.onPort(g, c.Port)
		switch {
		case len(on) > 0:
			f.Severity = Warning
			f.Summary = fmt.Sprintf("the group is joined on %s, and not on %s", list(on), list(missing))
		case len(users) > 0:
			f.Severity = Warning
			f.Summary = fmt.Sprintf("a program has port %d, but none has joined the group on %s", c.Port, list(missing))
			f.Detail += fmt.Sprintf(" /proc/net/udp shows the socket: %s.", procudp.Describe(users))
			f.Fix = "have that program join the group on " + list(missing)
		}
		c.add(f)
	}
}

// checkJoined checks whether the kernel shows the memberships, now that the groups are joined.
func (c *checkup) checkJoined(s *system, listeners []*listener) {
	if len(s.joined) == 0 { // not visible
		return
	}
	for _, l := range listeners {
		if !slices.Contains(s.joined, membership{l.ifc.Name, l.group}) {
			c.add(Finding{Code: NotJoined, Severity: Error, Group: l.group, Interface: l.ifc.Name,
				Summary: "the kernel does not show the group as joined, although it was",
				Detail: "A socket joined it without an error, and /proc/net/igmp or /proc/net/igmp6 does not show it. The " +
					"interface may have gone or changed just now.",
				Fix: fixRestart(l.ifc.Name)})
		}
	}
}

// holders returns a sentence that names the programs that hold the port.
func (s *system) holders(c *checkup, group netip.Addr) string {
	users := s.onPort(group, c.Port)
	if len(users) == 0 {
		return " /proc/net/udp does not show who holds it."
	}
	return fmt.Sprintf(" /proc/net/udp shows who has it: %s.", procudp.Describe(users))
}

// checkWatched makes the findings about counters that moved. before is from before anything was joined.
func (c *checkup) checkWatched(before, start, end *system) {
	moved := func(name string) uint64 {
		was, known := start.counters[name]
		if is := end.counters[name]; known && is > was {
			return is - was
		}
		return 0
	}
	c.checkFiltered(moved("TcpExtIPReversePathFilter"))
	// IgnoredMulti counts broadcasts, too: what exceeds the number of all broadcasts must be multicast. The counters
	// are in two files. So the broadcasts are counted from before the first reading of the others until after the last.
	broadcasts := end.later["IpExtInBcastPkts"] - start.counters["IpExtInBcastPkts"]
	if ignored := moved("UdpIgnoredMulti"); ignored > broadcasts {
		c.checkPort(true, ignored-broadcasts, "UdpIgnoredMulti, less IpExtInBcastPkts since it counts broadcasts too")
	}
	if ignored := moved("Udp6IgnoredMulti"); ignored > 0 {
		c.checkPort(false, ignored, "Udp6IgnoredMulti")
	}

	// Sockets that existed before do not belong to this examination.
	drops := make(map[uint64]uint64)
	for _, u := range before.sockets {
		drops[u.Inode] = 0
	}
	for _, u := range start.sockets {
		if _, known := drops[u.Inode]; known {
			drops[u.Inode] = u.Drops
		}
	}
	for _, g := range c.Groups {
		for _, u := range end.onPort(g, c.Port) {
			was, known := drops[u.Inode]
			if !known || u.Drops <= was {
				continue
			}
			c.add(Finding{Code: BufferOverflow, Severity: Warning,
				Summary: fmt.Sprintf("a program lost %d datagrams since its receive buffer was full", u.Drops-was),
				Detail: fmt.Sprintf("The drops of %s rose by so many in /proc/net/udp while it was watched.",
					procudp.Describe([]procudp.Socket{u})),
				Fix: fixLargerBuffer()})
			drops[u.Inode] = u.Drops // once, even if several groups are examined
		}
	}
}

// checkFiltered is about the counter of the reverse path filter, which names neither group nor interface.
func (c *checkup) checkFiltered(n uint64) {
	if n == 0 || !c.hasFamily(true) {
		return
	}
	for _, i := range c.ifaces {
		mode, text, ok := pathFilter(i.Name)
		if !ok || mode == 0 || !usable(i, netip.IPv4Unspecified()) {
			continue
		}
		f := Finding{Code: RPFilter, Severity: Info, Interface: i.Name,
			Summary: fmt.Sprintf("the reverse path filter dropped %d packets while it was watched", n),
			Detail: fmt.Sprintf("The counter TcpExtIPReversePathFilter of /proc/net/netstat rose. It is for all "+
				"interfaces and groups together. %s.", text),
			Fix: fixLoosePathFilter(i.Name)}
		if mode == 2 {
			f.Fix = fixRoutesToSources
		}
		if c.someSilent(true) {
			f.Severity = Warning
		}
		if len(c.ifaces) > 1 {
			f.Summary += ", here or on another interface"
		}
		c.add(f)
	}
}

// checkPort is about datagrams to groups that some program has joined, and that no socket received.
func (c *checkup) checkPort(v4 bool, n uint64, counters string) {
	inVRF := func(f Finding) bool { return f.Code == VRF && f.Group.Is4() == v4 } // the counters include these datagrams
	if !c.someSilent(v4) || slices.ContainsFunc(c.Report.Findings, inVRF) {
		return
	}
	f := Finding{Code: WrongPort, Severity: Warning,
		Summary: fmt.Sprintf("%d %s multicast datagrams came in for ports that nobody receives on, and none for port %d",
			n, familyName(v4), c.Port),
		Detail: fmt.Sprintf("These counters of the kernel rose while it was watched: %s. They are of groups that are "+
			"joined on this machine, but do not tell which: perhaps the sender sends to another port.", counters),
		Fix: fixCapture}
	if len(c.Sources) > 0 {
		f.Detail += " Datagrams of other hosts than the Sources count as well, if another program has joined the group " +
			"without sources."
	}
	var silent []netip.Addr
	for _, g := range c.Groups {
		if g.Is4() == v4 && c.silent(g) {
			silent = append(silent, g)
		}
	}
	if len(silent) == 1 {
		f.Group = silent[0]
	}
	c.add(f)
}

// checkSurroundings examines what is between the machine and the network. It runs after the watch.
func (c *checkup) checkSurroundings(s *system) {
	c.checkBridges(s)
	c.checkContainer(s)
}
