// Sharing a port on Linux with programs that set SO_REUSEADDR, SO_REUSEPORT or both, whichever binds it first. Sharing takes
// no datagram from anyone: SO_REUSEPORT is for balancing, and multicast must not be balanced.

package mcast_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// openForeign binds a socket of another kind of program, on the host, to a port.
func openForeign(t *testing.T, host *mcasttest.Host, at netip.AddrPort, options ...int) *net.UDPConn {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) (err error) {
		rc.Control(func(fd uintptr) {
			for _, option := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1))
			}
		})
		return err
	}}
	var conn net.PacketConn
	var err error
	on(host, func() { conn, err = lc.ListenPacket(context.Background(), network(at.Addr()), at.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

func TestRxSharesPort(t *testing.T) {
	both := []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT}
	for _, options := range [][]int{both[:1], both[1:], both} {
		for _, first := range []string{"the other", "the RxSocket", "another"} {
			t.Run(fmt.Sprint(options, " first is ", first), func(t *testing.T) {
				noLeaks(t)
				wires := newWires(t, 2)
				forEachFamily(t, func(t *testing.T, r contractRange) {
					port := newPort()
					at := netip.AddrPortFrom(unspecified(r.group), port)
					if first != "the RxSocket" {
						openForeign(t, nil, at, options...)
					}
					rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
					if first != "the other" {
						openForeign(t, nil, at, options...)
					}
					later := openRx(t, onWire(wires[0], port, r.group))
					for _, w := range wires {
						w.station(t, r.group, 0).send(r.group, port, w.Name())
					}
					zero, one := arrival{wires[0].Name(), r.group, wires[0].at.Index}, arrival{wires[1].Name(), r.group, wires[1].at.Index}
					wantArrivals(t, rx, zero, one)
					wantArrivals(t, later, zero)
				})
			})
		}
	}
}

// Linux chooses among the sockets of one address that have SO_REUSEPORT by the datagram's source. So there are many sources.
func TestRxSharingBalancesNothing(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachFamily(t, func(t *testing.T, r contractRange) {
		const senders = 60
		for _, first := range []byte{0, 1} { // sockets on each wire that are older than the other program's
			port := newPort()
			var other *net.UDPConn
			var all []*mcast.RxSocket
			var want [][]string
			for _, w := range wires {
				for id := range byte(2) {
					if id == first && other == nil {
						other = openForeign(t, nil, netip.AddrPortFrom(unspecified(r.group), port), unix.SO_REUSEPORT)
					}
					cfg := onWire(w, port, r.group)
					cfg.Sources = []netip.Addr{w.like(r.group, 100+id)}
					all, want = append(all, openRx(t, cfg)), append(want, nil)
				}
			}
			other.Close() // which receives every datagram: Linux balances those that fit one socket alone
			for n := range senders {
				for i := range all {
					w, id := wires[i/2], 100+byte(i%2)
					payload := fmt.Sprintf("%d from %d", n, i)
					w.station(t, r.group, id).send(r.group, port, payload)
					want[i] = append(want[i], payload)
				}
			}
			for i, rx := range all {
				var got []string
				for _, a := range arrivals(t, rx, want[i][senders-1]) {
					got = append(got, a.Payload)
				}
				if !slices.Equal(got, want[i]) {
					t.Errorf("with %d older: socket %d received %d of %d: %q", first, i, len(got), senders, got)
				}
			}
		}
	})
}

// A program that binds the same group, with both options as many do, and has joined on another interface: each receives
// what arrives on its own.
func TestRxTakesNothingFromOthers(t *testing.T) {
	for _, first := range []string{"the other", "the RxSocket", "a third"} {
		t.Run("first is "+first, func(t *testing.T) {
			noLeaks(t)
			wires := newWires(t, 2)
			group, port := contractFamilies[0].group, newPort()
			var rx *mcast.RxSocket
			if first == "the RxSocket" {
				rx = openRx(t, onWire(wires[0], port, group))
			}
			other := openForeignMember(t, group, port, wires[1])
			var third *net.UDPConn
			if first == "a third" { // which shares with SO_REUSEPORT alone
				third = openForeign(t, nil, netip.AddrPortFrom(unspecified(group), port), unix.SO_REUSEPORT)
			}
			if rx == nil {
				rx = openRx(t, onWire(wires[0], port, group))
			}
			if third != nil {
				third.Close()
			}
			var want []string
			for n := range 60 {
				want = append(want, fmt.Sprint(n))
				for _, w := range wires {
					w.station(t, group, 0).send(group, port, fmt.Sprint(n))
				}
			}
			var got []string
			for _, a := range arrivals(t, rx, "59") {
				got = append(got, a.Payload)
			}
			if there := other.await(want...); !slices.Equal(got, want) || !slices.Equal(there, want) {
				t.Errorf("received %d of 60: %q, and the other %d: %q", len(got), got, len(there), there)
			}
		})
	}
}

// openForeignMember binds an IPv4 group with SO_REUSEADDR and SO_REUSEPORT, and joins it on a wire alone.
func openForeignMember(t *testing.T, group netip.Addr, port uint16, w *wire) *naive {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "other")
	defer file.Close()
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(w.at.Index)}),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: group.As4()}))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &naive{UDPConn: conn.(*net.UDPConn), t: t}
}

