// What errno means, by class, and the hint of an OpError for it.

package mcast

import (
	"errors"
	"net/netip"
	"os"
	"strings"

	"github.com/go-multicast/mcast/internal/cure"
	"golang.org/x/sys/unix"
)

// joinHint says what to do about an error of opening a pair's socket, where that is known.
func joinHint(err error, p *pair) string {
	var sys *os.SyscallError
	if !errors.As(err, &sys) {
		return ""
	}
	joining := strings.Contains(sys.Syscall, "JOIN")
	switch {
	case joining && errors.Is(err, unix.EADDRNOTAVAIL):
		return cure.NoMembership(p.link.ifc.Index)
	case joining && errors.Is(err, unix.ENOSPC): // imf_graft and inm_get_source in in_mcast.c, their like in in6_mcast.c
		return cure.SourceLimits
	case errors.Is(err, unix.EADDRINUSE):
		return cure.GroupTaken
	case errors.Is(err, unix.EACCES):
		return cure.PortPrivileged
	}
	return openHint(err)
}

// openHint says what to do about an error of opening a sender's socket, or one that replies, where that is known.
func openHint(err error) string {
	var sys *os.SyscallError
	if !errors.As(err, &sys) {
		return ""
	}
	choosing := strings.HasSuffix(sys.Syscall, "_MULTICAST_IF")
	switch {
	case choosing && errors.Is(err, unix.EOPNOTSUPP): // of IPv4; IPv6 says EADDRNOTAVAIL, as of an index that is free
		return cure.NoMulticast
	case choosing && errors.Is(err, unix.EADDRNOTAVAIL):
		return cure.ScanAgainOrNoMulticast
	case choosing && errors.Is(err, unix.EINVAL): // the index is above the highest
		return cure.ScanAgain
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return cure.Files()
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return cure.ShortOfMemory
	case errors.Is(err, unix.EADDRINUSE):
		return cure.PortTaken
	case errors.Is(err, unix.EPERM):
		return cure.Refused
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return cure.ScanAgain
	}
	return ""
}

// sendHint says what to do about an error of sending to dst by ifc.
func sendHint(err error, ifc *Interface, dst netip.Addr) string {
	switch {
	case errors.Is(err, unix.EHOSTUNREACH) && ifc.IsLoopback(): // which is exempt from local network privacy
		return cure.NoRouteOrFirewall
	case errors.Is(err, unix.EHOSTUNREACH):
		return cure.PrivacyOrRoute
	case errors.Is(err, unix.ENETUNREACH) && dst.IsMulticast(): // it bypasses IPv4's routes; see ip_output
		return cure.NoMulticast
	case errors.Is(err, unix.ENETUNREACH):
		return cure.NoRoute
	case errors.Is(err, unix.ENETDOWN):
		return cure.Down
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return cure.NoAddressOrYet
	case errors.Is(err, unix.EMSGSIZE):
		return cure.TooLongHere
	case errors.Is(err, unix.EPERM):
		return cure.Refused
	case errors.Is(err, unix.EACCES):
		return cure.Broadcast
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return cure.Gone
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return cure.QueueFull
	}
	return ""
}

// isTransient tells the errors of an address that is not usable yet.
func isTransient(err error) bool { return errors.Is(err, unix.EADDRNOTAVAIL) }

// isPortTaken: what setShared sets leaves nothing to try again with.
func isPortTaken(error) bool { return false }

// Errors that Windows alone has.
func isTruncation(error) bool { return false }

func isHarmless(error) bool { return false }

func isUnheard(error, bool, netip.Addr) bool { return false }
