package route

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/windows"
)

// A row of the forwarding table takes 104 bytes in C, on every architecture; the compiler compares.
var _ [0]byte = [unsafe.Sizeof(windows.MibIpForwardRow2{}) - 104]byte{}

func TestFromRow(t *testing.T) {
	a := &windows.IpAdapterAddresses{IfIndex: 4, Ipv6IfIndex: 4, OperStatus: windows.IfOperStatusUp, Ipv4Metric: 25, Ipv6Metric: 1<<32 - 1}
	r := &windows.MibIpForwardRow2{InterfaceIndex: 4, Metric: 10}
	if got, want := fromRow(r, windows.AF_INET, a), (winRoute{index: 4, up: true, metric: 35}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := fromRow(r, windows.AF_INET6, a), (winRoute{index: 4, up: true, metric: 1<<32 + 9}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r.Loopback, r.DestinationPrefix.PrefixLength = 1, 128
	a.IfIndex, a.OperStatus = 0, windows.IfOperStatusLowerLayerDown
	if got, want := fromRow(r, windows.AF_INET, a), (winRoute{bits: 128, loopback: true, index: 4, metric: 35}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
