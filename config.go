// Checks of RxConfig and TxConfig. A mistake is refused before any OS socket is opened, with an error that names the value and
// what is allowed.

package mcast

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"
)

// families are the address families of a set of groups.
type families struct{ v4, v6 bool }

func familiesOf(groups []netip.Addr) (f families) {
	for _, g := range groups {
		f.v4 = f.v4 || g.Is4()
		f.v6 = f.v6 || g.Is6()
	}
	return f
}

// list returns true for IPv4 and false for IPv6, as far as they are in f.
func (f families) list() (v4 []bool) {
	if f.v4 {
		v4 = append(v4, true)
	}
	if f.v6 {
		v4 = append(v4, false)
	}
	return v4
}

func (f families) of(a netip.Addr) bool { return a.Is4() && f.v4 || a.Is6() && f.v6 }

func configError(format string, args ...any) error {
	return &OpError{Op: "open", Err: fmt.Errorf(format, args...)}
}

// checkGroup returns the unmapped group.
func checkGroup(op string, g netip.Addr) (netip.Addr, error) {
	g = g.Unmap()
	switch {
	case !g.IsValid():
		return g, &OpError{Op: op, Err: fmt.Errorf("the zero netip.Addr: %w", ErrNotMulticast)}
	case !g.IsMulticast():
		return g, &OpError{Op: op, Group: g, Err: ErrNotMulticast, Hint: "multicast is 224.0.0.0/4 and ff00::/8"}
	case g.Zone() != "":
		return g, &OpError{Op: op, Group: g, Err: errors.New("a group has no zone"), Hint: "name the interface in Interfaces"}
	}
	return g, nil
}

// checkGroups returns the groups, each once.
func checkGroups(groups []netip.Addr) ([]netip.Addr, error) {
	if len(groups) == 0 {
		return nil, configError("Groups is empty: want at least one multicast address")
	}
	known := make(map[netip.Addr]bool, len(groups))
	unique := make([]netip.Addr, 0, len(groups))
	for _, g := range groups {
		g, err := checkGroup("open", g)
		if err != nil {
			return nil, err
		}
		if !known[g] {
			known[g] = true
			unique = append(unique, g)
		}
	}
	return unique, nil
}

// checkSources returns the unmapped sources, each once. An error names the source.
func checkSources(sources []netip.Addr, groups families) (unique []netip.Addr, _ *OpError) {
	for _, s := range sources {
		s = s.Unmap()
		wrong := ""
		switch {
		case !s.IsValid():
			wrong = "the zero netip.Addr is no source"
		case s.IsMulticast():
			wrong = "a multicast address is no source"
		case s.IsUnspecified():
			wrong = "the unspecified address is no source"
		case s.Zone() != "":
			wrong = "a source has no zone: it is compared without, on each interface"
		case !groups.of(s):
			wrong = "no group is of that address family"
		default:
			if !slices.Contains(unique, s) {
				unique = append(unique, s)
			}
			continue
		}
		return nil, &OpError{Source: s, Err: errors.New(wrong)}
	}
	return unique, nil
}

// checkInterfaces refuses interfaces that cannot serve every group of the families, and returns copies of the others, each
// once. If the groups are of both families (mixed), the hint for a missing address suggests a socket for each family.
func checkInterfaces(ifaces []Interface, groups families, mixed bool) (unique []Interface, _ error) {
	if len(ifaces) == 0 {
		return nil, &OpError{Op: "open", Err: noInterface("Interfaces is empty"), Hint: "leave it nil for the default choice"}
	}
	for _, ifc := range ifaces {
		if hint, err := checkInterface(&ifc, groups, mixed); err != nil {
			return nil, &OpError{Op: "open", Interface: ifc.Name, Err: err, Hint: hint}
		}
		if !slices.ContainsFunc(unique, func(u Interface) bool { return u.Index == ifc.Index }) {
			unique = append(unique, ifc.clone())
		}
	}
	return unique, nil
}

