// Many changes at once, and changes that nobody tells of, on real interfaces.

package mcast

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// countCalls counts the system calls of that name from now on, until the test ends.
func countCalls(t *testing.T, part string) *atomic.Int64 {
	n := new(atomic.Int64)
	hook := func(name string) error {
		if strings.Contains(name, part) {
			n.Add(1)
		}
		return nil
	}
	testHookCall.Store(&hook)
	t.Cleanup(func() { testHookCall.Store(nil) })
	return n
}

// TestFollowHundred creates and deletes a hundred interfaces, again and again, under a receiver that joins on whatever there
// is. It has ip do it, at once; mcasttest waits for each of them.
func TestFollowHundred(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Interfaces = nil })
	const cables, rounds = 50, 5
	var create []string
	for i := range cables {
		create = append(create, fmt.Sprintf("link add a%d group 7 type veth peer name b%[1]d", i))
		for _, end := range []string{"a", "b"} {
			create = append(create, fmt.Sprintf("address add 10.8.%d.1/24 dev %s%[1]d", i, end), fmt.Sprintf("link set %s%d up", end, i))
		}
	}
	remove := []string{"link del group 7"} // all at once: one after the other takes the kernel longer
	groups := len(f.rx.cfg.Groups)
	alone := func() bool { return len(f.rx.Memberships()) == groups }
	all := func() bool {
		ms := f.rx.Memberships()
		return len(ms) == (1+2*cables)*groups && !slices.ContainsFunc(ms, func(m Membership) bool { return !m.Joined })
	}
	ifaceIP(t, f.host, create...)
	f.await("all are joined", all)
	ifaceIP(t, f.host, remove...)
	f.await("all are gone", alone)
	before := count(t)
	joins := countCalls(t, "bind")
	var changes atomic.Int64
	stop := f.countChanges(&changes)
	start := time.Now()
	for range rounds {
		ifaceIP(t, f.host, create...)
		ifaceIP(t, f.host, remove...)
	}
	took := time.Since(start)
	f.await("all are gone again", alone)
	// However many notices there were, the sockets look once after a rest, or half a second of unrest; and each group is
	// joined once on what is there then.
	looks := changes.Load()
	if most := 3 + int64(took/watchQuiet); looks > most {
		t.Errorf("%d changes were told in %v, want at most %d", looks, took, most)
	}
	if n, most := joins.Load(), looks*int64(2*cables*groups); n > most {
		t.Errorf("%d joins for %d changes, want at most %d", n, looks, most)
	}
	t.Logf("%d interfaces created and deleted %d times in %v; %d changes told, %d joins", 2*cables, rounds, took, looks, joins.Load())
	stop()
	f.exchange("at last", func(netip.Addr) bool { return true })
	wantResources(t, before)

	ifaceIP(t, f.host, slices.Concat(create, remove, create)...)
	f.await("all are joined at the end", all)
	ifaceIP(t, f.host, remove...)
	f.await("all are gone at the end", alone)
	wantResources(t, before)
}

// countChanges counts what followers of the host's network are told.
func (f *followed) countChanges(n *atomic.Int64) (stop func()) {
	f.t.Helper()
	f.host.Do(func() {
		var err error
		stop, err = processWatch.follow(func(networkChange) time.Duration { n.Add(1); return 0 })
		if err != nil {
			f.t.Fatal(err)
		}
	})
	return stop
}

// TestFollowLostNotices makes the kernel lose notices, which go to a buffer that is too small, and among them those of
// an interface that was away and is back. All that the sockets get to know is that something was lost.
func TestFollowLostNotices(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	processWatch.mu.Lock()
	var watch *watchNetlink
	for _, w := range processWatch.shared { // the host is the only network with a follower
		watch = w.watchSource.(*watchNetlink)
	}
	watches := len(processWatch.shared)
	processWatch.mu.Unlock()
	if watches != 1 {
		t.Fatalf("%d watches", watches)
	}
	// The least that the kernel allows, and nobody who reads: the watch's goroutine waits for what the test holds.
	if err := watch.notices.SyscallConn().Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	overflows := new(atomic.Int64)
	var stop func()
	f.host.Do(func() {
		var err error
		stop, err = processWatch.follow(func(c networkChange) time.Duration {
			if c.Overflow {
				overflows.Add(1)
			}
			return 0
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	defer stop()
	for round := range 5 {
		seen := overflows.Load()
		f.veth.Travel()
		// More notices than the buffer holds, until some were lost.
		for n := 0; overflows.Load() == seen; n++ {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(n), 1}), 24)
			f.veth.AddAddress(p)
			f.veth.DelAddress(p)
			if n > 100000 {
				t.Fatal("the kernel does not lose notices")
			}
		}
		f.await("lost notices", f.settled)
		f.exchange(fmt.Sprintf("round %d", round), func(netip.Addr) bool { return true })
	}
	t.Logf("notices were lost %d times", overflows.Load())
}

// TestFollowLostNoticesSpare tells a socket that notices were lost: no membership is renewed where the kernel's own numbers
// tell that none was lost, and all are renewed where one may have been.
func TestFollowLostNoticesSpare(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Static = true })
	joins := countCalls(t, "setsockopt IP") // IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP
	lose := func() int64 {
		t.Helper()
		before := joins.Load()
		change := networkChange{Interfaces: f.scan(), Overflow: true}
		f.rx.prepare(change)
		f.rx.follow(change)
		return joins.Load() - before
	}
	if n := lose(); n != 0 {
		t.Errorf("%d memberships were renewed, and none was lost", n)
	}
	for _, event := range []struct {
		name string
		do   func()
	}{
		{"MTU", func() { f.veth.SetMTU(1200); f.veth.SetMTU(1500) }},
		{"away and back", f.veth.Travel},
	} {
		time.Sleep(50 * time.Millisecond) // since6 counts hundredths of a second
		event.do()
		if n := lose(); n != int64(len(f.rx.cfg.Groups)) {
			t.Errorf("%s: %d memberships were renewed, want all %d", event.name, n, len(f.rx.cfg.Groups))
		}
		f.exchange(event.name, func(netip.Addr) bool { return true })
		if n := lose(); n != 0 {
			t.Errorf("after %s: %d memberships were renewed, and none was lost", event.name, n)
		}
	}
}

