// What happens to interfaces under open sockets, on real ones: what is joined again, and what is left alone.

package mcast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// followed is a receiver and a sender on the interface "there" of a host, with groups of all kinds.
type followed struct {
	t    *testing.T
	host *mcasttest.Host
	veth *mcasttest.Interface
	rx   *RxSocket
	tx   *TxSocket
}

func openFollowed(t *testing.T, change func(*RxConfig)) *followed {
	f := &followed{t: t, host: mcasttest.NewHost(t)}
	f.veth = f.host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("fd99::1/64"))
	f.host.Do(func() {
		there, err := FindInterfaces("there")
		if err != nil {
			t.Fatal(err)
		}
		cfg := RxConfig{Groups: groups("239.1.1.1", "ff02::1234", "ff15::1234"), Port: 5000, Interfaces: there, Loopback: true}
		change(&cfg)
		if f.rx, err = OpenRx(cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.rx.Close() })
		if f.tx, err = OpenTx(TxConfig{Groups: cfg.Groups, Interfaces: there, Loopback: true}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.tx.Close() })
	})
	return f
}

// healed reports whether everything is joined on the interface as it is now, and sent on it.
func (f *followed) healed() bool {
	index := f.veth.Index()
	return f.tx.Interfaces()[0].Index == index && !slices.ContainsFunc(f.rx.Memberships(), func(m Membership) bool {
		return !m.Joined || m.IfIndex != index
	})
}

func (f *followed) await(what string, condition func() bool) {
	f.t.Helper()
	for end := time.Now().Add(slow.Limit(20 * time.Second)); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("%s: the interface has index %d, the memberships are %+v", what, f.veth.Index(), f.rx.Memberships())
		}
	}
}

// write sends to a group. After a new interface has come up, IPv6 has to wait for its link-local address.
func (f *followed) write(what string, group netip.Addr) {
	f.t.Helper()
	f.await(what, func() bool {
		_, err := f.tx.WriteToUDPAddrPort([]byte(group.String()), netip.AddrPortFrom(group, 5000))
		return err == nil
	})
}

// exchange sends to every group and reads what arrives, which must be all of it, or nothing.
func (f *followed) exchange(what string, arrives bool) {
	f.t.Helper()
	var want []netip.Addr
	for _, g := range f.rx.cfg.Groups {
		f.write(what, g)
		if arrives {
			want = append(want, g)
		}
	}
	f.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	for len(want) > 0 {
		ms := []Message{{Buf: make([]byte, 64)}}
		_, err := f.rx.ReadBatch(ms)
		i := slices.Index(want, ms[0].Group)
		if err != nil || i < 0 || string(ms[0].Buf[:ms[0].N]) != ms[0].Group.String() || ms[0].IfIndex != f.veth.Index() {
			f.t.Fatalf("%s: read %+v, %v; waiting for %s", what, ms[0], err, want)
		}
		want = slices.Delete(want, i, i+1)
	}
	wantUnread(f.t, what, f.rx)
}

// wantUnread fails if there is a datagram to read. On one host everything is delivered by the time the write returns.
func wantUnread(t *testing.T, what string, rx *RxSocket) {
	t.Helper()
	rx.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, src, err := rx.ReadFromUDPAddrPort(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%s: read %d bytes from %s, %v", what, n, src, err)
	}
}

// receives waits until a datagram to each group arrives, where those before it may be lost.
func (f *followed) receives(what string) {
	f.t.Helper()
	for _, g := range f.rx.cfg.Groups {
		f.await(what+", "+g.String(), func() bool {
			if _, err := f.tx.WriteToUDPAddrPort([]byte("again"), netip.AddrPortFrom(g, 5000)); err != nil {
				return false
			}
			ms := []Message{{Buf: make([]byte, 64)}}
			f.rx.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := f.rx.ReadBatch(ms)
			return err == nil && ms[0].Group == g
		})
	}
}

// conns are the OS sockets of the receiver. As long as they stay, nothing is lost.
func (f *followed) conns() (all []*conn) {
	f.rx.mu.Lock()
	defer f.rx.mu.Unlock()
	for p := range f.rx.pairs {
		all = append(all, p.conns...)
	}
	return all
}

