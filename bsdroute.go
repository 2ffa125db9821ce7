// Messages of macOS's routing socket (route(4)), judged without the system: watch_darwin.go reads them, and what it
// makes of them is here, where it is tested on every system. The numbers are those of bsd/net/route.h in Apple's xnu.

package mcast

import "encoding/binary"

// bsdCallsForScan reports whether a message of a routing socket may be about what a list of interfaces shows. Routes are
// not in it, and there can be thousands of messages about them; nor are the groups that are joined, by this library among
// others. What is not understood calls for a scan.
func bsdCallsForScan(message []byte) bool {
	const (
		version  = 5    // RTM_VERSION
		add      = 0x1  // RTM_ADD, the first of those about routes,
		resolve  = 0xb  // RTM_RESOLVE, and the last
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