func checkInterface(ifc *Interface, groups families, mixed bool) (hint string, err error) {
	const takeIt = "take it from FindInterfaces"
	if ifc.Index <= 0 || ifc.Index > math.MaxInt32 {
		return takeIt, noInterface(fmt.Sprintf("no interface has the index %d", ifc.Index))
	}
	for _, p := range slices.Concat(ifc.IPv4, ifc.IPv6) {
		if a := p.Addr(); !a.IsValid() || a.Zone() != "" || a.IsMulticast() || a.Is4In6() {
			return takeIt, fmt.Errorf("%s is not an address of an interface", a)
		}
	}
	for _, family := range []struct {
		wanted bool
		name   string
		addrs  []netip.Prefix
		is     func(netip.Addr) bool
	}{{groups.v4, "IPv4", ifc.IPv4, netip.Addr.Is4}, {groups.v6, "IPv6", ifc.IPv6, netip.Addr.Is6}} {
		for _, p := range family.addrs {
			if a := p.Addr(); !family.is(a) {
				return takeIt, fmt.Errorf("%s is listed as an %s address", a, family.name)
			}
		}
		if family.wanted && len(family.addrs) == 0 {
			return missingFamily(ifc, family.name, mixed)
		}
	}
	return "", nil
}

// missingFamily returns the error and hint of an interface without an address of a family that a group needs.
func missingFamily(ifc *Interface, family string, mixed bool) (hint string, err error) {
	switch {
	case ifc.Flags&net.FlagUp == 0:
		return "bring it up", fmt.Errorf("the interface is down and has no %s address, but a group is %[1]s", family)
	case ifc.isPort():
		hint = "it is a port: name its master " + ifc.masterName
	case mixed:
		hint = noAddress(ifc, family == "IPv6") + ", or open one socket for each family"
	default:
		hint = noAddress(ifc, family == "IPv6")
	}
	return hint, noInterface("the interface has no " + family + " address, but a group is " + family)
}

// noAddress is the hint for an interface that has no address of a family.
func noAddress(ifc *Interface, v6 bool) string {
	const give = "give the interface an address"
	if v6 {
		return cmp.Or(ipv6Off(ifc.Name), give)
	}
	return give
}

func checkSize(field string, n int) error {
	if n < 0 || n > math.MaxInt32 { // systems use only the lower 32 bits
		return configError("%s %d: want a number of bytes below 2 GiB, or 0 for the system's default", field, n)
	}
	return nil
}

// checkTTL returns the value for the socket option.
func checkTTL(op string, ttl int) (int, error) {
	switch {
	case ttl == TTLHost:
		return 0, nil
	case ttl == 0:
		return TTLSubnet, nil
	case ttl > 0 && ttl <= 255:
		return ttl, nil
	}
	return 0, &OpError{Op: op, Err: fmt.Errorf("TTL %d: want 1 to 255, 0 for 1, or TTLHost (%d) to stay on this machine", ttl, TTLHost)}
}

