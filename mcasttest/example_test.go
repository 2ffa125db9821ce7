// This file shows how the parts are used together.

package mcasttest_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

// Two hosts on a switch, one of which sends and the other receives. The names of real tests begin with Test.
func ExampleNewLAN() {
	_ = func(t *testing.T) {
		lan := mcasttest.NewLAN(t, 2)
		sender, receiver := lan.Hosts[0], lan.Hosts[1]
		group := netip.MustParseAddr("239.1.2.3")

		var conn *net.UDPConn
		receiver.Do(func() {
			var err error
			conn, err = net.ListenMulticastUDP("udp4", nil, &net.UDPAddr{IP: group.AsSlice(), Port: 5000})
			if err != nil {
				t.Fatal(err)
			}
		})
		defer conn.Close()
		lan.WaitJoined(receiver, group)

		sender.Do(func() {
			out, err := net.Dial("udp4", "239.1.2.3:5000")
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if _, err := out.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		})

		b := make([]byte, 100)
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "hello" || from.Addr() != sender.IPv4 {
			t.Errorf("received %q from %v, %v", b[:n], from, err)
		}
	}
}

// An interface of the test's own, which disappears and comes back.
func ExampleNewVeth() {
	_ = func(t *testing.T) {
		v := mcasttest.NewVeth(t, "usb0", netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64"))
		// … start what is to be tested on usb0 …
		v.Delete()
		v.Create()
		v.Peer().Do(func() {
			// … send to it from the other end of the cable …
		})
	}
}

// Whether a group gets through a router depends on the TTL.
func ExampleNewRouter() {
	_ = func(t *testing.T) {
		studio, office := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 1)
		mcasttest.NewRouter(t, studio, office)
		count := office.Hosts[0].Interface("eth0").CountUDP(netip.MustParseAddr("239.1.2.3"))
		// … send from studio.Hosts[0] with a TTL of 1 …
		if n := count(); n != 0 {
			t.Errorf("%d packets got through", n)
		}
	}
}
