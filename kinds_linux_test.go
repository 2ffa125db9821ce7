// Kinds of interface that Linux has beside a network card: which of them are joined, and that they send and receive.

package mcast_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
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
