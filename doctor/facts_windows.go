// Windows: what the portable findings need of it. Its tables are not read yet.

package doctor

import (
	"errors"
	"net"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/windows"
)

// failure returns the cause of a failure to join. The listeners have SO_REUSEADDR, with which a refused bind is
// WSAEACCES and never WSAEADDRINUSE.
func failure(err error) int {
	if errors.Is(err, windows.WSAEACCES) {
		return failedPort
	}
	return failedOtherwise
}

// whoHolds names what can hold a port.
const whoHolds = " Windows refuses so what another user's program holds without SO_REUSEADDR, what any program holds with " +
	"SO_EXCLUSIVEADDRUSE, and the ports that it has reserved, as Hyper-V, WSL and Docker have it do."

// hasCarrier: an interface without a carrier is not up either, so there is nothing to report.
func hasCarrier(i mcast.Interface) bool {
	return i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning != 0
}
