//go:build unix && !linux

package doctor

import (
	"errors"
	"syscall"
)

// isPortTaken reports whether another socket has the port and does not share it.
func isPortTaken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
