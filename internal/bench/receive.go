//go:build linux

// Receiving, without the cost of sending.

package main

import "fmt"

// receiveRow has this library read from pairs with depth datagrams waiting in each, and the peer as many datagrams of
// peerPairs groups from its one socket. How many wait matters more than how many pairs there are: to go to a socket
// for a single datagram costs the kernel more than to take it from one at hand, whoever asks.
func receiveRow(on string, scenario, how string, pairs, depth, size int, mine opener, against string, peerPairs int, peer opener, g goal) row {
	work := fmt.Sprintf("%s, %s", how, plural(pairs, "pair"))
	if pairs > 1 {
		work += fmt.Sprintf(" with %s in each", plural(depth, "datagram"))
	}
	return row{
		scenario: scenario, on: on, work: work, against: against, unit: "ns", goal: g,
		open: func(l *lab) (a, b contender, err error) {
			n := l.networks[on]
			if a, err = receiving(l, n, pairs, depth, size, mine); err != nil {
				return a, b, err
			}
			if b, err = receiving(l, n, peerPairs, pairs*depth/peerPairs, size, peer); err != nil {
				a.close()
			}
			return a, b, err
		},
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

const small, large = 64, 1200 // bytes

func receiveRows(on string) (rows []row) {
	type share struct {
		pairs, depth int
		one, batch   float64 // goals
	}
	shares := []share{{1, 512, 1.03, 1.08}, {16, 32, 1.10, 1.15}, {256, 1, 1.10, 1.15}, {256, 16, 1.10, 1.15}}
	if on != "lo" {
		shares = []share{shares[0], shares[2]}
	}
	for _, s := range shares {
		rows = append(rows, receiveRow(on, "one", "read one at a time", s.pairs, s.depth, small, openMineOne,
			"net.UDPConn", 1, openNetOne, goal{atMost: s.one}))
	}
	if on == "lo" {
		rows = append(rows, receiveRow(on, "one-c", "read one at a time", 1, 512, small, openMineOne,
			"C, recvmsg", 1, openCOne, goal{}))
		for _, s := range shares[2:] {
			rows = append(rows, receiveRow(on, "one-c", "read one at a time", s.pairs, s.depth, small, openMineOne,
				"C, epoll and recvmsg, as many sockets", s.pairs, openCMany, goal{}))
		}
	}
	if on == "lo" {
		shares = append(shares, share{1000, 1, 0, 1.30}, share{1000, 4, 0, 1.30})
	}
	for _, s := range shares {
		rows = append(rows, receiveRow(on, "batch", "read in batches", s.pairs, s.depth, small, openMineBatch,
			"C, recvmmsg", s.pairs, openCBatch, goal{atMost: s.batch}))
		if s.pairs == 1 {
			rows = append(rows, receiveRow(on, "batch-bare", "read in batches", s.pairs, s.depth, small, openMineBatch,
				"C, recvmmsg, without group and interface", 1, openCBare, goal{}))
		}
	}
	if on == "lo" {
		for _, s := range shares[2:] {
			const work = "C, recvfrom, as many sockets that all have some"
			rows = append(rows, receiveRow(on, "floor", work, s.pairs, s.depth, small, openCTold,
				"C, recvmmsg", s.pairs, openCBatch, goal{}))
		}
	}
	for _, s := range shares {
		if s.pairs < 1000 {
			rows = append(rows, receiveRow(on, "batch-xnet", "read in batches", s.pairs, s.depth, small, openMineBatch,
				"x/net, ReadBatch", s.pairs, openXnetBatch, goal{atMost: 1}))
		}
	}
	return rows
}
