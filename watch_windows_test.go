// Tests of Windows' own notices. Wine takes registrations and never tells anything, so there, Windows' part in it is
// played by the tests.

package mcast

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/wine"
	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/windows"
)

// The index lies at 16 in the C structure, on every architecture; the compiler compares.
var _ [0]byte = [unsafe.Offsetof(watchRow{}.index) - 16]byte{}

// watchTestOpen opens a watch for the test.
func watchTestOpen(t *testing.T) *watchMib {
	t.Helper()
	src, err := watchOpen()
	if err != nil {
		t.Fatal(err)
	}
	return src.(*watchMib)
}

// TestWatchMibLeavesNothing opens more watches than a process can have callbacks, and closes them.
func TestWatchMibLeavesNothing(t *testing.T) {
	watchTestOpen(t).close() // what is made once is made
	goroutines, handles := runtime.NumGoroutine(), openDescriptors(t)
	for range 3000 {
		watchTestOpen(t).close()
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, before it were %d", n, goroutines)
	}
	if n := openDescriptors(t); n > handles+100 { // threads of the runtime come and go
		t.Errorf("%d handles, before it were %d", n, handles)
	}
	runtime.GC() // panics over a structure that was left pinned
}

// TestWatchMibWait checks that closing ends a wait for what never comes.
func TestWatchMibWait(t *testing.T) {
	w := watchTestOpen(t)
	ended := make(chan error)
	go func() {
		for {
			if _, err := w.wait(); err != nil { // anything else is the host's own news
				ended <- err
				return
			}
		}
	}()
	time.Sleep(10 * time.Millisecond) // time to begin
	w.close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestWatchMibFollow stops a follower while nothing happens, and begins anew.
func TestWatchMibFollow(t *testing.T) {
	for range 3 {
		called := make(chan int, 100)
		stop, err := processWatch.follow(func(c networkChange) time.Duration { called <- len(c.Interfaces); return 0 })
		if err != nil {
			t.Fatal(err)
		}
		if n := <-called; n == 0 {
			t.Error("there is no interface")
		}
		stop()
	}
}

// TestWatchMibRefused has Windows refuse each of the registrations.
func TestWatchMibRefused(t *testing.T) {
	for _, refused := range []string{"NotifyIpInterfaceChange", "NotifyUnicastIpAddressChange"} {
		hook := func(name string) error {
			if name == refused {
				return windows.ERROR_NOT_ENOUGH_MEMORY
			}
			return nil
		}
		testHookCall.Store(&hook)
		src, err := watchOpen()
		testHookCall.Store(nil)
		var op *OpError
		if src != nil || !errors.As(err, &op) || op.Op != "watch" || !errors.Is(err, windows.ERROR_NOT_ENOUGH_MEMORY) {
			t.Errorf("%s: got %v, %v", refused, src, err)
		}
		if want := "mcast: watch: " + refused + ": "; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: the text is %q", refused, err)
		}
	}
	runtime.GC() // panics over a structure that was left pinned
}

func TestWatchParseMib(t *testing.T) {
	row := &watchRow{family: windows.AF_INET6, index: 12}
	for _, test := range []struct {
		row  *watchRow
		kind uint32
		seen map[int]watchEvents
	}{
		{row, windows.MibDeleteInstance, watchSeen(eventGone, 12)},
		{row, windows.MibAddInstance, nil},
		{row, windows.MibParameterNotification, nil},
		{nil, windows.MibInitialNotification, nil},
		{nil, windows.MibDeleteInstance, nil},
	} {
		if n := watchParse(test.row, test.kind); !maps.Equal(n.seen, test.seen) || n.overflow {
			t.Errorf("%v, %d: got %+v", test.row, test.kind, n)
		}
	}
}