func TestTxSharesPort(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
			port := newPort()
			openForeign(t, nil, netip.AddrPortFrom(unspecified(r.group), port), option)
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Port: port})
			there := newNaive(t, w.peer, r.group, port, "eth0")
			write(t, tx, r.group, port, "marker")
			onlyMarker(t, there, "marker")
		}
	})
}

// The hint for a port that is taken names the program, and what would make it share. Without the program there is no error.
func TestPortTakenNamesTheProgram(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		open := func() []error {
			rx, err := mcast.OpenRx(onWire(w, port, r.group))
			tx, err2 := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Port: port})
			rx.Close()
			tx.Close()
			return []error{err, err2}
		}
		taken := func(hint string) {
			t.Helper()
			for _, err := range open() {
				text := fmt.Sprintf(":%d: address already in use", port)
				if hinted(t, err, unix.EADDRINUSE, hint); !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), fmt.Sprintf("of process %d (", os.Getpid())) {
					t.Errorf("%v: want the port and this process", err)
				}
			}
		}
		at := netip.AddrPortFrom(unspecified(r.group), port)
		other := openForeign(t, nil, at)
		taken("must set SO_REUSEADDR or SO_REUSEPORT")
		other.Close()
		if err := errors.Join(open()...); err != nil {
			t.Errorf("cured: %v", err)
		}

		// Another user's program must set SO_REUSEADDR.
		if !asUser(t, 65534, func() { other = openForeign(t, nil, at, unix.SO_REUSEPORT) }) {
			return
		}
		taken("SO_REUSEPORT alone shares with the same user")
		other.Close()
		asUser(t, 65534, func() { other = openForeign(t, nil, at, unix.SO_REUSEADDR) })
		if err := errors.Join(open()...); err != nil {
			t.Errorf("with SO_REUSEADDR: %v", err)
		}
		other.Close()
	})
}

// asUser calls f as another user, as far as sockets are concerned, and reports whether this user may.
func asUser(t *testing.T, uid int, f func()) bool {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	me := os.Geteuid()
	unix.Setfsuid(uid)
	defer unix.Setfsuid(me)
	if now, err := unix.SetfsuidRetUid(uid); err != nil || now != uid {
		return false
	}
	f()
	return true
}

// In the way of a sender's port is also who has it on one address.
func TestTxPortTakenNamesTheAddress(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		holder := netip.AddrPortFrom(w.like(r.group, 1), newPort())
		openForeign(t, nil, holder)
		_, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Port: holder.Port()})
		hinted(t, err, unix.EADDRINUSE, "held by "+holder.String())
	})
}

// A sender that shares its port with a receiver that has SO_REUSEPORT alone takes no multicast from it.
func TestTxTakesNothingFromOthers(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		other := &naive{UDPConn: openForeign(t, nil, netip.AddrPortFrom(unspecified(r.group), port), unix.SO_REUSEPORT), t: t}
		rc, err := other.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		rc.Control(func(fd uintptr) {
			if r.group.Is4() {
				err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: r.group.As4(), Ifindex: int32(w.at.Index)})
			} else {
				err = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: r.group.As16(), Interface: uint32(w.at.Index)})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Port: port})
		var want []string
		for n := range 60 {
			want = append(want, fmt.Sprint(n))
			w.station(t, r.group, 0).send(r.group, port, fmt.Sprint(n))
		}
		if got := other.await(want...); !slices.Equal(got, want) {
			t.Errorf("received %d of 60: %q", len(got), got)
		}
	})
}
