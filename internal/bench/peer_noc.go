//go:build linux && !cgo

// Without a C compiler the comparisons with C are left out.

package main

import "net/netip"

func openCReceiver(place, []netip.AddrPort, int) (receiver, error) {
	return nil, leftOut("this program was built without cgo")
}

var openCBatch, openCBare, openCOne, openCMany, openCTold, openCCoalesced opener = openCReceiver, openCReceiver, openCReceiver,
	openCReceiver, openCReceiver, openCReceiver

func openCSender(place, []netip.AddrPort, int, int) (sender, error) {
	return nil, leftOut("this program was built without cgo")
}

var openCSegmenter = openCSender