// settled reports whether the kernel has the memberships. If the index is the same, that of the socket may be stale.
func (f *followed) settled() bool { return f.healed() && f.users() > 0 }

// users is the least number of sockets that the kernel counts for any of the groups on the interface.
func (f *followed) users() (least int) {
	least = 1 << 20
	index := strconv.Itoa(f.veth.Index())
	f.host.Do(func() {
		for _, g := range f.rx.cfg.Groups {
			least = min(least, kernelUsers(f.t, index, g))
		}
	})
	return least
}

// kernelUsers reads /proc/net/igmp, where a line for each interface begins with its index and indented lines are for its
// groups, or igmp6, where each line is for a group.
func kernelUsers(t *testing.T, index string, group netip.Addr) int {
	name, column, want := "igmp6", 2, fmt.Sprintf("%x", group.As16())
	if group.Is4() {
		a := group.As4()
		name, column, want = "igmp", 0, fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:]))
	}
	b, err := os.ReadFile("/proc/thread-self/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	at := ""
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(line, "\t") {
			at = fields[0]
		}
		if len(fields) > column+1 && at == index && fields[column] == want {
			n, _ := strconv.Atoi(fields[column+1])
			return n
		}
	}
	return 0
}

// openBeside opens a receiver like that of f, with changes to its configuration.
func (f *followed) openBeside(change func(*RxConfig)) (rx *RxSocket) {
	f.t.Helper()
	f.host.Do(func() {
		cfg := RxConfig{Groups: f.rx.cfg.Groups, Port: 5000, Interfaces: interfaces(f.t, "there")}
		change(&cfg)
		var err error
		if rx, err = OpenRx(cfg); err != nil {
			f.t.Fatal(err)
		}
	})
	f.t.Cleanup(func() { rx.Close() })
	return rx
}

func (f *followed) scan() (list []Interface) {
	f.t.Helper()
	f.host.Do(func() {
		var err error
		if list, err = Interfaces(); err != nil {
			f.t.Fatal(err)
		}
	})
	return list
}

// quiet waits until followers have seen all that has happened.
func (f *followed) quiet() { time.Sleep(2 * watchLimit) }

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

// TestFollowHeals deletes the interface and does other things that take memberships, with and without sources.
func TestFollowHeals(t *testing.T) {
	own := groups("10.9.9.1", "fd99::1")
	for _, kind := range []struct {
		name   string
		change func(*RxConfig)
		wanted bool
	}{
		{"all sources", func(*RxConfig) {}, true},
		{"wanted source", func(c *RxConfig) {
			c.Groups, c.Sources = groups("232.1.1.1", "ff35::1234"), slices.Concat(own, sequence("10.2.0.1", 20))
		}, true},
		{"other source", func(c *RxConfig) {
			c.Groups, c.Sources = groups("232.1.1.1", "ff35::1234"), groups("10.2.0.1", "fd99::2")
		}, false},
		{"blocked source", func(c *RxConfig) {
			c.Groups, c.Blocked = groups("239.1.1.1", "ff15::1234"), slices.Concat(sequence("10.2.0.1", 20), own)
		}, false},
	} {
		t.Run(kind.name, func(t *testing.T) {
			f := openFollowed(t, kind.change)
			f.exchange("at first", kind.wanted)
			for range 2 {
				index := f.veth.Index()
				f.veth.Delete()
				f.await("deleted", func() bool { return !f.rx.Memberships()[0].Joined })
				if err := f.rx.Memberships()[0].Err; !errors.Is(err, ErrNoInterface) {
					t.Errorf("deleted: %v", err)
				}
				f.veth.Create()
				if f.veth.Index() == index {
					t.Fatal("the index is the same")
				}
				f.await("created again", f.healed)
				f.exchange("created again", kind.wanted)
			}

			f.veth.SetMTU(1200)
			f.veth.SetMTU(1500)
			f.await("MTU", f.settled)
			f.exchange("after the MTU was small", kind.wanted)

			f.veth.Travel()
			f.await("away and back", f.settled)
			f.exchange("away and back", kind.wanted)
		})
	}
}

