// This file has the multicast sender and receiver that the tests of this package use. They are plain sockets: this
// package is what the library is tested with, so it is not tested with the library.

package mcasttest_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

const port = 5000

var patience = slow.Limit(10 * time.Second)

var (
	group4 = netip.MustParseAddr("239.1.2.3")
	group6 = netip.MustParseAddr("ff15::1234")
	groups = []netip.Addr{group4, group6}
)

// on runs fn on the host, or right here if that is nil.
func on(h *mcasttest.Host, fn func()) {
	if h == nil {
		fn()
	} else {
		h.Do(fn)
	}
}

func network(group netip.Addr) string {
	if group.Is4() {
		return "udp4"
	}
	return "udp6"
}

// join opens a socket that has joined the group on the interface.
func join(t *testing.T, h *mcasttest.Host, name string, group netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	on(h, func() {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		conn, err = net.ListenMulticastUDP(network(group), ifi, &net.UDPAddr{IP: group.AsSlice(), Port: port})
		if err != nil {
			t.Fatalf("join %s on %s: %v", group, name, err)
		}
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// joinSource opens a socket that has joined the group on the interface for what comes from the source.
func joinSource(t *testing.T, h *mcasttest.Host, name string, group, source netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	on(h, func() {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if conn, err = net.ListenUDP(network(group), &net.UDPAddr{Port: port}); err != nil {
			t.Fatal(err)
		}
		// struct group_source_req: an index, and two addresses of 128 bytes, aligned as pointers are.
		req := make([]byte, strconv.IntSize/8+256)
		binary.NativeEndian.PutUint32(req, uint32(ifi.Index))
		level := putSockaddr(req[strconv.IntSize/8:], group)
		putSockaddr(req[strconv.IntSize/8+128:], source)
		control(t, conn, func(fd int) error {
			return unix.SetsockoptString(fd, level, unix.MCAST_JOIN_SOURCE_GROUP, string(req))
		})
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// putSockaddr writes a struct sockaddr_in or sockaddr_in6 and returns the socket options' level that goes with it.
func putSockaddr(b []byte, a netip.Addr) (level int) {
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		copy(b[4:], a.AsSlice())
		return unix.IPPROTO_IP
	}
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	copy(b[8:], a.AsSlice())
	return unix.IPPROTO_IPV6
}

// send sends a datagram to the group. The interface may be empty, for the host's choice.
func send(t *testing.T, h *mcasttest.Host, name string, group netip.Addr, ttl int, payload string) {
	t.Helper()
	on(h, func() {
		conn, err := net.ListenUDP(network(group), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		setOptions(t, conn, name, group, ttl)
		if _, err := conn.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(group, port)); err != nil {
			t.Fatalf("send to %s on %q: %v", group, name, err)
		}
	})
}

func setOptions(t *testing.T, conn *net.UDPConn, name string, group netip.Addr, ttl int) {
	t.Helper()
	index := 0
	if name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		index = ifi.Index
	}
	control(t, conn, func(fd int) error {
		if group.Is4() {
			mreq := &unix.IPMreqn{Ifindex: int32(index)}
			if name == "lo" {
				mreq.Address = [4]byte{127, 0, 0, 1}
			}
			if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq); err != nil {
				return err
			}
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl)
	})
}

func control(t *testing.T, conn syscall.Conn, fn func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}

// expect waits for the next datagram, which must be this one.
func expect(t *testing.T, conn *net.UDPConn, payload string) netip.AddrPort {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64<<10)
	n, from, err := conn.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("waiting for %q: %v", payload, err)
	}
	if got := string(b[:n]); got != payload {
		t.Fatalf("received %q from %v, want %q", got, from, payload)
	}
	return from
}

// eventually waits until the condition is true.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after %v: %s", patience, what)
		}
	}
}
