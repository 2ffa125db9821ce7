// Kinds of interface that Linux has beside a network card: which of them are joined, and that they send and receive.

package mcast_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// portHost has a bridge br7 and an interface p0 with a host at the other end. p0 is no port of br7 yet.
type portHost struct {
	*mcasttest.Host
	t    *testing.T
	peer *mcasttest.Host
}

func newPortHost(t *testing.T) *portHost {
	t.Helper()
	noLeaks(t)
	h := &portHost{Host: mcasttest.NewHost(t), t: t}
	h.peer = h.NewVeth("p0", netip.MustParsePrefix("10.76.0.1/24"), netip.MustParsePrefix("fd76::1/64")).Peer()
	h.ip("link add br7 type bridge forward_delay 0 mcast_snooping 0", "address add 10.76.7.1/24 dev br7",
		"address add fd76:7::1/64 dev br7 nodad", "link set br7 up")
	return h
}

// ip runs lines of ip(8) on the host.
func (h *portHost) ip(lines ...string) {
	h.t.Helper()
	run(h.t, h.Host, strings.Join(lines, "\n"), "ip", "-batch", "-")
}

// awaitMembership waits until the socket has a membership on the interface of which f is true. A nil f waits until it has none.
func awaitMembership(t *testing.T, rx *mcast.RxSocket, name string, f func(mcast.Membership) bool) {
	t.Helper()
	eventually(t, "membership on "+name, func() bool {
		for _, m := range rx.Memberships() {
			if m.Interface == name {
				return f != nil && f(m)
			}
		}
		return f == nil
	})
}

func joined(m mcast.Membership) bool { return m.Joined }

// TestPortIsNotJoined checks that a receiver without named interfaces leaves ports to their master, also when an interface
// becomes a port or is released later.
func TestPortIsNotJoined(t *testing.T) {
	forEachFamily(t, func(t *testing.T, r contractRange) {
		h := newPortHost(t)
		h.ip("link set p0 master br7")
		var log bytes.Buffer
		port := newPort()
		var rx *mcast.RxSocket
		h.Do(func() {
			rx = openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		})
		awaitMembership(t, rx, "br7", joined)
		awaitMembership(t, rx, "p0", nil)
		s := newStation(t, h.peer, "eth0", unspecified(r.group))
		receives := func(name, payload string) {
			t.Helper()
			index := 0
			h.Do(func() { index = mustFind(t, name)[0].Index })
			s.send(r.group, port, payload)
			wantArrivals(t, rx, arrival{payload, r.group, index})
		}
		receives("br7", "by the bridge")

		h.ip("link set p0 nomaster")
		awaitMembership(t, rx, "p0", joined)
		receives("p0", "by itself")

		h.ip("link set p0 master br7")
		awaitMembership(t, rx, "p0", nil)
		receives("br7", "by the bridge again")
		rx.Close()
		if n := strings.Count(log.String(), "interface is a port now"); n != 1 || !strings.Contains(log.String(), "master=br7") {
			t.Errorf("the log is\n%s", &log)
		}
	})
}

// TestPortNamed checks that a port which is named is an error that names its master.
func TestPortNamed(t *testing.T) {
	forEachFamily(t, func(t *testing.T, r contractRange) {
		h := newPortHost(t)
		port := newPort()
		s := newStation(t, h.peer, "eth0", unspecified(r.group))
		h.Do(func() {
			p0 := mustFind(t, "p0")
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: p0})
			control := newNaive(t, h.Host, r.group, port, "br7")
			s.send(r.group, port, "before")
			wantArrivals(t, rx, arrival{"before", r.group, p0[0].Index})

			h.ip("link set p0 master br7")
			awaitMembership(t, rx, "p0", func(m mcast.Membership) bool { return m.Err != nil })
			named := func(err error) {
				t.Helper()
				hinted(t, err, err, "name br7")
				if !strings.Contains(err.Error(), "p0: the interface is a port of the bridge br7") {
					t.Errorf("the error is %v", err)
				}
			}
			named(rx.Memberships()[0].Err)
			_, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: mustFind(t, "p0")})
			named(err)
			named(rx.Join(r.other))
			s.send(r.group, port, "meanwhile")
			control.await("meanwhile")

			h.ip("link set p0 nomaster")
			awaitMembership(t, rx, "p0", joined)
			s.send(r.group, port, "after")
			wantArrivals(t, rx, arrival{"after", r.group, p0[0].Index})
		})
	})
}

