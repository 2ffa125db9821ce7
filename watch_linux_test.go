// Tests of the watch against a real kernel. What happens is made to happen, and then waited for as long as it takes: time
// decides nothing here but how long a failure lasts.

package mcast

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// watchPatience is how long to wait for what should take milliseconds.
var watchPatience = slow.Limit(30 * time.Second)

// watchTestEvents is what a follower or a loop was told. It never makes them wait.
type watchTestEvents struct {
	mu     sync.Mutex
	events []networkChange
	more   chan struct{} // holds one
}

func newWatchTestEvents() *watchTestEvents { return &watchTestEvents{more: make(chan struct{}, 1)} }

func (e *watchTestEvents) add(c networkChange) {
	e.mu.Lock()
	e.events = append(e.events, c)
	e.mu.Unlock()
	select {
	case e.more <- struct{}{}:
	default:
	}
}

func (e *watchTestEvents) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.events)
}

// until waits for an event that is as wanted, and forgets it and what came before.
func (e *watchTestEvents) until(t *testing.T, what string, wanted func(networkChange) bool) networkChange {
	t.Helper()
	timeout := time.After(watchPatience)
	var seen []networkChange
	for {
		e.mu.Lock()
		for len(e.events) > 0 {
			c := e.events[0]
			e.events = e.events[1:]
			seen = append(seen, c)
			if wanted(c) {
				e.mu.Unlock()
				return c
			}
		}
		e.mu.Unlock()
		select {
		case <-e.more:
		case <-timeout:
			t.Fatalf("waited in vain for: %s; there were %+v", what, seen)
		}
	}
}

// untilList is until for what shows in the list.
func (e *watchTestEvents) untilList(t *testing.T, what string, wanted func([]Interface) bool) networkChange {
	t.Helper()
	return e.until(t, what, func(c networkChange) bool { return wanted(c.Interfaces) })
}

// watchTestLoop runs a loop over WatchInterfaces on a host. stop waits for its end.
func watchTestLoop(t *testing.T, h *mcasttest.Host) (events *watchTestEvents, stop func()) {
	t.Helper()
	events = newWatchTestEvents()
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() {
		h.Do(func() {
			for list, err := range WatchInterfaces(ctx) {
				if err != nil {
					t.Error(err)
				}
				events.add(networkChange{Interfaces: list})
			}
		})
	})
	stop = func() {
		cancel()
		loop.Wait()
	}
	t.Cleanup(stop)
	return events, stop
}

func watchHas(name string) func([]Interface) bool {
	return func(list []Interface) bool {
		return slices.ContainsFunc(list, func(i Interface) bool { return i.Name == name })
	}
}

func watchHasNot(name string) func([]Interface) bool {
	has := watchHas(name)
	return func(list []Interface) bool { return !has(list) }
}

func TestWatchInterfaces(t *testing.T) {
	h := mcasttest.NewHost(t)
	eth := h.NewVeth("eth", netip.MustParsePrefix("192.0.2.1/24"))
	events, stop := watchTestLoop(t, h)
	is := func(test func(Interface) bool) func([]Interface) bool {
		return func(list []Interface) bool { return slices.ContainsFunc(list, test) }
	}

	events.untilList(t, "the beginning", watchHas("eth"))

	p4, p6 := netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("2001:db8::1/64")
	eth.AddAddress(p4)
	events.untilList(t, "an IPv4 address", is(func(i Interface) bool { return slices.Contains(i.IPv4, p4) }))
	eth.AddAddress(p6)
	events.untilList(t, "an IPv6 address", is(func(i Interface) bool { return slices.Contains(i.IPv6, p6) }))
	eth.DelAddress(p4)
	eth.DelAddress(p6)
	events.untilList(t, "no such addresses", is(func(i Interface) bool {
		return i.Name == "eth" && !slices.Contains(i.IPv4, p4) && !slices.Contains(i.IPv6, p6)
	}))

	eth.SetMTU(1400)
	events.untilList(t, "another MTU", is(func(i Interface) bool { return i.Name == "eth" && i.MTU == 1400 }))

	eth.Unplug()
	events.untilList(t, "no carrier", is(func(i Interface) bool { return i.Name == "eth" && i.Flags&net.FlagRunning == 0 }))
	eth.Plug()
	events.untilList(t, "carrier", is(func(i Interface) bool { return i.Name == "eth" && i.Flags&net.FlagRunning != 0 }))

	eth.Down()
	events.untilList(t, "down", is(func(i Interface) bool { return i.Name == "eth" && i.Flags&net.FlagUp == 0 }))
	eth.Up()
	events.untilList(t, "up", is(func(i Interface) bool { return i.Name == "eth" && i.Flags&net.FlagUp != 0 }))

	index := eth.Index()
	eth.Rename("wan")
	events.untilList(t, "another name", is(func(i Interface) bool { return i.Name == "wan" && i.Index == index }))

	eth.Delete()
	events.untilList(t, "deleted", watchHasNot("wan"))
	eth.Create()
	events.untilList(t, "made anew", is(func(i Interface) bool { return i.Name == "wan" && i.Index != index && len(i.IPv4) == 1 }))

	h.NewVeth("new")
	events.untilList(t, "a new interface", watchHas("new"))
	stop()
}

