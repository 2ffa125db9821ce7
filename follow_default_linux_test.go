// The sender on real interfaces: without named interfaces it follows the default route. OS sockets that are opened anew lose no
// write.

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

// defaultNet is a host with two networks, a receiver at the far end of each, and a sender without named interfaces.
type defaultNet struct {
	*testing.T
	host       *mcasttest.Host
	wifi, wire *mcasttest.Interface
	far        map[*mcasttest.Interface]*RxSocket
	tx         *TxSocket
	serial     byte
}

var defaultGroups = groups("239.1.1.1", "ff15::1234")

// newDefaultNet makes one whose wifi has the default routes of both families.
func newDefaultNet(t *testing.T) *defaultNet {
	n := &defaultNet{T: t, host: mcasttest.NewHost(t), far: make(map[*mcasttest.Interface]*RxSocket)}
	n.wifi = n.network("wifi", "10.9.0.1/24", "fd99::1/64")
	n.wire = n.network("wire", "10.9.1.1/24", "fd98::1/64")
	n.route(n.wifi, 600)
	n.tx = openDefault(t, n.host, false)
	return n
}

func (n *defaultNet) network(name, v4, v6 string) *mcasttest.Interface {
	v := n.host.NewVeth(name, netip.MustParsePrefix(v4), netip.MustParsePrefix(v6))
	v.Peer().Do(func() {
		rx, err := OpenRx(RxConfig{Groups: defaultGroups, Port: 5000, Interfaces: interfaces(n.T, "eth0")})
		if err != nil {
			n.Fatal(err)
		}
		n.Cleanup(func() { rx.Close() })
		n.far[v] = rx
	})
	return v
}

var anywhere4, anywhere6 = netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")

func (n *defaultNet) route(v *mcasttest.Interface, metric int) {
	v.AddRoute(anywhere4, v.Peer().IPv4, metric)
	v.AddRoute(anywhere6, v.Peer().IPv6, metric)
}

func (n *defaultNet) unroute(v *mcasttest.Interface, metric int) {
	v.DelRoute(anywhere4, v.Peer().IPv4, metric)
	v.DelRoute(anywhere6, v.Peer().IPv6, metric)
}

// wantOn waits until the sender sends on v, and datagrams arrive at its far end.
func (n *defaultNet) wantOn(what string, v *mcasttest.Interface) {
	n.Helper()
	waitFor(n, what, func() bool {
		links := *n.tx.links.Load()
		return len(links) == 2 && !slices.ContainsFunc(links, func(l *txLink) bool { return l.gone || l.ifc.Index != v.Index() })
	})
	rx := n.far[v]
	for _, g := range defaultGroups {
		n.serial++
		waitFor(n, what+", "+g.String(), func() bool { // the far end follows, too
			if _, err := n.tx.WriteToUDPAddrPort([]byte{n.serial}, netip.AddrPortFrom(g, 5000)); err != nil {
				n.Fatalf("%s: %v", what, err)
			}
			ms := []Message{{Buf: make([]byte, 10)}}
			rx.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, err := rx.ReadBatch(ms)
			return err == nil && ms[0].Buf[0] == n.serial && ms[0].Group == g
		})
	}
}

// TestFollowDefault moves the default route in all the ways in which it moves.
func TestFollowDefault(t *testing.T) {
	n := newDefaultNet(t)
	static := openDefault(t, n.host, true)
	for _, step := range []struct {
		what string
		do   func()
		want *mcasttest.Interface
	}{
		{"at first", func() {}, n.wifi},
		{"a better route", func() { n.route(n.wire, 100) }, n.wire},
		{"it is deleted", func() { n.unroute(n.wire, 100) }, n.wifi},
		{"another instead", func() { n.unroute(n.wifi, 600); n.route(n.wire, 700) }, n.wire},
		{"the first is back", func() { n.route(n.wifi, 600) }, n.wifi},
		{"no carrier", n.wifi.Unplug, n.wire},
		{"carrier", n.wifi.Plug, n.wifi},
		{"deleted", n.wifi.Delete, n.wire},
		{"created again", n.wifi.Create, n.wifi},
		{"without a default route", func() { n.unroute(n.wire, 700); n.unroute(n.wifi, 600) }, n.wifi},
		{"without a default route, created again", func() { n.wifi.Delete(); n.wifi.Create() }, n.wifi},
	} {
		step.do()
		n.wantOn(step.what, step.want)
	}
	n.host.Do(func() {
		if _, err := DefaultInterface("ip4"); !errors.Is(err, ErrNoInterface) {
			t.Errorf("there is a default route: %v", err)
		}
	})
	if i := static.Interfaces(); len(i) != 1 || i[0].Name != "wifi" || i[0].Index == n.wifi.Index() {
		t.Errorf("the static one sends on %v", i)
	}
}

