// A sender that names no interface goes with the default route, on real interfaces.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// TestFollowDefault moves the default route in all the ways in which it moves.
func TestFollowDefault(t *testing.T) {
	host := mcasttest.NewHost(t)
	var veths []*mcasttest.Interface
	all := groups("239.1.1.1", "ff15::1234")
	anywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	gateways := func(v *mcasttest.Interface) []netip.Addr {
		return []netip.Addr{v.Peer().IPv4, v.Peer().IPv6}
	}
	var receivers []*RxSocket
	for n, name := range []string{"wifi", "wire"} {
		v := host.NewVeth(name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(n), 1}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 7: byte(n), 15: 1}), 64))
		veths = append(veths, v)
		v.Peer().Do(func() {
			eth0, err := FindInterfaces("eth0")
			if err != nil {
				t.Fatal(err)
			}
			rx, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: eth0})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { rx.Close() })
			receivers = append(receivers, rx)
		})
	}
	wifi, wire := veths[0], veths[1]
	route := func(v *mcasttest.Interface, metric int) {
		for i, g := range gateways(v) {
			v.AddRoute(anywhere[i], g, metric)
		}
	}
	unroute := func(v *mcasttest.Interface, metric int) {
		for i, g := range gateways(v) {
			v.DelRoute(anywhere[i], g, metric)
		}
	}
	route(wifi, 600)
	open := func(static bool) (tx *TxSocket) {
		host.Do(func() {
			var err error
			if tx, err = OpenTx(TxConfig{Groups: all, Static: static}); err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { tx.Close() })
		return tx
	}
	tx, static := open(false), open(true)
	serial := 0
	sentBy := func(what string, v *mcasttest.Interface) {
		t.Helper()
		is := func() bool {
			links := *tx.links.Load()
			return len(links) == 2 && !slices.ContainsFunc(links, func(l *txLink) bool { return l.gone || l.ifc.Index != v.Index() })
		}
		for end := time.Now().Add(slow.Limit(20 * time.Second)); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: it sends by %v", what, tx.Interfaces())
			}
		}
		rx := receivers[slices.Index(veths, v)]
		for end := time.Now().Add(slow.Limit(20 * time.Second)); ; time.Sleep(time.Millisecond) { // the far end follows, too
			index := v.Peer().Interface("eth0").Index()
			if !slices.ContainsFunc(rx.Memberships(), func(m Membership) bool { return !m.Joined || m.IfIndex != index }) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: the receiver has %+v", what, rx.Memberships())
			}
		}
		for _, g := range all {
			serial++
			payload := []byte{byte(serial)}
			for end := time.Now().Add(slow.Limit(20 * time.Second)); ; { // where a cable's end loses its memberships, it joins again only now
				if _, err := tx.WriteToUDPAddrPort(payload, netip.AddrPortFrom(g, 5000)); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				ms := []Message{{Buf: make([]byte, 10)}}
				rx.SetReadDeadline(time.Now().Add(time.Second))
				_, err := rx.ReadBatch(ms)
				if err == nil && ms[0].Buf[0] == payload[0] && ms[0].Group == g {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%s: read %+v, %v; want datagram %d to %s", what, ms[0], err, serial, g)
				}
			}
		}
	}
	sentBy("at first", wifi)
	route(wire, 100)
	sentBy("a better route, and nothing else", wire)
	unroute(wire, 100)
	sentBy("it is taken back", wifi)
	unroute(wifi, 600)
	route(wire, 700)
	sentBy("another instead", wire)
	route(wifi, 600)
	sentBy("the first is back", wifi)
	wifi.Unplug()
	sentBy("no carrier", wire)
	wifi.Plug()
	sentBy("carrier", wifi)
	wifi.Delete()
	sentBy("deleted", wire)
	wifi.Create()
	sentBy("created again", wifi)

	// Without any, it stays where it is.
	unroute(wire, 700)
	unroute(wifi, 600)
	sentBy("without a default route", wifi)
	host.Do(func() {
		if _, err := DefaultInterface("ip4"); !errors.Is(err, ErrNoInterface) {
			t.Errorf("there is a default route: %v", err)
		}
	})
	wifi.Delete()
	wifi.Create()
	sentBy("without a default route, created again", wifi)

	if i := static.Interfaces(); len(i) != 1 || i[0].Name != "wifi" || i[0].Index == wifi.Index() {
		t.Errorf("the static one sends by %v", i)
	}
}