// TestFollowTwo has two sockets with the same memberships on an interface that was away. The kernel counts a membership
// that went with the interface as one of those that there are now, when it is dropped later, so that one socket can take
// the other's.
func TestFollowTwo(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	other := openDeaf(f)
	third := openDeaf(f)
	for range 3 {
		f.veth.Travel()
		f.await("away and back", func() bool { return f.users() == 3 })
		f.veth.SetMTU(1200)
		f.veth.SetMTU(1500)
		f.await("MTU", func() bool { return f.users() == 3 })
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	f.exchange("when the others are closed", func(netip.Addr) bool { return true })
}

// TestFollowTwoBetween opens and closes sockets when an interface was away and is back, and nobody was told yet. Neither
// may be at the expense of others.
func TestFollowTwoBetween(t *testing.T) {
	var between atomic.Pointer[func() bool]
	var travel sync.Mutex
	open := processWatch.open
	defer func() { processWatch.open = open }()
	processWatch.open = func() (watchSource, error) {
		src, err := open()
		return watchBetween{src, func() {
			if f := between.Load(); f != nil && (*f)() {
				between.Store(nil)
			}
		}}, err
	}
	f := openFollowed(t, func(*RxConfig) {})
	stale := []*RxSocket{openDeaf(f), openDeaf(f), openDeaf(f)}
	var fresh []*RxSocket
	all := 1 + len(stale)
	for _, old := range stale {
		f.await("before", func() bool { return f.users() == all })
		between.Store(new(func() bool {
			travel.Lock()
			defer travel.Unlock()
			if f.users() > 0 {
				return false
			}
			fresh = append(fresh, openDeaf(f))
			old.Close()
			return true
		}))
		for between.Load() != nil { // again if somebody was told at once, of something before
			travel.Lock()
			f.veth.Travel()
			travel.Unlock()
			f.await("away and back", func() bool { return f.healed() && f.users() == all })
		}
	}
	for _, one := range fresh {
		one.Close()
		f.exchange("when another is closed", func(netip.Addr) bool { return true })
	}
}

// TestFollowCloseLeaves checks that a socket has no memberships when it stops to follow: until then it is told to drop
// those that were lost, and who does it later takes another's.
func TestFollowCloseLeaves(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	other := openDeaf(f)
	if n := f.users(); n != 2 {
		t.Fatalf("%d users of a group, want 2", n)
	}
	unfollow := other.unfollow
	other.unfollow = func() {
		if n := f.users(); n != 1 {
			t.Errorf("%d users of a group, want 1", n)
		}
		unfollow()
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

// users is the least number of memberships that the kernel counts for any of the groups on the interface.
func (f *followed) users() (least int) {
	least = 1 << 20
	index := strconv.Itoa(f.veth.Index())
	f.host.Do(func() {
		for _, g := range f.rx.cfg.Groups {
			n := 0
			if g.Is4() {
				n = kernelUsers4(f.t, index, g)
			} else {
				n = kernelUsers6(f.t, index, g)
			}
			least = min(least, n)
		}
	})
	return least
}

// kernelUsers4 reads /proc/net/igmp: a line for each interface, which begins with its index, and indented lines for its
// groups.
func kernelUsers4(t *testing.T, index string, group netip.Addr) int {
	b, err := os.ReadFile("/proc/thread-self/net/igmp")
	if err != nil {
		t.Fatal(err)
	}
	a := group.As4()
	want := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:]))
	here := false
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(line, "\t") {
			here = fields[0] == index
		} else if here && fields[0] == want {
			n, _ := strconv.Atoi(fields[1])
			return n
		}
	}
	return 0
}

func kernelUsers6(t *testing.T, index string, group netip.Addr) int {
	b, err := os.ReadFile("/proc/thread-self/net/igmp6")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); fields[0] == index && fields[2] == fmt.Sprintf("%x", group.As16()) {
			n, _ := strconv.Atoi(fields[3])
			return n
		}
	}
	return 0
}

// TestFollowJoinAgain has Join fail on one of several interfaces for a reason that passes without a notice.
func TestFollowJoinAgain(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Interfaces = nil })
	f.host.NewVeth("other", netip.MustParsePrefix("10.9.8.1/24"), netip.MustParsePrefix("fd98::1/64"))
	f.await("both are joined", func() bool { return len(f.rx.Memberships()) == 2*len(f.rx.cfg.Groups) })
	time.Sleep(2 * watchLimit) // until nothing is told any more that would have it tried again: less would hide a failure
	failed := failCall(1)
	f.host.Do(func() {
		if err := f.rx.Join(netip.MustParseAddr("239.1.1.9")); err != nil {
			t.Fatal(err)
		}
	})
	if failed() == "" || !slices.ContainsFunc(f.rx.Memberships(), func(m Membership) bool { return !m.Joined }) {
		t.Fatal("nothing failed")
	}
	f.await("all are joined", func() bool {
		return !slices.ContainsFunc(f.rx.Memberships(), func(m Membership) bool { return !m.Joined })
	})
}
