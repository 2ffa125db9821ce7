// The interfaces of the host: what one is, how a user names one, and which one has the default route. This file is portable.
// Each iface_<os>.go defines three functions; iface_net.go has a scan by package net for systems without one of their own:
//
//	ifaceScan() ([]Interface, error)            every interface, sorted by index
//	ifaceDefaultRoute(v4 bool) (int, error)     the index of the interface of the default route; 0: there is none
//	ifaceError(op string, err error) error      the error of asking

package mcast

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Interface is a network interface as one scan saw it. It is a snapshot: it does not follow what happens to the
// interface later. The caller may modify what [Interfaces], [DefaultInterface] and [WatchInterfaces] return. An
// assignment shares the slices.
type Interface struct {
	// Name is what the system calls it: "eth0", "en0". It can change while the interface lives. On Windows it is, as in
	// package net, the friendly name.
	Name string

	// FriendlyName is the name that Windows shows to its users, often with spaces and in their language
	// ("Ethernet 2", "WLAN"). It is empty on other systems.
	FriendlyName string

	// AltNames are the alternative names of Linux 5.5 and later ("ip link property add"). udev sets some by default,
	// after the slot and the MAC address. Wherever this package accepts Name, it accepts them. They are nil if there are
	// none, and on other systems.
	AltNames []string

	// guid is the GUID by which Windows identifies the interface: "{6A2F40B1-5C1D-4E7B-9A3E-0C2D5B8F7E61}". It is empty on
	// other systems.
	guid string

	// since6 is when IPv6 was last set up or taken down here, in hundredths of a second of the kernel. If two scans report the
	// same time, no membership of the interface was lost between them, unless it came and went within that hundredth. 0: unknown.
	since6 uint32

	// tentative are those addresses in IPv4 and IPv6 that Windows is still checking for duplicates. No socket can be bound
	// to them yet. It is nil on other systems.
	tentative []netip.Addr

	// Index is the system's number for the interface, 1 or more. An interface that is deleted and made anew under its
	// old name has another index; on Linux one that comes back from another network namespace usually has the old one. On
	// macOS a device that is unplugged and comes back usually has its old index.
	Index int

	// Master is the index of the interface that this one belongs to: of a bridge, bond, team or VRF on Linux. 0: none, or
	// another system. A bridge, bond or team receives in place of its ports, and so does every other master but a VRF: a
	// group that is joined on a port receives nothing.
	Master int

	// kind and masterKind are Linux's names for the kinds of the interface and of its master: "bridge", "vrf". They are empty
	// for a kind without a name, such as a network card, and on other systems. masterName is the name of the master.
	kind, masterKind, masterName string

	// MTU is the largest packet, in bytes, with the IP header. It is 0 if the system does not report it, or has no limit, as
	// for loopback on Windows.
	MTU int

	// HardwareAddr is the MAC address. It is nil where there is none: on loopback, on tunnels, and on Android.
	HardwareAddr net.HardwareAddr

	// Flags are those of package net. Their meaning differs a little between systems. On Linux loopback has no
	// net.FlagMulticast, although multicast works there; on macOS it has it. On Windows net.FlagUp and net.FlagRunning
	// both mean that the interface is up and has a carrier. net.FlagMulticast is what Windows reports, also for virtual
	// interfaces (WireGuard) for which package net does not set it.
	Flags net.Flags

	// IPv4 and IPv6 are its addresses, each with the length of its prefix, in the order of the system. On Linux the first
	// IPv4 address is usually the source of what is sent. They are nil if there is no address.
	//
	// Link-local IPv6 addresses (fe80::/10) have no zone here, since a netip.Prefix cannot hold one. Use
	// p.Addr().WithZone(ifi.Name) to get an address to dial.
	//
	// On Windows preferred addresses come first, then deprecated ones, then those that Windows still checks for duplicates
	// and does not use yet (RFC 4862, RFC 5227). The list leaves out addresses that another host has, and addresses in
	// 169.254.0.0/16 that Windows gives to interfaces without a carrier and does not use.
	//
	// The address is always the interface's own. On a point-to-point link the configured prefix is that of the peer's
	// network. An address outside of that network has the full length of its family (/32 or /128).
	IPv4, IPv6 []netip.Prefix
}

// IsLoopback reports whether this is a loopback interface.
func (i Interface) IsLoopback() bool { return i.Flags&net.FlagLoopback != 0 }