// TestWatchParseMibAddress: an address that was deleted may be there again at the next scan.
func TestWatchParseMibAddress(t *testing.T) {
	a := watchAddr{12, netip.MustParseAddr("192.0.2.1")}
	row := (*[wire.WinAddressSize]byte)(addressRow(windows.AF_INET, a.addr.AsSlice(), 12))
	for _, test := range []struct {
		row  *[wire.WinAddressSize]byte
		kind uint32
		lost map[watchAddr]bool
	}{
		{row, windows.MibDeleteInstance, map[watchAddr]bool{a: true}},
		{row, windows.MibAddInstance, nil},
		{row, windows.MibParameterNotification, nil}, // such as the end of duplicate address detection
		{new([wire.WinAddressSize]byte), windows.MibDeleteInstance, nil},
		{nil, windows.MibDeleteInstance, nil},
		{nil, windows.MibInitialNotification, nil},
	} {
		if n := watchParseAddress(test.row, test.kind); !maps.Equal(n.lost, test.lost) || n.seen != nil || n.overflow {
			t.Errorf("%v, %d: got %+v", test.row, test.kind, n)
		}
	}
}

// TestWatchMibDown checks that the notice after an interface was down says so: Windows' own does not.
func TestWatchMibDown(t *testing.T) {
	w := watchTestOpen(t)
	defer w.close()
	flags := map[int]net.Flags{7: net.FlagUp, 8: 0, 9: net.FlagMulticast}
	w.list = func() (list []Interface, err error) {
		for index, f := range flags {
			list = append(list, Interface{Index: index, Flags: f})
		}
		return list, nil
	}
	want := func(when string, down map[int]watchEvents) {
		t.Helper()
		w.tell(watchNotice{})
		if n, err := w.wait(); err != nil || !maps.Equal(n.seen, down) {
			t.Errorf("%s: got %+v, %v, want %v to be down", when, n, err, down)
		}
	}
	want("at a notice", watchSeen(eventDown, 8, 9))
	flags[7], flags[8] = 0, net.FlagUp
	want("at the next", watchSeen(eventDown, 7, 9))
	if _, err := w.scan(); err != nil {
		t.Fatal(err)
	}
	flags[7], flags[9] = net.FlagUp, net.FlagUp
	want("at a scan before", watchSeen(eventDown, 7, 9))
	want("when all are up", nil)
}

// TestWatchMibCallbacks calls the callbacks as Windows does: more often than anybody waits, with what the C calling
// convention leaves undefined set to ones, and about one watch of two.
func TestWatchMibCallbacks(t *testing.T) {
	other, w := watchTestOpen(t), watchTestOpen(t)
	defer other.close()
	defer w.close()
	onInterface, onAddress := watchCallbacks()
	garbage := ^uintptr(0) &^ math.MaxUint32 // above the 32 bits of an enum; none on 386
	rows := [...]watchRow{{family: windows.AF_INET, index: 7}, {family: windows.AF_INET6, index: 7}, {family: windows.AF_INET, index: 9}}
	for n := range rows {
		syscall.SyscallN(onInterface, uintptr(unsafe.Pointer(w)), uintptr(unsafe.Pointer(&rows[n])), windows.MibDeleteInstance|garbage)
	}
	syscall.SyscallN(onInterface, uintptr(unsafe.Pointer(w)), uintptr(unsafe.Pointer(&watchRow{index: 8})), windows.MibAddInstance|garbage)
	syscall.SyscallN(onAddress, uintptr(unsafe.Pointer(w)), 0, windows.MibAddInstance|garbage)
	lost := watchAddr{7, netip.MustParseAddr("192.0.2.1")}
	row := addressRow(windows.AF_INET, lost.addr.AsSlice(), 7)
	syscall.SyscallN(onAddress, uintptr(unsafe.Pointer(w)), uintptr(unsafe.Pointer(&row[0])), windows.MibDeleteInstance|garbage)
	n, err := w.wait()
	if err != nil || !maps.Equal(n.seen, watchSeen(eventGone, 7, 9)) || !maps.Equal(n.lost, map[watchAddr]bool{lost: true}) {
		t.Errorf("got %+v, %v", n, err)
	}

	syscall.SyscallN(onAddress, uintptr(unsafe.Pointer(w)), 0, windows.MibAddInstance)
	n, err = w.wait()
	if err != nil || n.seen != nil || n.lost != nil {
		t.Errorf("got %+v, %v, want nothing that was told before", n, err)
	}
	if other.notice.seen != nil || other.notice.lost != nil {
		t.Errorf("the other watch heard %+v", other.notice)
	}
}

