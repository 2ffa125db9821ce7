// The benchmarks, and how two sides are compared. sides_linux_test.go has what the sides do.

package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

const (
	small, large = 64, 1200 // bytes of a datagram
	vlen         = 64       // datagrams that a side moves with one call
	readBuffer   = 4 << 20  // bytes that each socket asks for
)

// turn does a piece of work and returns what it cost. What prepares the work is not part of the cost.
type turn func() time.Duration

// compare lets the library and a peer take turns. A turn is a number of operations. It reports the cost of an operation on
// each side, and the cost of the library in percent of the peer's: benchstat would show a ratio of 0.9 as "900m".
func compare(b *testing.B, operations int, mine, peer turn) {
	b.Helper()
	// A garbage collection would charge one side for what the other side left behind.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	sides, took := [2]turn{mine, peer}, [2]time.Duration{}
	mine() // allocates what is kept
	peer()
	turns := 0
	for ; b.Loop(); turns++ {
		if turns%256 == 0 {
			runtime.GC()
		}
		for i := range 2 {
			side := (turns + i) % 2
			took[side] += sides[side]()
		}
	}
	n := float64(turns * operations)
	b.ReportMetric(0, "ns/op") // leaves out the time of a turn, which means nothing
	b.ReportMetric(float64(took[0])/n, "mcast-ns")
	b.ReportMetric(float64(took[1])/n, "peer-ns")
	b.ReportMetric(100*float64(took[0])/float64(took[1]), "percent")
}

// processor returns the processor time that the calling thread spends in f. The load of other programs does not count.
func processor(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := clock(unix.CLOCK_THREAD_CPUTIME_ID)
	f()
	return clock(unix.CLOCK_THREAD_CPUTIME_ID) - start
}

func clock(id int32) time.Duration {
	var t unix.Timespec
	unix.ClockGettime(id, &t)
	return time.Duration(t.Nano())
}

// loopback returns the interface of all benchmarks. It skips a benchmark that needs more descriptors than the limit.
func loopback(b *testing.B, sockets int) mcast.Interface {
	b.Helper()
	mcasttest.Require(b)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); limit.Cur < uint64(sockets)+50 {
		b.Skipf("%d sockets need more than %d descriptors", sockets, limit.Cur)
	}
	lo, err := mcast.FindInterfaces("lo")
	check(b, err)
	return lo[0]
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// destinations returns n groups with a port. Each side has its own port, and receives only what is sent to that port.
func destinations(port uint16, n int) []netip.AddrPort {
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 7, byte(i >> 8), byte(i)}), port)
	}
	return all
}

const minePort, peerPort, lastPort = 5001, 5002, 5003

// load is the work of a benchmark that receives: how many memberships, and how many datagrams wait for each of them.
type load struct{ memberships, datagrams int }

func (l load) String() string {
	return fmt.Sprintf("memberships=%d/datagrams=%d", l.memberships, l.datagrams)
}

// reading is a turn that sends to all memberships in random order, waits until all has arrived, and reads it.
func reading(b *testing.B, port uint16, l load, batch bool, open opener) turn {
	dsts, n := destinations(port, l.memberships), l.memberships*l.datagrams
	read, send := open(b, dsts, small, batch), fill(b, dsts, n)
	return func() time.Duration {
		send()
		return processor(func() { received(b, read, n, small, batch) })
	}
}

// received reads n datagrams and checks what the side learned from them, so that all sides do the same work.
func received(b *testing.B, read reader, n, size int, batch bool) {
	bytes, group, ifIndex := read(n)
	if bytes != n*size || batch && (!group.IsMulticast() || ifIndex == 0) {
		b.Fatalf("read %d bytes, want %d; the last datagram was for %v on interface %d", bytes, n*size, group, ifIndex)
	}
}

func BenchmarkRead(b *testing.B) {
	for _, l := range []load{{1, 512}, {16, 32}, {256, 16}, {256, 1}} {
		if l.memberships == 1 {
			benchmarkRead(b, l, false, "net", openNet)
		}
		benchmarkRead(b, l, false, "C", openC)
	}
}

func BenchmarkReadBatch(b *testing.B) {
	for _, l := range []load{{1, 512}, {16, 32}, {256, 16}, {256, 1}, {1000, 4}, {1000, 1}} {
		if l.memberships == 1 {
			benchmarkRead(b, l, true, "xnet", openNet)
		}
		benchmarkRead(b, l, true, "C", openC)
	}
}

func benchmarkRead(b *testing.B, l load, batch bool, name string, open opener) {
	b.Run(fmt.Sprintf("%v/peer=%s", l, name), func(b *testing.B) {
		loopback(b, 2*l.memberships)
		compare(b, l.memberships*l.datagrams, reading(b, minePort, l, batch, openMcast), reading(b, peerPort, l, batch, open))
	})
}

// sending is a turn that sends n datagrams to groups that no socket has joined, in random order.
func sending(b *testing.B, port uint16, groups, size int, batch bool, open senderOpener) turn {
	shuffle, send := open(b, destinations(port, groups), 4*vlen, size, batch)
	return func() time.Duration {
		shuffle()
		return processor(send)
	}
}

func BenchmarkWrite(b *testing.B) {
	b.Run("peer=net", func(b *testing.B) {
		loopback(b, 2)
		compare(b, 4*vlen, sending(b, minePort, 1, small, false, openMcastSender), sending(b, peerPort, 1, small, false, openNetSender))
	})
}