// TestTxOnPort checks that a sender on a port sends on its wire alone, and that IPv4 replies arrive through the master.
func TestTxOnPort(t *testing.T) {
	h := newPortHost(t)
	other := h.NewVeth("p1").Peer()
	h.ip("link set p0 master br7", "link set p1 master br7")
	for _, r := range contractFamilies {
		port := newPort()
		heard, unheard := newNaive(t, h.peer, r.group, port, "eth0"), newNaive(t, other, r.group, port, "eth0")
		h.Do(func() {
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "p0")})
			write(t, tx, r.group, port, "on p0")
			heard.await("on p0")
			if r.group.Is4() {
				_, err := newStation(t, h.peer, "eth0", unspecified(r.group)).WriteTo([]byte("reply"), tx.LocalAddr())
				if err != nil {
					t.Fatal(err)
				}
				if got, _ := readTx(t, tx); got != "reply" {
					t.Errorf("the sender reads %q", got)
				}
			}
			all := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "br7")})
			write(t, all, r.group, port, "on br7")
			if got := unheard.await("on br7"); len(got) != 1 {
				t.Errorf("p1 got %q", got)
			}
		})
	}
	h.ip("address flush dev p0")
	h.Do(func() {
		_, err := mcast.OpenTx(mcast.TxConfig{Groups: groupsOf("239.77.1.1"), Interfaces: mustFind(t, "p0")})
		hinted(t, err, mcast.ErrNoInterface, "br7")
	})
}

// TestWatchMaster checks that WatchInterfaces reports that an interface becomes a port and is released.
func TestWatchMaster(t *testing.T) {
	h := newPortHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h.Do(func() {
		bridge := mustFind(t, "br7")[0].Index
		want := []int{0, bridge, 0}
		for list, err := range mcast.WatchInterfaces(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			p0, err := mcast.SelectInterfaces(list, "p0")
			if err != nil {
				t.Fatal(err)
			}
			if p0[0].Master != want[0] {
				continue // for another reason
			}
			if want = want[1:]; len(want) == 0 {
				return
			}
			h.ip(map[bool]string{true: "link set p0 master br7", false: "link set p0 nomaster"}[want[0] != 0])
		}
		t.Errorf("not reported: masters %v", want)
	})
}

// kind is a kind of interface. Its script makes k0 on top of $E, the host's end of a cable, without addresses. $L and $R are
// the addresses of the cable's two ends, $N is the number of the host, 1 or 2.
type kind struct {
	name, script string
	there        string // the script of the other host, if that differs; "none": there is no other host
	failover     string // what happens while the sockets are open
	beside       string // what its link is to that of $E, if both can be used: separateLink, sameLink
}

const (
	separateLink = "separate"
	sameLink     = "same"
)

const (
	vlanScript = "ip link add link $E name k0 type vlan id 5"
	twoVLANs   = "for v in 5 6; do ip link show s$v >/dev/null 2>&1 || ip link add link $E name s$v type vlan id $v; ip link set s$v down; ip link set s$v master k0; ip link set s$v up; done"
	// Before Linux 5.18 a route to the group is looked up without the interface, in the table of the VRF and then in the others
	// (40867d74c374, "net: Add l3mdev index to flow struct and avoid oif reset for port devices").
	vrfRoute  = "case $(uname -r) in 4.*|5.?.*|5.1[0-7].*) if ip link show master v7 2>/dev/null | grep -q k0; then ip route add 224.0.0.0/4 dev k0 table 7; fi; esac"
	vrfScript = "ip link show v7 >/dev/null 2>&1 || ip link add v7 type vrf table 7; ip link set v7 up; "
	wgScript  = `case $N in
		1) own=YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk= peer=Bj/5NNEiKaOU9iOaPMtixPCKFMMZSKd6ym5nRRBw1VE= ;;
		2) own=cHLUjYFfOyDZgGDnB4pMJBOCYA8KYmDSg1yJWtIp3kY= peer=$(echo YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk= | wg pubkey) ;;
	esac
	[ $N = 2 ] || peer=$(echo cHLUjYFfOyDZgGDnB4pMJBOCYA8KYmDSg1yJWtIp3kY= | wg pubkey)
	ip link add k0 type wireguard
	echo $own | wg set k0 listen-port 51820 private-key /proc/self/fd/0 peer $peer endpoint $R:51820 allowed-ips 0.0.0.0/0,::/0`
)

