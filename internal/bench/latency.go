//go:build linux

// How long one datagram takes. In one goroutine it has arrived by the time it is read, so no wake-up is in it; between
// two goroutines each of the two directions ends in a reader that waits.

package main

import (
	"net"
	"net/netip"
	"time"

	"github.com/go-multicast/mcast"
)

const (
	latencyPairs  = 16
	latencyRounds = 64 // datagrams in a round
)

// endpoint reads and writes, whoever made it.
type endpoint interface {
	ReadFromUDPAddrPort(p []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (int, error)
	SetReadDeadline(time.Time) error
	Close() error
}

// ends are a sender and a receiver of multicast.
func mineEnds(on *network, dsts []netip.AddrPort) (tx, rx endpoint, err error) {
	r, err := openMine(on.rx, dsts, false)
	if err != nil {
		return nil, nil, err
	}
	s, err := openMineSender(on.tx, dsts, 1, 1, false)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return s.(*mineSender).tx, r, nil
}

func netEnds(on *network, dsts []netip.AddrPort) (tx, rx endpoint, err error) {
	r, err := openNet(on.rx, dsts[0])
	if err != nil {
		return nil, nil, err
	}
	s, _, err := openSender(on.tx)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return s, r, nil
}

// there is a contender that sends a datagram and reads it.
func there(tx, rx endpoint, dsts []netip.AddrPort) contender {
	out, in := make([]byte, small), make([]byte, 2048)
	return contender{
		round: func() (float64, int, error) {
			rx.SetReadDeadline(time.Now().Add(patience))
			start := time.Now()
			for i := range latencyRounds {
				if _, err := tx.WriteToUDPAddrPort(out, dsts[i%len(dsts)]); err != nil {
					return 0, 0, err
				}
				if _, _, err := rx.ReadFromUDPAddrPort(in); err != nil {
					return 0, 0, lost(err, i, latencyRounds)
				}
			}
			return float64(time.Since(start)), latencyRounds, nil
		},
		close: func() { tx.Close(); rx.Close() },
	}
}

// andBack is a contender that sends a datagram to a goroutine that waits for it, and waits for the answer.
func andBack(tx, rx endpoint, dsts []netip.AddrPort) contender {
	rx.SetReadDeadline(time.Time{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 2048)
		for {
			n, src, err := rx.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := rx.WriteToUDPAddrPort(buf[:n], src); err != nil {
				return
			}
		}
	}()
	out, in := make([]byte, small), make([]byte, 2048)
	return contender{
		round: func() (float64, int, error) {
			tx.SetReadDeadline(time.Now().Add(patience))
			start := time.Now()
			for i := range latencyRounds {
				if _, err := tx.WriteToUDPAddrPort(out, dsts[i%len(dsts)]); err != nil {
					return 0, 0, err
				}
				if _, _, err := tx.ReadFromUDPAddrPort(in); err != nil {
					return 0, 0, lost(err, i, latencyRounds)
				}
			}
			return float64(time.Since(start)), latencyRounds, nil
		},
		close: func() { rx.Close(); <-ended; tx.Close() },
	}
}

func latencyRows(on string) (rows []row) {
	for _, way := range []struct {
		work string
		make func(tx, rx endpoint, dsts []netip.AddrPort) contender
	}{
		{"send one and read it, 16 pairs", there},
		{"send one to a reader that waits, and wait for its answer, 16 pairs", andBack},
	} {
		rows = append(rows, row{
			scenario: "latency", on: on, work: way.work, against: "net.UDPConn", unit: "ns", goal: goal{atMost: 1.05},
			open: func(l *lab) (a, b contender, err error) {
				n := l.networks[on]
				dsts := l.destinations(latencyPairs)
				tx, rx, err := mineEnds(n, dsts)
				if err != nil {
					return a, b, err
				}
				a = way.make(tx, rx, dsts)
				dsts = l.destinations(1)
				if tx, rx, err = netEnds(n, dsts); err != nil {
					a.close()
					return a, b, err
				}
				return a, way.make(tx, rx, dsts), nil
			},
		})
	}
	return rows
}

var (
	_ endpoint = (*mcast.RxSocket)(nil)
	_ endpoint = (*mcast.TxSocket)(nil)
	_ endpoint = (*net.UDPConn)(nil)
)
