package mcast_test

import (
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/windows"
)

// skipWine skips the test where Wine, and not Windows, runs it, and Wine cannot do it.
func skipWine(t *testing.T, affected bool, why string) {
	t.Helper()
	if affected && windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil {
		t.Skipf("Wine %s", why)
	}
}

var getProcessHandleCount = windows.NewLazySystemDLL("kernel32.dll").NewProc("GetProcessHandleCount")

func handles(t *testing.T) (n uint32) {
	t.Helper()
	runtime.GC()
	if ok, _, err := getProcessHandleCount.Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&n))); ok == 0 {
		t.Fatal(err)
	}
	return n
}

// TestHandles opens and closes sockets many times, also such as cannot be opened. Each leaves no handle behind. Threads
// have handles too, and come when the runtime wants them: so there is some room, but far less than one for each.
func TestHandles(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		open := func() {
			rx, tx := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups }), l.tx(nil)
			rx.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(ownAddr(l), 9))
			if err := rx.Leave(l.groups[0]); err != nil {
				t.Error(err)
			}
			rx.Close()
			tx.Close()
			nowhere := l.ifc
			nowhere.Index = 0x7ffff0
			nowhere.IPv4 = []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}
			if rx, err := mcast.OpenRx(mcast.RxConfig{Groups: l.groups, Port: l.port, Interfaces: []mcast.Interface{nowhere}}); err == nil {
				rx.Close()
				t.Error("opened on an interface that does not exist")
			}
		}
		open()
		const rounds = 100
		before := handles(t)
		for range rounds {
			open()
		}
		if after := handles(t); after > before+rounds/2 {
			t.Errorf("%d handles, were %d", after, before)
		}
	})
}
