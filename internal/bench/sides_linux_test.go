// The sides: this library, package net, x/net, and the sockets of the C side.

package bench

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/slow"
)

// patience limits every wait for a datagram.
var patience = slow.Limit(20 * time.Second)

// reader reads n datagrams. It returns their bytes and, for batches, the last one's group and interface.
type reader func(n int) (bytes int, group netip.Addr, ifIndex int)

// opener joins the groups of dsts, reads one datagram of up to size bytes at a time or, in a batch, up to vlen of them.
type opener func(b *testing.B, dsts []netip.AddrPort, size int, batch bool) reader

// senderOpener opens a sender of n datagrams. It returns a function that shuffles them, and one that sends all.
type senderOpener func(b *testing.B, dsts []netip.AddrPort, n, size int, batch bool) (shuffle, send func())

// conn is a socket of the library or of package net.
type conn interface {
	ReadFromUDPAddrPort(p []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (int, error)
	SetReadDeadline(time.Time) error
	Close() error
}

// ---- this library ----

func groupsOf(dsts []netip.AddrPort) []netip.Addr {
	all := make([]netip.Addr, len(dsts))
	for i, dst := range dsts {
		all[i] = dst.Addr()
	}
	return all
}

func rxConfig(lo mcast.Interface, dsts []netip.AddrPort) mcast.RxConfig {
	return mcast.RxConfig{Groups: groupsOf(dsts), Port: dsts[0].Port(), Interfaces: []mcast.Interface{lo}, ReadBuffer: readBuffer, Static: true}
}

func newRx(b *testing.B, dsts []netip.AddrPort, coalesce bool) *mcast.RxSocket {
	config := rxConfig(loopback(b, 0), dsts)
	config.Coalesce = coalesce
	rx, err := mcast.OpenRx(config)
	check(b, err)
	b.Cleanup(func() { rx.Close() })
	return rx
}

func newTx(b *testing.B, dsts []netip.AddrPort) *mcast.TxSocket {
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: groupsOf(dsts), Interfaces: []mcast.Interface{loopback(b, 0)}, Static: true})
	check(b, err)
	b.Cleanup(func() { tx.Close() })
	return tx
}

func openMcast(b *testing.B, dsts []netip.AddrPort, size int, batch bool) reader {
	rx := newRx(b, dsts, false)
	if batch {
		return batches(b, rx, size)
	}
	return oneByOne(b, rx, size)
}

func openMcastCoalesced(b *testing.B, dsts []netip.AddrPort, size int, _ bool) reader {
	return batches(b, newRx(b, dsts, true), size)
}

func batches(b *testing.B, rx *mcast.RxSocket, size int) reader {
	ms := make([]mcast.Message, vlen)
	for i := range ms {
		ms[i].Buf = make([]byte, size)
	}
	return func(n int) (bytes int, group netip.Addr, ifIndex int) {
		rx.SetReadDeadline(time.Now().Add(patience))
		for n > 0 {
			k, err := rx.ReadBatch(ms)
			check(b, err)
			for i := range ms[:k] {
				bytes, group, ifIndex = bytes+ms[i].N, ms[i].Group, ms[i].IfIndex
			}
			n -= k
		}
		return bytes, group, ifIndex
	}
}

func oneByOne(b *testing.B, c conn, size int) reader {
	buf := make([]byte, size)
	return func(n int) (bytes int, _ netip.Addr, _ int) {
		c.SetReadDeadline(time.Now().Add(patience))
		for range n {
			k, src, err := c.ReadFromUDPAddrPort(buf)
			if err != nil || !src.IsValid() {
				b.Fatal(src, err)
			}
			bytes += k
		}
		return bytes, netip.Addr{}, 0
	}
}

func openMcastSender(b *testing.B, dsts []netip.AddrPort, n, size int, batch bool) (shuffle, send func()) {
	tx, ms := newTx(b, dsts), make([]mcast.Message, n)
	for i := range ms {
		ms[i] = mcast.Message{Buf: make([]byte, size), Addr: dsts[i%len(dsts)]}
	}
	shuffle = func() { rand.Shuffle(n, func(i, j int) { ms[i], ms[j] = ms[j], ms[i] }) }
	if batch {
		return shuffle, func() {
			for left := ms; len(left) > 0; {
				k, err := tx.WriteBatch(left[:min(vlen, len(left))])
				check(b, err)
				left = left[k:]
			}
		}
	}
	return shuffle, func() {
		for i := range ms {
			_, err := tx.WriteToUDPAddrPort(ms[i].Buf, ms[i].Addr)
			check(b, err)
		}
	}
}

