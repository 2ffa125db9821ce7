// What happens to interfaces under open sockets, on real ones: what is healed, and what is left alone.

package mcast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
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

// healed reports whether everything is joined on the interface as it is now, and sent by it.
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

// exchange sends to every group and reads what comes, which must be wanted: nil for nothing but the marker.
func (f *followed) exchange(what string, wanted func(netip.Addr) bool) {
	f.t.Helper()
	var want []netip.Addr
	for _, g := range f.rx.cfg.Groups {
		// After a new interface has come up, IPv6 has to wait for its link-local address.
		f.await(what, func() bool {
			_, err := f.tx.WriteToUDPAddrPort([]byte(g.String()), netip.AddrPortFrom(g, 5000))
			return err == nil
		})
		if wanted(g) {
			want = append(want, g)
		}
	}
	f.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	for _, g := range want {
		ms := []Message{{Buf: make([]byte, 64)}}
		_, err := f.rx.ReadBatch(ms)
		if err != nil || !slices.Contains(want, ms[0].Group) || string(ms[0].Buf[:ms[0].N]) != ms[0].Group.String() || ms[0].IfIndex != f.veth.Index() {
			f.t.Fatalf("%s: read %+v, %v; waiting for %s", what, ms[0], err, g)
		}
	}
	// On one host everything is delivered by the time the write returns, so that what is not wanted would be there.
	f.rx.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, _, err := f.rx.ReadFromUDPAddrPort(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		f.t.Fatalf("%s: read %d bytes more, %v", what, n, err)
	}
}

// conns are the OS sockets of the receiver: who keeps them loses nothing.
func (f *followed) conns() (all []*conn) {
	f.rx.mu.Lock()
	defer f.rx.mu.Unlock()
	for _, g := range f.rx.groups {
		for _, p := range g.pairs {
			all = append(all, p.conns...)
		}
	}
	return all
}