var kinds = []kind{
	{name: "dummy", script: "ip link add k0 type dummy", there: "none"},
	{name: "tun without the multicast flag", script: "ip tuntap add k0 mode tun; ip link set k0 multicast off", there: "none"},
	{name: "VLAN", script: vlanScript, beside: separateLink},
	{name: "macvlan", script: "ip link add link $E name k0 type macvlan mode bridge", beside: sameLink},
	{name: "IPVLAN", script: "ip link add link $E name k0 type ipvlan mode l2"},
	{name: "bridge", script: "ip link add k0 type bridge forward_delay 0 mcast_snooping 0; ip link set $E master k0"},
	{name: "bond", script: "ip link add k0 type bond mode active-backup miimon 10; " + twoVLANs, failover: "ip link set s5 down; until ip -d link show k0 | grep -q 'active_slave s6'; do sleep 0.1; done",
		there: "ip link add k0 type bridge forward_delay 0 mcast_snooping 0; " + twoVLANs},
	{name: "GRE", script: "ip link add k0 type gre local $L remote $R ttl 8"},
	{name: "VXLAN", script: "ip link add k0 type vxlan id 7 local $L remote $R dstport 4789"},
	{name: "WireGuard", script: wgScript},
	{name: "VRF", script: vrfScript + vlanScript + "; ip link set k0 master v7", there: vlanScript},
}

// kindHost is one of the two hosts of a test of a kind.
type kindHost struct {
	*mcasttest.Host
	env    []string
	script string
	number byte
}

// make makes k0 and gives it its addresses. They stay the same when it is made anew, so that the other host need not notice.
func (h *kindHost) make() error {
	return h.sh(h.script + `
ip link set k0 addrgenmode none; ip link set k0 address 02:00:00:00:09:0$N 2>/dev/null || true
ip address add 10.77.9.$N/24 dev k0; ip address add fd77:9::$N/64 dev k0 nodad
ip link set k0 up; ip address add fe80::9:$N/64 dev k0 nodad
` + vrfRoute)
}

