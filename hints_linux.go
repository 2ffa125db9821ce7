// What an errno of Linux means: its class, and the hint of an OpError for it.

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
	"github.com/go-multicast/mcast/internal/procudp"
	"golang.org/x/sys/unix"
)

const igmpMaxMemberships = "net.ipv4.igmp_max_memberships"

// joinHint returns the hint for an error of opening a pair's socket.
func joinHint(err error, p *pair) string {
	switch errno := errnoOf(err); {
	case errno == unix.ENOBUFS && p.addr.Is4() && sysctl(igmpMaxMemberships) == "0":
		return limitHint(igmpMaxMemberships) // the socket of a pair has one membership, so no other value is too low
	case errno == unix.EINVAL && p.addr.Is6() && p.link.ifc.MTU < 1280:
		return fmt.Sprintf("IPv6 needs an MTU of 1280 or more, and the interface has %d", p.link.ifc.MTU)
	}
	return openHint(err)
}

// openHint returns the hint for an error of opening a socket.
func openHint(err error) string {
	switch {
	case errors.Is(err, errVRF):
		return "use Linux 5.7 or later, give the program CAP_NET_RAW, or set net.ipv4.udp_l3mdev_accept to 1"
	case errors.Is(err, os.ErrNoDeadline): // see watched
		return limitHint("fs.epoll.max_user_watches")
	}
	switch errnoOf(err) {
	case unix.EMFILE, unix.ENFILE:
		return filesHint()
	case unix.ENOBUFS, unix.ENOMEM:
		return limitHint("net.core.optmem_max")
	case unix.ENOSPC: // of epoll_ctl
		return limitHint("fs.epoll.max_user_watches")
	case unix.EADDRINUSE:
		return portTaken(err)
	case unix.EACCES:
		return "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
	case unix.EAFNOSUPPORT:
		return hint.NoIPv6
	case unix.EPERM:
		return "the system does not allow it: look at the limits of the sandbox or container"
	case unix.EADDRNOTAVAIL, unix.ENODEV:
		return hintScanAgain
	case unix.ENETUNREACH, unix.EHOSTUNREACH:
		return hintNoLink
	}
	return ""
}

// portTaken names the programs that hold the port of a bind, and what to do about them.
func portTaken(err error) string {
	var at *bindError
	if !errors.As(err, &at) {
		return ""
	}
	holders := slices.DeleteFunc(procudp.Sockets(), func(s procudp.Socket) bool { return !s.Takes(at.at.Addr(), at.at.Port()) })
	me := strconv.Itoa(os.Getuid())
	names := procudp.Describe(holders)
	switch {
	case names == "":
		return "the socket that holds the port does not share it: `ss -ulnp` names it"
	case slices.ContainsFunc(holders, func(s procudp.Socket) bool { return s.UID != me }):
		return "the port is held by " + names + ": a program of another user shares it if it sets SO_REUSEADDR before bind; " +
			"SO_REUSEPORT alone shares with the same user"
	}
	return "the port is held by " + names + ", which must set SO_REUSEADDR or SO_REUSEPORT before bind to share it"
}

// sendHint returns the hint for an error of sending to dst on ifc.
func sendHint(err error, ifc *Interface, dst netip.Addr) string {
	errno := errnoOf(err)
	switch errno {
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL:
		if dst.Is6() && ifc.Index != 0 {
			if off := ipv6Off(ifc.Name); off != "" {
				return off
			}
		}
	}
	switch errno {
	case unix.ENOKEY: // wg_xmit in drivers/net/wireguard/device.c
		return fmt.Sprintf("no peer of the WireGuard interface has %s in its AllowedIPs: add it to one with `wg set %s peer … allowed-ips …`",
			dst, ifc.Name)
	case unix.EDESTADDRREQ:
		return "the peer of the WireGuard interface has no endpoint: set one with `wg set`, or wait until the peer sends"
	case unix.ENETUNREACH, unix.EHOSTUNREACH:
		switch {
		case !dst.IsMulticast():
			return fmt.Sprintf("there is no route to it, or one that refuses it: `ip route get %s` shows it", dst)
		case dst.Is6() && ifc.IsLoopback():
			return "the loopback interface has no route for IPv6 multicast: `" + hint.LoRoute(ifc.Name) + "`"
		}
		return hintNoLink
	case unix.EADDRNOTAVAIL:
		return "the interface has no usable address of this family yet: IPv6 takes a second or two to check a new one"
	case unix.EPERM:
		return "a firewall of this machine refuses it: look at the OUTPUT rules"
	case unix.EACCES:
		return hintBroadcast
	case unix.EMSGSIZE:
		return hintTooLong
	case unix.ENODEV:
		return hintGone
	case unix.ENOBUFS, unix.ENOMEM:
		return hintQueueFull
	}
	return ""
}

// ipv6Off returns the hint for an interface on which IPv6 is off, or for "all". It is empty if IPv6 is on.
func ipv6Off(name string) string { return hint.IPv6Off("/proc/sys/net", name) }

// sendBufferHint returns the command that allows larger send buffers.
func sendBufferHint(bytes int) string { return hint.Sysctl("net/core/wmem_max", strconv.Itoa(bytes)) }

// sysctl returns the value of a kernel parameter, or "" if it cannot be read.
func sysctl(name string) string {
	text, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.TrimSpace(string(text))
}

// limitHint returns the hint to raise a kernel parameter.
func limitHint(name string) string {
	value := sysctl(name)
	if value == "" {
		return "the limit is " + name
	}
	return fmt.Sprintf("the limit %s is %s: raise it with `sysctl -w %s=…`", name, value, name)
}

// isTransient reports whether err means that an address cannot be used yet.
func isTransient(err error) bool { return errors.Is(err, unix.EADDRNOTAVAIL) }

// isPortTaken reports whether another socket has the port and does not share it.
func isPortTaken(err error) bool { return errors.Is(err, unix.EADDRINUSE) }

// mayBeGone reports whether an error may be due to an interface that is gone. IP_MULTICAST_IF then gives EADDRNOTAVAIL, and
// sending IPv6 ENETUNREACH.
func mayBeGone(err error) bool {
	return slices.Contains([]unix.Errno{unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.ENETUNREACH}, errnoOf(err))
}
