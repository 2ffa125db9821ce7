// The events that an interface can meet: a table, in which each says how often it happens, what it may disturb, and whether
// the library survives it.

package soak

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/mcasttest"
)

var only = flag.String("soak.events", "", "the `kinds` of events that interfaces meet, separated by commas; empty: all")

// event is something that happens to an interface, which is there, up and plugged in.
type event struct {
	kind, what string
	weight     int  // how often it happens, compared with others
	disturbs   bool // whatever is sent on the wire until the next books may be lost, or come
	do         func(l *life, x *wire, pause time.Duration)
}

// repairs end what an event has left behind.
var repairs = []event{
	{kind: "create", what: "create", disturbs: true, do: func(l *life, x *wire, _ time.Duration) {
		l.number(x, x.veth.Create)
		x.there, x.up, x.plugged = true, true, true
		l.created(x.n)
		l.disturb(x.n) // those that have it again
	}},
	{kind: "up", what: "up", disturbs: true, do: func(l *life, x *wire, _ time.Duration) { x.veth.Up(); x.up = true }},
	{kind: "plug", what: "plug", disturbs: true, do: func(l *life, x *wire, _ time.Duration) { x.veth.Plug(); x.plugged = true }},
	{kind: "large MTU", what: "an MTU of 1500", disturbs: true, do: func(l *life, x *wire, _ time.Duration) { x.setSmall(false) }},
}

var events = []event{
	{kind: "flap", what: "down and up", weight: 4, disturbs: true, do: func(l *life, x *wire, pause time.Duration) {
		x.veth.Down()
		time.Sleep(pause)
		x.veth.Up()
	}},
	{kind: "down", what: "down", weight: 2, disturbs: true, do: func(l *life, x *wire, _ time.Duration) { x.veth.Down(); x.up = false }},
	{kind: "replug", what: "unplug and plug", weight: 2, disturbs: true, do: func(l *life, x *wire, pause time.Duration) {
		x.veth.Unplug()
		time.Sleep(pause)
		x.veth.Plug()
	}},
	{kind: "unplug", what: "unplug", weight: 2, disturbs: true, do: func(l *life, x *wire, _ time.Duration) { x.veth.Unplug(); x.plugged = false }},
	{kind: "delete", what: "delete", weight: 2, disturbs: true, do: func(l *life, x *wire, _ time.Duration) {
		x.veth.Delete()
		x.there = false
		l.deleted(x.n)
	}},
	{kind: "re-create", what: "delete and create", weight: 2, disturbs: true, do: func(l *life, x *wire, pause time.Duration) {
		x.veth.Delete()
		l.deleted(x.n)
		time.Sleep(pause)
		l.number(x, x.veth.Create)
		l.created(x.n)
	}},
	{kind: "travel", what: "to another namespace and back", weight: 2, disturbs: true, do: func(l *life, x *wire, _ time.Duration) {
		l.number(x, x.veth.Travel)
	}},
	{kind: "rename", what: "rename", weight: 4, do: (*life).rename},
	{kind: "address", what: "add or delete an address", weight: 4, do: (*life).changeAddress},
	{kind: "addresses", what: "add or delete many addresses", weight: 1, do: func(l *life, x *wire, _ time.Duration) {
		l.readdress(x.n)
		x.setMany(!x.many)
	}},
	// An MTU below 1280 takes IPv6 from an interface. One below 68 would take IPv4, but no veth accepts it.
	{kind: "small MTU", what: "an MTU of 1000 and back", weight: 2, disturbs: true, do: func(l *life, x *wire, pause time.Duration) {
		x.veth.SetMTU(1000)
		time.Sleep(pause)
		x.veth.SetMTU(1500)
	}},
	{kind: "small MTU for longer", what: "an MTU of 1000", weight: 1, disturbs: true, do: func(l *life, x *wire, _ time.Duration) { x.setSmall(true) }},
	{kind: "crowd", what: "other interfaces created and deleted at once", weight: 1, do: (*life).crowd},
	{kind: "no IPv6", what: "disable_ipv6 and back, while others join and leave", weight: 2, disturbs: true, do: func(l *life, x *wire, pause time.Duration) {
		conf := "net/ipv6/conf/" + x.veth.Name()
		// The kernel forgets the sources when it has sent its reports about them, the last of which follows this many ms later.
		l.host.Sysctl(conf+"/mldv2_unsolicited_report_interval", "1")
		l.host.Sysctl(conf+"/disable_ipv6", "1")
		l.joinElsewhere(x, 50*time.Millisecond+pause)
		l.host.Sysctl(conf+"/disable_ipv6", "0")
		x.veth.Up() // gives it back its addresses
	}},
	{kind: "few sources", what: "igmp_max_msf lowered or raised, and to another namespace and back", weight: 2, disturbs: true,
		do: func(l *life, x *wire, _ time.Duration) {
			l.setFew(!l.few)
			l.wasFew = true
			l.number(x, x.veth.Travel)
		}},
	{kind: "lost notices", what: "to another namespace and back, and the notices are lost", weight: 1, disturbs: true, do: func(l *life, x *wire, _ time.Duration) {
		for w := range l.wires { // memberships are renewed on all interfaces
			l.disturb(w)
		}
		restore := shrinkNoticeBuffers(l.t, l.host)
		defer restore()
		l.number(x, x.veth.Travel)
		for range 100 { // more than there is room for
			x.set(&x.extra4, !x.extra4)
		}
	}},
}

