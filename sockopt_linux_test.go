// What the kernel does to other sockets when one of ours is set up or closed.

package mcast

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
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

// TestDroppedBeyond32Bits drops datagrams at a socket whose 32-bit counter is about to return to 0.
func TestDroppedBeyond32Bits(t *testing.T) {
	lo, group := interfaces(t, "lo"), groups("239.1.1.1")
	rx, err := OpenRx(RxConfig{Groups: group, Port: 5000, Interfaces: lo, ReadBuffer: 1, Static: true})
	must(t, rx, err)
	defer rx.Close()
	const before uint64 = 1<<32 - 1
	rx.m.update(func() { // the kernel counts from 0, as if it had counted up to here and one more
		rx.groups[0].pairs[0].conns[0].count.dropped = drops{last: 1<<32 - 1, total: before}
	})
	tx, err := OpenTx(TxConfig{Groups: group, Interfaces: lo, Static: true})
	must(t, tx, err)
	defer tx.Close()
	const sent = 100
	for range sent {
		must(t, 0, errOf(tx.WriteToUDPAddrPort(make([]byte, 1000), netip.AddrPortFrom(group[0], 5000))))
	}
	read := 0
	buf := make([]byte, 1000)
	for end := time.Now().Add(20 * time.Second); ; {
		rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			if _, _, err := rx.ReadFromUDPAddrPort(buf); err != nil {
				break
			}
			read++
		}
		m := rx.Memberships()[0]
		if m.Dropped == before+1+uint64(sent-read) && read < sent {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("sent %d, read %d, Dropped %d; want %d + 1 + %d", sent, read, m.Dropped, before, sent-read)
		}
	}
	tx.Close()
	conn := rx.groups[0].pairs[0].conns[0]
	must(t, 0, rx.Leave(group[0])) // which keeps what it counted, for a membership that goes on with other sockets
	if past := conn.pair.past.Dropped; past != before+1+uint64(sent-read) {
		t.Errorf("%d dropped are left of %d", past, before+1+uint64(sent-read))
	}
}

// The name that the file of a socket has within the library is not in errors.
func TestFileConnErrorWithoutFileName(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	named := (*os.SyscallError)(nil)
	if _, err = fileConn(r); !errors.Is(err, unix.ENOTSOCK) || !errors.As(err, &named) || err.Error() != named.Error() {
		t.Errorf("a pipe as a socket: %v", err)
	}
}