func (h *kindHost) sh(script string) error {
	cmd := exec.Command("sh", "-ec", script)
	cmd.Env = append(os.Environ(), h.env...)
	var out []byte
	var err error
	h.Do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestKinds checks that each kind of interface sends and receives both families, with and without sources, with replies in both
// directions, also after it was deleted and made anew, and that the doctor finds nothing wrong. A kernel that lacks a kind
// skips it; in a run with MCAST_TEST_KINDS=all that is a failure.
func TestKinds(t *testing.T) {
	mcasttest.Require(t)
	for _, k := range kinds {
		a := &kindHost{Host: mcasttest.NewHost(t), number: 1, script: k.script}
		cable := a.NewVeth("e0", netip.MustParsePrefix("10.76.0.1/24"))
		b := &kindHost{Host: cable.Peer(), number: 2, script: cmp.Or(k.there, k.script)}
		a.env = []string{"E=e0", "L=10.76.0.1", "R=10.76.0.254", "N=1"}
		b.env = []string{"E=eth0", "L=10.76.0.254", "R=10.76.0.1", "N=2"}
		if err := a.make(); err != nil {
			lacks := fmt.Sprintf("this machine cannot make a %s: %v", k.name, err)
			switch {
			case os.Getenv("MCAST_TEST_KINDS") == "all":
				t.Error(lacks)
			case os.Getenv("MCAST_TEST_STRICT") == "1": // a kernel is not part of what strict tests demand
				t.Log(lacks)
			default:
				t.Run(k.name, func(t *testing.T) { t.Skip(lacks) })
			}
			continue
		}
		t.Run(k.name, func(t *testing.T) { testKind(t, k, a, b) })
	}
}

// kindGroups are the groups of a test of a kind; those of the second half are joined for the other host's addresses only.
var kindGroups = groupsOf("239.77.1.1", "ff02::77:1", "ff15::77:1", "232.77.1.1", "ff32::77:1", "ff35::77:1")

// kindEnd are the sockets on one host.
type kindEnd struct {
	*kindHost
	rx, ssm *mcast.RxSocket
	tx      *mcast.TxSocket
}

// open opens the sockets, which receive from a host.
func (h *kindHost) open(t *testing.T, port uint16, from *kindHost) *kindEnd {
	t.Helper()
	e := &kindEnd{kindHost: h}
	half := len(kindGroups) / 2
	sources := []netip.Addr{netip.AddrFrom4([4]byte{10, 77, 9, from.number})}
	for _, prefix := range []string{"fd77:9::", "fe80::9:"} {
		sources = append(sources, addr(fmt.Sprint(prefix, from.number)))
	}
	h.Do(func() {
		k0 := mustFind(t, "k0")
		e.rx = openRx(t, mcast.RxConfig{Groups: kindGroups[:half], Port: port, Interfaces: k0, Loopback: h == from})
		e.ssm = openRx(t, mcast.RxConfig{Groups: kindGroups[half:], Port: port, Interfaces: k0, Sources: sources, Loopback: h == from})
		e.tx = openTx(t, mcast.TxConfig{Groups: kindGroups, Interfaces: k0, Loopback: h == from})
	})
	return e
}

// index returns the index of k0, once it has a carrier. One without another host needs none.
func (h *kindHost) index(t *testing.T, carrier bool) (index int) {
	t.Helper()
	h.Do(func() {
		eventually(t, "k0 has a carrier", func() bool {
			k0 := mustFind(t, "k0")[0]
			index = k0.Index
			return !carrier || k0.Flags&net.FlagRunning != 0
		})
	})
	return index
}

// followed waits until the sockets have followed k0 to its index.
func (e *kindEnd) followed(t *testing.T, index int) {
	t.Helper()
	eventually(t, "the sockets follow", func() bool {
		for _, m := range append(e.rx.Memberships(), e.ssm.Memberships()...) {
			if !m.Joined || m.IfIndex != index {
				return false
			}
		}
		return e.tx.Interfaces()[0].Index == index
	})
}

// exchange sends to every group from one end. The other end receives it on its k0, and nothing before it, and replies.
func exchange(t *testing.T, from, to *kindEnd, port uint16, index int, what string) {
	t.Helper()
	for i, group := range kindGroups {
		rx := to.rx
		if i >= len(kindGroups)/2 {
			rx = to.ssm
		}
		payload := fmt.Sprintf("%s to %s", what, group)
		write(t, from.tx, group, port, payload)
		rx.SetReadDeadline(time.Now().Add(patience))
		m := mcast.Message{Buf: make([]byte, 100)}
		ms := []mcast.Message{m}
		if _, err := rx.ReadBatch(ms); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		if m = ms[0]; string(m.Buf[:m.N]) != payload || m.Group != group || m.IfIndex != index {
			t.Errorf("%q to %s on %d, want %q on %d", m.Buf[:m.N], m.Group, m.IfIndex, payload, index)
		}
		if _, err := rx.WriteToUDPAddrPort([]byte("reply to "+payload), m.Addr); err != nil {
			t.Fatal(err)
		}
		if got, _ := readTx(t, from.tx); got != "reply to "+payload {
			t.Errorf("the reply is %q", got)
		}
	}
}

func testKind(t *testing.T, k kind, a, b *kindHost) {
	noLeaks(t)
	pair := k.there != "none"
	if !pair {
		b = a
	} else if err := b.make(); err != nil {
		t.Fatal(err)
	}
	port := newPort()
	indexA, indexB := a.index(t, pair), b.index(t, pair)
	endA := a.open(t, port, b)
	endB := endA
	if pair {
		endB = b.open(t, port, a)
	}
	both := func(what string) {
		t.Helper()
		exchange(t, endB, endA, port, indexA, what+" in")
		if pair {
			exchange(t, endA, endB, port, indexB, what+" out")
		}
		if k.beside != "" {
			besideParent(t, a, b, k.beside == sameLink)
		}
	}
	both("first")
	if pair {
		doctorFindsNothing(t, a, endB, port)
	}
	if k.failover != "" {
		if err := a.sh(k.failover); err != nil {
			t.Fatal(err)
		}
		both("after the failover")
	}
	if err := a.sh("ip link delete k0"); err != nil {
		t.Fatal(err)
	}
	if err := a.make(); err != nil {
		t.Fatal(err)
	}
	indexA = a.index(t, pair)
	endA.followed(t, indexA)
	both("again")
}

// TestWireGuardPeers sends on a WireGuard interface whose peer does not have the group in its AllowedIPs, and then has no endpoint.
// The error names what is missing, and cures.
func TestWireGuardPeers(t *testing.T) {
	noLeaks(t)
	a := &kindHost{Host: mcasttest.NewHost(t), number: 1}
	a.NewVeth("e0", netip.MustParsePrefix("10.76.0.1/24"))
	a.env = []string{"E=e0", "L=10.76.0.1", "R=10.76.0.254", "N=1"}
	a.script = strings.Replace(wgScript, "endpoint $R:51820 allowed-ips 0.0.0.0/0,::/0", "allowed-ips 10.77.9.0/24,fd77:9::/64", 1)
	if err := a.make(); err != nil {
		if os.Getenv("MCAST_TEST_KINDS") == "all" {
			t.Fatal(err)
		}
		notHere(t, "WireGuard")
	}
	for _, r := range contractFamilies {
		var tx *mcast.TxSocket
		a.Do(func() { tx = openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "k0")}) })
		send := func() error {
			_, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(r.group, 9))
			return err
		}
		hint := hinted(t, send(), unix.ENOKEY, "AllowedIPs")
		if !strings.Contains(hint, r.group.String()) || !strings.Contains(hint, "wg set k0 peer") {
			t.Error(hint)
		}
		set := func(what string) {
			t.Helper()
			if err := a.sh("wg set k0 peer $(wg show k0 peers) " + what); err != nil {
				t.Fatal(err)
			}
		}
		set("allowed-ips " + netip.PrefixFrom(r.group, r.group.BitLen()).String())
		hinted(t, send(), unix.EDESTADDRREQ, "endpoint")
		set("endpoint 10.76.0.254:51820")
		if err := send(); err != nil {
			t.Errorf("cured: %v", err)
		}
		if err := a.sh("ip link delete k0"); err != nil {
			t.Fatal(err)
		}
		tx.Close()
		if err := a.make(); err != nil { // without an endpoint
			t.Fatal(err)
		}
	}
}

