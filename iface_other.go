//go:build !linux

package mcast

import (
	"errors"

	"github.com/go-multicast/mcast/internal/route"
)

func ifaceDefaultRoute(v4 bool) (index int, err error) { return route.Default(v4) }

// ifaceError is the error of asking the system.
func ifaceError(op string, err error) error {
	e := &OpError{Op: op, Err: err}
	if errors.Is(err, errors.ErrUnsupported) {
		e.Hint = "name the interface"
	}
	return e
}