// draw chooses one of the events.
func (l *life) draw() *event {
	var all []*event
	for i := range events {
		e := &events[i]
		if *only == "" || slices.Contains(strings.Split(*only, ","), e.kind) {
			for range e.weight {
				all = append(all, e)
			}
		}
	}
	if len(all) == 0 {
		l.t.Fatalf("-soak.events=%s: there is no such event", *only)
	}
	return all[l.rng.IntN(len(all))]
}

func (l *life) rename(x *wire, _ time.Duration) {
	name := x.names[0]
	if x.veth.Name() == name {
		name = x.names[1]
	}
	if !l.live {
		l.disturb(x.n)
	}
	x.veth.Rename(name)
	l.created(x.n)
	for _, r := range l.receivers { // one may have it again
		for g := range groups {
			r.allow(g)
		}
	}
}

func (l *life) changeAddress(x *wire, _ time.Duration) {
	which := []*bool{&x.lost4, &x.lost6, &x.extra4, &x.extra6}[l.rng.IntN(4)]
	switch { // without any address of IPv4 there would be nothing to receive
	case which == &x.lost4 && !x.extra4:
		which = &x.extra4
	case which == &x.extra4 && x.lost4:
		which = &x.lost4
	}
	l.readdress(x.n)
	x.set(which, !*which)
}

// crowd creates eight interfaces in one burst of notices and deletes them in another. Receivers on all interfaces may join on
// them. What the wires carry is not disturbed.
func (l *life) crowd(_ *wire, pause time.Duration) {
	var create strings.Builder
	for i := range 8 {
		fmt.Fprintf(&create, "link add crowd%d group 7 type veth peer name far%[1]d\naddress add 10.6.%[1]d.1/24 dev crowd%[1]d\n", i)
		fmt.Fprintf(&create, "link set far%d up\nlink set crowd%[1]d up\n", i)
	}
	for _, batch := range []string{create.String(), "link del group 7\n"} {
		l.host.Do(func() {
			ip := exec.Command("ip", "-batch", "-")
			ip.Stdin = strings.NewReader(batch)
			if out, err := ip.CombinedOutput(); err != nil {
				l.t.Fatalf("ip: %v\n%s", err, out)
			}
		})
		time.Sleep(pause)
	}
}

// joinElsewhere has a socket that is not the library's join a group on the interface, and leave it after the pause.
func (l *life) joinElsewhere(x *wire, pause time.Duration) {
	var other *net.UDPConn
	var err error
	l.host.Do(func() {
		ifi := &net.Interface{Index: x.veth.Index(), Name: x.veth.Name()}
		other, err = net.ListenMulticastUDP("udp6", ifi, &net.UDPAddr{IP: net.ParseIP("ff15::77"), Port: port + 2})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	time.Sleep(pause)
	if err := other.Close(); err != nil {
		l.t.Fatal(err)
	}
}

// setMany gives the interface many addresses of each family, or takes them. The number of the wire is in them.
func (x *wire) setMany(value bool) {
	if x.many == value {
		return
	}
	x.many = value
	for i := range byte(100) {
		for _, p := range []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(x.n), 100 + i}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x97, 7: byte(x.n), 15: i}), 128),
		} {
			if value {
				x.veth.AddAddress(p)
			} else {
				x.veth.DelAddress(p)
			}
		}
	}
}

// setFew has the host's kernel take few sources for an IPv4 membership of a socket. For IPv6 the limit (mld_max_msf) is the
// whole machine's.
func (n *network) setFew(value bool) {
	if n.few == value {
		return
	}
	n.few = value
	n.host.Sysctl("net/ipv4/igmp_max_msf", strconv.Itoa(map[bool]int{true: 1, false: 10}[value]))
}

// shrinkNoticeBuffers leaves the rtnetlink sockets of this process on a host next to no room for notices, until restore is
// called.
func shrinkNoticeBuffers(t *testing.T, h *mcasttest.Host) (restore func()) {
	var here unix.Stat_t
	var err error
	h.Do(func() { err = unix.Stat("/proc/thread-self/ns/net", &here) })
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var shrunk []int
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		self, err := unix.Getsockname(fd)
		netlink, ok := self.(*unix.SockaddrNetlink)
		if err != nil || !ok || netlink.Groups == 0 || !in(fd, here.Ino) {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err == nil {
			shrunk = append(shrunk, fd)
		}
	}
	if len(shrunk) == 0 {
		t.Fatal("nothing waits for notices")
	}
	return func() {
		for _, fd := range shrunk {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// in reports whether a socket is in the network namespace with that inode.
func in(fd int, inode uint64) bool {
	ns, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGSKNS, 0)
	if errno != 0 {
		return false
	}
	defer unix.Close(int(ns))
	var st unix.Stat_t
	return unix.Fstat(int(ns), &st) == nil && st.Ino == inode
}