// TestWatchInterfacesBurst checks that a hundred changes are not a hundred lists, but that the last one is complete.
func TestWatchInterfacesBurst(t *testing.T) {
	h := mcasttest.NewHost(t)
	h.NewVeth("eth")
	events, _ := watchTestLoop(t, h)
	events.untilList(t, "the beginning", watchHas("eth"))

	const changes = 100
	var lines []string
	for n := range changes {
		lines = append(lines, fmt.Sprintf("address add 10.5.%d.1/24 dev eth", n))
	}
	start, lists := time.Now(), 0
	ifaceIP(t, h, lines...)
	events.untilList(t, "all addresses", func(list []Interface) bool {
		lists++
		return slices.ContainsFunc(list, func(i Interface) bool { return len(i.IPv4) == changes })
	})
	// There is a list each time ip, or this machine, rests for long enough to be taken for done.
	if took := time.Since(start); lists > 1+int(took/watchQuiet) {
		t.Errorf("%d lists in %v", lists, took)
	}
}

// TestWatchBridge checks that an interface which leaves a bridge, of which the kernel tells as RTM_DELLINK, too, is not taken for one
// that leaves.
func TestWatchBridge(t *testing.T) {
	h := mcasttest.NewHost(t)
	ifaceIP(t, h, "link add port type veth peer name other", "link add bridge0 type bridge")
	src := watchTestSource(t, h)
	ifaceIP(t, h, "link set port master bridge0", "link set port nomaster", "link add end type veth peer name of")
	var all watchNotice
	for ended := watchHas("end"); ; {
		list, err := src.scan()
		if err != nil {
			t.Fatal(err)
		}
		if ended(list) && sees(all, eventMTU6) {
			break
		}
		n, err := src.wait()
		if err != nil {
			t.Fatal(err)
		}
		all.add(n)
		if ended(list) { // what is in the buffer by now has come before it
			ifaceIP(t, h, "link set end mtu 1000")
		}
	}
	if sees(all, eventGone) || all.overflow {
		t.Errorf("the notices tell %+v", all)
	}
}

// sees reports whether a notice has an event of any interface.
func sees(n watchNotice, e watchEvents) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(n.seen)), func(seen watchEvents) bool { return seen&e != 0 })
}

