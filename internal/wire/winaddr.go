// Addresses of Windows' adapters: nldef.h, ws2ipdef.h, netioapi.h.

package wire

import (
	"encoding/binary"
	"net/netip"
)

// States of duplicate address detection (NL_DAD_STATE), which Windows also does for IPv4 (RFC 5227). A socket can only be
// bound to a preferred or deprecated address; others fail with WSAEADDRNOTAVAIL.
const (
	winInvalid = iota
	winTentative
	winDuplicate
	winDeprecated
	winPreferred
)

// WinAddr is an address of an adapter.
type WinAddr struct {
	Prefix netip.Prefix
	State  int32 // NL_DAD_STATE
}

// WinUsable returns the addresses that an adapter has or will have: preferred, then deprecated, then tentative ones. It
// leaves out duplicate addresses, which another host has.
func WinUsable(all []WinAddr) (prefixes []netip.Prefix, tentative []netip.Addr) {
	for _, state := range []int32{winPreferred, winDeprecated, winTentative} {
		for _, a := range all {
			if a.State != state {
				continue
			}
			prefixes = append(prefixes, a.Prefix)
			if state == winTentative {
				tentative = append(tentative, a.Prefix.Addr())
			}
		}
	}
	return prefixes, tentative
}

// WinAddressSize is the number of bytes of a MIB_UNICASTIPADDRESS_ROW that a notification sets.
const WinAddressSize = 44

// WinAddress reads the beginning of a MIB_UNICASTIPADDRESS_ROW: an interface's index and an address. The zero Addr means that
// the row has none. It does not use windows.MibUnicastIpAddressRow, which lacks the gap before the LUID on 386: Go aligns 64
// bits to 4 bytes there, C to 8.
func WinAddress(row []byte) (ifIndex int, a netip.Addr) {
	const inet, inet6 = 2, 23 // AF_INET, AF_INET6 of Windows
	if len(row) < WinAddressSize {
		return 0, a
	}
	switch binary.NativeEndian.Uint16(row) {
	case inet:
		a = netip.AddrFrom4([4]byte(row[4:]))
	case inet6:
		a = netip.AddrFrom16([16]byte(row[8:]))
	default:
		return 0, a
	}
	return int(binary.NativeEndian.Uint32(row[40:])), a // behind SOCKADDR_INET, of 28 bytes, and the LUID, at 32
}
