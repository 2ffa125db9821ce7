// The watcher for Windows: notices of the IP helper library, which arrive as calls on threads of Windows.

package mcast

import (
	"net"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/windows"
)

// watchSlow is how often the interfaces are scanned without a notice. There are three reasons. Windows does not report
// that an interface was renamed. Wine reports nothing at all. And Go's runtime does not expect calls from outside: if
// everything in a program waits, and no timer is pending, the runtime sees a deadlock and ends the program (checkdead
// in runtime/proc.go).
const watchSlow = 10 * time.Second

// watchMib is a watchSource: two registrations for notices, and what they reported since the last wait.
type watchMib struct {
	list       func() ([]Interface, error) // lists the interfaces
	registered []windows.Handle
	pin        runtime.Pinner // pins this structure, whose address Windows passes to the callbacks
	closed     chan struct{}
	wake       chan struct{} // holds one signal: wait should return

	mu     sync.Mutex // callbacks take it, so it is never held for long
	notice watchNotice
}

var _ watchSource = (*watchMib)(nil)

// watchOpen returns the watcher for the host's network. Windows notifies it of interfaces, including their carrier and
// MTU, and of addresses, including the end of duplicate address detection. Windows does not notify it of routes.
func watchOpen() (watchSource, error) {
	w := &watchMib{list: ifaceScan, closed: make(chan struct{}), wake: make(chan struct{}, 1)}
	w.pin.Pin(w)
	onInterface, onAddress := watchCallbacks()
	for _, r := range [...]struct {
		name     string
		register func(family uint16, callback uintptr, context unsafe.Pointer, initial bool, h *windows.Handle) error
		callback uintptr
	}{
		{"NotifyIpInterfaceChange", windows.NotifyIpInterfaceChange, onInterface},
		{"NotifyUnicastIpAddressChange", windows.NotifyUnicastIpAddressChange, onAddress},
	} {
		var h windows.Handle
		err := syscallErr(r.name, func() error { return r.register(windows.AF_UNSPEC, r.callback, unsafe.Pointer(w), false, &h) })
		if err != nil {
			w.close()
			return nil, opError("watch", err)
		}
		w.registered = append(w.registered, h)
	}
	return w, nil
}

// scan also notes which interfaces are down. The next notice has them.
func (w *watchMib) scan() ([]Interface, error) {
	list, err := w.list()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range list {
		w.notice.note(i.Index, watchState(&i)&eventDown)
	}
	return list, err
}

// close ends the registrations. It waits for running callbacks. So it must not be called from a callback, nor with a
// lock held that callbacks take. No callback runs after it.
func (w *watchMib) close() {
	for _, h := range w.registered {
		_ = windows.CancelMibChangeNotify2(h) // it fails only if the handle is not of a registration
	}
	w.pin.Unpin()
	close(w.closed)
}

// wait lists the interfaces itself. A notice of an interface does not say whether it is down, and it may be up again at
// the end of the burst.
func (w *watchMib) wait() (watchNotice, error) {
	select {
	case <-w.closed:
		return watchNotice{}, net.ErrClosed
	case <-w.wake:
	case <-time.After(watchSlow):
	}
	_, _ = w.scan() // if it fails, so does the next scan
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.notice
	n.routes = true // Windows does not notify it of routes
	w.notice = watchNotice{}
	return n, nil
}

// tell records a notice and ends the wait. It does not block: the thread belongs to Windows.
func (w *watchMib) tell(n watchNotice) {
	w.mu.Lock()
	w.notice.add(n)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // wait is about to return
	}
}

// watchRow is the beginning of MIB_IPINTERFACE_ROW, and all that a notice fills in. windows.MibIpInterfaceRow would not
// do: it lacks the gap on 386, where Go aligns 64 bits to 4 bytes and C to 8.
type watchRow struct {
	family uint16
	_      [6]byte
	luid   [8]byte
	index  uint32
}

// watchCallbacks returns the functions that Windows calls. They are made once in a process, since a process can have
// only a limited number of them and never frees one. Windows passes each call the watch that it is for.
var watchCallbacks = sync.OnceValues(func() (onInterface, onAddress uintptr) {
	onInterface = windows.NewCallback(func(w *watchMib, row *watchRow, kind uint32) uintptr {
		w.tell(watchParse(row, kind))
		return 0
	})
	onAddress = windows.NewCallback(func(w *watchMib, row *[wire.WinAddressSize]byte, kind uint32) uintptr {
		w.tell(watchParseAddress(row, kind))
		return 0
	})
	return onInterface, onAddress
})

// watchParse extracts from a notice of an interface the changes that the next scan may not show. A deletion concerns
// one protocol on the interface, so memberships of the other may live on. Joining those again does no harm.
func watchParse(row *watchRow, kind uint32) (n watchNotice) {
	if row != nil && kind == windows.MibDeleteInstance {
		n.note(int(row.index), eventGone)
	}
	return n
}

// watchParseAddress returns the address that a notice reports as deleted. The next scan may show it again, as when a link
// was down for a moment or a DHCP lease was renewed.
func watchParseAddress(row *[wire.WinAddressSize]byte, kind uint32) (n watchNotice) {
	if row == nil || kind != windows.MibDeleteInstance {
		return n
	}
	if index, a := wire.WinAddress(row[:]); a.IsValid() {
		n.lost = map[watchAddr]bool{{index, a}: true}
	}
	return n
}
