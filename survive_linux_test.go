// What sockets live through: their interface deleted while it is sent by, their network namespace left by everybody else or
// ended under them, deadlines of the wall clock.

package mcast_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// TestInterfaceGoneWhileSending deletes the interface while one goroutine sends by it, datagram by datagram and in
// batches, and another waits for datagrams from it. What is reported as sent may be lost. But what is reported as not
// sent has not arrived, nothing arrives twice, the reader notices nothing, and all goes on when the interface is back.
func TestInterfaceGoneWhileSending(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port, back := newPort(), newPort()
		tx := openTx(t, toWire(w, r.group))
		rx := openRx(t, onWire(w, back, r.other))
		var far *mcast.RxSocket
		w.peer.Do(func() {
			far = openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, ReadBuffer: 4 << 20})
		})
		to := netip.AddrPortFrom(r.group, port)

		// sent tells of each number, until stop, whether it was sent.
		var mu sync.Mutex
		var sent []bool
		kinds := make(map[string]int)
		failures := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, k := range kinds {
				n += k
			}
			return n
		}
		good := func(n int) bool { // the last n were sent
			mu.Lock()
			defer mu.Unlock()
			for i := range n {
				if len(sent) < n || !sent[len(sent)-1-i] {
					return false
				}
			}
			return true
		}
		stop := make(chan struct{})
		var busy sync.WaitGroup
		busy.Go(func() {
			ms := make([]mcast.Message, 5)
			for next := 0; ; {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond):
				}
				for i := range ms { // of growing size, so that each leaves by itself
					ms[i] = mcast.Message{Buf: binary.BigEndian.AppendUint32(make([]byte, 0, 64), uint32(next+i))[:4+i], Addr: to}
				}
				n, err := 0, error(nil)
				if next%2 == 0 {
					n, err = tx.WriteBatch(ms)
				} else if _, err = tx.WriteToUDPAddrPort(ms[0].Buf, to); err == nil {
					n = 1
				}
				var op *mcast.OpError
				if err != nil && (!errors.As(err, &op) || op.Op != "write" || op.Group != r.group || op.Interface != w.Name() || op.Err == nil) {
					t.Errorf("written %d: %v", n, err)
				}
				mu.Lock()
				for range n {
					sent = append(sent, true)
				}
				next += n
				if err != nil { // the n-th, which was not sent
					sent = append(sent, false)
					next++
					kinds[op.Err.Error()]++
				}
				mu.Unlock()
			}
		})
		quiet := start(func() outcome { return readers[1].read(rx) })
		got := make(map[int]bool)
		var highest int
		var readErr error
		busy.Go(func() {
			buf := make([]byte, 100)
			for {
				n, _, err := far.ReadFromUDPAddrPort(buf)
				if err != nil {
					readErr = err
					return
				}
				number := int(binary.BigEndian.Uint32(buf[:n]))
				mu.Lock()
				if got[number] {
					t.Errorf("%d came twice", number)
				}
				got[number], highest = true, max(highest, number)
				mu.Unlock()
			}
		})

		for range 3 {
			eventually(t, "it is sent", func() bool { return good(50) })
			before := failures()
			w.Delete()
			eventually(t, "it is not sent", func() bool { return failures() > before+5 })
			w.Create()
			eventually(t, "it is sent again", func() bool { return good(50) })
			mu.Lock()
			now := len(sent)
			mu.Unlock()
			eventually(t, "and received again", func() bool { mu.Lock(); defer mu.Unlock(); return highest >= now })
		}
		close(stop)
		w.scan(t)
		awaitJoined(t, rx, r.other, w.Interface)
		w.station(t, r.group, 0).send(r.other, back, "at last")
		if o := await(t, quiet); o.err != nil || o.payload != "at last" {
			t.Errorf("the reader: %+v", o)
		}
		far.Close()
		busy.Wait()
		if !errors.Is(readErr, net.ErrClosed) {
			t.Errorf("the far reader: %v", readErr)
		}
		for number := range got {
			if number >= len(sent) || !sent[number] {
				t.Errorf("%d arrived, and its write failed", number)
			}
		}
		t.Logf("%d written, %d received; failures: %v", len(sent), len(got), kinds)
	})
}

