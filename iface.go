package mcast

import (
	"net"
	"net/netip"
)

// Interface is a network interface as one scan saw it.
type Interface struct {
	Name         string
	FriendlyName string
	Index        int
	MTU          int
	HardwareAddr net.HardwareAddr
	Flags        net.Flags
	IPv4, IPv6   []netip.Prefix
}
