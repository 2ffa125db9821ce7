//go:build !linux && !windows

// The interfaces from package net. It works everywhere but is slow, since package net fetches the addresses of all
// interfaces once for every interface. A system with its own scan is excluded in the build constraint above.

package mcast

import (
	"net"
	"net/netip"
	"slices"
)

// ifaceScan lists the interfaces, sorted by index.
func ifaceScan() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, &OpError{Op: "scan", Err: err}
	}
	list := make([]Interface, 0, len(links))
	for _, link := range links {
		i := Interface{Name: link.Name, Index: link.Index, MTU: link.MTU, HardwareAddr: link.HardwareAddr, Flags: link.Flags}
		addrs, err := link.Addrs()
		if err != nil {
			if _, gone := net.InterfaceByIndex(link.Index); gone != nil {
				continue // it was deleted after it was listed
			}
			return nil, &OpError{Op: "scan", Interface: link.Name, Err: err}
		}
		for _, addr := range addrs {
			ipnet, ok := addr.(*net.IPNet)
			if !ok {
				continue // an anycast or multicast address
			}
			ip, ok := netip.AddrFromSlice(ipnet.IP)
			if !ok {
				continue
			}
			ip = ip.Unmap()
			ones, bits := ipnet.Mask.Size()
			ones -= bits - ip.BitLen() // package net may give IPv4 with a mask of 128 bits
			if p := netip.PrefixFrom(ip, ones); ip.Is4() {
				i.IPv4 = append(i.IPv4, p)
			} else {
				i.IPv6 = append(i.IPv6, p)
			}
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Interface) int { return a.Index - b.Index })
	return list, nil
}
