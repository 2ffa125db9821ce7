// What a datagram costs, and that the hot paths do not allocate. The benchmarks come in pairs, with package net on
// the same work: compare within one run.

package mcast

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// hotPath is a sender and a receiver on lo, the receiver with n pairs.
type hotPath struct {
	tx   *TxSocket
	rx   *RxSocket
	dsts []netip.AddrPort
}

func openHotPath(tb testing.TB, first string, n int) *hotPath {
	tb.Helper()
	mcasttest.Require(tb)
	lo, err := FindInterfaces("lo")
	if err != nil {
		tb.Fatal(err)
	}
	h := &hotPath{}
	all := sequence(first, n)
	for _, g := range all {
		h.dsts = append(h.dsts, netip.AddrPortFrom(g, 5000))
	}
	if h.rx, err = OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: lo, ReadBuffer: 1 << 20, Static: true}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.rx.Close() })
	if h.tx, err = OpenTx(TxConfig{Groups: all, Interfaces: lo, Static: true}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.tx.Close() })
	return h
}

// messages returns a batch of n datagrams over all pairs in turn.
func (h *hotPath) messages(n, size int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i] = Message{Buf: make([]byte, size), Addr: h.dsts[i%len(h.dsts)]}
	}
	return ms
}

// address gives each datagram a group chosen at random. Traffic that repeats an order exactly would measure how well a reader
// guesses the next socket.
func (h *hotPath) address(ms []Message) {
	for i := range ms {
		ms[i].Addr = h.dsts[rand.IntN(len(h.dsts))]
	}
}

func must[T any](tb testing.TB, v T, err error) T {
	if err != nil {
		tb.Helper()
		tb.Fatal(err)
	}
	return v
}

// TestNoAllocations pins that nothing is allocated per datagram, whatever the family.
func TestNoAllocations(t *testing.T) {
	for _, first := range []string{"239.1.1.1", "ff02::1234", "ff15::1234"} {
		t.Run(first, func(t *testing.T) {
			h := openHotPath(t, first, 3)
			out, in := h.messages(32, 100), h.messages(32, 100)
			readAll := func(n int) {
				for n > 0 {
					k, err := h.rx.ReadBatch(in)
					must(t, k, err)
					n -= k
				}
			}
			for name, f := range map[string]func(){
				"WriteToUDPAddrPort and ReadFromUDPAddrPort": func() {
					must(t, 0, errOf(h.tx.WriteToUDPAddrPort(out[0].Buf, out[0].Addr)))
					_, _, err := h.rx.ReadFromUDPAddrPort(in[0].Buf)
					must(t, 0, err)
				},
				"WriteBatch and ReadBatch": func() {
					must(t, 0, errOf(h.tx.WriteBatch(out)))
					readAll(len(out))
				},
				"replies": func() {
					must(t, 0, errOf(h.tx.WriteToUDPAddrPort(out[0].Buf, out[0].Addr)))
					_, src, err := h.rx.ReadFromUDPAddrPort(in[0].Buf)
					must(t, 0, err)
					must(t, 0, errOf(h.rx.WriteToUDPAddrPort(in[0].Buf, src)))
					_, _, err = h.tx.ReadFromUDPAddrPort(in[0].Buf)
					must(t, 0, err)
				},
			} {
				if n := testing.AllocsPerRun(100, f); n != 0 {
					t.Errorf("%s: %v allocations", name, n)
				}
			}
		})
	}
}

// TestNoAllocationsWithZone sends to link-local hosts and groups by the interface that the destination's zone picks. A
// receiver looks up a name, which allocates, so its zone is an index. A sender compares the zone with its own interfaces.
func TestNoAllocationsWithZone(t *testing.T) {
	mc0 := interfaces(t, "mc0")
	group := groups("ff02::1234")
	tx, err := OpenTx(TxConfig{Groups: group, Interfaces: mc0, Loopback: true, Static: true})
	must(t, tx, err)
	defer tx.Close()
	rx, err := OpenRx(RxConfig{Groups: group, Port: 5000, Interfaces: mc0, Loopback: true, Static: true})
	must(t, rx, err)
	defer rx.Close()
	index := strconv.Itoa(mc0[0].Index)
	buf := make([]byte, 100)
	for _, zone := range []string{index, "mc0"} {
		dst := netip.AddrPortFrom(group[0].WithZone(zone), 5000)
		ms := slices.Repeat([]Message{{Buf: buf, Addr: dst}}, 3)
		if n := testing.AllocsPerRun(100, func() {
			must(t, 0, errOf(tx.WriteToUDPAddrPort(buf, dst)))
			must(t, 0, errOf(tx.WriteBatch(ms)))
		}); n != 0 {
			t.Errorf("sending to %s: %v allocations", dst, n)
		}
	}
	rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	_, src, err := rx.ReadFromUDPAddrPort(buf)
	if err != nil || src.Addr().Zone() != index {
		t.Fatalf("read from %s, %v; want the zone %s", src, err, index)
	}
	if n := testing.AllocsPerRun(100, func() { must(t, 0, errOf(rx.WriteToUDPAddrPort(buf, src))) }); n != 0 {
		t.Errorf("a reply to %s: %v allocations", src, n)
	}
	named := netip.AddrPortFrom(src.Addr().WithZone("mc0"), src.Port())
	must(t, 0, errOf(rx.WriteToUDPAddrPort([]byte("by name"), named)))
	tx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	for text := ""; text != "by name"; {
		n, _, err := tx.ReadFromUDPAddrPort(buf)
		text = string(buf[:must(t, n, err)])
	}
}