// watchTestSource opens the ear on a host's network.
func watchTestSource(t *testing.T, h *mcasttest.Host) *watchNetlink {
	t.Helper()
	var src watchSource
	var err error
	h.Do(func() { src, err = watchOpen() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.close)
	return src.(*watchNetlink)
}

// TestWatchInterfacesLeavesNothing ends loops in both ways and looks for what is left.
func TestWatchInterfacesLeavesNothing(t *testing.T) {
	mcasttest.Require(t)
	goroutines := func() int {
		buf := make([]byte, 1<<20)
		return strings.Count(string(buf[:runtime.Stack(buf, true)]), "mcast.watchRead(")
	}
	filesBefore, goroutinesBefore := ifaceOpenFiles(t), goroutines()
	for range 20 {
		for _, err := range WatchInterfaces(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range WatchInterfaces(ctx) {
			time.AfterFunc(time.Millisecond, cancel)
		}
		if ctx.Err() == nil {
			t.Error("the loop ended by itself")
		}
		cancel()
	}
	if files := ifaceOpenFiles(t); files > filesBefore {
		t.Errorf("%d descriptors have become %d", filesBefore, files)
	}
	if n := goroutines(); n > goroutinesBefore {
		t.Errorf("%d goroutines have become %d", goroutinesBefore, n)
	}
}

// watchTestFollow follows a host's network.
func watchTestFollow(t *testing.T, h *mcasttest.Host) (events *watchTestEvents, stop func()) {
	t.Helper()
	events = newWatchTestEvents()
	var err error
	h.Do(func() { stop, err = processWatch.follow(watchOnce(events.add)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return events, stop
}

// TestFollowNetworkGone checks what the lists need not show: an interface that went to another namespace and came back,
// with the same index, name and addresses lost or not, and an MTU that dipped.
func TestFollowNetworkGone(t *testing.T) {
	h := mcasttest.NewHost(t)
	eth := h.NewVeth("eth")
	bystander := h.NewVeth("bystander")
	events, stop := watchTestFollow(t, h)
	defer stop()
	first := events.untilList(t, "the beginning", watchHas("eth"))
	if len(first.Events) != 0 || first.Overflow {
		t.Errorf("the first call tells %+v", first)
	}

	index := eth.Index()
	eth.Travel()
	change := events.until(t, "there and back", func(c networkChange) bool { return c.gone(index) })
	if change.gone(bystander.Index()) {
		t.Error("the bystander is gone, too")
	}
	if !watchHas("eth")(change.Interfaces) { // it came back only now
		change = events.untilList(t, "back", watchHas("eth"))
	}
	back := slices.IndexFunc(change.Interfaces, func(i Interface) bool { return i.Name == "eth" })
	index = change.Interfaces[back].Index // the same, as a rule

	bystander.SetMTU(1279)
	bystander.SetMTU(1500)
	change = events.until(t, "the dip of the MTU", func(c networkChange) bool { return c.Events[bystander.Index()]&eventMTU6 != 0 })
	if change.gone(bystander.Index()) {
		t.Errorf("the dip of the MTU is told as %+v", change)
	}

	eth.Delete()
	change = events.until(t, "deleted", func(c networkChange) bool { return c.gone(index) })
	if watchHas("eth")(change.Interfaces) {
		t.Error("it is still in the list")
	}
}

// TestFollowNetworkNamespaces has followers in two namespaces at once: each hears of its own, and each has its own watch.
func TestFollowNetworkNamespaces(t *testing.T) {
	a, b := mcasttest.NewHost(t), mcasttest.NewHost(t)
	keys := func() []watchKey {
		processWatch.mu.Lock()
		defer processWatch.mu.Unlock()
		return slices.Collect(maps.Keys(processWatch.shared))
	}
	files, before := ifaceOpenFiles(t), len(keys())
	newInterface := func(h *mcasttest.Host, name string) { // not NewVeth, which opens descriptors
		ifaceIP(t, h, "link add "+name+" type veth")
	}
	eventsA, stopA := watchTestFollow(t, a)
	eventsA2, stopA2 := watchTestFollow(t, a)
	eventsB, stopB := watchTestFollow(t, b)
	if n := len(keys()) - before; n != 2 {
		t.Errorf("three followers in two namespaces have %d watches", n)
	}
	for _, events := range []*watchTestEvents{eventsA, eventsA2, eventsB} {
		events.untilList(t, "the beginning", watchHas("lo"))
	}

	newInterface(a, "ona")
	eventsA.untilList(t, "its interface", watchHas("ona"))
	eventsA2.untilList(t, "its interface", watchHas("ona"))
	newInterface(b, "onb")
	c := eventsB.untilList(t, "its interface", watchHas("onb"))
	if watchHas("ona")(c.Interfaces) {
		t.Error("one sees the other's interface")
	}
	stopA()
	newInterface(a, "more")
	eventsA2.untilList(t, "another interface", watchHas("more"))
	if eventsA.count() != 0 {
		t.Error("called after stop")
	}
	stopA2()
	stopB()
	if n := len(keys()) - before; n != 0 {
		t.Errorf("%d watches are left", n)
	}
	if after := ifaceOpenFiles(t); after > files {
		t.Errorf("%d descriptors have become %d", files, after)
	}
}

// TestWatchClose interrupts a wait.
func TestWatchClose(t *testing.T) {
	mcasttest.Require(t)
	for range 50 {
		src, err := watchOpen()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() {
			for {
				if _, err := src.wait(); err != nil {
					ended <- err
					return
				}
			}
		}()
		src.close()
		<-ended
	}
}

func TestWatchParse(t *testing.T) {
	state := func(typ uint16, family byte, index int, flags uint32, mtu int) []byte {
		return ifaceTestMessage(typ, ifaceTestLink(family, 1, index, flags), ifaceTestUint32(unix.IFLA_MTU, uint32(mtu)))
	}
	link := func(typ uint16, family byte, index, mtu int) []byte {
		return state(typ, family, index, unix.IFF_UP, mtu)
	}
	for _, test := range []struct {
		name string
		in   []byte
		seen map[int]watchEvents
	}{
		{"nothing", nil, nil},
		{"new", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 1500), nil},
		{"deleted", link(unix.RTM_DELLINK, unix.AF_UNSPEC, 7, 1500), watchSeen(eventGone, 7)},
		{"released by a bridge", link(unix.RTM_DELLINK, unix.AF_BRIDGE, 7, 1500), nil},
		{"IPv6 started", link(unix.RTM_NEWLINK, unix.AF_INET6, 7, 1500), watchSeen(eventIPv6, 7)},
		{"IPv6 ended", link(unix.RTM_DELLINK, unix.AF_INET6, 7, 1500), nil},
		{"MTU 1280", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 1280), nil},
		{"MTU 1279", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 1279), watchSeen(eventMTU6, 7)},
		{"MTU 68", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 68), watchSeen(eventMTU6, 7)},
		{"MTU 67", link(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 67), watchSeen(eventMTU4|eventMTU6, 7)},
		{"no MTU", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(unix.AF_UNSPEC, 1, 7, unix.IFF_UP)), nil},
		{"down", state(unix.RTM_NEWLINK, unix.AF_UNSPEC, 8, 0, 1500), watchSeen(eventDown, 8)},
		{"several", slices.Concat(link(unix.RTM_DELLINK, 0, 7, 1500), link(unix.RTM_NEWLINK, 0, 8, 1000), link(unix.RTM_DELLINK, 0, 9, 0)),
			map[int]watchEvents{7: eventGone, 8: eventMTU6, 9: eventGone}},
	} {
		if n := watchParse(test.in); !maps.Equal(n.seen, test.seen) || n.overflow {
			t.Errorf("%s: got %+v", test.name, n)
		}
	}
}