// hasFamily reports whether the interface has an address of a's family.
func (ifc *Interface) hasFamily(a netip.Addr) bool {
	if a.Is4() {
		return len(ifc.IPv4) > 0
	}
	return len(ifc.IPv6) > 0
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// ofFamily returns those of addrs that are of a's family.
func ofFamily(addrs []netip.Addr, a netip.Addr) (same []netip.Addr) {
	for _, other := range addrs {
		if other.Is4() == a.Is4() {
			same = append(same, other)
		}
	}
	return same
}

// awaitUsable waits for a bounded time while IPv4 addresses that a receiver binds to are being checked: those of each
// named interface, or, with all, until one interface has a usable address. It returns the interfaces as they are then.
// scan lists those of the host.
func awaitUsable(ifaces []Interface, groups []netip.Addr, all bool, scan func() ([]Interface, error)) []Interface {
	at := slices.IndexFunc(groups, netip.Addr.Is4)
	if at < 0 {
		return ifaces
	}
	waits := func() bool {
		checking := func(i Interface) bool { return i.checking(groups[at]) }
		usable := func(i Interface) bool { return len(i.usable(groups[at])) > 0 }
		return slices.ContainsFunc(ifaces, checking) && !(all && slices.ContainsFunc(ifaces, usable))
	}
	for end := time.Now().Add(addressPatience); waits() && time.Now().Before(end); {
		time.Sleep(addressPause)
		now, err := scan()
		if err != nil {
			break
		}
		ifaces = slices.Clone(ifaces)
		for i := range ifaces {
			same := func(n Interface) bool { return n.Index == ifaces[i].Index && n.guid == ifaces[i].guid }
			if j := slices.IndexFunc(now, same); j >= 0 {
				ifaces[i] = now[j]
			}
		}
	}
	return ifaces
}

// check returns the configuration with copies of its slices, without duplicates, and with the interfaces to join on.
func (cfg RxConfig) check() (_ RxConfig, err error) {
	if cfg.Groups, err = checkGroups(cfg.Groups); err != nil {
		return cfg, err
	}
	if cfg.Port == 0 {
		return cfg, configError("Port 0: want the port that the groups are sent to")
	}
	if len(cfg.Sources) > 0 && len(cfg.Blocked) > 0 {
		return cfg, configError("Sources %v with Blocked %v: want one of them", cfg.Sources, cfg.Blocked)
	}
	f := familiesOf(cfg.Groups)
	for _, field := range []struct {
		name    string
		sources *[]netip.Addr
	}{{"Sources", &cfg.Sources}, {"Blocked", &cfg.Blocked}} {
		plain, wrong := checkSources(*field.sources, f)
		if wrong != nil {
			wrong.Op, wrong.Err = "open", fmt.Errorf("%s: %w", field.name, wrong.Err)
			return cfg, wrong
		}
		*field.sources = plain
	}
	if err := checkSize("ReadBuffer", cfg.ReadBuffer); err != nil {
		return cfg, err
	}
	if cfg.Interfaces != nil {
		for i := range cfg.Interfaces {
			if ifc := &cfg.Interfaces[i]; ifc.isPort() {
				return cfg, ifc.portError("open")
			}
		}
		cfg.Interfaces, err = checkInterfaces(cfg.Interfaces, families{v4: f.v4 && !joinsWithoutIPv4, v6: f.v6}, f.v4 && f.v6)
		return cfg, err
	}
	if cfg.Interfaces, err = Interfaces(); err != nil {
		return cfg, err
	}
	cfg.Interfaces = slices.DeleteFunc(cfg.Interfaces, func(ifc Interface) bool { return !joinsByItself(&ifc) })
	for _, g := range cfg.Groups {
		if slices.ContainsFunc(cfg.Interfaces, func(ifc Interface) bool { return ifc.hasFamily(g) }) {
			return cfg, nil // groups of the other family wait
		}
	}
	return cfg, noUsableInterface("open", cfg.Groups...)
}

// joinsByItself reports whether a socket without a list of interfaces joins its groups on ifc.
func joinsByItself(ifc *Interface) bool {
	const want = net.FlagUp | net.FlagMulticast
	return ifc.Flags&want == want && !ifc.IsLoopback() && !ifc.isPort() && ifc.kind != kindVRF
}

// noUsableInterface is the error of groups that no interface can join without being named.
func noUsableInterface(op string, groups ...netip.Addr) *OpError {
	e := &OpError{Op: op, Hint: `WatchInterfaces waits for one; to use the loopback interface, name it in Interfaces: FindInterfaces("127.0.0.1")`}
	family := familyName(groups[0])
	if len(groups) == 1 {
		e.Group = groups[0]
	}
	switch f := familiesOf(groups); {
	case f.v4 && f.v6:
		family = "IPv4 or IPv6"
	case f.v6:
		e.Hint = cmp.Or(ipv6Off("all"), e.Hint)
	}
	e.Err = noInterface("no usable interface: none is up, supports multicast and has an " + family + " address")
	return e
}

// check returns the configuration with copies of its slices, without duplicates, and the links to open.
func (cfg TxConfig) check() (_ TxConfig, links []*txLink, err error) {
	if cfg.Groups, err = checkGroups(cfg.Groups); err != nil {
		return cfg, nil, err
	}
	if _, err := checkTTL("open", cfg.TTL); err != nil {
		return cfg, nil, err
	}
	if cfg.TrafficClass < 0 || cfg.TrafficClass > 255 {
		return cfg, nil, configError("TrafficClass %d: want 0 to 255, a DSCP shifted left by two", cfg.TrafficClass)
	}
	if err := checkSize("WriteBuffer", cfg.WriteBuffer); err != nil {
		return cfg, nil, err
	}
	f := familiesOf(cfg.Groups)
	if cfg.Interfaces != nil {
		if cfg.Interfaces, err = checkInterfaces(cfg.Interfaces, f, f.v4 && f.v6); err != nil {
			return cfg, nil, err
		}
		for _, v4 := range f.list() {
			for _, ifc := range cfg.Interfaces {
				links = append(links, newTxLink(ifc, v4))
			}
		}
		return cfg, links, nil
	}
	var waits error // why a family has no interface yet
	for _, v4 := range f.list() {
		ifc, err := defaultSender(v4)
		if err == nil {
			links = append(links, newTxLink(ifc, v4))
		} else if waits = cmp.Or(waits, err); !errors.Is(err, ErrNoInterface) {
			return cfg, nil, err
		}
	}
	if len(links) == 0 {
		return cfg, nil, waits
	}
	return cfg, links, nil
}
