// Tests of what is asked of macOS and of the cures for its errors. .ci/run has Linux's kernel run them as well: the names
// of the errors are the same there, and another option stands in for IPV6_BOUND_IF.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// scope6 returns the interfaces that an IPv6 socket sends multicast on, by IPV6_MULTICAST_IF and by IPV6_BOUND_IF.
func scope6(t *testing.T, fd int) (multicast, bound int) {
	t.Helper()
	multicast, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF)
	if err == nil {
		bound, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_BOUND_IF)
	}
	if err != nil {
		t.Fatal(err)
	}
	return multicast, bound
}

// TestIPv6SenderIsScopedToItsInterface asks the system what was set. Without IPV6_BOUND_IF groups wider than link-local
// leave by the interface of the default route.
func TestIPv6SenderIsScopedToItsInterface(t *testing.T) {
	for _, ifc := range faultInterfaces(t) {
		if len(ifc.IPv6) == 0 {
			t.Skipf("%s has no IPv6 address", ifc.Name)
		}
		tx, err := OpenTx(TxConfig{Groups: groups("ff05::79:5", "239.79.5.1"), Interfaces: []Interface{ifc}, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		want := func(link *txLink, index int) {
			t.Helper()
			if err := controlUDP(link.to.conn, func(fd int) error {
				if multicast, bound := scope6(t, fd); multicast != index || bound != index {
					t.Errorf("IPV6_MULTICAST_IF is %d, IPV6_BOUND_IF is %d, want %d", multicast, bound, index)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		for _, link := range *tx.links.Load() {
			if link.v4 {
				continue
			}
			want(link, ifc.Index)
			all, err := Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range all { // as when the default route moves
				if err := setMulticastInterface(link.to, false, &other); err == nil {
					want(link, other.Index)
				}
			}
		}
	}
}

// TestProbeAsksAsSendersSend: a probe that is scoped otherwise would ask about another interface's address.
func TestProbeAsksAsSendersSend(t *testing.T) {
	ifc := faultInterfaces(t)[0]
	fd, err := probeSocket(&ifc)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if multicast, bound := scope6(t, fd); multicast != ifc.Index || bound != ifc.Index {
		t.Errorf("IPV6_MULTICAST_IF is %d, IPV6_BOUND_IF is %d, want %d", multicast, bound, ifc.Index)
	}
	if fd, err := probeSocket(&Interface{Index: 0x7ffff0}); err == nil || fd != -1 {
		t.Errorf("for an interface that does not exist: descriptor %d, error %v", fd, err)
	}
}

// TestUpRenewsMemberships has an interface go down and up, after which the kernel may have forgotten its memberships.
func TestUpRenewsMemberships(t *testing.T) {
	ifaces := faultInterfaces(t)[:1]
	rx, err := OpenRx(RxConfig{Groups: groupsOn(ifaces, "239.79.5.1", "ff02::79:5"), Port: faultPort, Interfaces: ifaces, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	joined := 0
	hook := func(name string) error {
		if name == "setsockopt MCAST_JOIN_GROUP" {
			joined++
		}
		return nil
	}
	testHookCall.Store(&hook)
	defer testHookCall.Store(nil)
	for _, test := range []struct {
		up   map[int]watchEvents
		want int
	}{{nil, 0}, {watchSeen(eventDown, ifaces[0].Index+1), 0}, {watchSeen(eventDown, ifaces[0].Index), len(rx.groups)}} {
		change := networkChange{Interfaces: ifaces, Events: test.up}
		joined = 0
		rx.prepare(change)
		rx.follow(change)
		if joined != test.want {
			t.Errorf("when %v came up, %d memberships were joined, want %d", test.up, joined, test.want)
		}
		for _, m := range rx.Memberships() {
			if !m.Joined {
				t.Error(m.Err)
			}
		}
	}
}

// TestErrorsNameTheirCure has each errno that the kernel is known to give, by the call that gives it.
func TestErrorsNameTheirCure(t *testing.T) {
	v4, v6, host := netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("ff05::1"), netip.MustParseAddr("192.0.2.1")
	wire, lo := &Interface{Name: "en0", Index: 4}, &Interface{Name: "lo0", Index: 1, Flags: net.FlagLoopback}
	join := func(group netip.Addr) func(error) string {
		p := &pair{rxGroup: &rxGroup{addr: group}, link: &rxLink{trackedInterface: trackedInterface{ifc: *wire}}}
		return func(err error) string { return joinHint(err, p) }
	}
	send := func(ifc *Interface, dst netip.Addr) func(error) string {
		return func(err error) string { return sendHint(err, ifc, dst) }
	}
	const (
		joinGroup   = "setsockopt MCAST_JOIN_GROUP"
		joinSource  = "setsockopt MCAST_JOIN_SOURCE_GROUP"
		multicastIf = "setsockopt IP_MULTICAST_IF"
	)
	for _, test := range []struct {
		what  string
		hint  func(error) string
		call  string
		errno unix.Errno
		want  string
	}{
		{"join, no such interface", join(v4), joinGroup, unix.EADDRNOTAVAIL, noMembershipHint(4)},
		{"join, no such interface", join(v6), joinSource, unix.EADDRNOTAVAIL, noMembershipHint(4)},
		{"join, too many sources", join(v4), joinSource, unix.ENOSPC, hintSourceLimits},
		{"join, too many sources", join(v6), joinSource, unix.ENOSPC, hintSourceLimits},
		{"join, no memory", join(v4), joinGroup, unix.ENOMEM, hintShortOfMemory},
		{"join, no memory", join(v4), joinSource, unix.ENOBUFS, hintShortOfMemory},
		{"join, no descriptor", join(v4), "socket", unix.EMFILE, filesHint()},
		{"join, no descriptor of the system", join(v4), "dup", unix.ENFILE, filesHint()},
		{"join, the group and port are not shared", join(v4), "bind", unix.EADDRINUSE, hintGroupTaken},
		{"join, port 53", join(v6), "bind", unix.EACCES, hintPortPrivileged},
		{"join, sandboxed", join(v6), "bind", unix.EPERM, hintRefused},
		{"join, disk full", join(v4), "socket", unix.ENOSPC, ""},

		{"open, no such index of IPv4", openHint, multicastIf, unix.EADDRNOTAVAIL, hintScanAgainOrNoMulticast},
		{"open, no multicast of IPv6", openHint, multicastIf, unix.EADDRNOTAVAIL, hintScanAgainOrNoMulticast},
		{"open, no multicast of IPv4", openHint, multicastIf, unix.EOPNOTSUPP, hintNoMulticast},
		{"open, the index is too high", openHint, multicastIf, unix.EINVAL, hintScanAgain},
		{"open, no such index to be bound to", openHint, multicastIf, unix.ENXIO, hintScanAgain},
		{"open, the port is not shared", openHint, "bind", unix.EADDRINUSE, hintPortTaken},
		{"open, no descriptor", openHint, "socket", unix.EMFILE, filesHint()},
		{"open, no memory", openHint, "socket", unix.ENOBUFS, hintShortOfMemory},
		{"open, sandboxed", openHint, "bind", unix.EPERM, hintRefused},
		{"open, another option", openHint, "setsockopt IP_MULTICAST_TTL", unix.EINVAL, ""},
		{"open, another option", openHint, "setsockopt IP_MULTICAST_LOOP", unix.EOPNOTSUPP, ""},

		{"send, no permission, no route or pf", send(wire, v6), "sendto", unix.EHOSTUNREACH, hintPrivacyOrRoute},
		{"send, no route or pf", send(lo, v6), "sendto", unix.EHOSTUNREACH, hintNoRouteOrFirewall},
		{"send, no multicast", send(wire, v4), "sendto", unix.ENETUNREACH, hintNoMulticast},
		{"reply, no route", send(wire, host), "sendto", unix.ENETUNREACH, hintNoRoute},
		{"reply, no permission or route", send(&Interface{}, host), "sendto", unix.EHOSTUNREACH, hintPrivacyOrRoute},
		{"send, down", send(wire, v4), "sendto", unix.ENETDOWN, hintDown},
		{"send, no address", send(wire, v4), "sendto", unix.EADDRNOTAVAIL, hintNoAddressOrYet},
		{"send, too long", send(wire, v6), "sendto", unix.EMSGSIZE, hintTooLongHere},
		{"send, sandboxed", send(wire, v6), "sendto", unix.EPERM, hintRefused},
		{"reply, broadcast", send(&Interface{}, host), "sendto", unix.EACCES, hintBroadcast},
		{"send, detached", send(wire, v6), "sendto", unix.ENXIO, hintGone},
		{"send, the queue is full", send(wire, v4), "sendto", unix.ENOBUFS, hintQueueFull},
		{"send, nobody knows", send(wire, v4), "sendto", unix.EINVAL, ""},
	} {
		err := &OpError{Op: "test", Err: os.NewSyscallError(test.call, test.errno)}
		if got := test.hint(err); got != test.want {
			t.Errorf("%s: %v: %q, want %q", test.what, err, got, test.want)
		}
	}
	for _, err := range []error{errors.New("not of a system call"), nil} {
		if got := joinHint(err, &pair{}) + openHint(err) + sendHint(err, wire, v4); got != "" {
			t.Errorf("%v: %q", err, got)
		}
	}
}
