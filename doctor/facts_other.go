//go:build !linux && !windows

// macOS, and systems on which the module does no more than compile: what the portable findings need of them.

package doctor

import "github.com/go-multicast/mcast"

// failure tells what a failure to join comes from.
func failure(err error) int {
	if isPortTaken(err) {
		return failedPort
	}
	return failedOtherwise
}

// whoHolds adds nothing: only another program can hold a port.
const whoHolds = ""

// hasCarrier: the flag "running" of the BSDs says that the driver has its resources, not that there is a carrier.
func hasCarrier(mcast.Interface) bool { return true }

func (*checkup) checkSurroundings(*system) {}
