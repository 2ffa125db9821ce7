// What the kernel does to other sockets when one of ours is set up or closed.

package mcast

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/mcasttest"
)

// TestRxBlockedLeavesOthersAlone receives from a source while others that block it come and go: when such a socket
// leaves, the kernel shuts the source out from all for a moment. It takes many of these moments to meet one.
func TestRxBlockedLeavesOthersAlone(t *testing.T) {
	mcasttest.Require(t)
	const count, burst = 30_000, 50
	veth := mcasttest.NewVeth(t, "b0", netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd99::1/64"))
	b0 := interfaces(t, "b0")
	for i, group := range groups("239.1.1.1", "ff15::1234") {
		all := []netip.Addr{group}
		source := []netip.Addr{veth.Peer().IPv4, veth.Peer().IPv6}[i]
		rx, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: b0, ReadBuffer: 1 << 20})
		must(t, rx, err)
		defer rx.Close()
		var tx *TxSocket
		veth.Peer().Do(func() { tx, err = OpenTx(TxConfig{Groups: all, Interfaces: interfaces(t, "eth0")}) })
		must(t, tx, err)
		defer tx.Close()
		done := make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				other, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: b0, Blocked: []netip.Addr{source}, Static: true})
				if err != nil {
					t.Error(err)
					return
				}
				other.Close()
			}
		})
		rx.SetReadDeadline(time.Now().Add(20 * time.Second))
		buf := make([]byte, 10)
		for n := 0; n < count && !t.Failed(); n += burst {
			for range burst {
				if _, err := tx.WriteToUDPAddrPort([]byte("datagram"), netip.AddrPortFrom(group, 5000)); err != nil {
					t.Error(err)
				}
			}
			for range burst {
				if _, _, err := rx.ReadFromUDPAddrPort(buf); err != nil {
					t.Errorf("%s: one of the datagrams from %d on is missing: %v; %+v", group, n, err, rx.Memberships())
					break
				}
			}
		}
		close(done)
		others.Wait()
	}
}
