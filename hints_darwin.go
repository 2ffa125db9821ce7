// What an errno of macOS means: its class, and the hint of an OpError for it.

package mcast

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-multicast/mcast/internal/hint"
	"golang.org/x/sys/unix"
)

const (
	hintPortTaken  = "another program has bound the port without SO_REUSEPORT and does not share it: `lsof -nP -iUDP` names it"
	hintGroupTaken = "another program has bound this group and port without SO_REUSEADDR and SO_REUSEPORT and does not share " +
		"them: `lsof -nP -iUDP` names it"
	hintPortPrivileged = "for a group, a port below 1024 needs root"
	hintSourceLimits   = "the host has a limit of sources for each group and interface: net.inet.ip.mcast.maxgrpsrc, or " +
		"net.inet6.ip6.mcast.maxgrpsrc"
	hintNoMulticast            = "the interface does not support multicast"
	hintScanAgainOrNoMulticast = "there is no such interface now, or it does not support multicast: scan again"
	hintDown                   = "the interface is down"
	hintNoRoute                = "there is no route to it: `route -n get` with the address shows it"
	hintNoRouteOrFirewall      = "there is no route, or a rule of the firewall pf refuses it: `sudo pfctl -sr` lists the rules"
	hintTooLongHere            = hintTooLong + ", and no more than TxConfig.WriteBuffer"
	hintRefused                = "a firewall of this machine, or the sandbox of the program, refuses it"
	hintPrivacyOrRoute         = "there is no route, a rule of the firewall pf refuses it (`sudo pfctl -sr`), or local network " +
		"privacy does: macOS 15 and later keep a program from the local network until the user allows it in System " +
		"Settings, Privacy & Security, Local Network"
)

// joinHint returns the hint for an error of opening a pair's socket.
func joinHint(err error, p *pair) string {
	var sys *os.SyscallError
	if !errors.As(err, &sys) {
		return ""
	}
	joining := strings.Contains(sys.Syscall, "JOIN")
	switch errno := errnoOf(err); {
	case joining && errno == unix.EADDRNOTAVAIL:
		return noMembershipHint(p.link.ifc.Index)
	case joining && errno == unix.ENOSPC: // imf_graft and inm_get_source in in_mcast.c and their likes in in6_mcast.c
		return hintSourceLimits
	case errno == unix.EADDRINUSE:
		return hintGroupTaken
	case errno == unix.EACCES:
		return hintPortPrivileged
	}
	return openHint(err)
}

// noMembershipHint is for an interface on which no group can be joined.
func noMembershipHint(index int) string {
	return fmt.Sprintf("there is no interface with index %d now, or it does not support multicast: scan again", index)
}

// openHint returns the hint for an error of opening a sender's socket, or one that replies.
func openHint(err error) string {
	var sys *os.SyscallError
	if !errors.As(err, &sys) {
		return ""
	}
	errno := errnoOf(err)
	if strings.HasSuffix(sys.Syscall, "_MULTICAST_IF") {
		switch errno {
		case unix.EOPNOTSUPP: // of IPv4; IPv6 returns EADDRNOTAVAIL, as for a free index
			return hintNoMulticast
		case unix.EADDRNOTAVAIL:
			return hintScanAgainOrNoMulticast
		case unix.EINVAL: // the index is above the highest
			return hintScanAgain
		}
	}
	switch errno {
	case unix.EMFILE, unix.ENFILE:
		return filesHint()
	case unix.ENOBUFS, unix.ENOMEM:
		return hintShortOfMemory
	case unix.EADDRINUSE:
		return hintPortTaken
	case unix.EPERM:
		return hintRefused
	case unix.EADDRNOTAVAIL, unix.ENXIO, unix.ENODEV:
		return hintScanAgain
	}
	return ""
}

// sendHint returns the hint for an error of sending to dst on ifc.
func sendHint(err error, ifc *Interface, dst netip.Addr) string {
	switch errnoOf(err) {
	case unix.EHOSTUNREACH:
		if ifc.IsLoopback() { // exempt from local network privacy
			return hintNoRouteOrFirewall
		}
		return hintPrivacyOrRoute
	case unix.ENETUNREACH:
		if dst.IsMulticast() { // which bypasses IPv4's routes; see ip_output
			return hintNoMulticast
		}
		return hintNoRoute
	case unix.ENETDOWN:
		return hintDown
	case unix.EADDRNOTAVAIL:
		return hintNoAddressOrYet
	case unix.EMSGSIZE:
		return hintTooLongHere
	case unix.EPERM:
		return hintRefused
	case unix.EACCES:
		return hintBroadcast
	case unix.ENXIO, unix.ENODEV:
		return hintGone
	case unix.ENOBUFS, unix.ENOMEM:
		return hintQueueFull
	}
	return ""
}

// sendBufferHint returns the command that allows larger send buffers.
func sendBufferHint(bytes int) string { return hint.ReceiveBuffer(strconv.Itoa(bytes)) }

// isTransient reports whether err means that an address cannot be used yet.
func isTransient(err error) bool { return errors.Is(err, unix.EADDRNOTAVAIL) }

// isPortTaken: setShared leaves nothing to retry with.
func isPortTaken(error) bool { return false }

// Errors that Windows alone has.
func isTruncation(error) bool { return false }

func isHarmless(error) bool { return false }

func isNoReceiver(error, bool, netip.Addr) bool { return false }

// mayBeGone reports whether an error may be due to an interface that is gone. EINVAL is of an index above the highest.
func mayBeGone(err error) bool {
	return slices.Contains([]unix.Errno{unix.EADDRNOTAVAIL, unix.EINVAL, unix.ENXIO, unix.ENODEV, unix.ENETUNREACH}, errnoOf(err))
}
