// A socket that was opened in another network namespace is healed in that one.

package mcast

import (
	"net/netip"
	"testing"
	"time"

	"github.com/go-multicast/mcast/mcasttest"
)

func TestFollowInAnotherNamespace(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("fd99::1/64"))
	var rx *RxSocket
	var tx *TxSocket
	host.Do(func() {
		there, err := FindInterfaces("there")
		if err != nil {
			t.Fatal(err)
		}
		all := groups("239.1.1.1", "ff02::1234", "ff15::1234")
		if rx, err = OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: there, Loopback: true}); err != nil {
			t.Fatal(err)
		}
		if tx, err = OpenTx(TxConfig{Groups: all, Interfaces: there, Loopback: true}); err != nil {
			t.Fatal(err)
		}
	})
	defer rx.Close()
	defer tx.Close()

	for range 3 {
		veth.Delete()
		veth.Create()
		healed := func() bool {
			for _, m := range rx.Memberships() {
				if !m.Joined || m.IfIndex != veth.Index() {
					return false
				}
			}
			return tx.Interfaces()[0].Index == veth.Index()
		}
		for end := time.Now().Add(20 * time.Second); !healed(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the interface has index %d, the memberships are %+v", veth.Index(), rx.Memberships())
			}
		}
		rx.SetReadDeadline(time.Now().Add(20 * time.Second))
		for _, g := range rx.cfg.Groups {
			if _, err := tx.WriteToUDPAddrPort([]byte(g.String()), netip.AddrPortFrom(g, 5000)); err != nil {
				t.Fatal(err)
			}
			ms := []Message{{Buf: make([]byte, 64)}}
			if _, err := rx.ReadBatch(ms); err != nil || ms[0].Group != g || ms[0].IfIndex != veth.Index() {
				t.Fatalf("%s: read %+v, %v", g, ms[0], err)
			}
		}
	}
}
