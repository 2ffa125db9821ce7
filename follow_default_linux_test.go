// A sender that names no interface goes with the default route, on real interfaces.

package mcast

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-multicast/mcast/mcasttest"
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
		for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: it sends by %v", what, tx.Interfaces())
			}
		}
		rx := receivers[slices.Index(veths, v)]
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // the far end follows, too
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
			if _, err := tx.WriteToUDPAddrPort(payload, netip.AddrPortFrom(g, 5000)); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			ms := []Message{{Buf: make([]byte, 10)}}
			rx.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := rx.ReadBatch(ms); err != nil || ms[0].Buf[0] != payload[0] || ms[0].Group != g {
				t.Fatalf("%s: read %+v, %v; want datagram %d to %s", what, ms[0], err, serial, g)
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
	for end := time.Now().Add(20 * time.Second); !slices.Contains(tx.Interfaces()[0].IPv4, has); time.Sleep(time.Millisecond) {
		if time.Now().After(end) || tx.Interfaces()[0].Name != "wifi" {
			t.Fatalf("it sends by %v", tx.Interfaces())
		}
	}
}