// TestWatchMibForeignThread has a callback come on a thread that Go did not make, as Windows' do, while all of Go waits.
// That takes a process without the timer of the test's time-out.
func TestWatchMibForeignThread(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) == 4 {
		t.Skip("on 386 a timer cannot call a function of three arguments")
	}
	if flag.Lookup("test.timeout").Value.String() != "0s" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(self, "-test.run=^TestWatchMibForeignThread$", "-test.timeout=0").CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}

	w := watchTestOpen(t)
	_, onAddress := watchCallbacks()
	kernel := windows.NewLazySystemDLL("kernel32.dll")
	var timer windows.Handle
	ok, _, err := kernel.NewProc("CreateTimerQueueTimer").Call(uintptr(unsafe.Pointer(&timer)), 0, onAddress, uintptr(unsafe.Pointer(w)),
		200, 0, 0) // milliseconds; once; on the system's pool of threads
	if ok == 0 {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := w.wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > watchSlow/2 {
		t.Errorf("the callback did not end the wait: it took %v", took)
	}
	ok, _, err = kernel.NewProc("DeleteTimerQueueTimer").Call(0, uintptr(timer), uintptr(windows.InvalidHandle)) // waits for it
	if ok == 0 {
		t.Error(err)
	}
	w.close()
}

// TestWatchMibAddress has an address of loopback come and go, which nobody else has.
func TestWatchMibAddress(t *testing.T) {
	if wine.Here() {
		t.Skip("Wine tells nobody of changes")
	}
	if !windows.GetCurrentProcessToken().IsElevated() {
		t.Skip("only an administrator can add an address to an interface")
	}
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	lo := slices.IndexFunc(all, Interface.IsLoopback)
	if lo < 0 {
		t.Fatal("there is no loopback interface")
	}
	const addr = "127.88.0.99"
	has := func(list []Interface) bool {
		found, _ := SelectInterfaces(list, addr)
		return found != nil
	}
	netsh := func(verb string, more ...string) error {
		args := append([]string{"interface", "ipv4", verb, "address", "name=" + strconv.Itoa(all[lo].Index), "address=" + addr}, more...)
		out, err := exec.Command("netsh", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("netsh %q: %w: %s", args, err, out)
		}
		return nil
	}
	_ = netsh("delete", "store=active") // a run that was killed may have left it

	ctx, cancel := context.WithTimeout(t.Context(), slow.Limit(30*time.Second))
	defer cancel()
	var changed time.Time
	quickly := func() {
		if took := time.Since(changed); took > watchSlow/2 {
			t.Errorf("told after %v: not by a notice", took)
		}
	}
	added, deleted := false, false
	for list, err := range WatchInterfaces(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case !added && !has(list):
			added = true
			err = netsh("add", "mask=255.255.255.255", "store=active")
			changed = time.Now()
		case added && !deleted && has(list):
			quickly()
			deleted = true
			err = netsh("delete", "store=active")
			changed = time.Now()
		case deleted && !has(list):
			quickly()
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Errorf("added %v, deleted %v, and not told of it", added, deleted)
}

// addressRow is the beginning of a MIB_UNICASTIPADDRESS_ROW with an IPv4 address, as Windows fills it in.
func addressRow(family uint16, addr []byte, index uint32) []byte {
	row := make([]byte, wire.WinAddressSize)
	binary.NativeEndian.PutUint16(row, family)
	copy(row[4:], addr)
	binary.NativeEndian.PutUint32(row[40:], index)
	return row
}
