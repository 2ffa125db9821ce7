//go:build darwin || windows || mcast_portable

// What the systems that join through golang.org/x/net have in common.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
)

// ipAddr is a group or source as x/net wants it.
func ipAddr(a netip.Addr) net.Addr { return &net.IPAddr{IP: a.AsSlice()} }

// withoutName is the errno of an error of x/net, which names no option.
func withoutName(err error) error {
	if named := (*os.SyscallError)(nil); errors.As(err, &named) {
		return named.Err
	}
	return err
}
