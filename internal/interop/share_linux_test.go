// Other programs on the same host that use the same group and port, without the options that this library sets: each
// program gets its own copy of every datagram, whoever came first.

package interop

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// TestSharedPort has another program and a socket of ours in one group on one port of a host. When one of them has
// left, the other goes on: the last member keeps the switch sending.
func TestSharedPort(t *testing.T) {
	t.Parallel()
	for _, p := range peers {
		for _, group := range []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")} {
			family := "IPv4"
			if group.Is6() {
				family = "IPv6"
			}
			for _, oursFirst := range []bool{true, false} {
				order := "TheyFirst"
				if oursFirst {
					order = "WeFirst"
				}
				t.Run(p.name+"/"+family+"/"+order, func(t *testing.T) {
					t.Parallel()
					need(t, p.programs...)
					testSharedPort(t, &p, channel{group: group, port: 5000}, oursFirst)
				})
			}
		}
	}
}

func testSharedPort(t *testing.T, p *peer, c channel, oursFirst bool) {
	lan := mcasttest.NewLAN(t, 2)
	sender, receiver := lan.Hosts[0], lan.Hosts[1]
	from := address(sender, c.group)
	tx := openTx(t, sender, mcast.TxConfig{Groups: []netip.Addr{c.group}})
	open := func() *mcast.RxSocket {
		rx := openRx(t, receiver, mcast.RxConfig{Groups: []netip.Addr{c.group}, Port: c.port})
		lan.WaitJoined(receiver, c.group)
		return rx
	}
	var rx *mcast.RxSocket
	if oursFirst {
		rx = open()
	}
	theirs := p.startReceive(t, receiver, c)
	if oursFirst {
		// Ours has the port and the group already, so that nothing tells of theirs but what it gets.
		waitHeard(t, tx, theirs, c.group, c.port)
		write(t, tx, c.group, c.port, "heard")
		skip(t, theirs, "heard")
		skip(t, rxReader{rx}, "heard")
	} else {
		waitBound(t, receiver, c.group, c.port)
		lan.WaitJoined(receiver, c.group)
		rx = open()
	}

	write(t, tx, c.group, c.port, payloads("both")...)
	want(t, rx, c.group, from, payloads("both")...)
	theirs.want(payloads("both")...)

	if err := rx.Leave(c.group); err != nil {
		t.Fatal(err)
	}
	write(t, tx, c.group, c.port, payloads("theirs")...)
	theirs.want(payloads("theirs")...)

	join(t, receiver, rx, c.group)
	theirs.stop()
	lan.WaitJoined(receiver, c.group)
	write(t, tx, c.group, c.port, payloads("ours")...)
	want(t, rx, c.group, from, payloads("ours")...)
}

// TestSharedPortUnicast has a plain socket wait for unicast on the port of a group that ours receives: it gets it,
// before and after ours has written from that port.
func TestSharedPortUnicast(t *testing.T) {
	t.Parallel()
	for _, group := range []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")} {
		t.Run(group.String(), func(t *testing.T) {
			t.Parallel()
			need(t, "python3")
			lan := mcasttest.NewLAN(t, 2)
			sender, receiver := lan.Hosts[0], lan.Hosts[1]
			c := channel{group: group, port: 5000}
			theirs := peers[0].startReceive(t, receiver, c)
			waitBound(t, receiver, c.group, c.port)
			lan.WaitJoined(receiver, c.group)
			rx := openRx(t, receiver, mcast.RxConfig{Groups: []netip.Addr{group}, Port: c.port})
			lan.WaitJoined(receiver, group)

			var conn net.Conn
			var err error
			to := netip.AddrPortFrom(address(receiver, group), c.port)
			sender.Do(func() { conn, err = net.Dial("udp", to.String()) })
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			unicast := func(payload string) {
				t.Helper()
				if _, err := conn.Write([]byte(payload)); err != nil {
					t.Fatal(err)
				}
				theirs.want(payload)
			}
			unicast("before")
			back := conn.LocalAddr().(*net.UDPAddr).AddrPort()
			if _, err := rx.WriteToUDPAddrPort([]byte("reply"), back); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			if n, err := conn.Read(b); err != nil || string(b[:n]) != "reply" { // connected: from that port, too
				t.Fatalf("%q, %v", b[:n], err)
			}
			unicast("after")

			tx := openTx(t, sender, mcast.TxConfig{Groups: []netip.Addr{group}})
			write(t, tx, group, c.port, "multicast")
			want(t, rx, group, address(sender, group), "multicast")
			theirs.want("multicast")
		})
	}
}
