// Exported functions and methods with any argument: none panics. It sends to any address, so it is for the private network of
// the tests on Linux.

package mcast_test

import (
	"context"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
)

// strange is a net.Addr that no method of a socket can know.
type strange string

func (s strange) Network() string { return string(s) }
func (s strange) String() string  { return string(s) }

// FuzzArguments gives exported functions and methods what no program should give them.
func FuzzArguments(f *testing.F) {
	f.Add([]byte{239, 1, 1, 1}, []byte{10, 0, 0, 1}, "", "lo", uint16(5000), 1, 10)
	f.Add([]byte{0: 0xff, 1: 2, 15: 1}, []byte{0: 0xfe, 1: 0x80, 15: 1}, "1", "*", uint16(0), -1, 0)
	f.Add([]byte{0: 0xff, 1: 0x15, 15: 1}, []byte{}, "no such zone", "default", uint16(1), 256, -1)
	f.Add([]byte{10: 0xff, 11: 0xff, 12: 239, 15: 1}, []byte{255, 255, 255, 255}, "%", "10.0.0.0/33", uint16(65535), math.MaxInt32, 1<<20)
	f.Fuzz(func(t *testing.T, group, other []byte, zone, spec string, port uint16, number, size int) {
		ifc := home(t)
		g, _ := netip.AddrFromSlice(group)
		o, _ := netip.AddrFromSlice(other)
		room := make([]byte, min(max(size, 0), 70000))
		odd := mcast.Interface{Name: spec, Index: number, MTU: size, Flags: net.Flags(number), IPv4: []netip.Prefix{netip.PrefixFrom(o, size)}, IPv6: []netip.Prefix{{}}}

		mcast.FindInterfaces(spec, zone)
		mcast.SelectInterfaces([]mcast.Interface{odd, {}}, spec)
		mcast.DefaultInterface(spec)
		for _, i := range []mcast.Interface{odd, {}} {
			_ = i.IsLoopback()
		}
		var none context.Context
		for range mcast.WatchInterfaces(none) {
			break
		}
		for _, on := range [][]mcast.Interface{{odd}, {{}}, {}, {ifc}} {
			rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{g}, Port: port, Interfaces: on, Sources: []netip.Addr{o}, ReadBuffer: size, Static: number%2 == 0})
			if (rx == nil) == (err == nil) {
				t.Fatalf("%v, %v", rx, err)
			}
			defer rx.Close()
			tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{g}, Interfaces: on, TTL: number, TrafficClass: number, WriteBuffer: size, Static: true})
			if (tx == nil) == (err == nil) {
				t.Fatalf("%v, %v", tx, err)
			}
			defer tx.Close()
		}

		want := addr("239.79.1.1")
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{want}, Port: 5000, Interfaces: []mcast.Interface{ifc}, Static: true})
		defer rx.Close()
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{want}, Interfaces: []mcast.Interface{ifc}, Static: true})
		defer tx.Close()
		at := time.Now().Add(time.Duration(number))
		for _, s := range []net.PacketConn{rx, tx} {
			s.SetDeadline(at)
			s.SetReadDeadline(time.Unix(1, 0))
			s.ReadFrom(room)
			s.ReadFrom(nil)
			for _, to := range []net.Addr{nil, (*net.UDPAddr)(nil), (*net.IPAddr)(nil), strange(spec), &net.UDPAddr{}, &net.UDPAddr{IP: other, Port: number, Zone: zone},
				&net.UDPAddr{IP: group, Port: int(port), Zone: zone}} {
				s.WriteTo(room, to)
				s.WriteTo(nil, to)
			}
		}
		rx.Join(g, o, netip.Addr{})
		rx.Join(g.WithZone(zone))
		rx.Leave(g)
		rx.Leave(o)
		rx.ReadBatch(nil)
		rx.ReadBatch([]mcast.Message{{}, {Buf: room, N: size, IfIndex: number}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range rx.Messages(ctx) {
			break
		}
		tx.SetTTL(number)
		tx.WriteBatch(nil)
		tx.WriteBatch([]mcast.Message{{}, {Buf: room, Addr: netip.AddrPortFrom(g.WithZone(zone), port)}, {Buf: room, N: -1, Addr: netip.AddrPortFrom(want, port)},
			{Addr: netip.AddrPortFrom(want.WithZone(zone), port)}, {Buf: room, Addr: netip.AddrPortFrom(o, port)}})
		tx.WriteToUDPAddrPort(room, netip.AddrPortFrom(want, port))
		rx.WriteToUDPAddrPort(nil, netip.AddrPortFrom(netip.AddrFrom16(want.As16()).WithZone(zone), port))
	})
}
