// What an error of sending tells on macOS; privacy.go decides.

package doctor

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// refused says what package doctor needs to know of an error of sending.
func refused(err error) refusal {
	version, _ := unix.Sysctl("kern.osproductversion")
	return refusal{unreachable: errors.Is(err, unix.EHOSTUNREACH), macOS: version, root: os.Geteuid() == 0}
}
