//go:build !linux && !darwin && !windows

package wire

import (
	"errors"
	"net/netip"
	"syscall"
)

// ScopedSender is not supported on this system.
type ScopedSender struct{}

// Send returns errors.ErrUnsupported.
func (*ScopedSender) Send(syscall.RawConn, []byte, netip.AddrPort, int) error {
	return errors.ErrUnsupported
}
