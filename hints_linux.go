// What errno means, by class, and the hint of an OpError for it.

package mcast

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/go-multicast/mcast/internal/cure"
	"github.com/go-multicast/mcast/internal/procudp"
	"golang.org/x/sys/unix"
)

// joinHint says what to do about an error of opening a pair's socket, where that is known.
func joinHint(err error, p *pair) string {
	switch {
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		// A pair's socket has one group, so that only a limit of 0 is in its way. A limit of sources is in nobody's: the
		// first is always taken, and the others go to more sockets. What is left is the memory for options, for want of
		// which the kernel says the same.
		if p.addr.Is4() && cure.Value(cure.Memberships) == "0" {
			return cure.Limit(cure.Memberships)
		}
		return cure.Limit(cure.OptionMemory)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return cure.Files()
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return cure.NoIndex(p.link.ifc.Index)
	case errors.Is(err, unix.EINVAL) && p.addr.Is6() && p.link.ifc.MTU < 1280:
		return cure.MTU(p.link.ifc.MTU)
	}
	return openHint(err)
}

// openHint says what to do about an error of opening a sender's socket, where that is known.
func openHint(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return cure.Files()
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return cure.Limit(cure.OptionMemory)
	case isPortTaken(err):
		return portTaken(err)
	case errors.Is(err, unix.EACCES):
		return cure.PortPrivileged
	case errors.Is(err, unix.EPERM):
		return cure.NotAllowed
	case errors.Is(err, errVRF):
		return cure.UnboundInVRF
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENODEV):
		return cure.ScanAgain
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return cure.NoLink
	case errors.Is(err, unix.ENOSPC), errors.Is(err, os.ErrNoDeadline): // of epoll_ctl; the latter see watched
		return cure.Limit(cure.Watches)
	}
	return ""
}

// portTaken says who holds the port of a bind that was refused, and what to do about it.
func portTaken(err error) string {
	var at *bindError
	if !errors.As(err, &at) {
		return ""
	}
	holders := slices.DeleteFunc(procudp.Sockets(), func(s procudp.Socket) bool { return !s.Takes(at.at.Addr(), at.at.Port()) })
	me := strconv.Itoa(os.Getuid())
	others := slices.ContainsFunc(holders, func(s procudp.Socket) bool { return s.UID != me })
	return cure.PortTaken(procudp.Describe(holders), others)
}

// sendHint says what to do about an error of sending to dst by ifc.
func sendHint(err error, ifc *Interface, dst netip.Addr) string {
	unreachable := errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)
	switch {
	case unreachable && !dst.IsMulticast():
		return cure.NoRoute(dst)
	case unreachable && dst.Is6() && ifc.IsLoopback():
		return cure.NoLoRoute(ifc.Name)
	case unreachable:
		return cure.NoLink
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return cure.NoAddressYet
	case errors.Is(err, unix.EPERM):
		return cure.Refused
	case errors.Is(err, unix.EACCES):
		return cure.Broadcast
	case errors.Is(err, unix.EMSGSIZE):
		return cure.TooLong
	case errors.Is(err, unix.ENODEV):
		return cure.Gone
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return cure.QueueFull
	}
	return ""
}

// isTransient tells the errors of an address that is not usable yet.
func isTransient(err error) bool { return errors.Is(err, unix.EADDRNOTAVAIL) }

// isPortTaken reports whether another socket has the port and does not share it.
func isPortTaken(err error) bool { return errors.Is(err, unix.EADDRINUSE) }
