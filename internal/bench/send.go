//go:build linux

// Sending, without the cost of receiving: nobody has joined, so the way of a datagram ends where the kernel finds
// that out. And sending with receiving, for runs that stay together all the way.

package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/go-multicast/mcast"
)

// sender sends the same datagrams again and again.
type sender interface {
	send() (time.Duration, error)
	close()
}

// senderOpener makes a sender of n datagrams of a size to dsts in turn.
type senderOpener func(p place, dsts []netip.AddrPort, n, size int) (sender, error)

// mineSender is this library's.
type mineSender struct {
	tx    *mcast.TxSocket
	ms    []mcast.Message
	batch bool
}

func openMineSender(p place, dsts []netip.AddrPort, n, size int, batch bool) (sender, error) {
	s := &mineSender{batch: batch, ms: make([]mcast.Message, n)}
	for i := range s.ms {
		s.ms[i] = mcast.Message{Buf: make([]byte, size), Addr: dsts[i%len(dsts)]}
	}
	err := p.do(func() (err error) {
		s.tx, err = mcast.OpenTx(mcast.TxConfig{Groups: groupsOf(dsts), Interfaces: []mcast.Interface{p.ifc}, Static: true})
		return err
	})
	return s, err
}

func openMineSendOne(p place, dsts []netip.AddrPort, n, size int) (sender, error) {
	return openMineSender(p, dsts, n, size, false)
}

func openMineSendBatch(p place, dsts []netip.AddrPort, n, size int) (sender, error) {
	return openMineSender(p, dsts, n, size, true)
}

func (s *mineSender) send() (time.Duration, error) {
	watch := startWatch()
	if s.batch {
		for ms := s.ms; len(ms) > 0; {
			n, err := s.tx.WriteBatch(ms[:min(vlen, len(ms))])
			if err != nil {
				watch.stop()
				return 0, err
			}
			ms = ms[n:]
		}
		return watch.stop(), nil
	}
	for i := range s.ms {
		if _, err := s.tx.WriteToUDPAddrPort(s.ms[i].Buf, s.ms[i].Addr); err != nil {
			watch.stop()
			return 0, err
		}
	}
	return watch.stop(), nil
}

func (s *mineSender) close() { s.tx.Close() }

// netSender calls WriteToUDPAddrPort of package net, or, for batches, WriteBatch of x/net.
type netSender struct {
	udp  *net.UDPConn
	pc   *ipv4.PacketConn
	dsts []netip.AddrPort
	buf  []byte
	ms   []ipv4.Message
}

func openNetSender(p place, dsts []netip.AddrPort, n, size int) (sender, error) {
	s := &netSender{buf: make([]byte, size)}
	for i := range n {
		s.dsts = append(s.dsts, dsts[i%len(dsts)])
	}
	var err error
	s.udp, s.pc, err = openSender(p)
	return s, err
}

func openXnetSender(p place, dsts []netip.AddrPort, n, size int) (sender, error) {
	s := &netSender{ms: messagesTo(dsts, n, size)}
	var err error
	s.udp, s.pc, err = openSender(p)
	return s, err
}

func (s *netSender) send() (time.Duration, error) {
	watch := startWatch()
	if s.ms != nil {
		err := sendAll(s.pc, s.ms)
		return watch.stop(), err
	}
	for _, dst := range s.dsts {
		if _, err := s.udp.WriteToUDPAddrPort(s.buf, dst); err != nil {
			watch.stop()
			return 0, err
		}
	}
	return watch.stop(), nil
}

func (s *netSender) close() { s.udp.Close() }

// sending makes a contender of a sender.
func sending(l *lab, on *network, groups, n, size int, open senderOpener) (contender, error) {
	s, err := open(on.tx, l.destinations(groups), n, size)
	if err != nil {
		return contender{}, err
	}
	return contender{
		round: func() (float64, int, error) {
			took, err := s.send()
			return float64(took), n, err
		},
		close: s.close,
	}, nil
}

// passing makes a contender of a sender and a receiver: what counts is both.
func passing(l *lab, on *network, size int, openTx senderOpener, openRx opener) (c contender, err error) {
	n, err := room(size)
	if err != nil {
		return c, err
	}
	n = min(n, 8*vlen)
	dsts := l.destinations(1)
	r, err := openRx(on.rx, dsts, 2048)
	if err != nil {
		return c, err
	}
	s, err := openTx(on.tx, dsts, n, size)
	if err != nil {
		r.close()
		return c, err
	}
	return contender{
		round: func() (float64, int, error) {
			sent, err := s.send()
			if err != nil {
				return 0, 0, err
			}
			received, err := r.receive(n)
			return float64(sent + received), n, err
		},
		close: func() { s.close(); r.close() },
	}, nil
}

func sendRow(on, scenario, work string, groups, size int, mine senderOpener, against string, peer senderOpener, g goal) row {
	return row{
		scenario: scenario, on: on, work: work, against: against, unit: "ns", goal: g,
		open: func(l *lab) (a, b contender, err error) {
			if a, err = sending(l, l.networks[on], groups, 4*vlen, size, mine); err != nil {
				return a, b, err
			}
			if b, err = sending(l, l.networks[on], groups, 4*vlen, size, peer); err != nil {
				a.close()
			}
			return a, b, err
		},
	}
}

func sendRows(on string) []row {
	rows := []row{
		sendRow(on, "send-one", "send one at a time", 1, small, openMineSendOne, "net.UDPConn", openNetSender, goal{atMost: 1.05}),
		sendRow(on, "send-batch", "send batches to one group, 64 bytes", 1, small, openMineSendBatch, "C, sendmmsg", openCSender, goal{atLeast: 10}),
		sendRow(on, "send-batch", "send batches to one group, 1200 bytes", 1, large, openMineSendBatch, "C, sendmmsg", openCSender, goal{atLeast: 6}),
		sendRow(on, "send-groups", "send batches to 64 groups, 64 bytes", 64, small, openMineSendBatch, "C, sendmmsg", openCSender, goal{atMost: 1.10}),
	}
	if on == "lo" {
		rows = append(rows,
			sendRow(on, "send-segments", "send batches to one group, 64 bytes", 1, small, openMineSendBatch, "C, UDP_SEGMENT", openCSegmenter, goal{}),
			sendRow(on, "send-segments", "send batches to one group, 1200 bytes", 1, large, openMineSendBatch, "C, UDP_SEGMENT", openCSegmenter, goal{}),
		)
	}
	return rows
}

func coalesceRows(on string) (rows []row) {
	for _, s := range []struct {
		size  int
		times float64
	}{{small, 12}, {large, 7}} {
		for _, peer := range []struct {
			name string
			tx   senderOpener
			rx   opener
			goal goal
		}{
			{"x/net, WriteBatch and ReadBatch", openXnetSender, openXnetBatch, goal{atLeast: s.times}},
			{"C, UDP_SEGMENT and UDP_GRO", openCSegmenter, openCCoalesced, goal{}},
		} {
			rows = append(rows, row{
				scenario: "coalesce", on: on, work: fmt.Sprintf("send batches and read them with Coalesce, %d bytes", s.size),
				against: peer.name, unit: "ns", goal: peer.goal,
				open: func(l *lab) (a, b contender, err error) {
					if a, err = passing(l, l.networks[on], s.size, openMineSendBatch, openMineCoalesced); err != nil {
						return a, b, err
					}
					if b, err = passing(l, l.networks[on], s.size, peer.tx, peer.rx); err != nil {
						a.close()
					}
					return a, b, err
				},
			})
		}
	}
	return rows
}