// ---- package net and x/net ----

// listen opens a socket of package net that receives one group. Package net itself does not bind a socket to a group.
func listen(b *testing.B, dst netip.AddrPort) *net.UDPConn {
	file := os.NewFile(uintptr(socket(b, loopback(b, 0), dst)), "socket")
	defer file.Close()
	c, err := net.FilePacketConn(file)
	check(b, err)
	b.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// dial opens a socket of package net that sends multicast on the loopback interface.
func dial(b *testing.B) *net.UDPConn {
	lo := loopback(b, 0)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: lo.IPv4[0].Addr().AsSlice()})
	check(b, err)
	b.Cleanup(func() { c.Close() })
	check(b, ipv4.NewPacketConn(c).SetMulticastInterface(&net.Interface{Index: lo.Index}))
	return c
}

// openNet reads with package net or, in batches, with x/net.
func openNet(b *testing.B, dsts []netip.AddrPort, size int, batch bool) reader {
	c := listen(b, dsts[0])
	if !batch {
		return oneByOne(b, c, size)
	}
	pc, ms := ipv4.NewPacketConn(c), make([]ipv4.Message, vlen)
	check(b, pc.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true))
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, size)}, OOB: ipv4.NewControlMessage(ipv4.FlagDst | ipv4.FlagInterface)}
	}
	var control ipv4.ControlMessage
	return func(n int) (bytes int, group netip.Addr, ifIndex int) {
		c.SetReadDeadline(time.Now().Add(patience))
		for n > 0 {
			k, err := pc.ReadBatch(ms, 0)
			check(b, err)
			for i := range ms[:k] {
				check(b, control.Parse(ms[i].OOB[:ms[i].NN]))
				group, _ = netip.AddrFromSlice(control.Dst)
				if src := ms[i].Addr.(*net.UDPAddr).AddrPort(); !src.IsValid() {
					b.Fatal("no source")
				}
				bytes, ifIndex = bytes+ms[i].N, control.IfIndex
			}
			n -= k
		}
		return bytes, group, ifIndex
	}
}

// openNetSender sends with package net or, in batches, with x/net.
func openNetSender(b *testing.B, dsts []netip.AddrPort, n, size int, batch bool) (shuffle, send func()) {
	c := dial(b)
	if batch {
		return sendBatches(b, c, dsts, n, size)
	}
	buf, to := make([]byte, size), make([]netip.AddrPort, n)
	for i := range to {
		to[i] = dsts[i%len(dsts)]
	}
	return func() { rand.Shuffle(n, func(i, j int) { to[i], to[j] = to[j], to[i] }) }, func() {
		for _, dst := range to {
			_, err := c.WriteToUDPAddrPort(buf, dst)
			check(b, err)
		}
	}
}

// sendBatches sends each datagram as a packet of its own, vlen with a system call.
func sendBatches(b *testing.B, c *net.UDPConn, dsts []netip.AddrPort, n, size int) (shuffle, send func()) {
	pc, payload, ms := ipv4.NewPacketConn(c), make([]byte, size), make([]ipv4.Message, n)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{payload}, Addr: net.UDPAddrFromAddrPort(dsts[i%len(dsts)])}
	}
	return func() { rand.Shuffle(n, func(i, j int) { ms[i], ms[j] = ms[j], ms[i] }) }, func() {
		for left := ms; len(left) > 0; {
			k, err := pc.WriteBatch(left[:min(vlen, len(left))], 0)
			check(b, err)
			left = left[k:]
		}
	}
}

// fill returns a function that sends n small datagrams to dsts, in random order, and waits until they have arrived.
// Each side receives from such a sender. The sender then sends one datagram to another socket: when it arrives, all
// others have.
func fill(b *testing.B, dsts []netip.AddrPort, n int) func() {
	c, last := dial(b), destinations(lastPort, 1)
	witness := listen(b, last[0])
	shuffle, send := sendBatches(b, c, dsts, n, small)
	return func() {
		shuffle()
		send()
		_, err := c.WriteToUDPAddrPort([]byte{0}, last[0])
		check(b, err)
		check(b, witness.SetReadDeadline(time.Now().Add(patience)))
		_, _, err = witness.ReadFromUDPAddrPort(make([]byte, 1))
		check(b, err)
	}
}