// TestNamespaceLeft opens sockets in a network namespace that nobody else is in any more, nor has a handle of. They live
// on and follow it, and when they are closed no thread of this process is left there.
func TestNamespaceLeft(t *testing.T) {
	noLeaks(t)
	for _, static := range []bool{false, true} {
		var rx *mcast.RxSocket
		var tx *mcast.TxSocket
		group, port := contractFamilies[0].group, newPort()
		t.Run("open", func(t *testing.T) { // the host's handle ends with it
			h := mcasttest.NewHost(t)
			h.Do(func() {
				lo := mustFind(t, "lo")
				var err error
				if rx, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, Interfaces: lo, Static: static}); err != nil {
					t.Fatal(err)
				}
				if tx, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo, Static: static}); err != nil {
					t.Fatal(err)
				}
			})
		})
		elsewhere := newNaive(t, nil, group, port, "lo") // whose lo has the same index
		for range 3 {
			write(t, tx, group, port, "datagram")
			rx.SetReadDeadline(time.Now().Add(patience))
			if o := readers[1].read(rx); o.err != nil || o.payload != "datagram" {
				t.Errorf("%+v", o)
			}
		}
		newStation(t, nil, "lo", addr("127.0.0.1")).send(group, port, "here")
		if got := elsewhere.await("here"); len(got) != 1 {
			t.Errorf("what was sent there is received here: %q", got)
		}
		elsewhere.Close()
		if err := errors.Join(rx.Close(), tx.Close()); err != nil {
			t.Error(err)
		}
		eventually(t, "all threads are here", threadsAreHere(t))
	}
}

// threadsAreHere returns a function that reports whether no thread of the process is in another network namespace.
func threadsAreHere(t *testing.T) func() bool {
	return func() bool {
		own, err := os.Readlink("/proc/self/ns/net")
		threads, err2 := os.ReadDir("/proc/self/task")
		if err != nil || err2 != nil || len(threads) == 0 {
			t.Fatal(err, err2)
		}
		for _, thread := range threads {
			if its, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net"); err == nil && its != own {
				return false
			}
		}
		return true
	}
}

// TestNamespaceDestroyed ends the network namespace of sockets with reads that are blocked, as the end of a container does:
// nobody has a handle of it any more, and its interface is deleted from outside. The reads stay blocked and use no
// processor. Close ends them, and then nothing keeps the namespace: the kernel destroys it, and with it the other end of a
// second cable.
func TestNamespaceDestroyed(t *testing.T) {
	noLeaks(t)
	for _, static := range []bool{false, true} {
		t.Run(fmt.Sprint("Static ", static), func(t *testing.T) { testNamespaceDestroyed(t, static) })
	}
}

