//go:build darwin || windows || mcast_portable

// For the systems that join through golang.org/x/net.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
)

// ipAddr returns a group or source for x/net.
func ipAddr(a netip.Addr) net.Addr { return &net.IPAddr{IP: a.AsSlice()} }

// withoutName returns the errno of an error of x/net, which names no option.
func withoutName(err error) error {
	if named := (*os.SyscallError)(nil); errors.As(err, &named) {
		return named.Err
	}
	return err
}