// isPort reports whether the interface has a master that receives in its place. The members of a VRF receive themselves. So do
// those of B.A.T.M.A.N., which takes only frames of its own type (net/batman-adv/hard-interface.c).
func (i *Interface) isPort() bool {
	return i.masterName != "" && i.masterKind != kindVRF && i.masterKind != "batadv"
}

const kindVRF = "vrf"

// vrf returns the index of the VRF that the interface belongs to, or 0.
func (i *Interface) vrf() int {
	if i.masterKind == kindVRF {
		return i.Master
	}
	return 0
}

// portError is the error of joining on a port.
func (i *Interface) portError(op string) *OpError {
	of := i.masterName
	if i.masterKind != "" {
		of = "the " + i.masterKind + " " + of
	}
	return &OpError{Op: op, Interface: i.Name, Err: fmt.Errorf("the interface is a port of %s, which receives in its place", of),
		Hint: "name " + i.masterName}
}

// withGone returns an error of opening or joining on the interface. If no interface has its index now, that is ErrNoInterface
// too, and the hint says so. The error is an *OpError, which it may change.
func (i *Interface) withGone(err error) error {
	op := (*OpError)(nil)
	if mayBeGone(err) && errors.As(err, &op) && indexIsFree(i.Index) {
		op.Err, op.Hint = goneError(op.Err), fmt.Sprintf("there is no interface with index %d now: scan again", i.Index)
	}
	return err
}

// goneError wraps ErrNoInterface and the error that a system call on an interface has given since that is gone.
func goneError(err error) error { return fmt.Errorf("%w: %w", ErrNoInterface, err) }

// clone returns a copy that shares no memory with i.
func (i Interface) clone() Interface {
	i.AltNames, i.HardwareAddr = slices.Clone(i.AltNames), slices.Clone(i.HardwareAddr)
	i.IPv4, i.IPv6 = slices.Clone(i.IPv4), slices.Clone(i.IPv6) // tentative cannot be reached, and is not changed
	return i
}

// ifaceCloneAll returns a copy of a list that shares no memory with it. The copy of nil is nil.
func ifaceCloneAll(list []Interface) []Interface {
	list = slices.Clone(list)
	for n := range list {
		list[n] = list[n].clone()
	}
	return list
}

// equal reports whether two scans returned the same for an interface.
func (i Interface) equal(o Interface) bool {
	return i.Index == o.Index && i.Name == o.Name && i.FriendlyName == o.FriendlyName && i.guid == o.guid &&
		i.Master == o.Master && i.kind == o.kind && i.masterKind == o.masterKind && i.MTU == o.MTU && i.Flags == o.Flags && bytes.Equal(i.HardwareAddr, o.HardwareAddr) &&
		slices.Equal(i.AltNames, o.AltNames) && slices.Equal(i.IPv4, o.IPv4) && slices.Equal(i.IPv6, o.IPv6) &&
		slices.Equal(i.tentative, o.tentative)
}

