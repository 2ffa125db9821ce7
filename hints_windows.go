// What errno means, by class, and the hint of an OpError for it.

package mcast

import (
	"errors"
	"net/netip"

	"github.com/go-multicast/mcast/internal/cure"
	"golang.org/x/sys/windows"
)

func (p *pair) joinError(err error) error {
	hint := openHint(err)
	if errors.Is(err, windows.WSAEADDRNOTAVAIL) && p.link.ifc.checking(p.addr) {
		hint = cure.AddressChecked
	}
	return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: hint}
}

// openHint says what to do about an error of opening a socket, where that is known.
func openHint(err error) string {
	switch {
	case errors.Is(err, windows.WSAEACCES): // with SO_REUSEADDR a refused bind is never WSAEADDRINUSE
		return cure.PortTaken
	case errors.Is(err, windows.WSAEADDRNOTAVAIL):
		return cure.NoAddressNow
	case errors.Is(err, windows.WSAENETDOWN), errors.Is(err, windows.WSAENETUNREACH),
		errors.Is(err, windows.WSAEHOSTUNREACH):
		return cure.NoLink
	case errors.Is(err, windows.WSAEMFILE), errors.Is(err, windows.WSAENOBUFS):
		return cure.ShortOfMemory
	}
	return ""
}

// sendHint says what to do about an error of sending to dst by ifc.
func sendHint(err error, _ *Interface, dst netip.Addr) string {
	unreachable := errors.Is(err, windows.WSAENETUNREACH) || errors.Is(err, windows.WSAEHOSTUNREACH)
	switch {
	case unreachable && dst.IsMulticast():
		return cure.NoLink
	case unreachable:
		return cure.NoRoute
	case errors.Is(err, windows.WSAENETDOWN):
		return cure.NoLink
	case errors.Is(err, windows.WSAEADDRNOTAVAIL):
		return cure.NoAddressOrYet
	case errors.Is(err, windows.WSAEACCES) && !dst.IsMulticast():
		return cure.RefusedOrBroadcast
	case errors.Is(err, windows.WSAEACCES):
		return cure.Refused
	case errors.Is(err, windows.WSAEMSGSIZE):
		return cure.TooLong
	case errors.Is(err, windows.WSAENOBUFS):
		return cure.QueueFull
	}
	return ""
}

// isTransient tells the errors of an address that is not usable yet.
func isTransient(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

// isTruncation tells that a datagram was larger than the buffer, which here is an error.
func isTruncation(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }

// isHarmless reports whether the error of a read is news of a datagram that was sent before: ICMP said that the port, the
// host or the network is unreachable, or it ran out of hops. Go turns off the first and the last (SIO_UDP_CONNRESET,
// SIO_UDP_NETRESET), where the system lets it.
func isHarmless(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAENETRESET) ||
		errors.Is(err, windows.WSAEHOSTUNREACH) || errors.Is(err, windows.WSAENETUNREACH)
}

// isUnheard reports whether err is that of a datagram which does not leave the host while no socket there has joined the
// group: on the loopback interface, or of interface-local scope (ff01::/16, ff11::/16) on any interface. Other
// systems send such a datagram, and no socket receives it.
func isUnheard(err error, loopback bool, dst netip.Addr) bool {
	return errors.Is(err, windows.WSAENETUNREACH) && (loopback || dst.IsInterfaceLocalMulticast())
}

// isPortTaken: what setShared sets leaves nothing to try again with.
func isPortTaken(error) bool { return false }

// isExhausted reports whether the system lacks a resource, so that the operation could succeed with more of it.
func isExhausted(err error) bool {
	for _, errno := range []error{windows.WSAEMFILE, windows.WSAENOBUFS, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
