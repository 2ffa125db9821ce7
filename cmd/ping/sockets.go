package main

// The sockets of one family, which are the same at both ends: multicast comes in by one, goes out by another, and
// unicast has a third. Those of the library are for multicast alone, and that keeps the two apart.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-multicast/mcast"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// unicastTTL is what unicast is sent with, which arrives everywhere, and tells how many routers there are.
const unicastTTL = 64

// end is one family's sockets. rx is nil until the group is joined.
type end struct {
	family family
	rx     *mcast.RxSocket
	tx     *mcast.TxSocket
	uni    *net.UDPConn
	read   func([]byte) (n, ttl int, from net.Addr, err error) // from uni
}

// datagram is what came in. Its buffer is used again for the next one.
type datagram struct {
	end   *end
	buf   []byte
	from  netip.AddrPort
	group netip.Addr // what it was sent to; the zero Addr: to this host
	ttl   int        // what it arrived with; 0: the system does not say
	at    time.Time
}

// openEnd opens the sockets to send with. The port is for unicast; 0 is any.
func openEnd(f family, ifaces []mcast.Interface, port int) (*end, error) {
	// Loopback, so that two windows of one machine see each other as well.
	config := mcast.TxConfig{Groups: []netip.Addr{groups[f], ssms[f]}, Interfaces: ifaces, TTL: *ttl, Loopback: true}
	tx, err := mcast.OpenTx(config)
	if err != nil {
		return nil, err
	}
	uni, err := net.ListenUDP(f.udp(), &net.UDPAddr{Port: port})
	if err != nil {
		tx.Close()
		if port != 0 {
			err = fmt.Errorf("%w (is there another listener on this machine?)", err)
		}
		return nil, err
	}
	e := &end{family: f, tx: tx, uni: uni}
	// On Windows there is no TTL to be had by x/net. It is then unknown, which is no reason to end.
	if f == ip4 {
		c := ipv4.NewPacketConn(uni)
		err = c.SetTTL(unicastTTL)
		c.SetControlMessage(ipv4.FlagTTL, true)
		e.read = func(b []byte) (n, ttl int, from net.Addr, err error) {
			n, cm, from, err := c.ReadFrom(b)
			if cm != nil {
				ttl = cm.TTL
			}
			return n, ttl, from, err
		}
	} else {
		c := ipv6.NewPacketConn(uni)
		err = c.SetHopLimit(unicastTTL)
		c.SetControlMessage(ipv6.FlagHopLimit, true)
		e.read = func(b []byte) (n, ttl int, from net.Addr, err error) {
			n, cm, from, err := c.ReadFrom(b)
			if cm != nil {
				ttl = cm.HopLimit
			}
			return n, ttl, from, err
		}
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// join opens the socket that receives the group.
func (e *end) join(ifaces []mcast.Interface) (err error) {
	config := mcast.RxConfig{Groups: []netip.Addr{groups[e.family]}, Port: uint16(*port), Interfaces: ifaces}
	config.Loopback, config.HopLimits = true, true
	e.rx, err = mcast.OpenRx(config)
	return err
}

func (e *end) close() {
	e.uni.Close()
	e.tx.Close()
	if e.rx != nil {
		e.rx.Close()
	}
}

// receiveMulticast calls handle with what comes to the groups, from a goroutine of its own, until e is closed.
func (e *end) receiveMulticast(wg *sync.WaitGroup, handle func(datagram)) {
	message := []mcast.Message{{Buf: make([]byte, 2048)}}
	receive(wg, func() error {
		n, err := e.rx.ReadBatch(message)
		for _, m := range message[:n] {
			handle(datagram{e, m.Buf[:m.N], m.Addr, m.Group, m.HopLimit, time.Now()})
		}
		return err
	})
}

// receiveUnicast does so with what comes to the port for unicast.
func (e *end) receiveUnicast(wg *sync.WaitGroup, handle func(datagram)) {
	buf := make([]byte, 2048)
	receive(wg, func() error {
		n, ttl, from, err := e.read(buf)
		if err == nil {
			addr := from.(*net.UDPAddr).AddrPort()
			addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
			handle(datagram{e, buf[:n], addr, netip.Addr{}, ttl, time.Now()})
		}
		return err
	})
}

// receiveReplies does so with the answers to what was sent to a group.
func (e *end) receiveReplies(wg *sync.WaitGroup, handle func(datagram)) {
	buf := make([]byte, 2048)
	receive(wg, func() error {
		n, from, err := e.tx.ReadFromUDPAddrPort(buf)
		if err == nil {
			handle(datagram{e, buf[:n], from, netip.Addr{}, 0, time.Now()})
		}
		return err
	})
}

// fromHost reports whether it can be answered: its source is the address of one host.
func (d datagram) fromHost() bool {
	from := d.from.Addr()
	return from.IsValid() && !from.IsMulticast() && !from.IsUnspecified() && d.from.Port() != 0
}

// receive calls read until the socket is closed. Other errors are told once, and pass: on Windows, that a host has
// refused a datagram is an error of the next read.
func receive(wg *sync.WaitGroup, read func() error) {
	wg.Go(func() {
		for told := ""; ; {
			err := read()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				if err.Error() != told {
					told = err.Error()
					fmt.Fprintln(os.Stderr, "ping:", told)
				}
				time.Sleep(10 * time.Millisecond) // it may come at once again
			}
		}
	})
}