// TestFollowDefaultTunnel has the default route move to an interface that does not carry multicast, as that of a VPN.
func TestFollowDefaultTunnel(t *testing.T) {
	host := mcasttest.NewHost(t)
	wifi := host.NewVeth("wifi", netip.MustParsePrefix("10.9.0.1/24"))
	wifi.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), wifi.Peer().IPv4, 600)
	var tx *TxSocket
	host.Do(func() {
		var err error
		if tx, err = OpenTx(TxConfig{Groups: groups("239.1.1.1")}); err != nil {
			t.Fatal(err)
		}
	})
	defer tx.Close()
	ifaceIP(t, host, "link add tun type veth peer name nut", "address add 10.9.1.1/24 dev tun", "link set tun multicast off",
		"link set tun up", "link set nut up", "route add default via 10.9.1.2 metric 50")
	events, stop := watchTestFollow(t, host)
	defer stop()
	events.untilList(t, "the tunnel", watchHas("tun")) // after the sender's turn, or in it
	ifaceIP(t, host, "address add 10.9.2.1/24 dev wifi")
	has := netip.MustParsePrefix("10.9.2.1/24")
	for end := time.Now().Add(slow.Limit(20 * time.Second)); !slices.Contains(tx.Interfaces()[0].IPv4, has); time.Sleep(time.Millisecond) {
		if time.Now().After(end) || tx.Interfaces()[0].Name != "wifi" {
			t.Fatalf("it sends by %v", tx.Interfaces())
		}
	}
}

// defaultHost is a host with an interface that has the default route of IPv6, and of IPv4 if route is called.
func defaultHost(t *testing.T) (host *mcasttest.Host, wifi *mcasttest.Interface, route func()) {
	t.Helper()
	host = mcasttest.NewHost(t)
	wifi = host.NewVeth("wifi", netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd99::1/64"))
	wifi.AddRoute(netip.MustParsePrefix("::/0"), wifi.Peer().IPv6, 600)
	return host, wifi, func() { wifi.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), wifi.Peer().IPv4, 600) }
}

