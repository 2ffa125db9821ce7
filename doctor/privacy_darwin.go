// What a send error means on macOS; privacy.go decides.

package doctor

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// refused returns what package doctor needs to know about a send error.
func refused(err error) refusal {
	version, _ := unix.Sysctl("kern.osproductversion")
	return refusal{unreachable: errors.Is(err, unix.EHOSTUNREACH), macOS: version, root: os.Geteuid() == 0}
}
