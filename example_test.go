//go:build linux || darwin || windows

// Examples with an output are run by go test, over the loopback interface, which has this address on every system. An
// example cannot be skipped, and sockets open on these systems only; hence the constraint.

package mcast_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// A program that hears itself: it joins a group on the loopback interface and sends to it.
func Example() {
	group := netip.MustParseAddr("239.1.2.3")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}

	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 30101, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()

	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	if _, err := tx.WriteToUDPAddrPort([]byte("hello, group"), netip.AddrPortFrom(group, 30101)); err != nil {
		log.Fatal(err)
	}

	buf := make([]byte, 1500)
	n, src, err := rx.ReadFromUDPAddrPort(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from %s\n", buf[:n], src.Addr())
	// Output: hello, group from 127.0.0.1
}

// One interface, named by an address it has. Any spec of SelectInterfaces would do.
func ExampleOpenRx() {
	ifaces, err := mcast.FindInterfaces("192.168.0.248")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups:     []netip.Addr{netip.MustParseAddr("239.1.2.3")},
		Port:       12345,
		Interfaces: ifaces,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()

	buf := make([]byte, 1500)
	for {
		n, src, err := rx.ReadFromUDPAddrPort(buf)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %q\n", src, buf[:n])
	}
}

// Without a list of interfaces the groups are joined on all that can multicast, now and later. Opening succeeds if one
// interface could join; Memberships has the rest.
func ExampleOpenRx_allInterfaces() {
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")},
		Port:   12345,
		Logger: slog.Default(), // hears of interfaces that come and go
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()

	for _, m := range rx.Memberships() {
		if !m.Joined {
			log.Printf("not joined: %v", m.Err)
		}
	}
}

// The sender's interface is that of the default route unless another is named.
func ExampleOpenTx() {
	group := netip.MustParseAddr("239.1.2.3")
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, 12345)); err != nil {
		log.Fatal(err)
	}
}

// Every datagram leaves by each interface of the socket. A zone in the destination picks one of them.
func ExampleOpenTx_severalInterfaces() {
	wired, err := mcast.FindInterfaces("enp*", "eth*")
	if err != nil {
		log.Fatal(err)
	}
	group := netip.MustParseAddr("ff12::1234")
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: wired})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	if _, err := tx.WriteToUDPAddrPort([]byte("by all"), netip.AddrPortFrom(group, 12345)); err != nil {
		log.Fatal(err)
	}
	byOne := netip.AddrPortFrom(group.WithZone(wired[0].Name), 12345)
	if _, err := tx.WriteToUDPAddrPort([]byte("by one"), byOne); err != nil {
		log.Fatal(err)
	}
}

// Sender and receiver on one machine, in one program or in two: Loopback is set at both ends.
func ExampleRxConfig_loopback() {
	group := netip.MustParseAddr("239.1.2.3")
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 12345, Loopback: true})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Loopback: true})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, 12345)); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, src, err := rx.ReadFromUDPAddrPort(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s says %q\n", src, buf[:n])
}

// A TTL lets datagrams pass routers; the receiver can ask how much of it was left.
func ExampleTxSocket_SetTTL() {
	group := netip.MustParseAddr("239.1.2.4")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups: []netip.Addr{group}, Port: 30102, Interfaces: lo,
		HopLimits: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{
		Groups: []netip.Addr{group}, Interfaces: lo,
		TTL: mcast.TTLSite,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	to := netip.AddrPortFrom(group, 30102)
	if _, err := tx.WriteToUDPAddrPort([]byte("across the site"), to); err != nil {
		log.Fatal(err)
	}
	if err := tx.SetTTL(mcast.TTLSubnet); err != nil {
		log.Fatal(err)
	}
	if _, err := tx.WriteToUDPAddrPort([]byte("to the neighbours"), to); err != nil {
		log.Fatal(err)
	}

	ms := []mcast.Message{{Buf: make([]byte, 1500)}}
	for range 2 {
		if _, err := rx.ReadBatch(ms); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %d\n", ms[0].Buf[:ms[0].N], ms[0].HopLimit)
	}
	// Output:
	// across the site: 32
	// to the neighbours: 1
}

// ReadBatch takes what has arrived already with one call, and tells of each datagram which group it was sent to and
// which interface it came in by.
func ExampleRxSocket_ReadBatch() {
	red, blue := netip.MustParseAddr("239.1.3.1"), netip.MustParseAddr("239.1.3.2")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{red, blue}, Port: 30103, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{red, blue}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()
	for _, group := range []netip.Addr{red, blue} {
		if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, 30103)); err != nil {
			log.Fatal(err)
		}
	}

	ms := make([]mcast.Message, 16)
	for i := range ms {
		ms[i].Buf = make([]byte, 1500)
	}
	for got := 0; got < 2; {
		n, err := rx.ReadBatch(ms)
		if err != nil {
			log.Fatal(err)
		}
		for _, m := range ms[:n] {
			fmt.Printf("%s to %s by the loopback: %t\n", m.Buf[:m.N], m.Group, m.IfIndex == lo[0].Index)
		}
		got += n
	}
	// Unordered output:
	// hello to 239.1.3.1 by the loopback: true
	// hello to 239.1.3.2 by the loopback: true
}