// openDefault opens a sender of both families without named interfaces.
func openDefault(t *testing.T, host *mcasttest.Host, static bool) (tx *TxSocket) {
	t.Helper()
	host.Do(func() {
		var err error
		if tx, err = OpenTx(TxConfig{Groups: groups("239.1.1.1", "ff15::1234"), Static: static}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { tx.Close() })
	return tx
}

// awaitLocked waits for a condition of what the lock of tx guards.
func awaitLocked(t *testing.T, tx *TxSocket, what string, condition func() bool) {
	t.Helper()
	locked := func() bool { tx.mu.Lock(); defer tx.mu.Unlock(); return condition() }
	for end := time.Now().Add(slow.Limit(20 * time.Second)); !locked(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// TestFollowDefaultGoneAsksForNothing takes the default route away from a family that could not be opened, and from an
// interface that could not be moved to. Nothing can be tried until there is one again, so it must not ask to be called.
func TestFollowDefaultGoneAsksForNothing(t *testing.T) {
	host, wifi, route := defaultHost(t)
	wire := host.NewVeth("wire", netip.MustParsePrefix("fd98::1/64"))
	tx := openDefault(t, host, true)
	hook := func(string) error { return errInjected }
	testHookCall.Store(&hook)
	defer testHookCall.Store(nil)
	follow := func(change networkChange, not ...string) (again time.Duration) {
		host.Do(func() {
			all, err := Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			change.Interfaces = slices.DeleteFunc(all, func(i Interface) bool { return slices.Contains(not, i.Name) })
			again = tx.follow(change)
		})
		return again
	}
	route()
	wire.AddRoute(netip.MustParsePrefix("::/0"), wire.Peer().IPv6, 100)
	if follow(networkChange{}) == 0 || len(tx.opening) == 0 {
		t.Fatal("with routes: it does not ask to be called again")
	}
	wire.DelRoute(netip.MustParsePrefix("::/0"), wire.Peer().IPv6, 100)
	wifi.DelRoute(netip.MustParsePrefix("0.0.0.0/0"), wifi.Peer().IPv4, 600)
	wifi.DelRoute(netip.MustParsePrefix("::/0"), wifi.Peer().IPv6, 600)
	if again := follow(networkChange{Unchanged: true, Routes: true}); again != 0 {
		t.Errorf("without: it asks to be called again after %v", again)
	}

	// The same while its own interface is gone.
	wire.AddRoute(netip.MustParsePrefix("::/0"), wire.Peer().IPv6, 100)
	if follow(networkChange{}, "wifi") == 0 {
		t.Fatal("gone, with a route: it does not ask to be called again")
	}
	wire.DelRoute(netip.MustParsePrefix("::/0"), wire.Peer().IPv6, 100)
	if again := follow(networkChange{Unchanged: true, Routes: true}, "wifi"); again != 0 {
		t.Errorf("gone, without: it asks to be called again after %v", again)
	}
}

// TestFollowDefaultIndexReused has the interface of the default route deleted, and another with its index, not its name,
// take its place.
func TestFollowDefaultIndexReused(t *testing.T) {
	host, wifi, route := defaultHost(t)
	route()
	tx := openDefault(t, host, false)
	index := wifi.Index()
	for _, at := range []string{"later", "at once"} {
		name := "wlan" + at[:1]
		if at == "later" {
			wifi.Delete()
			awaitLocked(t, tx, "gone", func() bool { return (*tx.links.Load())[0].gone })
		} else {
			ifaceIP(t, host, "link del wlanl")
		}
		ifaceIP(t, host, fmt.Sprintf("link add %s index %d type veth peer name far", name, index), "link set "+name+" up", "link set far up",
			"address add 10.9.0.1/24 dev "+name, "route add default via 10.9.0.2")
		ifaceIP6(t, host, "address add fd99::1/64 dev "+name+" nodad", "route add default dev "+name)
		awaitLocked(t, tx, at, func() bool {
			return !slices.ContainsFunc(*tx.links.Load(), func(l *txLink) bool { return l.gone || l.ifc.Name != name })
		})
		for _, g := range tx.cfg.Groups {
			if _, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(g, 5000)); err != nil {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
}

// withoutDescriptors leaves this process no descriptor until end is called.
func withoutDescriptors(t *testing.T) (end func()) {
	t.Helper()
	var before unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before)
	set := func(cur uint64) error {
		return errors.Join(err, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur, Max: before.Max}))
	}
	if err := set(3); err != nil {
		t.Fatal(err)
	}
	end = func() {
		if err := set(before.Cur); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return end
}

// TestFollowDefaultWithoutDescriptors adds a default route when there is no descriptor to ask for it with. It is found when
// there is one again.
func TestFollowDefaultWithoutDescriptors(t *testing.T) {
	host, _, route := defaultHost(t)
	tx := openDefault(t, host, false)
	end := withoutDescriptors(t)
	route()
	awaitLocked(t, tx, "the refusal", func() bool { return tx.unrouted.wait > 0 })
	end()
	awaitLocked(t, tx, "the route", func() bool { return len(*tx.links.Load()) == 2 && tx.unrouted.wait == 0 })
}

// TestFollowSourceWithoutDescriptors changes the address of a sender in the same situation.
func TestFollowSourceWithoutDescriptors(t *testing.T) {
	host, wifi, _ := defaultHost(t)
	tx := openDefault(t, host, false)
	is := func(a string) func() bool {
		return func() bool { return tx.LocalAddr().(*net.UDPAddr).IP.String() == a }
	}
	end := withoutDescriptors(t)
	wifi.AddAddress(netip.MustParsePrefix("10.9.0.7/24"))
	awaitLocked(t, tx, "the refusal", is("::"))
	end()
	awaitLocked(t, tx, "the address", is("fd99::1"))
}

// TestOpenTxFollowsWhileItWaits moves the default route while OpenTx waits for an address of the interface that had it.
func TestOpenTxFollowsWhileItWaits(t *testing.T) {
	host := mcasttest.NewHost(t)
	wire := host.NewVeth("wire", netip.MustParsePrefix("fd98::1/64"))
	host.Sysctl("net/ipv6/conf/default/dad_transmits", "60") // seconds
	ifaceIP(t, host, "link add wifi type veth peer name far", "link set far up", "link set wifi up")
	ifaceIP6(t, host, "route add default dev wifi metric 600")
	open := make(chan struct{}) // closed when it knows the interface, and makes its first call
	begun := sync.OnceFunc(func() { close(open) })
	hook := func(string) error { begun(); return nil }
	testHookCall.Store(&hook)
	defer testHookCall.Store(nil)
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		<-open
		wire.AddRoute(netip.MustParsePrefix("::/0"), wire.Peer().IPv6, 100)
	}()
	var tx *TxSocket
	host.Do(func() {
		for end := time.Now().Add(slow.Limit(20 * time.Second)); time.Now().Before(end); time.Sleep(time.Millisecond) { // the address has to come
			var err error
			if tx, err = OpenTx(TxConfig{Groups: groups("ff15::1234")}); err == nil {
				return
			}
		}
		t.Fatal("no sender")
	})
	defer tx.Close()
	<-moved
	awaitLocked(t, tx, "it sends by the wire", func() bool { return (*tx.links.Load())[0].ifc.Name == "wire" })
	if at := tx.LocalAddr().(*net.UDPAddr); at.IP.String() != "fd98::1" {
		t.Errorf("it sends by the wire, and from %v", at)
	}
}

// countDefaults counts how often followers ask the system for a default route. It must be called while nothing follows.
func countDefaults(t *testing.T) *atomic.Int64 {
	t.Helper()
	n := new(atomic.Int64)
	set := func(ask func(string) (int, error)) {
		processWatch.mu.Lock()
		defer processWatch.mu.Unlock()
		if len(processWatch.shared) > 0 {
			t.Error("there is a follower")
		}
		processWatch.defaults = ask
	}
	set(func(network string) (int, error) {
		n.Add(1)
		return defaultIndex(network)
	})
	t.Cleanup(func() { set(defaultIndex) })
	return n
}

// TestFollowDefaultShared has fifty senders follow the default routes. They ask once per family and change, not each.
func TestFollowDefaultShared(t *testing.T) {
	host, _, route := defaultHost(t)
	wire := host.NewVeth("wire", netip.MustParsePrefix("10.9.1.1/24"), netip.MustParsePrefix("fd98::1/64"))
	route()
	asked := countDefaults(t)
	var senders []*TxSocket
	for range 50 {
		senders = append(senders, openDefault(t, host, false))
	}
	// The counter follows last and is called last: all senders have had their first call before it has its own.
	var changes atomic.Int64
	counter := &watchFollower{routes: true, follow: func(networkChange) time.Duration { changes.Add(1); return 0 }}
	host.Do(func() {
		if err := processWatch.add(counter); err != nil {
			t.Fatal(err)
		}
	})
	defer counter.stop()
	await := func(what string, condition func() bool) {
		t.Helper()
		awaitLocked(t, senders[0], what, condition)
	}
	await("the first call", func() bool { return changes.Load() > 0 })

	asked.Store(0)
	changes.Store(0)
	wire.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), wire.Peer().IPv4, 100)
	wire.AddRoute(netip.MustParsePrefix("::/0"), wire.Peer().IPv6, 100)
	await("all send on the wire", func() bool {
		return !slices.ContainsFunc(senders, func(tx *TxSocket) bool {
			return slices.ContainsFunc(*tx.links.Load(), func(l *txLink) bool { return l.ifc.Index != wire.Index() })
		})
	})
	// The counter is called after the questions of the same change, so it may lack one change.
	if n, most := asked.Load(), 2*(changes.Load()+1); n > most {
		t.Errorf("the system was asked %d times, want at most %d", n, most)
	}
}

// TestFollowDefaultAsksWhenChanged calls a sender that asked for a call, without a change: it does not ask for the default
// routes unless that failed before.
func TestFollowDefaultAsksWhenChanged(t *testing.T) {
	host, _, route := defaultHost(t)
	route()
	tx := openDefault(t, host, true)
	follow := func(change networkChange, failure error) (asked int) {
		host.Do(func() {
			var err error
			if change.Interfaces, err = Interfaces(); err != nil {
				t.Fatal(err)
			}
			change.defaults = &watchDefaults{ask: func(network string) (int, error) {
				asked++
				if failure != nil {
					return 0, failure
				}
				return defaultIndex(network)
			}}
			tx.follow(change)
		})
		return asked
	}
	for _, step := range []struct {
		what    string
		change  networkChange
		failure error
		want    int
	}{
		{"a change", networkChange{}, nil, 2},
		{"routes", networkChange{Unchanged: true, Routes: true}, nil, 2},
		{"nothing", networkChange{Unchanged: true}, nil, 0},
		{"routes, and a failure", networkChange{Unchanged: true, Routes: true}, errInjected, 2},
		{"nothing, too early", networkChange{Unchanged: true}, nil, 0},
	} {
		if n := follow(step.change, step.failure); n != step.want {
			t.Errorf("%s: it asked %d times, want %d", step.what, n, step.want)
		}
	}
	tx.mu.Lock()
	tx.unrouted.next = time.Now()
	tx.mu.Unlock()
	if n := follow(networkChange{Unchanged: true}, nil); n != 2 {
		t.Errorf("nothing, after the failure: it asked %d times, want 2", n)
	}
}

// TestFollowDefaultRule has a policy rule bring the default route that a family waits for. The routes do not change.
func TestFollowDefaultRule(t *testing.T) {
	for _, family := range []struct {
		name         string
		ip, otherIPs func(testing.TB, *mcasttest.Host, ...string)
	}{
		{"IPv4", ifaceIP, ifaceIP6},
		{"IPv6", ifaceIP6, ifaceIP},
	} {
		t.Run(family.name, func(t *testing.T) {
			host := mcasttest.NewHost(t)
			host.NewVeth("wifi", netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd99::1/64"))
			family.otherIPs(t, host, "route add default dev wifi")
			family.ip(t, host, "route add default dev wifi table 99")
			tx := openDefault(t, host, false)
			if n := len(*tx.links.Load()); n != 1 {
				t.Fatalf("without the rule: %d links", n)
			}
			family.ip(t, host, "rule add pref 100 table 99")
			awaitLocked(t, tx, "both families have a link", func() bool { return len(*tx.links.Load()) == 2 })
		})
	}
}

// TestFollowDefaultNexthop deletes the nexthop object of the default route. The kernel removes the IPv4 route with it, and
// sends no notice of the route.
func TestFollowDefaultNexthop(t *testing.T) {
	host, wifi, route := defaultHost(t)
	host.NewVeth("wire", netip.MustParsePrefix("10.9.1.1/24"), netip.MustParsePrefix("fd98::1/64"))
	route()
	ifaceIP(t, host, "nexthop add id 7 dev wire", "route add default nhid 7 metric 100")
	tx := openDefault(t, host, false)
	by := func() string {
		for _, l := range *tx.links.Load() {
			if l.v4 {
				return l.ifc.Name
			}
		}
		return ""
	}
	if name := by(); name != "wire" {
		t.Fatalf("IPv4 is sent on %q, want wire", name)
	}
	ifaceIP(t, host, "nexthop del id 7")
	awaitLocked(t, tx, "IPv4 is sent on "+wifi.Name(), func() bool { return by() == wifi.Name() })
}

// TestWriteWhileOpenedAnew has a link opened anew again and again while it is written to, as when the interface of a VRF comes back
// with another index. Every datagram is sent, also those of a batch that takes longer than an OS socket lives.
func TestWriteWhileOpenedAnew(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
	group := netip.MustParseAddr("239.1.1.1")
	var tx *TxSocket
	host.Do(func() {
		there, err := FindInterfaces("there")
		if err == nil {
			tx, err = OpenTx(TxConfig{Groups: []netip.Addr{group}, Interfaces: there, Port: 5001, Static: true})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { tx.Close() })
	var quit atomic.Bool
	var writers sync.WaitGroup
	var batches, writes atomic.Int64
	for range 2 {
		writers.Go(func() {
			batch := make([]Message, 2000)
			for i := range batch {
				batch[i] = Message{Buf: make([]byte, 10+i%2), Addr: netip.AddrPortFrom(group, 5000)} // no runs
			}
			for !quit.Load() {
				if n, err := tx.WriteBatch(batch); n != len(batch) || err != nil {
					t.Errorf("a batch after %d: %d of %d sent, %v", batches.Load(), n, len(batch), err)
					return
				}
				batches.Add(1)
			}
		})
		writers.Go(func() {
			for !quit.Load() {
				if _, err := tx.WriteToUDPAddrPort([]byte("one"), netip.AddrPortFrom(group, 5000)); err != nil {
					t.Errorf("a write after %d: %v", writes.Load(), err)
					return
				}
				writes.Add(1)
			}
		})
	}
	host.Do(func() {
		for n := 0; n < 100 || batches.Load() < 10 || writes.Load() < 10; n++ {
			if t.Failed() {
				break
			}
			tx.mu.Lock()
			links := slices.Clone(*tx.links.Load())
			links[0].bound = links[0].ifc.Index + 1 // so that direct does not keep the OS socket
			anew, err := tx.direct(links[0], &links[0].ifc)
			links[0] = anew
			tx.links.Store(&links)
			tx.mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
			tx.mu.Lock()
			tx.closeRetired()
			tx.mu.Unlock()
		}
	})
	quit.Store(true)
	writers.Wait()
}

// TestDeadlineOfSocketsOpenedAnew: a write that began before an OS socket was opened anew heeds a deadline that is set afterwards,
// and Close.
func TestDeadlineOfSocketsOpenedAnew(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
	group, far := netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("10.9.9.2")
	host.Do(func() {
		there := interfaces(t, "there")
		tx, err := OpenTx(TxConfig{Groups: []netip.Addr{group}, Interfaces: there, Port: 5001, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		rx, err := OpenRx(RxConfig{Groups: []netip.Addr{group}, Interfaces: there, Port: 5000, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		defer rx.Close()
		reply, err := rx.replies.sender(far)
		if err != nil {
			t.Fatal(err)
		}
		send := (*tx.links.Load())[0].to
		tx.mu.Lock()
		links := slices.Clone(*tx.links.Load())
		links[0].bound = veth.Index() + 1 // so that direct does not keep the OS socket
		links[0], err = tx.direct(links[0], &there[0])
		tx.links.Store(&links)
		tx.mu.Unlock()
		if err == nil {
			err = rx.replies.moveTo(veth.Index())
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, old := range []struct {
			to  *sender
			dst netip.AddrPort
			s   interface {
				SetWriteDeadline(time.Time) error
				Close() error
			}
		}{{send, netip.AddrPortFrom(group, 5000), tx}, {reply, netip.AddrPortFrom(far, 5000), rx}} {
			if err := old.to.send([]byte("before"), old.dst, 0); err != nil {
				t.Errorf("%T: before: %v", old.s, err)
			}
			old.s.SetWriteDeadline(time.Now().Add(-time.Second))
			if err := old.to.send([]byte("late"), old.dst, 0); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%T: after the deadline: %v", old.s, err)
			}
			if err := old.s.Close(); err != nil {
				t.Errorf("%T: Close: %v", old.s, err)
			}
			if err := old.to.send([]byte("closed"), old.dst, 0); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%T: after Close: %v", old.s, err)
			}
		}
	})
}

// TestReplyWhileMoved has the OS socket of replies opened anew again and again, as when an interface joins and leaves a VRF. No
// reply fails for that.
func TestReplyWhileMoved(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
	host.Do(func() {
		rx, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Interfaces: interfaces(t, "there"), Port: 5000, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		defer rx.Close()
		var quit atomic.Bool
		var writes atomic.Int64
		var writers sync.WaitGroup
		for range 4 {
			writers.Go(func() {
				for !quit.Load() {
					if _, err := rx.WriteToUDPAddrPort([]byte("one"), netip.MustParseAddrPort("10.9.9.1:9")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("a reply after %d: %v", writes.Load(), err)
						return
					}
					writes.Add(1)
				}
			})
		}
		for n := 0; !t.Failed() && (n < 1000 || writes.Load() < 1000); n++ {
			if err := rx.replies.moveTo(n % 2 * veth.Index()); err != nil {
				t.Error(err)
			}
		}
		quit.Store(true)
		writers.Wait()
	})
}
