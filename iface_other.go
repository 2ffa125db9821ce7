//go:build !linux && !darwin && !windows

// The default route of a system that nobody here has learned to ask for it. A system that gets a file of its own is taken
// out of the build constraint above.

package mcast

import (
	"errors"
	"fmt"
	"runtime"
)

// defaultIndex would return the index of the interface of the default route.
func defaultIndex(network string) (int, error) {
	if err := ifaceCheckNetwork(network); err != nil {
		return 0, err
	}
	return 0, &OpError{
		Op:   "default interface",
		Err:  fmt.Errorf("%w on %s", errors.ErrUnsupported, runtime.GOOS),
		Hint: "name the interface",
	}
}