// The loop ends when the context does, or when the socket is closed.
func ExampleRxSocket_Messages() {
	group := netip.MustParseAddr("239.1.4.1")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 30104, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()
	for _, word := range []string{"one", "two", "stop"} {
		if _, err := tx.WriteToUDPAddrPort([]byte(word), netip.AddrPortFrom(group, 30104)); err != nil {
			log.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for m, err := range rx.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		text := string(m.Buf[:m.N]) // a copy: the buffer is used again
		if text == "stop" {
			cancel()
			continue
		}
		fmt.Println(text)
	}
	fmt.Println("the context has ended")
	// Output:
	// one
	// two
	// the context has ended
}

// A question to a group, and the answers: each receiver replies by unicast from the port of the group, and the sender
// reads the replies from the socket that it asked with.
func ExampleRxSocket_WriteToUDPAddrPort() {
	group := netip.MustParseAddr("239.1.5.1")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 30105, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	go func() { // the answering end
		buf := make([]byte, 1500)
		for {
			n, src, err := rx.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				log.Print(err)
				continue
			}
			reply := fmt.Sprintf("you said %q", buf[:n])
			if _, err := rx.WriteToUDPAddrPort([]byte(reply), src); err != nil {
				log.Print(err)
			}
		}
	}()

	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo}) // the asking end
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.WriteToUDPAddrPort([]byte("who is there?"), netip.AddrPortFrom(group, 30105)); err != nil {
		log.Fatal(err)
	}
	if err := tx.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, src, err := tx.ReadFromUDPAddrPort(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s answers: %s\n", src, buf[:n])
	// Output: 127.0.0.1:30105 answers: you said "who is there?"
}

