// Messages of macOS's routing socket (route(4)). watch_darwin.go reads them. The code here interprets them without
// system calls, and is tested on every system. The numbers are from bsd/net/route.h in Apple's xnu.

package mcast

import "encoding/binary"

// bsdCallsForScan reports whether a message of a routing socket may be about something that a list of interfaces shows.
// The list has no routes, and there can be thousands of messages about them. Nor does it have the joined groups,
// including this library's own. A message that is not understood calls for a scan.
func bsdCallsForScan(message []byte) bool {
	const (
		version  = 5    // RTM_VERSION
		add      = 0x1  // RTM_ADD, the first type about routes
		resolve  = 0xb  // RTM_RESOLVE, the last type about routes
		newMAddr = 0xf  // RTM_NEWMADDR
		delMAddr = 0x10 // RTM_DELMADDR
	)
	if len(message) < 4 || message[2] != version { // all types begin with a length of 2 bytes, the version and the type
		return true
	}
	typ := message[3]
	return (typ < add || typ > resolve) && typ != newMAddr && typ != delMAddr
}

// bsdDown returns the index of the interface that a message of a routing socket reports to be down: one of type
// RTM_IFINFO, whose struct if_msghdr (bsd/net/if.h) lacks IFF_UP.
func bsdDown(message []byte) (index int, down bool) {
	const (
		version = 5   // RTM_VERSION
		ifInfo  = 0xe // RTM_IFINFO
		up      = 0x1 // IFF_UP
	)
	if len(message) < 14 || message[2] != version || message[3] != ifInfo {
		return 0, false
	}
	index = int(binary.NativeEndian.Uint16(message[12:]))
	return index, binary.NativeEndian.Uint32(message[8:])&up == 0
}
