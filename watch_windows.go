// The ear on Windows' network: the notices of its IP helper library, which come as calls on threads of Windows' own.

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

// watchSlow is how often to look although no notice came. There are three reasons to. Windows does not tell that an
// interface was given another name. Wine tells nothing at all. And Go's runtime does not count on calls from outside: in a
// program in which everything waits, and no timer is pending, it sees a deadlock and ends it (checkdead in runtime/proc.go).
const watchSlow = 10 * time.Second

// watchMib is a watchSource: two registrations for notices, and what they told since the last wait.
type watchMib struct {
	list       func() ([]Interface, error) // lists the interfaces
	registered []windows.Handle
	pin        runtime.Pinner // of this very structure, whose address Windows hands to the callbacks
	closed     chan struct{}
	wake       chan struct{} // holds one: wait should return

	mu     sync.Mutex // callbacks take it: it is never held during anything that takes time
	notice watchNotice
}

var _ watchSource = (*watchMib)(nil)

// watchOpen returns the ear on the host's network. It is notified of interfaces, also of their carrier and MTU, and of
// addresses, also of the end of duplicate address detection. It is not notified of routes.
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

// close ends the registrations. That waits for callbacks that run, so it must not be called from one, nor with a lock held
// that they take; afterwards none will run.
func (w *watchMib) close() {
	for _, h := range w.registered {
		_ = windows.CancelMibChangeNotify2(h) // it fails only for what is no handle of a registration
	}
	w.pin.Unpin()
	close(w.closed)
}

// wait lists the interfaces itself: a notice of an interface does not say whether it is down, and it may be up again at
// the end of the burst.
func (w *watchMib) wait() (watchNotice, error) {
	select {
	case <-w.closed:
		return watchNotice{}, net.ErrClosed
	case <-w.wake:
	case <-time.After(watchSlow):
	}
	_, _ = w.scan() // if it fails, so does the one that follows
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.notice
	n.routes = true // it is not told
	w.notice = watchNotice{}
	return n, nil
}

// tell takes down a notice and ends the wait. It does not block: the thread is Windows' own.
func (w *watchMib) tell(n watchNotice) {
	w.mu.Lock()
	w.notice.add(n)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is about to end
	}
}

// watchRow is the beginning of MIB_IPINTERFACE_ROW and all that a notice fills in. It is not windows.MibIpInterfaceRow, since
// that misses the gap on 386, where Go aligns 64 bits to 4 bytes and C to 8.
type watchRow struct {
	family uint16
	_      [6]byte
	luid   [8]byte
	index  uint32
}

// watchCallbacks returns the functions that Windows calls, as it sees them. They are made once in a process, since it
// cannot have many of them and none is ever given back; which watch a call is for, Windows tells it.
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

// watchParse takes from a notice of an interface what the next scan may not tell. What is deleted is one protocol's part of
// the interface, so that memberships of the other may live on; joining those again does no harm.
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