// TestFollowHeals goes through what takes memberships away, with any-source, source-specific and blocked groups.
func TestFollowHeals(t *testing.T) {
	all := func(netip.Addr) bool { return true }
	none := func(netip.Addr) bool { return false }
	own := groups("10.9.9.1", "fd99::1")
	for _, kind := range []struct {
		name   string
		change func(*RxConfig)
		wanted func(netip.Addr) bool
	}{
		{"all sources", func(*RxConfig) {}, all},
		{"wanted source", func(c *RxConfig) {
			c.Groups, c.Sources = groups("232.1.1.1", "ff35::1234"), slices.Concat(own, sequence("10.2.0.1", 20))
		}, all},
		{"other source", func(c *RxConfig) {
			c.Groups, c.Sources = groups("232.1.1.1", "ff35::1234"), groups("10.2.0.1", "fd99::2")
		}, none},
		{"blocked source", func(c *RxConfig) {
			c.Groups, c.Blocked = groups("239.1.1.1", "ff15::1234"), slices.Concat(sequence("10.2.0.1", 20), own)
		}, none},
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

// TestFollowUpWithSources takes an interface down and up. If anything is joined or left there in the meantime, Linux
// forgets which sources its groups were joined for, and lets none in.
func TestFollowUpWithSources(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) {
		c.Groups, c.Sources = groups("232.1.1.1", "ff35::1234"), groups("10.9.9.1", "fd99::1")
	})
	var there []Interface
	f.host.Do(func() {
		var err error
		if there, err = FindInterfaces("there"); err != nil {
			t.Fatal(err)
		}
	})
	f.veth.Down()
	f.host.Do(func() {
		other, err := OpenRx(RxConfig{Groups: groups("239.9.9.9", "ff15::9999"), Port: 5001, Interfaces: there, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		other.Close()
	})
	time.Sleep(3 * time.Second) // two reports, at most a second apart; while they are not made, nothing is forgotten
	f.veth.Up()
	for _, g := range f.rx.cfg.Groups {
		f.await(g.String(), func() bool {
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

// settled reports whether the kernel's own tables have the memberships: the index is the same, so the socket's word is
// not enough.
func (f *followed) settled() bool {
	settled := f.healed()
	f.host.Do(func() {
		igmp, err := os.ReadFile("/proc/thread-self/net/igmp")
		igmp6, err6 := os.ReadFile("/proc/thread-self/net/igmp6")
		if err != nil || err6 != nil {
			f.t.Fatal(err, err6)
		}
		for _, g := range f.rx.cfg.Groups {
			if g.Is4() {
				a := g.As4()
				settled = settled && slices.Contains(strings.Fields(string(igmp)), fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:])))
			} else {
				settled = settled && slices.Contains(strings.Fields(string(igmp6)), fmt.Sprintf("%x", g.As16()))
			}
		}
	})
	return settled
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
		f.exchange(event.name, func(netip.Addr) bool { return true })
		if !slices.Equal(f.conns(), before) {
			t.Errorf("%s: the sockets are others", event.name)
		}
	}
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
	f.exchange("created again", func(netip.Addr) bool { return true })
	for _, m := range f.rx.Memberships() {
		if m.Packets != each+1 {
			t.Errorf("%s: %d packets, want %d", m.Group, m.Packets, each+1)
		}
	}
	before.fds -= len(f.rx.cfg.Groups) // the old sockets are empty now, and gone
	wantResources(t, before)
}

// TestFollowUndisturbed reads a numbered stream on one interface while another of the same socket is deleted and created
// 200 times.
func TestFollowUndisturbed(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("steady", netip.MustParsePrefix("10.9.1.1/24"), netip.MustParsePrefix("fd91::1/64"))
	flaky := host.NewVeth("flaky", netip.MustParsePrefix("10.9.2.1/24"), netip.MustParsePrefix("fd92::1/64"))
	var rx *RxSocket
	var tx *TxSocket
	all := groups("239.1.1.1", "ff02::1234", "ff15::1234")
	host.Do(func() {
		both, err := FindInterfaces("steady", "flaky")
		if err != nil {
			t.Fatal(err)
		}
		if rx, err = OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: both, Loopback: true}); err != nil {
			t.Fatal(err)
		}
		if tx, err = OpenTx(TxConfig{Groups: all, Interfaces: both[:1], Loopback: true}); err != nil {
			t.Fatal(err)
		}
	})
	defer rx.Close()
	defer tx.Close()
	before := count(t)

	// The sender is no more than half a buffer ahead of the reader, so that no datagram is lost for want of room.
	const ahead = 64
	room := make(chan struct{}, ahead)
	stop := make(chan struct{})
	var sent uint64
	var sender, reader sync.WaitGroup
	sender.Go(func() {
		// Each processor has a queue of what was looped back (netif_rx in net/core/dev.c). A thread that moves to another
		// processor may overtake what it has sent before, above all on an emulated machine.
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var cpus, first unix.CPUSet
		if err := unix.SchedGetaffinity(0, &cpus); err != nil {
			t.Error(err)
			return
		}
		for i := 0; first.Count() == 0; i++ {
			if cpus.IsSet(i) {
				first.Set(i)
			}
		}
		if err := unix.SchedSetaffinity(0, &first); err != nil {
			t.Error(err)
			return
		}
		var buf [8]byte
		for ; ; sent++ {
			select {
			case <-stop:
				return
			case room <- struct{}{}:
			}
			binary.BigEndian.PutUint64(buf[:], sent)
			if _, err := tx.WriteToUDPAddrPort(buf[:], netip.AddrPortFrom(all[sent%3], 5000)); err != nil {
				t.Errorf("datagram %d: %v", sent, err)
				return
			}
		}
	})
	var n uint64
	reader.Go(func() {
		var next [3]uint64 // of each group, in order
		for i := range next {
			next[i] = uint64(i)
		}
		ms := []Message{{Buf: make([]byte, 64)}}
		for {
			_, err := rx.ReadBatch(ms)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			<-room
			number := binary.BigEndian.Uint64(ms[0].Buf)
			i := number % 3
			if number != next[i] || ms[0].Group != all[i] {
				t.Errorf("read datagram %d of %s, want %d of %s", number, ms[0].Group, next[i], all[i])
				return
			}
			next[i] += 3
			n++
		}
	})
	for range 200 {
		flaky.Delete()
		flaky.Create()
	}
	close(stop)
	sender.Wait()
	for end := time.Now().Add(slow.Limit(20 * time.Second)); len(room) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	rx.SetReadDeadline(time.Unix(1, 0))
	reader.Wait()
	if n != sent || n < 200 {
		t.Errorf("%d datagrams were sent and %d read", sent, n)
	}
	for end := time.Now().Add(slow.Limit(20 * time.Second)); ; time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(rx.Memberships(), func(m Membership) bool { return !m.Joined }) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not healed: %+v", rx.Memberships())
		}
	}
	wantResources(t, before)
	t.Logf("%d datagrams", sent)
}

