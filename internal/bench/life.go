//go:build linux

// What it takes to open many pairs, and to have them.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

const manyPairs = 1000

// openingMine is a contender that opens pairs, and closes them without being timed.
func openingMine(l *lab, on *network, pairs int) contender {
	return contender{
		round: func() (float64, int, error) {
			dsts := l.destinations(pairs)
			start := time.Now()
			rx, err := openMine(on.rx, dsts, false)
			took := time.Since(start)
			if err != nil {
				return 0, 0, err
			}
			return float64(took) / 1e3, pairs, rx.Close()
		},
		close: func() {},
	}
}

// openingBare is a contender that makes the same system calls.
func openingBare(l *lab, on *network, pairs int) contender {
	fds := make([]int, 0, pairs)
	return contender{
		round: func() (float64, int, error) {
			dsts := l.destinations(pairs)
			defer func() {
				closeAll(fds)
				fds = fds[:0]
			}()
			start := time.Now()
			epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			if err != nil {
				return 0, 0, os.NewSyscallError("epoll_create1", err)
			}
			defer unix.Close(epfd)
			for i, dst := range dsts {
				fd, err := rawPair(on.rx, dst)
				if err != nil {
					return 0, 0, err
				}
				fds = append(fds, fd)
				event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
				if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
					return 0, 0, os.NewSyscallError("epoll_ctl", err)
				}
			}
			return float64(time.Since(start)) / 1e3, pairs, nil
		},
		close: func() {},
	}
}

// holding is a contender whose cost is the memory, as it is measured, for pairs with their buffers and goroutines.
func holding(l *lab, pairs int, memory func() int64, open func(dsts []netip.AddrPort) (func(), error)) contender {
	return contender{
		round: func() (float64, int, error) {
			dsts := l.destinations(pairs)
			before := memory()
			closeAll, err := open(dsts)
			if err != nil {
				return 0, 0, err
			}
			after := memory()
			closeAll()
			return float64(after - before), pairs, nil
		},
		close: func() {},
	}
}

// inUse is the memory that heap and stacks take.
func inUse() int64 {
	var m runtime.MemStats
	for range 2 { // the first collection leaves what pools hold
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// resident is the memory of the process that is in RAM.
func resident() int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	fmt.Sscan(string(text), &size, &pages)
	return pages * int64(os.Getpagesize())
}

func lifeRows(on string) []row {
	enough := func() error {
		if n := descriptors(); 2*manyPairs > n*9/10 {
			return leftOut("there may be %d descriptors", n)
		}
		return nil
	}
	rows := []row{{
		scenario: "open", on: on, work: fmt.Sprintf("open %d pairs", manyPairs), against: "the bare system calls", unit: "µs",
		goal: goal{atMost: 1.3}, heavy: true,
		open: func(l *lab) (a, b contender, err error) {
			n := l.networks[on]
			return openingMine(l, n, manyPairs), openingBare(l, n, manyPairs), enough()
		},
	}}
	for _, kind := range []struct {
		name    string
		measure func() int64
	}{{"heap and stacks", inUse}, {"resident memory", resident}} {
		rows = append(rows, row{
			scenario: "memory", on: on, work: fmt.Sprintf("hold %d pairs, %s", manyPairs, kind.name),
			against: "a goroutine for each socket", unit: "bytes", heavy: true,
			open: func(l *lab) (a, b contender, err error) {
				n := l.networks[on]
				mine := holding(l, manyPairs, kind.measure, func(dsts []netip.AddrPort) (func(), error) {
					rx, err := openMine(n.rx, dsts, false)
					return func() { rx.Close() }, err
				})
				peer := holding(l, manyPairs, kind.measure, func(dsts []netip.AddrPort) (func(), error) {
					g, err := openGoroutines(n.rx, dsts, 2048)
					time.Sleep(20 * time.Millisecond) // until all of them wait
					return g.close, err
				})
				return mine, peer, enough()
			},
		})
	}
	return rows
}
