//go:build !linux && !darwin && !windows

package route

import (
	"errors"
	"fmt"
	"runtime"
)

func defaultRoute(bool) (index int, err error) {
	return 0, fmt.Errorf("%w on %s", errors.ErrUnsupported, runtime.GOOS)
}