// ---- sockets of the system ----

// socket opens a socket that receives one group.
func socket(b *testing.B, lo mcast.Interface, dst netip.AddrPort) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(b, err)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer),
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: dst.Addr().As4(), Ifindex: int32(lo.Index)}),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}),
	); err != nil {
		unix.Close(fd)
		b.Fatal(err)
	}
	return fd
}

// epollSockets returns an epoll descriptor and a socket for each of dsts.
func epollSockets(b *testing.B, lo mcast.Interface, dsts []netip.AddrPort) []int {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	check(b, err)
	fds := []int{epfd}
	for _, dst := range dsts {
		fd := socket(b, lo, dst)
		fds = append(fds, fd)
		check(b, unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	}
	return fds
}

func closeSockets(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// openC reads in C: with recvfrom or, in batches, with recvmmsg. It has as many sockets as the library. With more than one,
// epoll_wait reports which of them have data.
func openC(b *testing.B, dsts []netip.AddrPort, size int, batch bool) reader {
	fds := epollSockets(b, loopback(b, 0), dsts)
	b.Cleanup(func() { closeSockets(fds) })
	wait, pktinfo := unix.NsecToTimeval(int64(patience)), 0
	if batch {
		pktinfo = 1
	}
	for _, fd := range fds[1:] {
		check(b, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
		check(b, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo))
	}
	if len(dsts) == 1 {
		return readC(b, fds[1], -1, batch, size)
	}
	return readC(b, -1, fds[0], batch, size)
}

// openCSender sends in C, with sendmmsg.
func openCSender(b *testing.B, dsts []netip.AddrPort, n, size int, _ bool) (shuffle, send func()) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(b, err)
	b.Cleanup(func() { unix.Close(fd) })
	lo := loopback(b, 0)
	check(b, unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF,
		&unix.IPMreqn{Ifindex: int32(lo.Index), Address: lo.IPv4[0].Addr().As4()}))
	address, send := sendC(b, fd, n, size)
	return func() {
		for i, at := range rand.Perm(n) {
			address(i, dsts[at%len(dsts)])
		}
	}, send
}

// ---- readers in goroutines of their own ----

// echo answers what arrives, in a goroutine, until the socket is closed.
func echo(b *testing.B, c conn) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 2048)
		for {
			n, src, err := c.ReadFromUDPAddrPort(buf)
			if err == nil {
				_, err = c.WriteToUDPAddrPort(buf[:n], src)
			}
			if err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() {
		c.Close()
		<-ended
	})
}

// nextMcast returns a function that reads a datagram.
func nextMcast(b *testing.B, dsts []netip.AddrPort) func() error {
	rx, buf := newRx(b, dsts, false), make([]byte, 2048)
	return func() error {
		_, _, err := rx.ReadFromUDPAddrPort(buf)
		return err
	}
}

// nextGoroutines returns a function that reads a datagram from a channel. A goroutine for each group writes to the channel.
func nextGoroutines(b *testing.B, dsts []netip.AddrPort) func() error {
	type arrival struct {
		buf   *[]byte
		n     int
		src   netip.AddrPort
		group netip.Addr
	}
	var running sync.WaitGroup
	arrived := make(chan arrival, vlen)
	buffers := sync.Pool{New: func() any { return new(make([]byte, 2048)) }}
	for _, dst := range dsts {
		c := listen(b, dst)
		running.Go(func() {
			for {
				buf := buffers.Get().(*[]byte)
				n, src, err := c.ReadFromUDPAddrPort(*buf)
				if err != nil {
					return
				}
				arrived <- arrival{buf, n, src, dst.Addr()}
			}
		})
		b.Cleanup(func() { c.Close() })
	}
	go func() {
		running.Wait()
		close(arrived)
	}()
	return func() error {
		a, open := <-arrived
		if !open {
			return net.ErrClosed
		}
		buffers.Put(a.buf)
		return nil
	}
}

// count calls next in a goroutine until next fails. It returns a function that waits for n more calls.
func count(b *testing.B, n int, next func() error) (await func()) {
	var got atomic.Int64
	done := make(chan struct{}, 1)
	go func() {
		for next() == nil {
			if got.Add(1)%int64(n) == 0 {
				done <- struct{}{}
			}
		}
	}()
	return func() {
		select {
		case <-done:
		case <-time.After(patience):
			b.Fatalf("%d of %d datagrams arrived", got.Load()%int64(n), n)
		}
	}
}