// Source-specific multicast: only datagrams of the sources named are received, and routers are asked for no others.
func ExampleRxConfig_sources() {
	group := netip.MustParseAddr("232.1.2.3")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups: []netip.Addr{group}, Port: 30106, Interfaces: lo,
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.WriteToUDPAddrPort([]byte("the news"), netip.AddrPortFrom(group, 30106)); err != nil {
		log.Fatal(err)
	}

	buf := make([]byte, 1500)
	n, src, err := rx.ReadFromUDPAddrPort(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from %s\n", buf[:n], src.Addr())
	// Output: the news from 127.0.0.1
}

// Two receivers of one group, of which one does not want to hear a certain host.
func ExampleRxConfig_blocked() {
	group := netip.MustParseAddr("239.1.7.1")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	open := mcast.RxConfig{Groups: []netip.Addr{group}, Port: 30107, Interfaces: lo}
	choosy := open
	choosy.Blocked = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

	var sockets []*mcast.RxSocket
	for _, cfg := range []mcast.RxConfig{open, choosy} {
		rx, err := mcast.OpenRx(cfg)
		if err != nil {
			log.Fatal(err)
		}
		defer rx.Close()
		sockets = append(sockets, rx)
	}
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.WriteToUDPAddrPort([]byte("buy now"), netip.AddrPortFrom(group, 30107)); err != nil {
		log.Fatal(err)
	}

	buf := make([]byte, 1500)
	n, _, err := sockets[0].ReadFromUDPAddrPort(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("open: %s\n", buf[:n])

	if err := sockets[1].SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	_, _, err = sockets[1].ReadFromUDPAddrPort(buf)
	fmt.Println("choosy: nothing:", errors.Is(err, os.ErrDeadlineExceeded))
	// Output:
	// open: buy now
	// choosy: nothing: true
}

// Groups can be joined and left while other goroutines read.
func ExampleRxSocket_Join() {
	first, second := netip.MustParseAddr("239.1.8.1"), netip.MustParseAddr("239.1.8.2")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{first}, Port: 30108, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()

	if err := rx.Join(second); err != nil {
		log.Fatal(err)
	}
	if err := rx.Leave(first); err != nil {
		log.Fatal(err)
	}
	for _, m := range rx.Memberships() {
		fmt.Println(m.Group, m.Joined)
	}
	fmt.Println(errors.Is(rx.Leave(first), mcast.ErrNotJoined))
	// Output:
	// 239.1.8.2 true
	// true
}

// Join with sources wants those alone, and another Join adds to them.
func ExampleRxSocket_Join_sources() {
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups: []netip.Addr{netip.MustParseAddr("239.1.8.1")}, Port: 30109, Interfaces: lo,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()

	channel := netip.MustParseAddr("232.1.8.1")
	for _, source := range []string{"192.0.2.7", "192.0.2.8"} {
		if err := rx.Join(channel, netip.MustParseAddr(source)); err != nil {
			log.Fatal(err)
		}
	}
	for _, m := range rx.Memberships() {
		fmt.Println(m.Group, m.Sources)
	}
	// Output:
	// 239.1.8.1 []
	// 232.1.8.1 [192.0.2.7 192.0.2.8]
}

// Memberships counts, for each group on each interface, what was read and, on Linux, what the kernel had to drop because
// nobody read in time.
func ExampleRxSocket_Memberships() {
	group := netip.MustParseAddr("239.1.9.1")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 30110, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	buf := make([]byte, 600)
	for _, size := range []int{400, 800} {
		if _, err := tx.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(group, 30110)); err != nil {
			log.Fatal(err)
		}
		if _, _, err := rx.ReadFromUDPAddrPort(buf); err != nil {
			log.Fatal(err)
		}
	}
	for _, m := range rx.Memberships() {
		fmt.Printf("%s: %d datagrams, %d bytes, %d cut to the buffer, %d dropped\n",
			m.Group, m.Packets, m.Bytes, m.Truncated, m.Dropped)
	}
	// Output: 239.1.9.1: 2 datagrams, 1000 bytes, 1 cut to the buffer, 0 dropped
}

// A deadline ends a read that waits, and every later one, until it is moved. The zero time removes it.
func ExampleRxSocket_SetReadDeadline() {
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups: []netip.Addr{netip.MustParseAddr("239.1.10.1")}, Port: 30111, Interfaces: lo,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()

	if err := rx.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	_, _, err = rx.ReadFromUDPAddrPort(make([]byte, 1500))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		fmt.Println("nobody said anything")
	}
	// Output: nobody said anything
}

// Close ends a read that waits in another goroutine.
func ExampleRxSocket_Close() {
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{
		Groups: []netip.Addr{netip.MustParseAddr("239.1.11.1")}, Port: 30112, Interfaces: lo,
	})
	if err != nil {
		log.Fatal(err)
	}

	ended := make(chan error)
	go func() {
		_, _, err := rx.ReadFromUDPAddrPort(make([]byte, 1500))
		ended <- err
	}()
	if err := rx.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(errors.Is(<-ended, net.ErrClosed))
	// Output: true
}

// Both socket types are a net.PacketConn, for code that takes one.
func ExampleRxSocket_ReadFrom() {
	group := netip.MustParseAddr("239.1.12.1")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 30113, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	serveOne := func(conn net.PacketConn) {
		buf := make([]byte, 1500)
		n, _, err := conn.ReadFrom(buf)
		fmt.Println(string(buf[:n]), err)
	}
	if _, err := tx.WriteTo([]byte("hello"), &net.UDPAddr{IP: group.AsSlice(), Port: 30113}); err != nil {
		log.Fatal(err)
	}
	serveOne(rx)
	// Output: hello <nil>
}

// Many datagrams with few system calls. Destinations and sizes may differ.
func ExampleTxSocket_WriteBatch() {
	group := netip.MustParseAddr("239.1.13.1")
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	to := netip.AddrPortFrom(group, 30114)
	n, err := tx.WriteBatch([]mcast.Message{
		{Buf: []byte("one"), Addr: to},
		{Buf: []byte("two"), Addr: to},
		{Buf: []byte("three"), Addr: to},
	})
	fmt.Println(n, err)
	// Output: 3 <nil>
}

// Some protocols want datagrams from a certain port: multicast DNS answers come from 5353. The port is shared with
// other programs that allow it, such as the system's own responder.
func ExampleTxConfig_port() {
	group := netip.MustParseAddr("224.0.0.251")
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Port: 5353, TTL: 255})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()
}