// forEachAnswer runs a test with a kernel that is asked what is joined, and with one that cannot be asked.
func forEachAnswer(t *testing.T, f func(t *testing.T, asked bool)) {
	for name, asked := range map[string]bool{"asked": true, "not asked": false} {
		t.Run(name, func(t *testing.T) {
			mcasttest.Require(t)
			if ask := processWatch.joined; !asked {
				processWatch.joined = nil
				t.Cleanup(func() { processWatch.joined = ask }) // after the sockets are closed
			}
			f(t, asked)
		})
	}
}

// TestFollowSourcesForgotten takes the interface, or IPv6 on it, down and up. If anything is joined or left there meanwhile,
// Linux forgets which sources its groups were joined for, and delivers nothing.
func TestFollowSourcesForgotten(t *testing.T) {
	const disable = "net/ipv6/conf/there/disable_ipv6"
	for name, event := range map[string]struct {
		groups   []netip.Addr
		down, up func(*followed)
	}{
		"interface": {groups("232.1.1.1", "ff35::1234"), func(f *followed) { f.veth.Down() }, func(f *followed) { f.veth.Up() }},
		"IPv6": {groups("ff35::1234", "ff35::1235"), func(f *followed) { f.host.Sysctl(disable, "1") }, func(f *followed) {
			f.host.Sysctl(disable, "0")
			f.veth.AddAddress(netip.MustParsePrefix("fd99::1/64"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			forEachAnswer(t, func(t *testing.T, _ bool) {
				f := openFollowed(t, func(c *RxConfig) {
					c.Groups, c.Sources = event.groups, groups("10.9.9.1", "fd99::1")[2-len(familiesOf(event.groups).list()):]
				})
				f.receives("at first")
				event.down(f)
				f.openBeside(func(c *RxConfig) {
					c.Groups, c.Port, c.Static = groups("ff15::9999"), 5001, true
					if event.groups[0].Is4() {
						c.Groups = append(c.Groups, netip.MustParseAddr("239.9.9.9"))
					}
					c.Interfaces[0].IPv6 = []netip.Prefix{netip.MustParsePrefix("fd99::1/64")} // or it is refused
				}).Close()
				time.Sleep(3 * time.Second) // two reports, at most a second apart; until they are sent, nothing is forgotten
				event.up(f)
				f.receives("up again")
			})
		})
	}
}

// TestFollowTinyMTU sets an MTU that is too small for IPv4 for a moment. Linux takes the memberships of IPv4 then.
func TestFollowTinyMTU(t *testing.T) {
	forEachAnswer(t, func(t *testing.T, _ bool) {
		host := mcasttest.NewHost(t)
		f := &followed{t: t, host: host, veth: host.NewVeth("other")}
		host.Do(func() {
			lo, err := FindInterfaces("lo")
			if err == nil {
				f.rx, err = OpenRx(RxConfig{Groups: groups("239.1.1.1", "239.1.1.2"), Port: 5000, Interfaces: lo})
			}
			if err == nil {
				t.Cleanup(func() { f.rx.Close() })
				f.tx, err = OpenTx(TxConfig{Groups: f.rx.cfg.Groups, Interfaces: lo, Loopback: true})
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { f.tx.Close() })
		f.receives("at first")
		ifaceIP(t, host, "link set lo mtu 67", "link set lo mtu 65536", "address add 127.0.0.1/8 dev lo")
		f.receives("after the MTU was tiny")
	})
}

// TestFollowLeavesAlone goes through what takes nothing away: the OS sockets stay as they are, and what was sent before,
// during and after is read.
func TestFollowLeavesAlone(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	before := f.conns()
	for _, event := range []struct {
		name string
		do   func()
	}{
		{"down and up", func() { f.veth.Down(); f.veth.Up() }},
		{"carrier", func() { f.veth.Unplug(); f.veth.Plug() }},
		{"address", func() {
			p := netip.MustParsePrefix("10.9.8.1/24")
			f.veth.AddAddress(p)
			f.veth.DelAddress(p)
		}},
		{"name", func() { f.veth.Rename("elsewhere"); f.veth.Rename("there") }},
		{"MTU", func() { f.veth.SetMTU(1300); f.veth.SetMTU(1500) }},
		{"lost notices", func() { // each membership is renewed where it is
			change := networkChange{Interfaces: f.scan(), Overflow: true}
			f.rx.prepare(change)
			f.rx.follow(change)
		}},
	} {
		if _, err := f.tx.WriteToUDPAddrPort([]byte("239.1.1.1"), netip.AddrPortFrom(f.rx.cfg.Groups[0], 5000)); err != nil {
			t.Fatal(err)
		}
		event.do()
		f.rx.follow(networkChange{Interfaces: f.scan()}) // whatever is to come of it
		f.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		if _, _, err := f.rx.ReadFromUDPAddrPort(make([]byte, 64)); err != nil {
			t.Errorf("%s: what was sent before is lost: %v", event.name, err)
		}
		f.exchange(event.name, true)
		if !slices.Equal(f.conns(), before) {
			t.Errorf("%s: the sockets are others", event.name)
		}
	}
}

// TestFollowKeepsWhatArrived deletes an interface with datagrams in the receive buffers, which are read afterwards.
func TestFollowKeepsWhatArrived(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	const each = 50
	index := f.veth.Index()
	for range each {
		for _, g := range f.rx.cfg.Groups {
			if _, err := f.tx.WriteToUDPAddrPort([]byte("before"), netip.AddrPortFrom(g, 5000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.veth.Delete()
	f.veth.Create()
	f.await("created again", f.healed)
	before := count(t)
	f.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	for n := range each * len(f.rx.cfg.Groups) {
		ms := []Message{{Buf: make([]byte, 64)}}
		if _, err := f.rx.ReadBatch(ms); err != nil || ms[0].IfIndex != index {
			t.Fatalf("datagram %d: %+v, %v", n, ms[0], err)
		}
	}
	f.exchange("created again", true)
	for _, m := range f.rx.Memberships() {
		if m.Packets != each+1 {
			t.Errorf("%s: %d packets, want %d", m.Group, m.Packets, each+1)
		}
	}
	before.fds -= len(f.rx.cfg.Groups) // the old sockets are empty now, and gone
	wantResources(t, before)
}

// TestFollowRenewsOnlyTheLost: after the system has lost notices, a socket joins again what the kernel lacks. If the kernel
// cannot be asked, it joins again what may have been lost, which is nothing if IPv6 on the interface is as old as before.
func TestFollowRenewsOnlyTheLost(t *testing.T) {
	forEachAnswer(t, func(t *testing.T, asked bool) {
		f := openFollowed(t, func(c *RxConfig) { c.Static = true })
		joins := countCalls(t, "setsockopt IP") // IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP
		overflow := func(aged bool) int {
			t.Helper()
			before := joins.Load()
			change := networkChange{Interfaces: f.scan(), Overflow: true}
			for i := range change.Interfaces {
				if !aged {
					change.Interfaces[i].since6 = 0
				}
			}
			if asked {
				change.joined = newJoined(change.Interfaces)
				f.rx.holds(change.joined)
				f.host.Do(func() { askJoined(change.joined, joinedPiece) })
			}
			f.rx.prepare(change)
			f.rx.follow(change)
			return int(joins.Load() - before)
		}
		all := len(f.rx.cfg.Groups)
		if n := overflow(true); n != 0 {
			t.Errorf("nothing was lost: %d memberships were renewed", n)
		}
		if n, want := overflow(false), map[bool]int{true: 0, false: all}[asked]; n != want {
			t.Errorf("nothing was lost, and the age is unknown: %d memberships were renewed, want %d", n, want)
		}
		f.openBeside(func(c *RxConfig) { c.Static = true })
		overflow(true) // its age is known again
		if n := overflow(true); n != 0 {
			t.Errorf("nothing was lost, beside another socket: %d memberships were renewed", n)
		}
		f.veth.Travel()
		if n := overflow(true); n != all {
			t.Errorf("away and back: %d memberships were renewed, want all %d", n, all)
		}
		f.exchange("away and back", true)
	})
}

// TestFollowVanished takes memberships from a socket without a notice: what another socket lost with the interface is taken
// from it when the other is closed. The next look at the network finds them missing.
func TestFollowVanished(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	extra := netip.MustParsePrefix("10.9.8.1/24")
	vanished := 0
	for range 20 {
		stranger := f.openBeside(func(c *RxConfig) { c.Static = true })
		f.veth.Travel()
		f.await("away and back", func() bool { return f.users() == 1 })
		f.quiet()
		stranger.Close()
		if f.users() == 0 { // else the watch looked at this very moment
			vanished++
		}
		f.veth.AddAddress(extra)
		f.await("joined again", func() bool { return f.users() == 1 })
		f.exchange("joined again", true)
		f.veth.DelAddress(extra)
		if vanished == 2 {
			return
		}
	}
	t.Error("nothing vanished")
}

// TestFollowTwo has sockets with the same memberships on an interface that was away. The kernel counts a membership that went
// with the interface as one of those that there are now, when it is dropped later, so that one socket can take another's.
func TestFollowTwo(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	others := []*RxSocket{f.openBeside(func(*RxConfig) {}), f.openBeside(func(*RxConfig) {})}
	for range 3 {
		f.veth.Travel()
		f.await("away and back", func() bool { return f.users() == 3 })
		f.veth.SetMTU(1200)
		f.veth.SetMTU(1500)
		f.await("MTU", func() bool { return f.users() == 3 })
	}
	for _, other := range others {
		other.Close()
	}
	f.exchange("when the others are closed", true)
}

// TestFollowTwoBetween opens and closes sockets after an interface was away and before any socket follows that. Neither
// takes a membership from another socket.
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
	none := func(*RxConfig) {}
	stale := []*RxSocket{f.openBeside(none), f.openBeside(none), f.openBeside(none)}
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
			fresh = append(fresh, f.openBeside(none))
			old.Close()
			return true
		}))
		for between.Load() != nil { // again if the watch scanned at once, for something before
			travel.Lock()
			f.veth.Travel()
			travel.Unlock()
			f.await("away and back", func() bool { return f.healed() && f.users() == all })
		}
	}
	for _, one := range fresh {
		one.Close()
		f.exchange("when another is closed", true)
	}
}

// TestFollowCloseLeaves checks that a socket has no memberships when it stops to follow: until then it drops
// those that were lost, and what it drops later takes another's.
func TestFollowCloseLeaves(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	other := f.openBeside(func(*RxConfig) {})
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

// TestFollowJoinAgain has Join fail on one of several interfaces for a reason that passes without a notice.
func TestFollowJoinAgain(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Interfaces = nil })
	f.host.NewVeth("other", netip.MustParsePrefix("10.9.8.1/24"), netip.MustParsePrefix("fd98::1/64"))
	f.await("both are joined", func() bool { return len(f.rx.Memberships()) == 2*len(f.rx.cfg.Groups) })
	f.quiet() // or a change would have it retried
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

// TestRxAddSourcesWhereItCan adds sources while one of all interfaces is gone and the socket has not followed that yet, or
// never will.
func TestRxAddSourcesWhereItCan(t *testing.T) {
	host := mcasttest.NewHost(t)
	var veths []*mcasttest.Interface
	for i, name := range []string{"here", "there"} {
		veths = append(veths, host.NewVeth(name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), 1}), 24)))
	}
	group := groups("232.1.1.1")
	for _, static := range []bool{true, false} {
		host.Do(func() {
			rx, err := OpenRx(RxConfig{Groups: group, Port: 5000, Sources: groups("10.0.0.1"), Static: static})
			if err != nil {
				t.Fatal(err)
			}
			defer rx.Close()
			veths[1].Delete()
			if err := rx.Join(group[0], groups("10.0.0.2", "10.0.0.3")...); err != nil {
				t.Fatalf("Static %v: %v", static, err)
			}
			for _, m := range rx.Memberships() {
				if want := groups("10.0.0.1", "10.0.0.2", "10.0.0.3"); !slices.Equal(m.Sources, want) {
					t.Errorf("joined for %v, want %v", m.Sources, want)
				}
				if m.Joined != (m.Interface == "here") || m.Joined != (m.Err == nil) {
					t.Errorf("%+v", m)
				}
			}
			veths[0].Delete()
			if static {
				if err := rx.Join(group[0], groups("10.0.0.4")...); err == nil {
					t.Error("joined nowhere, and no error")
				}
				if m := rx.Memberships()[0]; len(m.Sources) != 3 {
					t.Errorf("after an error: %+v", m)
				}
			}
			for _, v := range veths {
				v.Create()
			}
			for end := time.Now().Add(slow.Limit(20 * time.Second)); !static; time.Sleep(time.Millisecond) {
				all := rx.Memberships()
				if len(all) == 2 && all[0].Joined && all[1].Joined && len(all[1].Sources) == 3 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("not joined again: %+v", all)
				}
			}
		})
	}
}

