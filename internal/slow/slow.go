// Package slow stretches the limits of tests on slow machines, such as those that qemu emulates.
package slow

import (
	"os"
	"strconv"
	"time"
)

// Limit returns d multiplied by MCAST_TEST_SLOW, if that is a whole number greater than 1, and d otherwise.
func Limit(d time.Duration) time.Duration {
	if times, err := strconv.Atoi(os.Getenv("MCAST_TEST_SLOW")); err == nil && times > 1 {
		return d * time.Duration(times)
	}
	return d
}
