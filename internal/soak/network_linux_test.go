// The network that things happen on: a host with six interfaces and a host at the far end of each. It lasts for the
// whole test, so that what a life leaves behind shows in the next.

package soak

import (
	"context"
	"fmt"
	"log/slog"
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

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

const (
	wireCount = 6
	port      = 5000
)

var patience = slow.Limit(20 * time.Second) // for what takes milliseconds

// groups are all that may be joined. There is a stream to each of them from each sender on each wire.
var groups = []netip.Addr{
	netip.MustParseAddr("239.1.1.1"),
	netip.MustParseAddr("239.1.1.2"),
	netip.MustParseAddr("239.1.1.3"),
	netip.MustParseAddr("232.1.1.1"),
	netip.MustParseAddr("ff02::1234"),
	netip.MustParseAddr("ff15::1234"),
	netip.MustParseAddr("ff15::1235"),
	netip.MustParseAddr("ff35::1234"),
}

const (
	groupCount = 8
	loud4      = 2
	loud6      = 6
)

// loud says that this host's sender has Loopback set for a group.
func loud(g int) bool { return g == loud4 || g == loud6 }

// specific says that a group is for source-specific multicast.
func specific(g int) bool { return g == 3 || g == 7 }

// The senders of a wire.
const (
	fromPeer = iota
	fromHost
	senderCount
)

type network struct {
	t     *testing.T
	host  *mcasttest.Host
	wires [wireCount]*wire
	told  *settler
	live  bool // interfaces can be renamed while they are up
	few   bool // the host's kernel takes few sources

	mu      sync.RWMutex // held for writing while an interface gets an index
	indexes map[int]int  // the wire of every index there has been
}

// wire is a cable. Its near end is an interface of the host.
type wire struct {
	n     int
	veth  *mcasttest.Interface
	names [2]string // that the interface may have: no other wire's
	peer  *mcasttest.Host
	told  *settler // on the peer

	there, up, plugged bool
	small              bool // its MTU is too small for IPv6
	extra4, extra6     bool // addresses beyond the first ones
	lost4, lost6       bool // the first one is not there
	many               bool // addresses
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, host: mcasttest.NewHost(t), indexes: make(map[int]int)}
	plain(n.host)
	n.told = newSettler(t, n.host)
	for i := range wireCount {
		w := &wire{n: i, there: true, up: true, plugged: true}
		w.names = [2]string{fmt.Sprintf("wire%d", i), fmt.Sprintf("other%d", i)}
		w.veth = n.host.NewVeth(w.names[0], w.first4(), w.first6())
		w.peer = w.veth.Peer()
		plain(w.peer)
		w.told = newSettler(t, w.peer)
		n.wires[i] = w
		n.number(w, func() {})
	}
	n.live = liveRename(t)
	return n
}

// plain has a host accept sources that it has no route to, so that its addresses do not decide what arrives, and have
// no addresses but those it is given.
func plain(h *mcasttest.Host) {
	h.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	h.Sysctl("net/ipv4/conf/default/rp_filter", "0")
	h.Sysctl("net/ipv6/conf/default/addr_gen_mode", "1") // IN6_ADDR_GEN_MODE_NONE
}

// liveRename reports whether the kernel renames interfaces that are up: it does since 6.2 (IFF_LIVE_RENAME_OK is gone).
func liveRename(t *testing.T) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("release %s: %v", u.Release, err)
	}
	return major > 6 || major == 6 && minor >= 2
}

// The number of the wire is in all of its addresses but the link-local ones.
func (w *wire) first4() netip.Prefix { return w.address4(9) }
func (w *wire) other4() netip.Prefix { return w.address4(8) }
func (w *wire) first6() netip.Prefix { return w.address6(0x99) }
func (w *wire) other6() netip.Prefix { return w.address6(0x98) }

func (w *wire) address4(net byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, net, byte(w.n), 1}), 24)
}

func (w *wire) address6(net byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: net, 7: byte(w.n), 15: 1}), 64)
}

// number runs what may give the wire's interface another index.
func (n *network) number(w *wire, change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	n.indexes[w.veth.Index()] = w.n
}

// byIndex returns the wire that has, or had, the index; -1: none.
func (n *network) byIndex(index int) int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if w, ok := n.indexes[index]; ok {
		return w
	}
	return -1
}

// bySource returns the wire by which datagrams from an address come to the host; -1: none.
func (n *network) bySource(a netip.Addr) int {
	if a.IsLinkLocalUnicast() {
		index, err := strconv.Atoi(a.Zone())
		if err != nil {
			return -1
		}
		return n.byIndex(index)
	}
	b := a.As16()
	w := int(b[7])
	if a.Is4() {
		w = int(a.As4()[2])
	}
	if w >= wireCount {
		return -1
	}
	return w
}

// source is where the datagrams come from that the peer sends to a group.
func (w *wire) source(g netip.Addr) netip.Addr {
	switch {
	case g.Is4():
		return w.peer.IPv4
	case g.IsLinkLocalMulticast():
		return w.peer.LinkLocal
	}
	return w.peer.IPv6
}

// whole reports whether groups of both families can be joined on the wire, if it is there.
func (w *wire) whole() bool { return w.up && !w.small }

func (w *wire) ok() bool { return w.there && w.whole() && w.plugged }

// setSmall gives the interface an MTU that is too small for IPv6, or the usual one.
func (w *wire) setSmall(value bool) {
	if w.small != value {
		w.small = value
		w.veth.SetMTU(map[bool]int{true: 1000, false: 1500}[value])
	}
}