// TestFollowOwnAddresses moves the interface's address to another host. What this host sends is discarded by its old address
// if it was sent before, and by its new one. What the other host sends from the old address is received.
func TestFollowOwnAddresses(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1") })
	beside := f.openBeside(func(*RxConfig) {})
	f.exchange("from the old address", true) // beside has it, too
	old, fresh := netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("10.9.8.1/24")
	f.veth.AddAddress(fresh)
	f.veth.DelAddress(old)
	f.await("the new address", func() bool {
		beside.mu.Lock()
		defer beside.mu.Unlock()
		return slices.Equal(beside.links[0].ifc.IPv4, []netip.Prefix{fresh})
	})
	wantUnread(t, "from the old address", beside)
	f.exchange("from the new address", true) // the control
	wantUnread(t, "from the new address", beside)

	f.host.Sysctl("net/ipv4/conf/all/rp_filter", "0") // there is no route to it
	f.host.Sysctl("net/ipv4/conf/there/rp_filter", "0")
	f.veth.Peer().Interface("eth0").DelAddress(netip.MustParsePrefix("10.9.9.254/24"))
	f.veth.Peer().Interface("eth0").AddAddress(old)
	var tx *TxSocket
	f.veth.Peer().Do(func() {
		var err error
		if tx, err = OpenTx(TxConfig{Groups: f.rx.cfg.Groups, Interfaces: interfaces(t, "eth0")}); err != nil {
			t.Fatal(err)
		}
	})
	defer tx.Close()
	f.await("from another host", func() bool { // what comes while the old datagram waits is discarded with it
		if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(f.rx.cfg.Groups[0], 5000)); err != nil {
			t.Fatal(err)
		}
		beside.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, src, err := beside.ReadFromUDPAddrPort(make([]byte, 64))
		return err == nil && src.Addr() == old.Addr()
	})
}