func testNamespaceDestroyed(t *testing.T, static bool) {
	groups, port := []netip.Addr{contractFamilies[0].group, contractFamilies[1].group}, newPort()
	cut, witness := fmt.Sprint("cut-", static), fmt.Sprint("witness-", static)
	var rx *mcast.RxSocket
	var tx *mcast.TxSocket
	t.Run("open", func(t *testing.T) { // the host's handle ends with it
		h, here := mcasttest.NewHost(t), strconv.Itoa(os.Getpid())
		ip := func(host *mcasttest.Host, args ...string) {
			t.Helper()
			run(t, host, "", append([]string{"ip"}, args...)...)
		}
		for name, far := range map[string]string{"inner": cut, "other": witness} {
			ip(h, "link", "add", name, "type", "veth", "peer", "name", far, "netns", here)
			ip(h, "link", "set", name, "addrgenmode", "none")
			ip(nil, "link", "set", far, "addrgenmode", "none")
		}
		ip(h, "address", "add", "10.74.0.1/24", "dev", "inner")
		ip(h, "address", "add", "fd74::1/64", "dev", "inner", "nodad")
		ip(nil, "link", "set", cut, "up")
		ip(h, "link", "set", "inner", "up")
		h.Do(func() {
			inner := mustFind(t, "inner")
			var err error
			if rx, err = mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: port, Interfaces: inner, Loopback: true, Static: static}); err != nil {
				t.Fatal(err)
			}
			if tx, err = mcast.OpenTx(mcast.TxConfig{Groups: groups, Interfaces: inner, Loopback: true, Static: static}); err != nil {
				t.Fatal(err)
			}
		})
	})
	if rx == nil || tx == nil {
		return // why is reported
	}
	t.Cleanup(func() { rx.Close(); tx.Close() })
	exists := func(name string) bool { _, err := net.InterfaceByName(name); return err == nil }
	for _, g := range groups {
		eventually(t, "it is sent", func() bool { // IPv6 learns a moment later that the interface is up
			_, err := tx.WriteToUDPAddrPort([]byte("datagram"), netip.AddrPortFrom(g, port))
			return err == nil
		})
		rx.SetReadDeadline(time.Now().Add(patience))
		if o := readers[1].read(rx); o.err != nil || o.payload != "datagram" {
			t.Fatalf("%+v", o)
		}
	}
	rx.SetReadDeadline(time.Time{})
	var blocked []<-chan outcome
	for _, socket := range []net.PacketConn{rx, tx} {
		blocked = append(blocked, start(func() outcome { _, _, err := socket.ReadFrom(make([]byte, 10)); return outcome{err: err} }))
	}
	awaitBlocked(t, 2)

	run(t, nil, "", "ip", "link", "delete", cut)
	if !static {
		eventually(t, "the interface is missed", func() bool {
			for _, m := range rx.Memberships() {
				if m.Joined {
					return false
				}
			}
			return true
		})
	}
	for _, g := range groups {
		var op *mcast.OpError
		if _, err := tx.WriteToUDPAddrPort([]byte("lost"), netip.AddrPortFrom(g, port)); !errors.As(err, &op) || op.Interface != "inner" {
			t.Errorf("write without an interface: %v", err)
		}
	}
	awaitIdle(t)
	awaitBlocked(t, 2)
	if !exists(witness) {
		t.Error("the namespace is gone while sockets are open in it")
	}

	if err := errors.Join(rx.Close(), tx.Close()); err != nil {
		t.Error(err)
	}
	for _, b := range blocked {
		if o := await(t, b); !errors.Is(o.err, net.ErrClosed) {
			t.Errorf("a read that was blocked: %v", o.err)
		}
	}
	eventually(t, "all threads are here", threadsAreHere(t))
	eventually(t, "the namespace is destroyed", func() bool { return !exists(witness) })
}

// awaitIdle waits until the process is idle: most of the time none of its other threads runs, or waits for a processor. A
// loop that does not wait for anything always has such a thread, however busy the machine is.
func awaitIdle(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // which runs when it looks
	defer runtime.UnlockOSThread()
	own := strconv.Itoa(unix.Gettid())
	eventually(t, "the process is idle", func() bool {
		const looks = 50
		runs := 0
		for range looks {
			time.Sleep(2 * time.Millisecond)
			stats, err := filepath.Glob("/proc/self/task/*/stat")
			if err != nil || len(stats) == 0 {
				t.Fatal("no threads: ", err)
			}
			for _, name := range stats {
				stat, _ := os.ReadFile(name)
				_, rest, _ := bytes.Cut(stat, []byte(") ")) // the state follows the name (proc_pid_stat(5))
				if bytes.HasPrefix(rest, []byte("R")) && filepath.Base(filepath.Dir(name)) != own {
					runs++
					break
				}
			}
		}
		return runs < looks/2
	})
}

// TestWallClockDeadline sets deadlines that are times of the wall clock only, as from a file or another host. They count
// from when they are set, by the monotonic clock: a clock that is set afterwards moves none of them.
func TestWallClockDeadline(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	rx := openRx(t, onWire(w, newPort(), contractFamilies[0].group))
	tx := openTx(t, toWire(w, contractFamilies[0].group))
	for name, socket := range map[string]net.PacketConn{"rx": rx, "tx": tx} {
		for _, after := range []time.Duration{-time.Hour, 0, 20 * time.Millisecond} {
			begin := time.Now()
			socket.SetReadDeadline(begin.Add(after).Round(0))
			for range 2 { // a deadline that has passed stays
				_, _, err := socket.ReadFrom(make([]byte, 10))
				if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took < after-time.Millisecond {
					t.Errorf("%s: %v after %v, want a timeout after %v", name, err, took, after)
				}
			}
		}
		// One that is set while a read waits for another.
		socket.SetReadDeadline(time.Now().Add(time.Hour).Round(0))
		done := start(func() outcome { _, _, err := socket.ReadFrom(make([]byte, 10)); return outcome{err: err} })
		awaitBlocked(t, 1)
		socket.SetReadDeadline(time.Now().Round(0))
		if o := await(t, done); !errors.Is(o.err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %+v", name, o)
		}
	}
}