// What a spec can be. FindInterfaces does the same with the interfaces of the host.
func ExampleSelectInterfaces() {
	list := []mcast.Interface{
		{Name: "lo", Index: 1, IPv4: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{Name: "enp3s0", Index: 2, IPv4: []netip.Prefix{netip.MustParsePrefix("192.168.0.248/24")}},
		{Name: "enp4s0", Index: 3, IPv6: []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}},
		{Name: "wlan0", Index: 4, IPv4: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}},
	}
	for _, spec := range []string{"wlan0", "3", "192.168.0.248", "10.0.0.0/8", "fe80::1%enp4s0", "enp*"} {
		found, err := mcast.SelectInterfaces(list, spec)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(spec, ":")
		for _, ifc := range found {
			fmt.Print(" ", ifc.Name)
		}
		fmt.Println()
	}
	_, err := mcast.SelectInterfaces(list, "eth0")
	fmt.Println(errors.Is(err, mcast.ErrNoInterface))
	// Output:
	// wlan0: wlan0
	// 3: enp4s0
	// 192.168.0.248: enp3s0
	// 10.0.0.0/8: wlan0
	// fe80::1%enp4s0: enp4s0
	// enp*: enp3s0 enp4s0
	// true
}

// Several specs of one interface give it once.
func ExampleFindInterfaces() {
	found, err := mcast.FindInterfaces("127.0.0.1", "127.0.0.0/8")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(found), found[0].IsLoopback())
	// Output: 1 true
}

func ExampleDefaultInterface() {
	ifc, err := mcast.DefaultInterface("ip4")
	if errors.Is(err, mcast.ErrNoInterface) {
		log.Fatal("this host has no default route for IPv4")
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ifc.Name, ifc.IPv4)
}

// The list as it is comes at once, and a new one after every change.
func ExampleWatchInterfaces() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for list, err := range mcast.WatchInterfaces(ctx) {
		if err != nil {
			log.Print(err) // the next scan may succeed
			continue
		}
		fmt.Println("there are some:", len(list) > 0)
		break
	}
	// Output: there are some: true
}

// An error says what was tried and, if it is known, what to do.
func ExampleOpError() {
	lo, err := mcast.FindInterfaces("127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{netip.MustParseAddr("239.1.14.1")}, Interfaces: lo})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Close()

	_, err = tx.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort("239.1.14.2:30115"))
	if errors.Is(err, mcast.ErrNotDeclared) {
		fmt.Println("a group that the socket was not opened for")
	}
	if e := (*mcast.OpError)(nil); errors.As(err, &e) {
		fmt.Printf("%s to %s: %s\n", e.Op, e.Group, e.Hint)
	}
	// Output:
	// a group that the socket was not opened for
	// write to 239.1.14.2: name it in TxConfig.Groups
}

// A mistake in a configuration is refused before any socket is opened.
func ExampleOpError_mistake() {
	_, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{netip.MustParseAddr("192.168.0.248")}, Port: 12345})
	fmt.Println(err)
	fmt.Println(errors.Is(err, mcast.ErrNotMulticast))
	// Output:
	// mcast: open 192.168.0.248: not a multicast address (multicast is 224.0.0.0/4 and ff00::/8)
	// true
}

// A test of one's own service on a network that exists only for the test: a switch that snoops IGMP and MLD, and
// hosts on it. In a package's tests, TestMain calls mcasttest.Main, which makes this work for ordinary users.
func Example_testing() {
	_ = func(m *testing.M) { mcasttest.Main(m) } // func TestMain

	_ = func(t *testing.T) { // func TestService
		group := netip.MustParseAddr("239.1.2.3")
		lan := mcasttest.NewLAN(t, 2)
		var rx *mcast.RxSocket
		var tx *mcast.TxSocket
		var err error
		lan.Hosts[0].Do(func() {
			if rx, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 12345}); err != nil {
				t.Fatal(err)
			}
		})
		defer rx.Close()
		lan.Hosts[1].Do(func() {
			if tx, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}}); err != nil {
				t.Fatal(err)
			}
		})
		defer tx.Close()

		lan.WaitJoined(lan.Hosts[0], group)
		if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, 12345)); err != nil {
			t.Fatal(err)
		}
		_, src, err := rx.ReadFromUDPAddrPort(make([]byte, 1500))
		if err != nil || src.Addr() != lan.Hosts[1].IPv4 {
			t.Fatalf("got a datagram from %s, error %v", src, err)
		}
	}
}