// TestSendWithoutARP checks that an interface with the flag NOARP sends and receives multicast: its Ethernet address is computed.
func TestSendWithoutARP(t *testing.T) {
	forEachFamily(t, func(t *testing.T, r contractRange) {
		h := newPortHost(t)
		h.ip("link set p0 arp off")
		port := newPort()
		far, s := newNaive(t, h.peer, r.group, port, "eth0"), newStation(t, h.peer, "eth0", unspecified(r.group))
		h.Do(func() {
			p0 := mustFind(t, "p0")
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: p0})
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: p0})
			write(t, tx, r.group, port, "out")
			far.await("out")
			s.send(r.group, port, "in")
			wantArrivals(t, rx, arrival{"in", r.group, p0[0].Index})
		})
	})
}

// besideParent receives on k0 and on its parent. Each gets once what another host sends to its link, and what this host sends on
// the interface itself. It does not get what this host sends on the other one: a macvlan and its parent never receive from each
// other, though they share a link (macvlan_queue_xmit in drivers/net/macvlan.c sends to the other macvlans and to the wire).
func besideParent(t *testing.T, a, b *kindHost, sameLink bool) {
	t.Helper()
	for _, group := range groupsOf("239.77.2.1", "ff02::77:2", "ff15::77:2") {
		port := newPort()
		var rx [2]*mcast.RxSocket // on the parent, and on k0
		var tx [2]*mcast.TxSocket
		var index [2]int
		a.Do(func() {
			for i, name := range []string{"e0", "k0"} {
				on := mustFind(t, name)
				index[i] = on[0].Index
				rx[i] = openRx(t, mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, Interfaces: on, Loopback: true})
				tx[i] = openTx(t, mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: on, Loopback: true})
			}
		})
		control := [2]*naive{newNaive(t, b.Host, group, port, "eth0"), newNaive(t, b.Host, group, port, "k0")}
		far := [2]*station{newStation(t, b.Host, "eth0", unspecified(group)), newStation(t, b.Host, "k0", unspecified(group))}
		var want [2][]arrival
		for i, own := range []string{"by the parent", "by k0"} {
			write(t, tx[i], group, port, own)
			control[i].await(own) // it has left, so that the other one could have received it
			want[i] = append(want[i], arrival{own, group, index[i]})
		}
		for i, payload := range []string{"to the parent's link", "to the link of k0"} {
			far[i].send(group, port, payload)
			for j := range rx {
				if j == i || sameLink {
					want[j] = append(want[j], arrival{payload, group, index[j]})
				}
			}
		}
		for i := range rx {
			wantArrivals(t, rx[i], want[i]...)
			rx[i].Close()
			tx[i].Close()
			control[i].Close()
			far[i].Close()
		}
	}
}

