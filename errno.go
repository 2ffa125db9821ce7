//go:build linux || darwin || windows

package mcast

import (
	"errors"
	"syscall"
)

// errnoOf returns the first errno that err wraps, or 0.
func errnoOf(err error) (errno syscall.Errno) {
	errors.As(err, &errno)
	return errno
}