// restore makes a wire what it was at first.
func (n *network) restore(w *wire) {
	if !w.there {
		n.number(w, w.veth.Create)
	}
	if !w.up {
		w.veth.Up()
	}
	if !w.plugged {
		w.veth.Plug()
	}
	w.there, w.up, w.plugged = true, true, true
	w.setSmall(false)
	if w.veth.Name() != w.names[0] {
		w.veth.Rename(w.names[0])
	}
	w.set(&w.lost4, false)
	w.set(&w.lost6, false)
	w.set(&w.extra4, false)
	w.set(&w.extra6, false)
	w.setMany(false)
}

// set makes a change to the addresses, which what, one of the wire's own fields, stands for.
func (w *wire) set(what *bool, value bool) {
	if *what == value {
		return
	}
	*what = value
	p := map[*bool]netip.Prefix{
		&w.lost4: w.first4(), &w.lost6: w.first6(), &w.extra4: w.other4(), &w.extra6: w.other6(),
	}[what]
	if value == (what == &w.extra4 || what == &w.extra6) {
		w.veth.AddAddress(p)
		return
	}
	w.veth.DelAddress(p)
}

// dropped is how many packets the kernel has dropped on the way between a wire's ends: when more wait for a processor
// than net.core.netdev_max_backlog allows.
func (n *network) dropped(w *wire) (total uint64) {
	return column(n.t, n.host, w.veth.Name()) + column(n.t, w.peer, "eth0")
}

// column adds up what /proc/net/dev has of drops on an interface of a host.
func column(t *testing.T, h *mcasttest.Host, name string) (total uint64) {
	const received, sent = 3, 11 // the columns
	for _, line := range strings.Split(read(t, h, "dev"), "\n") {
		if device, rest, _ := strings.Cut(line, ":"); strings.TrimSpace(device) == name {
			fields := strings.Fields(rest)
			for _, i := range []int{received, sent} {
				v, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				total += v
			}
		}
	}
	return total
}

// read returns a file of /proc/net, as a host has it.
func read(t *testing.T, h *mcasttest.Host, name string) (text string) {
	t.Helper()
	h.Do(func() {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	})
	return text
}

// tables are the memberships and sockets that the kernel has on all hosts: lines without what changes by itself.
func (n *network) tables() (all []string) {
	hosts := []*mcasttest.Host{n.host}
	for _, w := range n.wires {
		hosts = append(hosts, w.peer)
	}
	for i, h := range hosts {
		add := func(file string, words ...string) {
			all = append(all, fmt.Sprintf("host %d: %s: %s", i, file, strings.Join(words, " ")))
		}
		device := ""
		for _, line := range strings.Split(read(n.t, h, "igmp"), "\n")[1:] {
			switch words := strings.Fields(line); {
			case len(words) == 0:
			case line[0] != '\t':
				device = words[1]
			default:
				add("igmp", device, words[0])
			}
		}
		for file, columns := range map[string][]int{
			"igmp6": {1, 2}, "mcfilter": {1, 2, 3}, "mcfilter6": {1, 2, 3}, "udp": {1}, "udp6": {1},
		} {
			for j, line := range strings.Split(read(n.t, h, file), "\n") {
				words := strings.Fields(line)
				if len(words) == 0 || j == 0 && file != "igmp6" { // which has no heading
					continue
				}
				var kept []string
				for _, c := range columns {
					kept = append(kept, words[c])
				}
				add(file, kept...)
			}
		}
	}
	slices.Sort(all)
	return all
}

// settler tells when all sockets on a host have followed all that has happened there. It does so by an interface of its
// own: when a socket was told that this has been away, all have been told of what was before.
type settler struct {
	t      *testing.T
	marker *mcasttest.Interface
	count  atomic.Int64 // how often that was
}

// markerGroup is what the settlers' sockets have joined.
var markerGroup = netip.MustParseAddr("239.99.99.99")

func newSettler(t *testing.T, h *mcasttest.Host) *settler {
	s := &settler{t: t, marker: h.NewVeth("marker", netip.MustParsePrefix("10.99.99.1/24"))}
	h.Do(func() {
		marker, err := mcast.FindInterfaces("marker")
		if err != nil {
			t.Fatal(err)
		}
		canary, err := mcast.OpenRx(mcast.RxConfig{
			Groups: []netip.Addr{markerGroup}, Port: port + 1, Interfaces: marker,
			Logger: slog.New(s),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { canary.Close() })
	})
	s.marker.Down() // receivers on all interfaces must not join on it
	return s
}

// The settler is the handler of its socket's log, which has nothing good to tell but that it has joined again.
func (s *settler) Enabled(_ context.Context, l slog.Level) bool { return l == slog.LevelInfo }
func (s *settler) Handle(context.Context, slog.Record) error    { s.count.Add(1); return nil }
func (s *settler) WithAttrs([]slog.Attr) slog.Handler           { return s }
func (s *settler) WithGroup(string) slog.Handler                { return s }

// settle waits for all of them. It takes two rounds: when a socket is told the first time, others are yet to be.
func settle(all []*settler) {
	for range 2 {
		before := make([]int64, len(all))
		for i, s := range all {
			before[i] = s.count.Load()
			s.marker.Travel()
		}
		end := time.Now().Add(patience)
		for i, s := range all {
			for next := time.Now().Add(patience / 20); s.count.Load() == before[i]; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					s.t.Fatal("nobody was told that the marker had been away")
				}
				if time.Now().After(next) { // notices were lost, and then nothing is logged
					s.marker.Travel()
					next = next.Add(patience / 20)
				}
			}
		}
	}
}