// TestFollowOwnBounded changes the address of an interface again and again under a socket that has a datagram and is not read.
// The former addresses that it keeps for that are bounded, and the sockets of an interface share them.
func TestFollowOwnBounded(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1", "239.1.1.2") })
	beside := f.openBeside(func(*RxConfig) {})
	for _, g := range f.rx.cfg.Groups {
		f.write("own", g)
	}
	beside.mu.Lock()
	defer beside.mu.Unlock()
	link := beside.links[0]
	var conns []*conn
	beside.eachPair(link, func(p *pair) { conns = append(conns, p.conns...) })
	for i := range 1000 {
		before := link.ifc
		link.ifc.IPv4 = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 24)}
		beside.followOwn(link, &before)
	}
	beside.m.update(func() {
		if n := len(conns[0].filter.former); n > 100 {
			t.Errorf("%d sets of former addresses are kept", n)
		}
		if conns[0].filter.own != link.own || conns[1].filter.own != link.own {
			t.Error("the sockets of the interface do not share the set of its addresses")
		}
	})
}

// TestFollowOwnComparesWithoutReaders compares the addresses of an interface while a reader is inside.
func TestFollowOwnComparesWithoutReaders(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1") })
	beside := f.openBeside(func(*RxConfig) {})
	beside.mu.Lock()
	defer beside.mu.Unlock()
	link, done := beside.links[0], make(chan struct{})
	beside.m.update(func() {
		go func() {
			defer close(done)
			same := link.ifc
			beside.followOwn(link, &same)
		}()
		select {
		case <-done:
		case <-time.After(slow.Limit(20 * time.Second)):
			t.Error("the comparison waits for the reader")
		}
	})
	<-done
}