func errOf[T any](_ T, err error) error { return err }

func BenchmarkReadFromUDPAddrPort(b *testing.B) {
	for _, pairs := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("pairs=%d", pairs), func(b *testing.B) {
			h := openHotPath(b, "239.1.1.1", pairs)
			out, buf := h.messages(256, 64), make([]byte, 100)
			b.ReportAllocs()
			for left := 0; b.Loop(); left-- {
				if left == 0 {
					b.StopTimer()
					left = len(out)
					h.address(out)
					must(b, 0, errOf(h.tx.WriteBatch(out)))
					b.StartTimer()
				}
				_, _, err := h.rx.ReadFromUDPAddrPort(buf)
				must(b, 0, err)
			}
		})
	}
	b.Run("net", func(b *testing.B) {
		h := openHotPath(b, "239.1.1.1", 1)
		c := netReceiver(b, h.dsts[0])
		out, in, buf := h.messages(256, 64), h.messages(256, 64), make([]byte, 100)
		b.ReportAllocs()
		for left := 0; b.Loop(); left-- {
			if left == 0 {
				b.StopTimer()
				left = len(out)
				must(b, 0, errOf(h.tx.WriteBatch(out)))
				for n := 0; n < len(out); n += must2(h.rx.ReadBatch(in)) {
				}
				b.StartTimer()
			}
			_, _, err := c.ReadFromUDPAddrPort(buf)
			must(b, 0, err)
		}
	})
}

func must2(n int, err error) int {
	if err != nil {
		panic(err)
	}
	return n
}

// netReceiver is package net's own receiver for a group of IPv4 on lo.
func netReceiver(tb testing.TB, group netip.AddrPort) *net.UDPConn {
	lo, err := net.InterfaceByName("lo")
	must(tb, lo, err)
	c, err := net.ListenMulticastUDP("udp4", lo, net.UDPAddrFromAddrPort(group))
	must(tb, c, err)
	tb.Cleanup(func() { c.Close() })
	c.SetReadBuffer(1 << 20)
	return c
}

func BenchmarkReadBatch(b *testing.B) {
	for _, pairs := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("pairs=%d", pairs), func(b *testing.B) {
			h := openHotPath(b, "239.1.1.1", pairs)
			out, in := h.messages(256, 64), h.messages(256, 64)
			b.ReportAllocs()
			for left := 0; b.Loop(); left-- {
				if left <= 0 {
					b.StopTimer()
					left = len(out)
					h.address(out)
					must(b, 0, errOf(h.tx.WriteBatch(out)))
					b.StartTimer()
					for n := 0; n < len(out); n += must2(h.rx.ReadBatch(in)) {
					}
				}
			}
		})
	}
}

func BenchmarkWriteToUDPAddrPort(b *testing.B) {
	b.Run("mcast", func(b *testing.B) {
		h := openHotPath(b, "239.1.1.1", 1)
		h.rx.Leave(h.dsts[0].Addr()) // nobody to receive: the cost of sending alone
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			must(b, 0, errOf(h.tx.WriteToUDPAddrPort(buf, h.dsts[0])))
		}
	})
	b.Run("net", func(b *testing.B) {
		mcasttest.Require(b)
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		must(b, c, err)
		defer c.Close()
		buf, dst := make([]byte, 64), netip.MustParseAddrPort("239.1.1.1:5000")
		b.ReportAllocs()
		for b.Loop() {
			must(b, 0, errOf(c.WriteToUDPAddrPort(buf, dst)))
		}
	})
}

func BenchmarkWriteBatch(b *testing.B) {
	h := openHotPath(b, "239.1.1.1", 1)
	h.rx.Leave(h.dsts[0].Addr())
	out := h.messages(64, 64)
	b.ReportAllocs()
	for left := 0; b.Loop(); left-- {
		if left == 0 {
			left = len(out)
			must(b, 0, errOf(h.tx.WriteBatch(out)))
		}
	}
}

// BenchmarkPingPong is the latency of one datagram sent and read back, with the reader parked each time.
func BenchmarkPingPong(b *testing.B) {
	b.Run("mcast", func(b *testing.B) {
		h := openHotPath(b, "239.1.1.1", 16)
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			must(b, 0, errOf(h.tx.WriteToUDPAddrPort(buf, h.dsts[rand.IntN(len(h.dsts))])))
			_, _, err := h.rx.ReadFromUDPAddrPort(buf)
			must(b, 0, err)
		}
	})
	b.Run("net", func(b *testing.B) {
		mcasttest.Require(b)
		h := openHotPath(b, "239.1.1.1", 1)
		h.rx.Leave(h.dsts[0].Addr())
		c := netReceiver(b, h.dsts[0])
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			must(b, 0, errOf(h.tx.WriteToUDPAddrPort(buf, h.dsts[0])))
			_, _, err := c.ReadFromUDPAddrPort(buf)
			must(b, 0, err)
		}
	})
}
