// The watch and the lists of memberships of a real kernel. The tests wait for what they have made happen, with a generous limit:
// time decides nothing but how long a failure lasts.

package mcast

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/wire"
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
			t.Fatalf("not reported: %s; there were %+v", what, seen)
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

// TestWatchBridge releases an interface from a bridge, for which the kernel sends RTM_DELLINK, too. It does not count as deleted.
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
		t.Errorf("the notices are %+v", all)
	}
}

// sees reports whether a notice has an event of any interface.
func sees(n watchNotice, e watchEvents) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(n.seen)), func(seen watchEvents) bool { return seen&e != 0 })
}

// watchTestSource opens a watch on a host's network.
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
		t.Errorf("the first call has %+v", first)
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
		t.Errorf("the dip of the MTU is reported as %+v", change)
	}

	eth.Delete()
	change = events.until(t, "deleted", func(c networkChange) bool { return c.gone(index) })
	if watchHas("eth")(change.Interfaces) {
		t.Error("it is still in the list")
	}
}

// TestFollowNetworkNamespaces has followers in two namespaces at once: each follows its own, with a watch of its own.
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

// TestJoinedFinds compares what sockets hold with what the kernel has, in the thread's own network.
func TestJoinedFinds(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1", "ff15::1234") })
	var with *RxSocket
	both := groups("232.1.1.1", "ff35::1234")
	f.host.Do(func() {
		there, err := FindInterfaces("there")
		if err == nil {
			with, err = OpenRx(RxConfig{Groups: both, Sources: groups("10.1.1.1", "10.1.1.2", "fd99::2", "fd99::3"), Port: 5000, Interfaces: there})
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.rx.Join(netip.MustParseAddr("239.1.1.3")); err != nil { // later, so that it hides the sources of those before
			t.Fatal(err)
		}
		if err := f.rx.Join(netip.MustParseAddr("ff15::1236")); err != nil {
			t.Fatal(err)
		}
	})
	defer with.Close()
	ask := func(piece int) *joinedSet {
		j := newJoined(f.scan())
		f.rx.holds(j)
		with.holds(j)
		f.host.Do(func() { askJoined(j, piece) })
		return j
	}
	lost := func(j *joinedSet) (lost []netip.Addr) {
		for _, s := range []*RxSocket{f.rx, with} {
			for _, g := range s.groups {
				gone, known := j.lost(g.pairs[0])
				if !known {
					t.Errorf("%s: not known", g.addr)
				}
				if gone {
					lost = append(lost, g.addr)
				}
			}
		}
		return lost
	}
	for _, piece := range append([]int{joinedPiece, 100, 1}, joinedOtherPieces...) {
		j := ask(piece)
		if got := lost(j); got != nil || j.missing() {
			t.Errorf("in pieces of %d bytes: %v are lost", piece, got)
		}
		for key, n := range j.counts {
			if n.held != 1 || n.found != 1 {
				t.Errorf("%+v: %+v", key, *n)
			}
		}
	}
	for _, g := range []*rxGroup{f.rx.groups[0], with.groups[1]} {
		g.pairs[0].conns[0].leave()
	}
	j := ask(joinedPiece)
	if got := lost(j); !slices.Equal(got, groups("239.1.1.1", "ff35::1234")) || !j.missing() {
		t.Errorf("%v are lost", got)
	}
	// Sources are set aside while the interface is down.
	f.veth.Down()
	down := ask(joinedPiece)
	if down.counts[joinedKey{f.veth.Index(), both[0], netip.MustParseAddr("10.1.1.1")}] != nil {
		t.Error("a source is looked for on an interface that is down")
	}
}

// TestJoinedWithoutProc: without /proc no membership counts as lost.
func TestJoinedWithoutProc(t *testing.T) {
	mcasttest.Require(t)
	f := openFollowed(t, func(*RxConfig) {})
	j := newJoined(f.scan())
	f.rx.holds(j)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its mounts
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("none", "/proc", "tmpfs", 0, "")
		}
		if err == nil {
			if _, open := os.Open("/proc/thread-self/net/igmp"); !errors.Is(open, os.ErrNotExist) {
				err = fmt.Errorf("/proc is there: %v", open)
			}
			askJoined(j, joinedPiece)
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if lost, known := j.lost(f.rx.groups[0].pairs[0]); lost || known || j.missing() || len(j.counts) != len(f.rx.groups) {
		t.Errorf("lost %v, known %v, missing %v of %d", lost, known, j.missing(), len(j.counts))
	}
}

// TestJoinedBesideAnother has another program join and leave groups on the same interface without end. What the kernel skips in
// its lists meanwhile does not count as lost.
func TestJoinedBesideAnother(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		t.Run(map[bool]string{true: "IPv4", false: "IPv6"}[v4], func(t *testing.T) {
			domain, level, kind := unix.AF_INET, unix.IPPROTO_IP, "239.7.1.%d"
			if !v4 {
				domain, level, kind = unix.AF_INET6, unix.IPPROTO_IPV6, "ff15::7:%d"
			}
			group := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(kind, i)) }
			f := openFollowed(t, func(c *RxConfig) {
				c.Groups = nil
				for i := range 200 {
					c.Groups = append(c.Groups, group(i))
				}
			})
			var left atomic.Int64
			quit, other := make(chan struct{}), make(chan error, 1)
			go f.host.Do(func() {
				other <- func() error {
					for ; ; left.Add(1) {
						select {
						case <-quit:
							return nil
						default:
						}
						fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
						for i := 200; i < 215 && err == nil; i++ {
							err = unix.SetsockoptString(fd, level, unix.MCAST_JOIN_GROUP, string(wire.MreqLinux.GroupReq(f.rx.cfg.Interfaces[0].Index, group(i))))
						}
						unix.Close(fd)
						if err != nil {
							return err
						}
					}
				}()
			})
			follower := &watchFollower{holds: f.rx.holds, prepare: func(c networkChange) bool { return c.joined.missing() }}
			f.host.Do(func() {
				src, err := watchOpen()
				if err != nil {
					t.Fatal(err)
				}
				defer src.close()
				w := &watchShared{watchSource: src, hub: &watchHub{joined: askJoined}, followers: []*watchFollower{follower}}
				for range 50 {
					if w.prepare(&networkChange{Interfaces: f.rx.cfg.Interfaces}, true)[follower] {
						t.Errorf("something is missing, after another socket has left %d times", left.Load())
						break
					}
				}
			})
			close(quit)
			if err := <-other; err != nil || left.Load() == 0 {
				t.Fatalf("the other socket has left %d times: %v", left.Load(), err)
			}
		})
	}
}