// TestFollowBurst creates and deletes a hundred interfaces under a socket that joins on whatever there is.
func TestFollowBurst(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Interfaces = nil })
	var veths []*mcasttest.Interface
	for i := range 20 {
		veths = append(veths, f.host.NewVeth(fmt.Sprintf("burst%d", i), netip.MustParsePrefix(fmt.Sprintf("10.8.%d.1/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd98:%x::1/64", i))))
	}
	joined := func(n int) func() bool {
		return func() bool {
			ms := f.rx.Memberships()
			return len(ms) == n*3 && !slices.ContainsFunc(ms, func(m Membership) bool { return !m.Joined })
		}
	}
	each := func(do func(*mcasttest.Interface)) {
		for _, v := range veths {
			do(v)
		}
	}
	f.await("all are joined", joined(1+len(veths)))
	each((*mcasttest.Interface).Delete)
	f.await("all are gone", joined(1))
	before := count(t) // with the hosts at the other ends
	for range 5 {
		each((*mcasttest.Interface).Create)
		each((*mcasttest.Interface).Delete)
	}
	each((*mcasttest.Interface).Create)
	f.await("all are joined again", joined(1+len(veths)))
	each((*mcasttest.Interface).Delete)
	f.await("all are gone again", joined(1))
	f.exchange("at last", func(netip.Addr) bool { return true })
	wantResources(t, before)
}

