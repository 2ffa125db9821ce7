// What the kernel says of memberships, and what a socket makes of it: memberships that were lost are joined again, and those
// that were not are left alone.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

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

// receives waits until a datagram to each group arrives.
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

// TestFollowIPv6Restarted has IPv6 stopped and started on an interface that stays up. If anything is joined or left there in
// the meantime, Linux forgets the sources.
func TestFollowIPv6Restarted(t *testing.T) {
	forEachAnswer(t, func(t *testing.T, _ bool) {
		f := openFollowed(t, func(c *RxConfig) {
			c.Groups, c.Sources = groups("ff35::1234", "ff35::1235"), groups("fd99::1")
		})
		f.receives("at first")
		f.host.Sysctl("net/ipv6/conf/there/disable_ipv6", "1")
		f.host.Do(func() {
			there, err := FindInterfaces("there")
			if err != nil {
				t.Fatal(err)
			}
			there[0].IPv6 = []netip.Prefix{netip.MustParsePrefix("fd99::1/64")} // or it is refused
			other, err := OpenRx(RxConfig{Groups: groups("ff15::9999"), Port: 5001, Interfaces: there, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			other.Close()
		})
		time.Sleep(3 * time.Second) // two reports, at most a second apart; while they are not made, nothing is forgotten
		f.host.Sysctl("net/ipv6/conf/there/disable_ipv6", "0")
		f.veth.AddAddress(netip.MustParsePrefix("fd99::1/64"))
		f.receives("started again")
	})
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

// openStranger opens a socket that does not follow the network, as those of other programs.
func openStranger(f *followed, sources ...netip.Addr) (stranger *RxSocket) {
	f.t.Helper()
	f.host.Do(func() {
		there, err := FindInterfaces("there")
		if err == nil {
			stranger, err = OpenRx(RxConfig{Groups: f.rx.cfg.Groups, Sources: sources, Port: 5000, Interfaces: there, Static: true})
		}
		if err != nil {
			f.t.Fatal(err)
		}
	})
	f.t.Cleanup(func() { stranger.Close() })
	return stranger
}

// TestFollowVanished takes memberships from a socket without a notice: what another socket lost with the interface is taken
// from it when the other is closed. The next look at the network finds them missing.
func TestFollowVanished(t *testing.T) {
	f := openFollowed(t, func(*RxConfig) {})
	vanished := 0
	for range 20 {
		stranger := openStranger(f)
		f.veth.Travel()
		f.await("away and back", func() bool { return f.users() == 1 })
		f.await("nothing is left to be told", f.quiet)
		stranger.Close()
		if f.users() == 0 { // else somebody looked at this very moment
			vanished++
		}
		f.veth.AddAddress(netip.MustParsePrefix("10.9.8.1/24"))
		f.await("joined again", func() bool { return f.users() == 1 })
		f.exchange("joined again", func(netip.Addr) bool { return true })
		f.veth.DelAddress(netip.MustParsePrefix("10.9.8.1/24"))
		if vanished == 2 {
			return
		}
	}
	t.Error("nothing vanished")
}

// quiet reports whether a follower has seen nothing new for a while.
func (f *followed) quiet() bool {
	time.Sleep(2 * watchLimit)
	return true
}

// watchLosing is a source that says once that notices were lost when the test wants it to.
type watchLosing struct {
	watchSource
	lose chan struct{}
}

func (w watchLosing) wait() (watchNotice, error) {
	n, err := w.watchSource.wait()
	select {
	case <-w.lose:
		n.overflow = true
	default:
	}
	return n, err
}

// TestFollowLostNoticesSpareKnown loses notices where no number of the kernel shows how old the interface is. What the kernel
// has is not renewed, whether others have joined the same groups or not; what it has no more is.
func TestFollowLostNoticesSpareKnown(t *testing.T) {
	forEachAnswer(t, func(t *testing.T, asked bool) {
		open := processWatch.open
		t.Cleanup(func() { processWatch.open = open })
		lose := make(chan struct{}, 1)
		processWatch.open = func() (watchSource, error) {
			src, err := open()
			return watchLosing{watchSource: src, lose: lose}, err
		}
		f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1", "239.1.1.2") })
		f.veth.SetMTU(1200) // without IPv6 there is no age
		f.await("nothing is left to be told", f.quiet)
		overflows := make(chan struct{}, 100)
		f.host.Do(func() {
			stop, err := processWatch.follow(func(c networkChange) time.Duration {
				if c.Overflow {
					overflows <- struct{}{}
				}
				return 0
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(stop)
		})
		joins := countCalls(t, "setsockopt IP_ADD_MEMBERSHIP")
		renewed := func() int64 {
			t.Helper()
			before := joins.Load()
			lose <- struct{}{}
			f.veth.AddAddress(netip.MustParsePrefix("10.9.8.1/24"))
			f.veth.DelAddress(netip.MustParsePrefix("10.9.8.1/24"))
			select {
			case <-overflows: // it came after the socket, and is called after it
			case <-time.After(slow.Limit(20 * time.Second)):
				t.Fatal("nobody was told that notices were lost")
			}
			return joins.Load() - before
		}
		want := int64(0)
		if !asked {
			want = 2 // the control
		}
		if n := renewed(); n != want {
			t.Errorf("alone: %d memberships were renewed, want %d", n, want)
		}
		stranger := openStranger(f)
		before := joins.Load()
		if n := renewed(); n != want || before == 0 {
			t.Errorf("beside another socket: %d memberships were renewed, want %d; %d joins before", n, want, before)
		}
		stranger.Close()
		f.exchange("after all", func(netip.Addr) bool { return true })
	})
}

// TestFollowLostNoticesOneByOne prepares for what lost notices may have reported. A group that one socket has is there again at
// once, before others are dropped; one that several have is dropped by all of them first.
func TestFollowLostNoticesOneByOne(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Static = true })
	prepare := func(all ...*RxSocket) {
		change := networkChange{Interfaces: f.scan(), Overflow: true}
		change.joined = newJoined(change.Interfaces)
		for i := range change.Interfaces {
			change.Interfaces[i].since6 = 0 // not known
		}
		for _, rx := range all {
			rx.holds(change.joined)
		}
		for _, rx := range all {
			if !rx.prepare(change) {
				t.Error("nothing was dropped")
			}
		}
	}
	joins := countCalls(t, "setsockopt IP") // IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP
	prepare(f.rx)
	if n, want := joins.Load(), int64(len(f.rx.groups)); f.users() != 1 || n != want {
		t.Errorf("alone: %d memberships were renewed, want %d; %d users", n, want, f.users())
	}
	other := openStranger(f)
	prepare(f.rx, other)
	if n := f.users(); n != 0 {
		t.Errorf("two sockets: %d users when both have dropped it, want none", n)
	}
	for _, rx := range []*RxSocket{f.rx, other} {
		rx.follow(networkChange{Interfaces: f.scan(), Unchanged: true})
	}
	if n := f.users(); n != 2 {
		t.Errorf("two sockets: %d users, want 2", n)
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

// TestJoinedWithoutProc: where there is no /proc, nothing is known, and nothing lost.
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

// BenchmarkJoined asks the kernel about ten thousand memberships.
func BenchmarkJoined(b *testing.B) {
	host := mcasttest.NewHost(b)
	veth := host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
	host.Sysctl("net/ipv4/igmp_max_memberships", "3000")
	held := newJoined([]Interface{{Index: veth.Index(), Flags: net.FlagUp}})
	host.Do(func() {
		fd := -1
		for n := range 10_000 {
			if n%2000 == 0 {
				var err error
				if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
					b.Fatal(err)
				}
				defer unix.Close(fd)
			}
			mreq := unix.IPMreqn{Multiaddr: [4]byte{239, 9, byte(n >> 8), byte(n)}, Ifindex: int32(veth.Index())}
			if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &mreq); err != nil {
				b.Fatal(err)
			}
			held.hold(veth.Index(), netip.AddrFrom4(mreq.Multiaddr), nil)
		}
		for b.Loop() {
			j := newJoined([]Interface{{Index: veth.Index(), Flags: net.FlagUp}})
			for key := range held.counts {
				j.hold(key.index, key.group, nil)
			}
			askJoined(j, joinedPiece)
			if j.missing() {
				b.Fatal("a membership is missing")
			}
		}
	})
}

// TestJoinedBesideAnother has another program join and leave groups on the same interface without end. What the kernel passes over
// in its lists meanwhile is not taken for lost.
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