// TestFollowAltName replaces an interface by one with another name. Sockets go on with it as soon as it has an alternative
// name of the one that is gone.
func TestFollowAltName(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	ifaceIP(t, f.host, "link property add dev there altname uplink", "link property add dev there altname "+strings.Repeat("x", 127))
	f.await("an alternative name", func() bool {
		f.rx.mu.Lock()
		defer f.rx.mu.Unlock()
		return len(f.rx.links[0].ifc.AltNames) == 2 && len(f.tx.Interfaces()[0].AltNames) == 2
	})
	f.exchange("with alternative names", true)
	f.veth.Delete()
	f.await("deleted", func() bool { return !f.rx.Memberships()[0].Joined })

	f.veth = f.host.NewVeth("fresh", netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("fd99::1/64"))
	f.rx.follow(networkChange{Interfaces: f.scan()})
	if f.rx.Memberships()[0].Joined {
		t.Error("joined on an interface with nothing in common but an address")
	}
	ifaceIP(t, f.host, "link property add dev fresh altname uplink")
	f.await("the alternative name is back", f.healed)
	f.exchange("the alternative name is back", true)
}

// TestAltNameZones uses an alternative name wherever an interface can be named.
func TestAltNameZones(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	ifaceIP(t, f.host, "link property add dev there altname uplink")
	f.await("an alternative name", func() bool { return len(f.tx.Interfaces()[0].AltNames) == 1 })
	index := f.veth.Index()
	f.host.Do(func() {
		for _, spec := range []string{"uplink", "upl*", f.veth.LinkLocal.WithZone("uplink").String()} {
			if found, err := FindInterfaces(spec); err != nil || len(found) != 1 || found[0].Index != index {
				t.Errorf("%s: found %+v, %v", spec, found, err)
			}
		}
		group := netip.MustParseAddr("ff02::1234")
		f.await("a zone of a group", func() bool { // its link-local address is not usable at once
			_, err := f.tx.WriteToUDPAddrPort([]byte("zone"), netip.AddrPortFrom(group.WithZone("uplink"), 5000))
			return err == nil
		})
		_, err := f.tx.WriteToUDPAddrPort([]byte("zone"), netip.AddrPortFrom(group.WithZone("downlink"), 5000))
		if !errors.Is(err, ErrNoInterface) {
			t.Errorf("a zone that is no name: %v", err)
		}
		ms := []Message{{Buf: make([]byte, 64)}}
		f.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		if _, err := f.rx.ReadBatch(ms); err != nil || ms[0].Group != group {
			t.Errorf("read %+v, %v", ms[0], err)
		}

		peer, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.veth.LinkLocal.WithZone(strconv.Itoa(index)), 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		port := peer.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if _, err := f.rx.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(f.veth.LinkLocal.WithZone("uplink"), port)); err != nil {
			t.Fatalf("a zone of a host: %v", err)
		}
		_, err = f.rx.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(f.veth.LinkLocal.WithZone("downlink"), port))
		if !errors.Is(err, ErrNoInterface) {
			t.Errorf("a zone of a host that is no name: %v", err)
		}
		peer.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		buf := make([]byte, 64)
		if n, err := peer.Read(buf); err != nil || string(buf[:n]) != "reply" {
			t.Errorf("the host read %q, %v", buf[:n], err)
		}
	})
}