func BenchmarkWriteBatch(b *testing.B) {
	for _, w := range []struct{ groups, size int }{{1, small}, {1, large}, {64, small}} {
		b.Run(fmt.Sprintf("groups=%d/bytes=%d/peer=C", w.groups, w.size), func(b *testing.B) {
			loopback(b, 2)
			compare(b, 4*vlen, sending(b, minePort, w.groups, w.size, true, openMcastSender),
				sending(b, peerPort, w.groups, w.size, true, openCSender))
		})
	}
}

// BenchmarkCoalesce sends batches and reads them with RxConfig.Coalesce. The cost is that of both.
func BenchmarkCoalesce(b *testing.B) {
	for _, w := range []struct{ size, datagrams int }{{small, 8 * vlen}, {large, 2 * vlen}} { // these fit into a receive buffer
		b.Run(fmt.Sprintf("bytes=%d/peer=xnet", w.size), func(b *testing.B) {
			loopback(b, 4)
			passing := func(port uint16, openTx senderOpener, openRx opener) turn {
				dsts := destinations(port, 1)
				read := openRx(b, dsts, 2048, true)
				_, send := openTx(b, dsts, w.datagrams, w.size, true)
				return func() time.Duration {
					return processor(send) + processor(func() { received(b, read, w.datagrams, w.size, true) })
				}
			}
			compare(b, w.datagrams, passing(minePort, openMcastSender, openMcastCoalesced), passing(peerPort, openNetSender, openNet))
		})
	}
}

// BenchmarkRoundTrip measures elapsed time. Either one goroutine sends a datagram and reads it, or it sends the datagram to
// a reader that waits, and reads the answer. The peer waits with a goroutine for each socket.
func BenchmarkRoundTrip(b *testing.B) {
	const rounds = 64
	for _, w := range []struct {
		reader      string
		memberships int
	}{{"ready", 1}, {"waits", 1}, {"waits", 16}} {
		b.Run(fmt.Sprintf("reader=%s/memberships=%d/peer=net", w.reader, w.memberships), func(b *testing.B) {
			loopback(b, 2*w.memberships+2)
			trip := func(dsts []netip.AddrPort, tx conn, rxs ...conn) turn {
				from := rxs[0]
				if w.reader == "waits" {
					from = tx
					for _, rx := range rxs {
						echo(b, rx)
					}
				}
				buf := make([]byte, small)
				return func() time.Duration {
					check(b, from.SetReadDeadline(time.Now().Add(patience)))
					start := time.Now()
					for range rounds {
						_, err := tx.WriteToUDPAddrPort(buf, dsts[rand.IntN(len(dsts))])
						check(b, err)
						_, _, err = from.ReadFromUDPAddrPort(buf)
						check(b, err)
					}
					return time.Since(start)
				}
			}
			mine, peer := destinations(minePort, w.memberships), destinations(peerPort, w.memberships)
			var sockets []conn
			for _, dst := range peer {
				sockets = append(sockets, listen(b, dst))
			}
			compare(b, rounds, trip(mine, newTx(b, mine), newRx(b, mine, false)), trip(peer, dial(b), sockets...))
		})
	}
}

// BenchmarkArrive reads while datagrams arrive. It measures the processor time of all threads except the sender's. The peer
// has a goroutine for each socket, and a channel to the reader.
func BenchmarkArrive(b *testing.B) {
	for _, l := range []load{{16, 64}, {256, 4}} {
		b.Run(fmt.Sprintf("memberships=%d/peer=goroutines", l.memberships), func(b *testing.B) {
			loopback(b, 2*l.memberships)
			n := l.memberships * l.datagrams
			arriving := func(dsts []netip.AddrPort, open func(*testing.B, []netip.AddrPort) func() error) turn {
				send, await := fill(b, dsts, n), count(b, n, open(b, dsts))
				return func() time.Duration {
					all := clock(unix.CLOCK_PROCESS_CPUTIME_ID)
					own := processor(func() {
						send()
						await()
					})
					return clock(unix.CLOCK_PROCESS_CPUTIME_ID) - all - own
				}
			}
			compare(b, n, arriving(destinations(minePort, l.memberships), nextMcast),
				arriving(destinations(peerPort, l.memberships), nextGoroutines))
		})
	}
}

// BenchmarkOpen measures the elapsed time to open a receiver. The peer opens as many sockets with bare system calls.
func BenchmarkOpen(b *testing.B) {
	const memberships = 1000
	b.Run(fmt.Sprintf("memberships=%d/peer=syscalls", memberships), func(b *testing.B) {
		lo := loopback(b, memberships)
		opening := func(port uint16, open func(dsts []netip.AddrPort) (close func())) turn {
			dsts := destinations(port, memberships)
			return func() time.Duration {
				start := time.Now()
				closeAll := open(dsts)
				took := time.Since(start)
				closeAll()
				return took
			}
		}
		compare(b, memberships, opening(minePort, func(dsts []netip.AddrPort) func() {
			rx, err := mcast.OpenRx(rxConfig(lo, dsts))
			check(b, err)
			return func() { check(b, rx.Close()) }
		}), opening(peerPort, func(dsts []netip.AddrPort) func() {
			fds := epollSockets(b, lo, dsts)
			return func() { closeSockets(fds) }
		}))
	})
}
