// Tests of what is asked of macOS. .ci/run has Linux's kernel run them as well, where another option stands in for
// IPV6_BOUND_IF.

package mcast

import (
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
