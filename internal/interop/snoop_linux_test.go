// The switch, which is Linux's: it reads the reports that our joining and leaving causes, as any other does, and what
// it sends to a port is counted there, whether somebody takes it or not.

package interop

import (
	"net/netip"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// TestSwitch has two members, one of which leaves, and a host that is none. The sender is Python, or socat.
func TestSwitch(t *testing.T) {
	t.Parallel()
	for _, p := range peers[:2] {
		for _, group := range []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")} {
			t.Run(p.name+"/"+group.String(), func(t *testing.T) {
				t.Parallel()
				need(t, p.programs...)
				c := channel{group: group, port: 5000}
				lan := mcasttest.NewLAN(t, 4)
				sender, leaver, member, bystander := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2], lan.Hosts[3]
				from := address(sender, group)
				counts := make(map[*mcasttest.Host]func() uint64)
				for _, h := range lan.Hosts {
					counts[h] = h.Interface("eth0").CountUDP(group)
				}
				check := func(when string, left, stayed int) {
					t.Helper()
					for h, want := range map[*mcasttest.Host]int{leaver: left, member: stayed, bystander: 0} {
						if n := counts[h](); n != uint64(want) {
							t.Errorf("%s, %d datagrams have come to the port of %s, want %d", when, n, h.Name, want)
						}
					}
				}
				open := func(h *mcasttest.Host) *mcast.RxSocket {
					rx := openRx(t, h, mcast.RxConfig{Groups: []netip.Addr{group, other(group)}, Port: c.port})
					lan.WaitJoined(h, group)
					lan.WaitJoined(h, other(group))
					return rx
				}
				leaves, stays := open(leaver), open(member)

				p.startSend(t, sender, c, "1", "2", "3")
				want(t, leaves, group, from, "1", "2", "3")
				want(t, stays, group, from, "1", "2", "3")
				check("with two members", 3, 3)

				if err := leaves.Leave(group); err != nil {
					t.Fatal(err)
				}
				lan.WaitLeft(leaver, group)
				p.startSend(t, sender, c, "4", "5")
				want(t, stays, group, from, "4", "5")
				// What goes to the other group comes after that to the same port.
				p.startSend(t, sender, channel{group: other(group), port: c.port}, "other")
				want(t, leaves, other(group), from, "other")
				want(t, stays, other(group), from, "other")
				check("after one has left", 3, 5)

				join(t, leaver, leaves, group)
				lan.WaitJoined(leaver, group)
				p.startSend(t, sender, c, "6")
				want(t, leaves, group, from, "6")
				want(t, stays, group, from, "6")
				check("after it is back", 4, 6)
			})
		}
	}
}
