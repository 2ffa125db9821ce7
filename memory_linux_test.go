package mcast

import (
	"net/netip"
	"slices"
	"testing"
	"time"
	"weak"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// TestGoneInterfacesAreFreed has an interface come, bring a datagram and go, beside one that is quiet. Nothing of it stays
// in memory while the socket is open.
func TestGoneInterfacesAreFreed(t *testing.T) {
	const rounds = 4
	group := groups("239.1.1.1")
	h := mcasttest.NewHost(t)
	h.NewVeth("quiet", netip.MustParsePrefix("10.9.1.1/24"))
	veth := h.NewVeth("comes", netip.MustParsePrefix("10.9.2.1/24"))
	var rx *RxSocket
	var err error
	h.Do(func() { rx, err = OpenRx(RxConfig{Groups: group, Port: 5000, Loopback: true}) })
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	end := time.Now().Add(slow.Limit(20 * time.Second))
	rx.SetReadDeadline(end)
	until := func(what string, is func() bool) {
		t.Helper()
		for !is() {
			if time.Now().After(end) {
				t.Fatal("too late: ", what)
			}
			time.Sleep(time.Millisecond)
		}
	}
	on := func(name string) func(Membership) bool {
		return func(m Membership) bool { return m.Joined && m.Interface == name }
	}
	exchange := func(name string) {
		t.Helper()
		until(name+" is joined", func() bool { return slices.ContainsFunc(rx.Memberships(), on(name)) })
		h.Do(func() {
			tx, err := OpenTx(TxConfig{Groups: group, Interfaces: interfaces(t, name), Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			if _, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(group[0], 5000)); err != nil {
				t.Fatal(err)
			}
		})
		if _, _, err := rx.ReadFromUDPAddrPort(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	exchange("quiet")
	var links []weak.Pointer[rxLink]
	var conns []weak.Pointer[conn]
	for range rounds {
		exchange("comes")
		rx.mu.Lock()
		for _, p := range rx.groups[0].pairs {
			if p.link.ifc.Name == "comes" {
				links = append(links, weak.Make(p.link))
				conns = append(conns, weak.Make(p.conns[0]))
			}
		}
		rx.mu.Unlock()
		veth.Delete()
		until("it is forgotten", func() bool { return !slices.ContainsFunc(rx.Memberships(), on("comes")) })
		veth.Create()
	}
	until("it is joined", func() bool { return slices.ContainsFunc(rx.Memberships(), on("comes")) })
	if len(conns) != rounds {
		t.Fatalf("%d memberships of %d", len(conns), rounds)
	}
	wantFreed(t, conns...)
	wantFreed(t, links...)
	exchange("quiet")
}