// doctorFindsNothing runs the doctor on a host while another one sends.
func doctorFindsNothing(t *testing.T, h *kindHost, from *kindEnd, port uint16) {
	t.Helper()
	groups := kindGroups[:len(kindGroups)/2]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			for _, g := range groups {
				from.tx.WriteToUDPAddrPort([]byte("for the doctor"), netip.AddrPortFrom(g, port+1))
			}
		}
	}()
	var report *doctor.Report
	var err error
	h.Do(func() {
		report, err = doctor.Run(ctx, doctor.Config{Groups: groups, Port: port + 1, Interfaces: mustFind(t, "k0"), Watch: time.Second})
	})
	cancel()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if report.Worst() > doctor.Info {
		t.Errorf("the doctor reports\n%s", report)
	}
}

// TestContainerNetworks checks what README says of containers: on a bridge network one receives what others on the bridge
// send, and nothing from outside; with the host's network or a macvlan it receives what the host receives.
func TestContainerNetworks(t *testing.T) {
	noLeaks(t)
	lan := mcasttest.NewLAN(t, 2)
	machine, outside := lan.Hosts[0], lan.Hosts[1]
	cable := machine.NewVeth("veth0")
	container := cable.Peer()
	container.Interface("eth0").AddAddress(netip.MustParsePrefix("172.17.0.2/16"))
	machine.Sysctl("net/ipv4/ip_forward", "1")
	run(t, machine, strings.Join([]string{"link add docker0 type bridge forward_delay 0", "address add 172.17.0.1/16 dev docker0",
		"link set docker0 up", "link set veth0 master docker0"}, "\n"), "ip", "-batch", "-")
	run(t, container, "route add default via 172.17.0.1\n", "ip", "-batch", "-")

	group, port := addr("239.77.1.1"), newPort()
	open := func(h *mcasttest.Host) (rx *mcast.RxSocket) {
		t.Helper()
		h.Do(func() { rx = openRx(t, mcast.RxConfig{Groups: []netip.Addr{group}, Port: port}) })
		return rx
	}
	bridged, host := open(container), open(machine)
	lan.WaitJoined(machine, group)
	receivers := []*mcast.RxSocket{host}
	far := mcasttest.NewHost(t)
	if err := moveMacvlan(machine, far, netip.AddrFrom4([4]byte{10, outside.IPv4.As4()[1], 0, 200})); err == nil {
		receivers = append(receivers, open(far))
	} else if t.Logf("no macvlan: %v", err); os.Getenv("MCAST_TEST_KINDS") == "all" {
		t.Error("this kernel must have it")
	}
	outside.Do(func() {
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{group}, TTL: 8})
		write(t, tx, group, port, "from outside")
	})
	for _, rx := range receivers {
		if got := arrivals(t, rx, "from outside"); len(got) != 1 {
			t.Errorf("received %v", got)
		}
	}
	machine.Do(func() {
		write(t, openTx(t, mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: mustFind(t, "docker0")}), group, port, "on the bridge")
	})
	if got := arrivals(t, bridged, "on the bridge"); len(got) != 1 {
		t.Errorf("the container received %v", got)
	}
}

// moveMacvlan gives a host a macvlan of the machine's eth0, with an address.
func moveMacvlan(machine, to *mcasttest.Host, at netip.Addr) error {
	hold := exec.Command("sleep", "60")
	if err := to.Start(hold); err != nil {
		return err
	}
	defer func() { hold.Process.Kill(); hold.Wait() }()
	var out []byte
	var err error
	machine.Do(func() {
		out, err = exec.Command("ip", "link", "add", "link", "eth0", "name", "mv0", "netns", fmt.Sprint(hold.Process.Pid),
			"type", "macvlan", "mode", "bridge").CombinedOutput()
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	to.Do(func() {
		out, err = exec.Command("sh", "-ec", "ip address add "+at.String()+"/24 dev mv0; ip link set mv0 up").CombinedOutput()
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