// usable returns the addresses of a's family that sockets can be bound to now, the best first.
func (i *Interface) usable(a netip.Addr) (addrs []netip.Addr) {
	prefixes := i.IPv6
	if a.Is4() {
		prefixes = i.IPv4
	}
	for _, p := range prefixes {
		if !slices.Contains(i.tentative, p.Addr()) {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// checking reports whether the interface is up, and all its addresses of a's family are still being checked.
func (i *Interface) checking(a netip.Addr) bool {
	return i.Flags&net.FlagUp != 0 && i.hasFamily(a) && len(i.usable(a)) == 0
}

// Interfaces returns all interfaces of the host, sorted by index: also those that are down, have no address, or do not support
// multicast. It asks the system each time. Use [WatchInterfaces] to follow changes. The call does not wait for the network.
//
// On Linux the list is that of the calling thread's network namespace. It costs two netlink requests, one for interfaces and
// one for addresses. An interface that is created between them is missing, and one that changes between them may have its
// later addresses. If netlink is refused, as on Android (golang.org/issue/40569), the list comes from netdevice(7) and
// /proc/net. It then has no alternative names, hardware addresses and masters. If /proc/net cannot be read either, it has no
// IPv6 addresses and no interface without an IPv4 address; on Android, build the list from Java's NetworkInterface then.
//
// On Windows the list has only interfaces to which IPv4 or IPv6 is bound. On macOS and other systems it comes from package
// net, which needs two system calls for each interface.
func Interfaces() ([]Interface, error) { return ifaceScan() }

// FindInterfaces returns those interfaces of the host that specs name. It is [Interfaces] followed by
// [SelectInterfaces], which describes what a spec can be.
func FindInterfaces(specs ...string) ([]Interface, error) {
	if len(specs) == 0 { // an error that needs no scan
		return SelectInterfaces(nil)
	}
	all, err := Interfaces()
	if err != nil {
		return nil, err
	}
	return SelectInterfaces(all, specs...)
}

// SelectInterfaces returns those interfaces of a list that specs name. The first of these rules that applies decides what a
// spec means. So you can name an interface even if its name looks like something else:
//
//	eth0                      the name of an interface in the list, even if that name is "5" or "default"
//	Ethernet 2                the friendly name of one, on Windows
//	uplink                    an alternative name of one, on Linux
//	{6A2F40B1-5C1D-4E7B-9A3E-0C2D5B8F7E61}
//	                          the GUID of one, on Windows, also in lower case or without the braces
//	default                   the interfaces of the default routes of IPv4 and IPv6, as in DefaultInterface;
//	                          it is enough if one of the two is in the list
//	2                         the index of an interface
//	192.168.0.0/16            a prefix: those that have an address in it
//	192.168.0.248, fe80::1    an address: those that have it; IPv4 may be written as ::ffff:192.168.0.248
//	fe80::1%eth0, fe80::1%2   an address on the interface of that name (of any kind, or GUID), or else of that index
//	enp*, wl?n[0-9]           a pattern of path.Match for names, friendly names and alternative names
//
// Only "default" asks the system. All other specs select from the list alone. Names are case-sensitive. Only lists from
// [Interfaces] have GUIDs.
//
// The result is in the order of specs, and within one spec in the order of the list. An interface that several specs name is
// in it once, at the first of them. An address of several interfaces selects all of them. The result shares the slices of its
// interfaces with the list.
//
// A spec that names nothing is an error for which errors.Is(err, [ErrNoInterface]) holds. Its text lists the interfaces.
// A malformed prefix or pattern and an empty string are other errors. So is a call without specs: its result would be the nil
// that means "all" in [RxConfig].
func SelectInterfaces(from []Interface, specs ...string) ([]Interface, error) {
	return ifaceSelect(from, specs, defaultIndex)
}

// ifaceSelect is SelectInterfaces with a function for the default route.
func ifaceSelect(from []Interface, specs []string, defaults func(network string) (int, error)) ([]Interface, error) {
	if len(specs) == 0 {
		return nil, ifaceSpecError(errors.New("nothing says which one"), "give a name, an index, an address, a prefix, a pattern or \"default\"")
	}
	var found []Interface
	taken := make(map[int]bool)
	for _, spec := range specs {
		match, err := ifaceMatcher(from, spec, defaults)
		if err != nil {
			return nil, err
		}
		any := false
		for _, i := range from {
			if !match(i) {
				continue
			}
			any = true
			if !taken[i.Index] {
				taken[i.Index] = true
				found = append(found, i)
			}
		}
		if !any {
			return nil, ifaceSpecError(fmt.Errorf("%w: %q", ErrNoInterface, spec), ifaceListText(from))
		}
	}
	return found, nil
}

// ifaceMatcher returns the test for a spec: that of the first rule that applies.
func ifaceMatcher(from []Interface, spec string, defaults func(string) (int, error)) (func(Interface) bool, error) {
	if spec == "" { // before all else, since an empty FriendlyName would match
		return nil, ifaceSpecError(errors.New("an empty string names none"), ifaceListText(from))
	}
	for _, rule := range ifaceRules {
		if match, err := rule(ifaceSpec{from, spec, defaults}); match != nil || err != nil {
			return match, err
		}
	}
	return func(Interface) bool { return false }, nil
}

// ifaceSpec is a spec, the list that it selects from, and defaultIndex.
type ifaceSpec struct {
	from     []Interface
	text     string
	defaults func(network string) (int, error)
}

// ifaceRules are the rules that SelectInterfaces documents, in their order. A rule that does not apply returns nil, nil.
var ifaceRules = [...]func(ifaceSpec) (match func(Interface) bool, err error){
	ifaceNamed(func(i Interface, s string) bool { return i.Name == s }),
	ifaceNamed(func(i Interface, s string) bool { return i.FriendlyName == s }),
	ifaceNamed(func(i Interface, s string) bool { return slices.Contains(i.AltNames, s) }),
	ifaceNamed(Interface.hasGUID),
	ifaceSpec.byDefault,
	ifaceSpec.byIndex,
	ifaceSpec.byPrefix,
	ifaceSpec.byAddr,
	ifaceSpec.byPattern,
}

// ifaceNamed is the rule for one kind of name. It applies if an interface in the list has the name.
func ifaceNamed(has func(Interface, string) bool) func(ifaceSpec) (func(Interface) bool, error) {
	return func(s ifaceSpec) (func(Interface) bool, error) {
		match := func(i Interface) bool { return has(i, s.text) }
		if !slices.ContainsFunc(s.from, match) {
			return nil, nil
		}
		return match, nil
	}
}

// byDefault is the rule for "default". It is no error if one family has no default route. It is an error if the system cannot
// be asked and no family has a default route.
func (s ifaceSpec) byDefault() (func(Interface) bool, error) {
	if s.text != "default" {
		return nil, nil
	}
	index4, err4 := s.defaults("ip4")
	index6, err6 := s.defaults("ip6")
	if err4 != nil && err6 != nil {
		for _, err := range []error{err4, err6} {
			if !errors.Is(err, ErrNoInterface) {
				return nil, err
			}
		}
	}
	return func(i Interface) bool {
		return err4 == nil && i.Index == index4 || err6 == nil && i.Index == index6
	}, nil
}

// byIndex is the rule for "2".
func (s ifaceSpec) byIndex() (func(Interface) bool, error) {
	index, err := strconv.ParseUint(s.text, 10, 31)
	if err != nil {
		return nil, nil
	}
	return func(i Interface) bool { return i.Index == int(index) }, nil
}

// byPrefix is the rule for "192.168.0.0/16".
func (s ifaceSpec) byPrefix() (func(Interface) bool, error) {
	if !strings.Contains(s.text, "/") {
		return nil, nil
	}
	prefix, err := netip.ParsePrefix(s.text)
	if err != nil {
		return nil, ifaceSpecError(fmt.Errorf("%q is not a prefix: %w", s.text, err), "")
	}
	if a := prefix.Addr(); a.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
	}
	return func(i Interface) bool { return i.hasAddr(prefix.Contains) }, nil
}

// byAddr is the rule for "192.168.0.248", "fe80::1%eth0" and "fe80::1%2".
func (s ifaceSpec) byAddr() (func(Interface) bool, error) {
	addr, err := netip.ParseAddr(s.text)
	if err != nil {
		return nil, nil
	}
	zone := addr.Zone()
	addr = addr.WithZone("").Unmap()
	has := func(i Interface) bool { return i.hasAddr(func(a netip.Addr) bool { return a == addr }) }
	if zone == "" {
		return has, nil
	}
	inZone := ifaceZoneMatcher(s.from, zone)
	return func(i Interface) bool { return inZone(i) && has(i) }, nil
}

// byPattern is the rule for "enp*".
func (s ifaceSpec) byPattern() (func(Interface) bool, error) {
	if !strings.ContainsAny(s.text, "*?[") {
		return nil, nil
	}
	if _, err := path.Match(s.text, ""); err != nil {
		return nil, ifaceSpecError(fmt.Errorf("%q is not a pattern: %w", s.text, err), "")
	}
	fits := func(name string) bool {
		ok, _ := path.Match(s.text, name)
		return ok && name != ""
	}
	return func(i Interface) bool {
		return fits(i.Name) || fits(i.FriendlyName) || slices.ContainsFunc(i.AltNames, fits)
	}, nil
}

// ifaceZoneMatcher is the test for the zone of an address: a name, or else an index.
func ifaceZoneMatcher(from []Interface, zone string) func(Interface) bool {
	name := func(i Interface) bool { return i.hasName(zone) }
	if index, err := strconv.ParseUint(zone, 10, 31); err == nil && !slices.ContainsFunc(from, name) {
		return func(i Interface) bool { return i.Index == int(index) }
	}
	return name
}

// hasName reports whether s is a name of the interface, of any kind, or its GUID.
func (i *Interface) hasName(s string) bool {
	return s != "" && (s == i.Name || s == i.FriendlyName || slices.Contains(i.AltNames, s) || i.hasGUID(s))
}

// hasGUID reports whether s is the interface's GUID, in lower or upper case, with or without braces.
func (i Interface) hasGUID(s string) bool {
	return i.guid != "" && (strings.EqualFold(s, i.guid) || strings.EqualFold("{"+s+"}", i.guid))
}

// hasAddr reports whether one of the interface's addresses passes the test.
func (i Interface) hasAddr(test func(netip.Addr) bool) bool {
	passes := func(p netip.Prefix) bool { return test(p.Addr()) }
	return slices.ContainsFunc(i.IPv4, passes) || slices.ContainsFunc(i.IPv6, passes)
}

// ifaceSpecError is the error of a spec.
func ifaceSpecError(err error, hint string) error {
	return &OpError{Op: "find interface", Err: err, Hint: hint}
}

// ifaceListText lists interfaces in one line, for errors: "there is: lo (index 1) 127.0.0.1 ::1; eth0 …". The line is bounded,
// because some hosts have thousands of interfaces.
func ifaceListText(from []Interface) string {
	const maxInterfaces, maxAddrs = 16, 4
	const maxAltNames, maxAltName = 3, 15 // the kernel allows hundreds, of 127 bytes each
	if len(from) == 0 {
		return "there is no interface to choose from"
	}
	var b strings.Builder
	b.WriteString("there is: ")
	for n, i := range from {
		if n > 0 {
			b.WriteString("; ")
		}
		if n == maxInterfaces {
			fmt.Fprintf(&b, "and %d more", len(from)-n)
			break
		}
		b.WriteString(i.Name)
		if i.FriendlyName != "" && i.FriendlyName != i.Name {
			fmt.Fprintf(&b, " %q", i.FriendlyName)
		}
		short := slices.DeleteFunc(slices.Clone(i.AltNames), func(s string) bool { return len(s) > maxAltName })
		for _, s := range short[:min(len(short), maxAltNames)] {
			fmt.Fprintf(&b, " %q", s)
		}
		fmt.Fprintf(&b, " (index %d)", i.Index)
		addrs := slices.Concat(i.IPv4, i.IPv6)
		for _, p := range addrs[:min(len(addrs), maxAddrs)] {
			b.WriteByte(' ')
			b.WriteString(p.Addr().String())
		}
		if len(addrs) > maxAddrs {
			b.WriteString(" …")
		}
	}
	return b.String()
}

// DefaultInterface returns the interface of the default route: the one that leads to the default gateway. The network is
// "ip4" or "ip6". Without a default route, errors.Is(err, [ErrNoInterface]) holds.
//
// On Linux it is the best default route of the main routing table: one whose link has a carrier before one without, then the
// lowest metric, then the router preference of IPv6 (RFC 4191). Other tables do not count as long as the main table has a
// default route. So the answer stays the local network while a VPN diverts unicast by policy rules, as wg-quick does: such
// rules do not divert multicast. If the main table has no default route, the kernel is asked on which interface it would send
// to a distant address. That answer follows policy rules.
//
// The routes of a VRF are in a table of its own, so its members are not found, unless policy rules lead there. Name them.
//
// On Windows it is the default route with the lowest metric, including the interface's own metric, of those whose interface is
// up. A VPN that diverts unicast by routes to the two halves of all addresses does not change it.
//
// On macOS it is the default route that is not bound to the scope of an interface, as `route get default` shows it. If a VPN
// has replaced it, that is the VPN's interface. If the VPN added two halves (0.0.0.0/1 and 128.0.0.0/1), it is still the local
// network's.
//
// On other systems the error wraps [errors.ErrUnsupported].
func DefaultInterface(network string) (Interface, error) {
	index, err := defaultIndex(network)
	if err != nil {
		return Interface{}, err
	}
	all, err := Interfaces()
	if err != nil {
		return Interface{}, err
	}
	for _, i := range all {
		if i.Index == index {
			return i, nil
		}
	}
	return Interface{}, ifaceNoDefault(network) // it was deleted meanwhile
}

// ifaceCheckNetwork checks the argument of DefaultInterface.
func ifaceCheckNetwork(network string) error {
	if network == "ip4" || network == "ip6" {
		return nil
	}
	return &OpError{Op: "default interface", Err: net.UnknownNetworkError(network), Hint: `it is "ip4" or "ip6"`}
}

// defaultIndex returns the index of the interface of the default route, as DefaultInterface describes.
func defaultIndex(network string) (int, error) {
	if err := ifaceCheckNetwork(network); err != nil {
		return 0, err
	}
	index, err := ifaceDefaultRoute(network == "ip4")
	switch {
	case err != nil:
		return 0, ifaceError("default interface", err)
	case index == 0:
		return 0, ifaceNoDefault(network)
	}
	return index, nil
}

// ifaceNoDefault is the error of a family without a default route.
func ifaceNoDefault(network string) error {
	hint := ""
	if network == "ip6" {
		hint = ipv6Off("all")
	}
	return &OpError{Op: "default interface", Err: noInterface("there is no default route for " + network), Hint: cmp.Or(hint, "name the interface")}
}
