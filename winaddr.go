// What Windows says of addresses, judged without the system: iface_windows.go and watch_windows.go ask, and what they
// make of the answers is here, where it is tested on every system. The numbers and layouts are those of nldef.h,
// ws2ipdef.h and netioapi.h.

package mcast

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// States of duplicate address detection (NL_DAD_STATE), which Windows does for IPv4 as well (RFC 5227). Binding to an
// address fails with WSAEADDRNOTAVAIL unless it is preferred or deprecated.
const (
	winInvalid = iota
	winTentative
	winDuplicate
	winDeprecated
	winPreferred
)

// winAddr is an address of an adapter.
type winAddr struct {
	prefix netip.Prefix
	state  int32
}

// winUsable returns the addresses of an adapter that it has or will have, the best first: preferred ones, deprecated ones,
// and last those that are being checked, which are also in tentative. Another host has a duplicate address.
func winUsable(all []winAddr) (prefixes []netip.Prefix, tentative []netip.Addr) {
	for _, state := range []int32{winPreferred, winDeprecated, winTentative} {
		for _, a := range all {
			if a.state != state {
				continue
			}
			prefixes = append(prefixes, a.prefix)
			if state == winTentative {
				tentative = append(tentative, a.prefix.Addr())
			}
		}
	}
	return prefixes, tentative
}

// winAddressSize is how much of a MIB_UNICASTIPADDRESS_ROW a notice fills in.
const winAddressSize = 44

// winAddress reads the beginning of a MIB_UNICASTIPADDRESS_ROW. It is read byte by byte since
// windows.MibUnicastIpAddressRow misses the gap before the LUID on 386, where Go aligns 64 bits to 4 bytes and C to 8.
func winAddress(row []byte) (a watchAddr, ok bool) {
	const inet, inet6 = 2, 23 // AF_INET, AF_INET6 of Windows
	if len(row) < winAddressSize {
		return a, false
	}
	switch binary.NativeEndian.Uint16(row) {
	case inet:
		a.addr = netip.AddrFrom4([4]byte(row[4:]))
	case inet6:
		a.addr = netip.AddrFrom16([16]byte(row[8:]))
	default:
		return a, false
	}
	a.index = int(binary.NativeEndian.Uint32(row[40:])) // behind SOCKADDR_INET, of 28 bytes, and the LUID, at 32
	return a, true
}

// awaitUsable waits, for a bounded time, while a receiver cannot be bound to the IPv4 addresses of its interfaces since
// they are being checked: of one that was named, or if all interfaces will do, of each. It returns the interfaces as they
// are then. scan lists those of the host.
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
