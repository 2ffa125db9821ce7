// What an error of Windows means: its class, and the hint of an OpError for it.

package mcast

import (
	"errors"
	"net/netip"

	"github.com/go-multicast/mcast/internal/hint"
	"golang.org/x/sys/windows"
)

const (
	hintAddressChecked = "Windows still checks that no other host has the interface's address, which takes some seconds: try again"
	hintNoAddressNow   = "the interface does not have its address now, or is down: scan again"
	hintRefused        = "a firewall of this machine refuses it"

	hintRefusedOrBroadcast = hintRefused + ", or it is a broadcast address"
)

func (p *pair) joinError(err error) error {
	hint := openHint(err)
	if errors.Is(err, windows.WSAEADDRNOTAVAIL) && p.link.ifc.checking(p.addr) {
		hint = hintAddressChecked
	}
	return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: hint}
}

// openHint returns the hint for an error of opening a socket.
func openHint(err error) string {
	switch errnoOf(err) {
	case windows.WSAEACCES: // with SO_REUSEADDR a refused bind is never WSAEADDRINUSE
		return hint.PortTaken
	case windows.WSAEADDRNOTAVAIL:
		return hintNoAddressNow
	case windows.WSAENETDOWN, windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH:
		return hintNoLink
	case windows.WSAEMFILE, windows.WSAENOBUFS:
		return hintShortOfMemory
	}
	return ""
}

// sendHint returns the hint for an error of sending to dst.
func sendHint(err error, _ *Interface, dst netip.Addr) string {
	switch errnoOf(err) {
	case windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH:
		if dst.IsMulticast() {
			return hintNoLink
		}
		return "there is no route to it: `Find-NetRoute -RemoteIPAddress` with the address shows it"
	case windows.WSAENETDOWN:
		return hintNoLink
	case windows.WSAEADDRNOTAVAIL:
		return hintNoAddressOrYet
	case windows.WSAEACCES:
		if dst.IsMulticast() {
			return hintRefused
		}
		return hintRefusedOrBroadcast
	case windows.WSAEMSGSIZE:
		return hintTooLong
	case windows.WSAENOBUFS:
		return hintQueueFull
	}
	return ""
}

// sendBufferHint returns what to do about a send buffer that is too small.
func sendBufferHint(int) string { return "ask for a smaller buffer, and send slower" }

// isTransient reports whether err means that an address cannot be used yet.
func isTransient(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

// isTruncation reports whether a datagram was larger than the buffer, which is an error on Windows.
func isTruncation(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }

// isHarmless reports whether the error of a read is about a datagram that was sent before: ICMP reported that the port,
// host or network is unreachable, or that the hop limit was exceeded. Go disables the first and the last
// (SIO_UDP_CONNRESET, SIO_UDP_NETRESET), if the system supports that.
func isHarmless(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAENETRESET) ||
		errors.Is(err, windows.WSAEHOSTUNREACH) || errors.Is(err, windows.WSAENETUNREACH)
}

// isNoReceiver reports whether err means that no socket of the host has joined the group, which matters for datagrams
// that stay on the host: on the loopback interface, or of interface-local scope (ff01::/16, ff11::/16). Other systems
// send such a datagram, and no socket receives it.
func isNoReceiver(err error, loopback bool, dst netip.Addr) bool {
	return errors.Is(err, windows.WSAENETUNREACH) && (loopback || dst.IsInterfaceLocalMulticast())
}

// isPortTaken: setShared leaves nothing to retry with.
func isPortTaken(error) bool { return false }

// isExhausted reports whether the system lacks a resource, so that the operation could succeed with more of it.
func isExhausted(err error) bool {
	switch errnoOf(err) {
	case windows.WSAEMFILE, windows.WSAENOBUFS, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES:
		return true
	}
	return false
}

// mayBeGone reports whether an error may be due to an interface that is gone, and with it the address of its socket.
func mayBeGone(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }
