//go:build linux

// One reader of many sockets: the library's, and what one writes in Go without it, a goroutine for each socket and a
// channel. Since a goroutine receives when it wants, and not when it is asked, a clock around a read says nothing.
// So this counts processor time: all that the process takes while datagrams come in, less that of the thread that
// sends them.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// delivered is what goroutines send through their channel.
type delivered struct {
	buf     *[]byte
	n       int
	src     netip.AddrPort
	group   netip.Addr
	ifIndex int
}

// goroutines is a receiver with a goroutine for each socket.
type goroutines struct {
	sockets []interface{ Close() error }
	out     chan delivered
	running sync.WaitGroup
	pool    sync.Pool
}

func openGoroutines(p place, dsts []netip.AddrPort, size int) (*goroutines, error) {
	g := &goroutines{out: make(chan delivered, 64)}
	g.pool.New = func() any { return new(make([]byte, size)) }
	for _, dst := range dsts {
		udp, err := bindGroup(p, dst)
		if err != nil {
			g.close()
			return nil, err
		}
		g.sockets = append(g.sockets, udp)
		g.running.Go(func() {
			for {
				buf := g.pool.Get().(*[]byte)
				n, src, err := udp.ReadFromUDPAddrPort(*buf)
				if err != nil {
					return
				}
				g.out <- delivered{buf, n, src, dst.Addr(), p.ifc.Index}
			}
		})
	}
	return g, nil
}

func (g *goroutines) read() error {
	d, ok := <-g.out
	if !ok {
		return os.ErrClosed
	}
	noted.bytes, noted.src, noted.group, noted.ifIndex = noted.bytes+d.n, d.src, d.group, d.ifIndex
	g.pool.Put(d.buf)
	return nil
}

func (g *goroutines) close() {
	for _, s := range g.sockets {
		s.Close()
	}
	done := make(chan struct{})
	go func() {
		for range g.out { // what they still want to deliver
		}
		close(done)
	}()
	g.running.Wait()
	close(g.out)
	<-done
}

// rawPair opens, with the same calls as the library, a socket that receives one group by one interface. It must be
// called in the place's namespace.
func rawPair(p place, dst netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for _, f := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) },
		func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer) },
		func() error {
			mreq := unix.IPMreqn{Multiaddr: dst.Addr().As4(), Ifindex: int32(p.ifc.Index)}
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &mreq)
		},
		func() error { return unix.Bind(fd, &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}) },
	} {
		if err := f(); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("opening a pair", err)
		}
	}
	return fd, nil
}

// reading reads all the time, in a goroutine.
type reading struct {
	want  atomic.Int64
	got   atomic.Int64
	done  chan struct{} // holds one: want has been reached
	ended chan struct{}
}

// newReading calls read, which says how many it has read, until that fails.
func newReading(read func() (int, error)) *reading {
	r := &reading{done: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		for {
			n, err := read()
			if err != nil {
				return
			}
			if r.got.Add(int64(n)) == r.want.Load() {
				r.done <- struct{}{}
			}
		}
	}()
	return r
}

// processTime is what all threads have taken.
func processTime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// counting makes a contender of a reading: its cost is the processor time of the rest of the process.
func counting(f *filler, n int, r *reading, close func()) contender {
	return contender{
		round: func() (float64, int, error) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r.want.Store(r.got.Load() + int64(n))
			all, own := processTime(), threadTime()
			if err := f.fill(); err != nil {
				return 0, 0, err
			}
			select {
			case <-r.done:
			case <-time.After(patience):
				return 0, 0, fmt.Errorf("%d of %d datagrams are missing", r.want.Load()-r.got.Load(), n)
			}
			all, own = processTime()-all, threadTime()-own
			return float64(all - own), n, nil
		},
		close: close,
	}
}

// mergeCount is how many datagrams a round of merging has.
func mergeCount(pairs int) (int, error) {
	most, err := room(small)
	n := max(1024/pairs, 1) * pairs
	if n/pairs > most {
		n = most * pairs
	}
	return n, err
}

// A way to merge is one to read from many pairs as if they were one.
type way func(l *lab, on *network, pairs int) (contender, error)

func mineOneByOne(l *lab, on *network, pairs int) (contender, error) {
	return mineWay(l, on, pairs, 0)
}

func mineInBatches(l *lab, on *network, pairs int) (contender, error) {
	return mineWay(l, on, pairs, vlen)
}

func mineWay(l *lab, on *network, pairs, batch int) (c contender, err error) {
	return openWay(l, on, pairs, func(dsts []netip.AddrPort) (func() (int, error), func(), error) {
		rx, err := openMine(on.rx, dsts, false)
		if err != nil {
			return nil, nil, err
		}
		if batch > 0 {
			ms := mineMessages(batch, 2048)
			return func() (int, error) { return rx.ReadBatch(ms) }, func() { rx.Close() }, nil
		}
		buf := make([]byte, 2048)
		return func() (int, error) {
			_, _, err := rx.ReadFromUDPAddrPort(buf)
			return 1, err
		}, func() { rx.Close() }, nil
	})
}

func byGoroutines(l *lab, on *network, pairs int) (contender, error) {
	return openWay(l, on, pairs, func(dsts []netip.AddrPort) (func() (int, error), func(), error) {
		g, err := openGoroutines(on.rx, dsts, 2048)
		if err != nil {
			return nil, nil, err
		}
		return func() (int, error) { return 1, g.read() }, g.close, nil
	})
}

// byNet reads from one socket of package net, whatever the number of pairs: what one read costs without a merge.
func byNet(l *lab, on *network, pairs int) (contender, error) {
	return openWay(l, on, 1, func(dsts []netip.AddrPort) (func() (int, error), func(), error) {
		udp, err := openNet(on.rx, dsts[0])
		if err != nil {
			return nil, nil, err
		}
		buf := make([]byte, 2048)
		return func() (int, error) {
			_, _, err := udp.ReadFromUDPAddrPort(buf)
			return 1, err
		}, func() { udp.Close() }, nil
	})
}

func openWay(l *lab, on *network, pairs int, open func([]netip.AddrPort) (read func() (int, error), close func(), err error)) (c contender, err error) {
	if n := descriptors(); 2*pairs > n*9/10 {
		return c, leftOut("there may be %d descriptors", n)
	}
	n, err := mergeCount(pairs)
	if err != nil {
		return c, err
	}
	dsts := l.destinations(pairs)
	read, closeRx, err := open(dsts)
	if err != nil {
		return c, err
	}
	f, err := newFiller(l, on, dsts, n, small)
	if err != nil {
		closeRx()
		return c, err
	}
	r := newReading(read)
	return counting(f, n, r, func() { closeRx(); <-r.ended; f.close() }), nil
}

func mergeRows(on string) (rows []row) {
	for _, pairs := range []int{16, 256} {
		rows = append(rows, row{
			scenario: "merge", on: on, work: fmt.Sprintf("read as they come, processor time, %s, %d pairs", mergeName, pairs),
			against: "a goroutine for each socket", unit: "ns", goal: mergeGoal,
			open: func(l *lab) (a, b contender, err error) {
				if a, err = mineOneByOne(l, l.networks[on], pairs); err != nil {
					return a, b, err
				}
				if b, err = byGoroutines(l, l.networks[on], pairs); err != nil {
					a.close()
				}
				return a, b, err
			},
		})
	}
	return rows
}
