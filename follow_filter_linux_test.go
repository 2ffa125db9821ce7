// What the library discards itself, as the network and the limits of the kernel change.

package mcast

import (
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
)

// travelled has the interface leave and come back with its index, and waits until everything is joined again.
func (f *followed) travelled(what string) {
	f.t.Helper()
	f.veth.Travel()
	f.await(what, f.settled)
	f.conns() // waits for follow, which joins source by source
}

// kernelFilters counts the sources that the kernel filters in the host's namespace. Its files begin with the first interface
// whose latest group has sources: see askSources. So lo, the first of all, gets such groups meanwhile.
func (f *followed) kernelFilters() (n int) {
	f.t.Helper()
	f.host.Do(func() {
		for _, family := range []struct {
			file          string
			domain, level int
			group, source string
		}{
			{"mcfilter", unix.AF_INET, unix.IPPROTO_IP, "232.0.0.0", "127.0.0.1"},
			{"mcfilter6", unix.AF_INET6, unix.IPPROTO_IPV6, "ff31::8000:0", "::1"},
		} {
			fd, err := unix.Socket(family.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				f.t.Fatal(err)
			}
			defer unix.Close(fd)
			request := wire.MreqLinux.GroupSourceReq(1, netip.MustParseAddr(family.group), netip.MustParseAddr(family.source))
			if err := unix.SetsockoptString(fd, family.level, unix.MCAST_JOIN_SOURCE_GROUP, string(request)); err != nil {
				f.t.Fatal(err)
			}
			text, err := os.ReadFile("/proc/thread-self/net/" + family.file)
			if err != nil {
				f.t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "there" {
					n++
				}
			}
		}
	})
	return n
}

// TestFollowHealsBlockedBeyondLimit blocks as many sources as the kernel takes. Then the kernel takes fewer, and the
// interface leaves and comes back: none of the sources is received.
func TestFollowHealsBlockedBeyondLimit(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) {
		c.Groups, c.Blocked = groups("239.1.1.1"), append(sequence("10.2.0.1", 3), netip.MustParseAddr("10.9.9.1"))
	})
	none := func(netip.Addr) bool { return false }
	for _, limit := range []int{10, 1, 10, 2} {
		f.host.Sysctl("net/ipv4/igmp_max_msf", strconv.Itoa(limit))
		f.travelled("away and back")
		f.await("the kernel filters as many as it may", func() bool { return f.kernelFilters() == min(limit, 4) })
		f.exchange("blocked", none)
		f.host.Sysctl("net/ipv4/igmp_max_msf", "10")
		f.host.Do(func() {
			if err := f.rx.Join(groups("239.1.1.2")[0]); err != nil { // has them all filtered by the kernel
				t.Fatal(err)
			}
		})
		if err := f.rx.Leave(groups("239.1.1.2")[0]); err != nil {
			t.Fatal(err)
		}
		f.exchange("blocked, after Join and Leave", none)
	}
	f.host.Sysctl("net/ipv4/igmp_max_msf", "1")
	f.travelled("control")
	f.await("control: what only the library discards", func() bool {
		f.rx.m.update(func() { // each time, since the OS socket may be a new one
			for _, c := range f.rx.groups[0].pairs[0].conns {
				c.filter.blocked = nil
			}
		})
		return f.arrives("control")
	})
}

// arrives sends to the first group and reports whether that comes back, which it does not while the membership is renewed.
// What comes back twice is an error.
func (f *followed) arrives(what string) bool {
	f.t.Helper()
	must(f.t, 0, errOf(f.tx.WriteToUDPAddrPort([]byte(what), netip.AddrPortFrom(f.rx.cfg.Groups[0], 5000))))
	got := 0
	for {
		f.rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) // on one host it is there already
		n, _, err := f.rx.ReadFromUDPAddrPort(make([]byte, 64))
		if err != nil {
			break
		}
		if got++; n != len(what) || got > 1 {
			f.t.Errorf("%s: read %d bytes, %d times", what, n, got)
		}
	}
	return got == 1
}

// TestFollowHealsBlockedWithoutMemory blocks a source, and has the kernel short of memory for filters when the interface
// leaves and comes back: the source is not received.
func TestFollowHealsBlockedWithoutMemory(t *testing.T) {
	const knob = "net/core/optmem_max"
	for i, group := range []string{"239.1.1.1", "ff15::1234"} {
		t.Run(group, func(t *testing.T) {
			f := openFollowed(t, func(c *RxConfig) {
				c.Groups, c.Blocked = groups(group), groups([]string{"10.9.9.1", "fd99::1"}[i])
			})
			if n := f.kernelFilters(); n != 1 {
				t.Fatalf("the kernel filters %d sources, want 1", n)
			}
			missing := false
			f.host.Do(func() {
				_, err := os.Stat("/proc/sys/" + knob)
				missing = err != nil
			})
			if missing {
				t.Skip("net.core.optmem_max of a namespace's own (Linux 6.8) is missing")
			}
			least := 0 // memory that a membership takes
			for err := unix.ENOBUFS; err != 0; least += 8 {
				f.host.Sysctl(knob, strconv.Itoa(least))
				f.host.Do(func() { err = joinBare(t, f.rx.groups[0].addr, f.veth.Index()) })
				if least > 10000 {
					t.Fatal(err)
				}
			}
			f.travelled("away and back")
			f.host.Sysctl(knob, "131072") // counting takes some
			if n := f.kernelFilters(); n != 0 {
				t.Fatalf("with %d bytes of memory the kernel filters %d sources, want 0", least, n)
			}
			f.exchange("blocked", func(netip.Addr) bool { return false })
		})
	}
}