// travelled has the interface leave and come back with its index, and waits until everything is joined again.
func (f *followed) travelled() {
	f.t.Helper()
	f.veth.Travel()
	f.await("away and back", f.settled)
	f.conns() // waits for follow, which joins source by source
}

// TestFollowBlockedBeyondLimit blocks as many sources as the kernel takes. Then the kernel takes fewer, and the interface leaves
// and comes back: none of the sources is received.
func TestFollowBlockedBeyondLimit(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) {
		c.Groups, c.Blocked = groups("239.1.1.1"), append(sequence("10.2.0.1", 3), netip.MustParseAddr("10.9.9.1"))
	})
	for _, limit := range []string{"10", "1", "10", "2"} {
		f.host.Sysctl("net/ipv4/igmp_max_msf", limit)
		f.travelled()
		f.exchange("blocked, with a limit of "+limit, false)
	}
	f.host.Sysctl("net/ipv4/igmp_max_msf", "1")
	f.travelled()
	f.rx.m.update(func() { f.rx.groups[0].pairs[0].conns[0].filter.blocked = nil })
	f.receives("control: what only the library discards")
}

// TestFollowWithFewerSources has the kernel take fewer sources for a socket than it did, when the interface leaves and comes
// back. They are all joined at once, with more sockets.
func TestFollowWithFewerSources(t *testing.T) {
	var log lockedLog
	f := openFollowed(t, func(c *RxConfig) {
		c.Groups, c.Sources = groups("232.1.1.1"), append(sequence("10.2.0.1", 3), netip.MustParseAddr("10.9.9.1"))
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	f.exchange("at first", true)
	for _, c := range []struct{ limit, least int }{{10, 1}, {3, 2}, {1, 4}, {10, 1}} {
		f.host.Sysctl("net/ipv4/igmp_max_msf", strconv.Itoa(c.limit))
		f.travelled()
		if n := len(f.conns()); n < c.least {
			t.Errorf("with a limit of %d there are %d sockets, want at least %d", c.limit, n, c.least)
		}
		f.receives("away and back")
		if m := f.rx.Memberships(); len(m) != 1 || len(m[0].Sources) != 4 {
			t.Errorf("%+v", m)
		}
	}
	f.rx.Close() // the log is complete
	if text := log.String(); strings.Contains(text, "cannot") || !strings.Contains(text, "joined again") {
		t.Error(text)
	}
}

// lockedLog is a buffer for many goroutines.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}
func (l *lockedLog) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.text.String() }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestFollowDAD creates an interface again whose only IPv6 address the kernel checks for a second or two (RFC 4862, section 5.4).
// Receivers with and without named interfaces join on it, and the sender sends on it as soon as the address is usable.
func TestFollowDAD(t *testing.T) {
	host := mcasttest.NewHost(t)
	create := []string{"link add there type veth peer name other", "link set other up", "link set there up"}
	ifaceIP(t, host, create...)
	usable := func() (usable bool) {
		host.Do(func() {
			there, err := FindInterfaces("there")
			usable = err == nil && len(there[0].IPv6) > 0 && !isTentative(t, "there")
		})
		return usable
	}
	waitFor(t, "the address is usable", usable)
	all := groups("ff02::1234", "ff15::1234")
	var sockets []*RxSocket
	var tx *TxSocket
	host.Do(func() {
		there := interfaces(t, "there")
		for _, ifaces := range [][]Interface{there, nil} {
			rx, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: ifaces, Loopback: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { rx.Close() })
			sockets = append(sockets, rx)
		}
		var err error
		if tx, err = OpenTx(TxConfig{Groups: all, Interfaces: there, Loopback: true}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tx.Close() })
	})
	ifaceIP(t, host, append([]string{"link del there"}, create...)...)
	index := 0
	host.Do(func() { index = interfaces(t, "there")[0].Index })
	for _, rx := range sockets {
		waitFor(t, "all groups are joined", func() bool {
			n := 0
			for _, m := range rx.Memberships() {
				if m.IfIndex == index && m.Joined {
					n++
				}
			}
			return n == len(all)
		})
	}
	waitFor(t, "the address is usable again", usable)
	for _, g := range all {
		waitFor(t, "it is sent", func() bool {
			_, err := tx.WriteToUDPAddrPort([]byte(g.String()), netip.AddrPortFrom(g, 5000))
			return err == nil
		})
	}
	for _, rx := range sockets {
		rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		for range all {
			if _, _, err := rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// isTentative reports whether the kernel still checks an IPv6 address of the interface, in the network of the calling
// thread: the flag IFA_F_TENTATIVE in /proc/net/if_inet6.
func isTentative(t *testing.T, name string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		// address, index, prefix length, scope, flags, name
		if f := strings.Fields(line); len(f) == 6 && f[5] == name {
			flags, err := strconv.ParseUint(f[4], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			if flags&0x40 != 0 {
				return true
			}
		}
	}
	return false
}

// waitFor waits for a condition, and fails if it does not come true.
func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(slow.Limit(20 * time.Second)); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("does not come true: %s", what)
		}
	}
}
