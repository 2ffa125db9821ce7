package mcast

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/windows"
)

// bestEffort are the calls that may fail, each with the beginning of the name of the operations that it may fail in.
var bestEffort = map[string]string{
	"NotifyIpInterfaceChange":       "Open", // the logger is told that the network is not followed
	"NotifyUnicastIpAddressChange":  "Open",
	"setsockopt IP_IFLIST":          "", // datagrams of other interfaces are filtered
	"setsockopt IP_ADD_IFLIST":      "",
	"setsockopt IP_DEL_IFLIST":      "",
	"setsockopt IP_BLOCK_SOURCE":    "", // so are blocked sources
	"setsockopt MCAST_BLOCK_SOURCE": "",
	"setsockopt IP_DROP_MEMBERSHIP": "", // and groups that were left
	"setsockopt MCAST_LEAVE_GROUP":  "",
}

// descriptorSlack: threads have handles, too, and come when the runtime wants them.
const descriptorSlack = 20

// openDescriptors counts the handles of the process.
func openDescriptors(t *testing.T) int {
	t.Helper()
	var n uint32
	count := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetProcessHandleCount")
	if ok, _, err := count.Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&n))); ok == 0 {
		t.Fatal(err)
	}
	if n > 0 {
		return int(n)
	}
	// Wine 8 always says 0. But it gives the lowest handles that are free, multiples of 4: so when all gaps are filled,
	// the last tells how many there are.
	const gaps = 100
	var last windows.Handle
	for range gaps {
		h, err := windows.CreateEvent(nil, 0, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer windows.CloseHandle(h)
		last = max(last, h)
	}
	return int(last/4) - gaps
}