// joinBare joins a group with a socket of its own, and leaves it again.
func joinBare(t *testing.T, group netip.Addr, index int) unix.Errno {
	domain := unix.AF_INET6
	if group.Is4() {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if group.Is4() {
		err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	} else {
		err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
	}
	errno, _ := err.(unix.Errno)
	return errno
}

// TestFollowHealsWithFewerSources has the kernel take fewer sources for a socket than it did, when the interface leaves and
// comes back. They are all joined at once, with more sockets.
func TestFollowHealsWithFewerSources(t *testing.T) {
	var mu sync.Mutex
	var log strings.Builder
	f := openFollowed(t, func(c *RxConfig) {
		c.Groups, c.Sources = groups("232.1.1.1"), append(sequence("10.2.0.1", 3), netip.MustParseAddr("10.9.9.1"))
		c.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(b)
		}), nil))
	})
	f.await("at first", func() bool { return f.arrives("at first") })
	for _, c := range []struct{ limit, sockets int }{{10, 1}, {3, 2}, {1, 4}, {10, 4}} {
		f.host.Sysctl("net/ipv4/igmp_max_msf", strconv.Itoa(c.limit))
		f.travelled("away and back")
		if n := len(f.conns()); n != c.sockets {
			t.Errorf("with a limit of %d there are %d sockets, want %d", c.limit, n, c.sockets)
		}
		f.await("away and back", func() bool { return f.arrives("away and back") })
		if m := f.rx.Memberships(); len(m) != 1 || len(m[0].Sources) != 4 {
			t.Errorf("%+v", m)
		}
	}
	f.rx.Close() // the log is complete
	if text := log.String(); strings.Contains(text, "WARN") || !strings.Contains(text, "joined again") {
		t.Error(text)
	}
}

// sharedOwn returns the set of this host's addresses that all OS sockets of the receiver share.
func (f *followed) sharedOwn(rx *RxSocket) (own *addrSet) {
	f.t.Helper()
	rx.mu.Lock()
	defer rx.mu.Unlock()
	own = rx.links[0].own
	rx.m.update(func() {
		for _, g := range rx.groups {
			for _, c := range g.pairs[0].conns {
				if c.filter.own != own {
					f.t.Errorf("%s has a set of its own: %p, want %p", g.addr, c.filter.own, own)
				}
			}
		}
	})
	return own
}

// TestFollowOwnShared: the OS sockets of an interface share one set of this host's addresses, however many there are. It is
// made anew only when the addresses change.
func TestFollowOwnShared(t *testing.T) {
	const sockets = 150
	f := openFollowed(t, func(c *RxConfig) { c.Groups = sequence("239.1.1.1", sockets) })
	deaf := openDeaf(f)
	first := f.sharedOwn(deaf)
	if !first.has(netip.MustParseAddr("10.9.9.1")) || !first.has(netip.MustParseAddr("fd99::1")) {
		t.Fatalf("%+v lacks an address of the interface", first)
	}
	if f.sharedOwn(f.rx) != nil {
		t.Error("a receiver with Loopback has a set of this host's addresses")
	}
	has := func(want netip.Prefix, mtu int) func() bool {
		return func() bool {
			deaf.mu.Lock()
			defer deaf.mu.Unlock()
			ifc := deaf.links[0].ifc
			found := false
			for _, p := range ifc.IPv4 {
				found = found || p == want
			}
			return found && ifc.MTU == mtu
		}
	}
	f.veth.SetMTU(1400)
	f.await("a change of the MTU", has(netip.MustParsePrefix("10.9.9.1/24"), 1400))
	if f.sharedOwn(deaf) != first {
		t.Error("there is another set after a change of the MTU")
	}
	f.host.Do(func() { must(t, 0, deaf.Join(groups("239.2.2.2")[0])) })
	if f.sharedOwn(deaf) != first {
		t.Error("there is another set after Join")
	}
	f.veth.AddAddress(netip.MustParsePrefix("10.9.8.1/24"))
	f.await("another address", has(netip.MustParsePrefix("10.9.8.1/24"), 1400))
	second := f.sharedOwn(deaf)
	for _, a := range groups("10.9.9.1", "10.9.8.1", "fd99::1") {
		if !second.has(a) {
			t.Errorf("%+v lacks %s", second, a)
		}
	}
	if first.has(netip.MustParseAddr("10.9.8.1")) {
		t.Error("a set was changed")
	}
}

// TestFollowOwnComparesWithoutReaders compares the addresses of an interface while a reader is inside.
func TestFollowOwnComparesWithoutReaders(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1") })
	deaf := openDeaf(f)
	deaf.mu.Lock()
	defer deaf.mu.Unlock()
	link, done := deaf.links[0], make(chan struct{})
	deaf.m.update(func() {
		go func() {
			defer close(done)
			same := link.ifc
			deaf.followOwn(link, &same)
		}()
		select {
		case <-done:
		case <-time.After(slow.Limit(20 * time.Second)):
			t.Error("it waits for the reader")
		}
	})
	<-done
}