// TestFollowDefaultTunnel has the default route move to an interface without multicast, as that of a VPN.
func TestFollowDefaultTunnel(t *testing.T) {
	n := newDefaultNet(t)
	ifaceIP(t, n.host, "link add tun type veth peer name nut", "address add 10.8.1.1/24 dev tun", "link set tun multicast off",
		"link set tun up", "link set nut up", "route add default via 10.8.1.2 metric 50")
	has := netip.MustParsePrefix("10.9.2.1/24")
	n.wifi.AddAddress(has)
	waitFor(t, "the sender has followed", func() bool {
		return slices.ContainsFunc(n.tx.Interfaces(), func(i Interface) bool { return slices.Contains(i.IPv4, has) })
	})
	n.wantOn("beside a tunnel", n.wifi)
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
		if tx, err = OpenTx(TxConfig{Groups: defaultGroups, Static: static}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { tx.Close() })
	return tx
}

// awaitLocked waits for a condition of what the lock of tx guards.
func awaitLocked(t *testing.T, tx *TxSocket, what string, condition func() bool) {
	t.Helper()
	waitFor(t, what, func() bool { tx.mu.Lock(); defer tx.mu.Unlock(); return condition() })
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
	awaitLocked(t, tx, "it sends on the wire", func() bool { return (*tx.links.Load())[0].ifc.Name == "wire" })
	if at := tx.LocalAddr().(*net.UDPAddr); at.IP.String() != "fd98::1" {
		t.Errorf("it sends on the wire, and from %v", at)
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
	n := newDefaultNet(t)
	ifaceIP(t, n.host, "nexthop add id 7 dev wire", "route add default nhid 7 metric 100")
	on := func(name string) func() bool {
		return func() bool {
			return slices.ContainsFunc(*n.tx.links.Load(), func(l *txLink) bool { return l.v4 && l.ifc.Name == name })
		}
	}
	waitFor(t, "IPv4 is sent on the wire", on("wire"))
	ifaceIP(t, n.host, "nexthop del id 7")
	waitFor(t, "IPv4 is sent on wifi", on("wifi"))
}

// openAnew has the OS socket of the first link opened anew, as when the interface of a VRF comes back with another index.
func openAnew(tx *TxSocket) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	links := slices.Clone(*tx.links.Load())
	links[0].bound = links[0].ifc.Index + 1 // so that direct does not keep the OS socket
	anew, err := tx.direct(links[0], &links[0].ifc)
	links[0] = anew
	tx.links.Store(&links)
	return err
}

// steadyHost is a host whose interface "there" stays, for OS sockets that are opened anew.
func steadyHost(t *testing.T) (host *mcasttest.Host, index int) {
	host = mcasttest.NewHost(t)
	return host, host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24")).Index()
}

// TestWriteWhileOpenedAnew has a link opened anew again and again while it is written to, as when the interface of a VRF comes back
// with another index. Every datagram is sent, also those of a batch that takes longer than an OS socket lives.
func TestWriteWhileOpenedAnew(t *testing.T) {
	host, _ := steadyHost(t)
	group := netip.MustParseAddr("239.1.1.1")
	var tx *TxSocket
	host.Do(func() {
		var err error
		if tx, err = OpenTx(TxConfig{Groups: []netip.Addr{group}, Interfaces: interfaces(t, "there"), Port: 5001, Static: true}); err != nil {
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
			if err := openAnew(tx); err != nil {
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
	host, index := steadyHost(t)
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
		if err := errors.Join(openAnew(tx), rx.replies.moveTo(index)); err != nil {
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
	host, index := steadyHost(t)
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
			if err := rx.replies.moveTo(n % 2 * index); err != nil {
				t.Error(err)
			}
		}
		quit.Store(true)
		writers.Wait()
	})
}
