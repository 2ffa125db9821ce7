//go:build !linux && !windows

// macOS, and systems on which the module only compiles: what the portable findings need of them.

package doctor

import "github.com/go-multicast/mcast"

// failure returns the cause of a failure to join.
func failure(err error) int {
	if isPortTaken(err) {
		return failedPort
	}
	return failedOtherwise
}

// whoHolds adds nothing: only another program can hold a port.
const whoHolds = ""

// hasCarrier always returns true. On the BSDs, the flag "running" says that the driver has its resources, not that
// there is a carrier.
func hasCarrier(mcast.Interface) bool { return true }

func (*checkup) checkSurroundings(*system) {}
