// Windows: what the portable findings need of it. Its tables are not looked at yet.

package doctor

import (
	"errors"
	"net"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/windows"
)

// failure tells what a failure to join comes from. WSAEACCES is what a program that demanded SO_EXCLUSIVEADDRUSE
// leaves.
func failure(err error) int {
	if errors.Is(err, windows.WSAEADDRINUSE) || errors.Is(err, windows.WSAEACCES) {
		return failedPort
	}
	return failedOtherwise
}

// hasCarrier: an interface without a carrier is not up either, so there is none to tell.
func hasCarrier(i mcast.Interface) bool {
	return i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning != 0
}