// TestFollowTells reads what the loggers are told: each change once, with group and interface.
func TestFollowTells(t *testing.T) {
	var mu sync.Mutex
	var text strings.Builder
	var rx atomic.Pointer[RxSocket]
	logger := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		if rx := rx.Load(); rx != nil {
			rx.Memberships() // a handler may use the socket
		}
		mu.Lock()
		defer mu.Unlock()
		return text.Write(b)
	}), nil))
	f := openFollowed(t, func(c *RxConfig) { c.Logger = logger })
	rx.Store(f.rx)
	f.veth.Delete()
	f.await("deleted", func() bool { return !f.rx.Memberships()[0].Joined })
	f.veth.Create()
	f.await("created again", f.healed)
	f.rx.Close() // nobody writes after that
	mu.Lock()
	defer mu.Unlock()
	for _, g := range f.rx.cfg.Groups {
		for _, what := range []string{`msg="mcast: interface is gone" group=` + g.String() + " interface=there", `msg="mcast: joined again" group=` + g.String() + " interface=there"} {
			if n := strings.Count(text.String(), what); n != 1 {
				t.Errorf("told %d times: %s", n, what)
			}
		}
	}
	if n := strings.Count(text.String(), "\n"); n != 2*len(f.rx.cfg.Groups) {
		t.Errorf("%d lines:\n%s", n, text.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestRxAddSourcesWhereItCan adds sources when one of all interfaces is gone, and a socket does not know yet: one that
// does not follow never will.
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

// TestFollowOwnAddresses gives the interface another address: what this host sends from it is its own, too.
func TestFollowOwnAddresses(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1") })
	deaf := openDeaf(f)
	f.veth.AddAddress(netip.MustParsePrefix("10.9.8.1/24"))
	f.veth.DelAddress(netip.MustParsePrefix("10.9.9.1/24"))
	f.await("the new address", func() bool {
		deaf.mu.Lock()
		defer deaf.mu.Unlock()
		return slices.Equal(deaf.links[0].ifc.IPv4, []netip.Prefix{netip.MustParsePrefix("10.9.8.1/24")})
	})
	f.exchange("from the new address", func(netip.Addr) bool { return true }) // the control
	deaf.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, src, err := deaf.ReadFromUDPAddrPort(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes from %s, %v", n, src, err)
	}
}

// TestFollowOwnAddressesLate reads what this host has sent only when the address it came from is no more the host's.
func TestFollowOwnAddressesLate(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1") })
	deaf := openDeaf(f)
	f.exchange("from the old address", func(netip.Addr) bool { return true }) // deaf has it, too
	f.veth.AddAddress(netip.MustParsePrefix("10.9.8.1/24"))
	f.veth.DelAddress(netip.MustParsePrefix("10.9.9.1/24"))
	f.await("the new address", func() bool {
		deaf.mu.Lock()
		defer deaf.mu.Unlock()
		return slices.Equal(deaf.links[0].ifc.IPv4, []netip.Prefix{netip.MustParsePrefix("10.9.8.1/24")})
	})
	deaf.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, src, err := deaf.ReadFromUDPAddrPort(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes from %s, %v", n, src, err)
	}
	// Whoever has the address now is heard.
	f.host.Sysctl("net/ipv4/conf/all/rp_filter", "0") // there is no route to it
	f.host.Sysctl("net/ipv4/conf/there/rp_filter", "0")
	f.veth.Peer().Interface("eth0").DelAddress(netip.MustParsePrefix("10.9.9.254/24"))
	f.veth.Peer().Interface("eth0").AddAddress(netip.MustParsePrefix("10.9.9.1/24"))
	var tx *TxSocket
	f.veth.Peer().Do(func() {
		eth0, err := FindInterfaces("eth0")
		if err == nil {
			tx, err = OpenTx(TxConfig{Groups: f.rx.cfg.Groups, Interfaces: eth0})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	defer tx.Close()
	for end := time.Now().Add(slow.Limit(20 * time.Second)); ; {
		// A slow machine may not have read the old address's datagram within a millisecond. What comes then is discarded with it.
		if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(f.rx.cfg.Groups[0], 5000)); err != nil {
			t.Fatal(err)
		}
		deaf.SetReadDeadline(time.Now().Add(time.Second))
		n, src, err := deaf.ReadFromUDPAddrPort(make([]byte, 64))
		if n == 5 && src.Addr() == netip.MustParseAddr("10.9.9.1") && err == nil {
			break
		}
		if time.Now().After(end) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %d bytes from %s, %v", n, src, err)
		}
	}
}

// openDeaf opens a receiver like that of f which does not want what this host sends.
func openDeaf(f *followed) (deaf *RxSocket) {
	f.host.Do(func() {
		there, err := FindInterfaces("there")
		if err != nil {
			f.t.Fatal(err)
		}
		if deaf, err = OpenRx(RxConfig{Groups: f.rx.cfg.Groups, Port: 5000, Interfaces: there}); err != nil {
			f.t.Fatal(err)
		}
	})
	f.t.Cleanup(func() { deaf.Close() })
	return deaf
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
	f.exchange("with alternative names", func(netip.Addr) bool { return true })
	f.veth.Delete()
	f.await("deleted", func() bool { return !f.rx.Memberships()[0].Joined })

	f.veth = f.host.NewVeth("fresh", netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("fd99::1/64"))
	f.rx.follow(networkChange{Interfaces: f.scan()})
	if f.rx.Memberships()[0].Joined {
		t.Error("joined on an interface with nothing in common but an address")
	}
	ifaceIP(t, f.host, "link property add dev fresh altname uplink")
	f.await("the alternative name is back", f.healed)
	f.exchange("the alternative name is back", func(netip.Addr) bool { return true })
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

// TestFollowBackoff has the kernel refuse a membership until the socket waits for a minute before it tries again. A change of
// the network has it joined at once.
func TestFollowBackoff(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1") })
	f.host.Sysctl("net/ipv4/igmp_max_memberships", "0")
	f.veth.Travel()
	f.await("refused", func() bool { return errors.Is(f.rx.Memberships()[0].Err, unix.ENOBUFS) })
	f.rx.mu.Lock()
	p := f.rx.groups[0].pairs[0]
	p.retry = backoff{wait: time.Minute, next: time.Now().Add(time.Minute)}
	f.rx.mu.Unlock()
	f.host.Sysctl("net/ipv4/igmp_max_memberships", "20")
	f.rx.follow(networkChange{Interfaces: f.scan(), Unchanged: true})
	if f.rx.Memberships()[0].Joined {
		t.Error("joined before the minute is over")
	}
	f.veth.AddAddress(netip.MustParsePrefix("10.9.7.1/24"))
	f.await("a change", f.settled) // in less than the minute
	f.exchange("after a change", func(netip.Addr) bool { return true })
}
