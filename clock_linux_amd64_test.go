// A clock that is set while deadlines run. Nobody may set the machine's for a test, and Linux has no namespace of it
// (time_namespaces(7)). But a process reads the clock by code that the kernel has mapped into it (vdso(7)), and may
// change its own copy of that, as a debugger does for a breakpoint.

package mcast_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/unix"
)

// TestClockSet sets the clock by a day, ahead and back, while reads wait with a deadline and while sockets follow the
// network. Deadlines are what they were: an hour is not over, and an instant is over soon.
func TestClockSet(t *testing.T) {
	noLeaks(t)
	set := settableClock(t)
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) { testClockSet(t, func(off bool) { set(off, by) }) })
	}
}

func testClockSet(t *testing.T, set func(off bool)) {
	w := newWires(t, 1)[0]
	cfg := onWire(w, newPort(), contractFamilies[0].group)
	cfg.Loopback = true
	rx := openRx(t, cfg)
	tx := openTx(t, mcast.TxConfig{Groups: cfg.Groups, Interfaces: cfg.Interfaces, Loopback: true})
	read := func(socket net.PacketConn) func() outcome {
		return func() outcome {
			b := make([]byte, 10)
			n, _, err := socket.ReadFrom(b)
			return outcome{string(b[:n]), err}
		}
	}
	write := func(payload string) {
		if _, err := tx.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(cfg.Groups[0], cfg.Port)); err != nil {
			t.Error(err)
		}
	}

	// An hour. The first read waits when the clock is set, the second begins after it.
	set(false)
	rx.SetDeadline(time.Now().Add(time.Hour))
	tx.SetDeadline(time.Now().Add(time.Hour))
	first := start(read(rx))
	awaitBlocked(t, 1)
	set(true)
	write("first")
	if o := await(t, first); o != (outcome{"first", nil}) {
		t.Errorf("a read that waits: %+v", o)
	}
	write("second")
	if o := read(rx)(); o != (outcome{"second", nil}) {
		t.Errorf("a read that begins: %+v", o)
	}

	// An instant.
	for name, socket := range map[string]net.PacketConn{"rx": rx, "tx": tx} {
		const wait = 50 * time.Millisecond
		set(false)
		begin := time.Now()
		socket.SetReadDeadline(begin.Add(wait))
		set(true)
		o := await(t, start(read(socket)))
		if took := time.Since(begin); !errors.Is(o.err, os.ErrDeadlineExceeded) || took < wait {
			t.Errorf("%s: %+v after %v, want a timeout after %v", name, o, took, wait)
		}
	}

	// Following, which waits until a burst of changes is over.
	set(false)
	rx.SetReadDeadline(time.Time{})
	third := start(read(rx))
	w.Travel()
	set(true)
	for end := time.Now().Add(patience); len(third) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing comes by an interface that was away: %+v", rx.Memberships())
		}
		tx.WriteToUDPAddrPort([]byte("third"), netip.AddrPortFrom(cfg.Groups[0], cfg.Port)) // until that can be done
	}
	if o := <-third; o != (outcome{"third", nil}) {
		t.Errorf("a read by an interface that was away: %+v", o)
	}
}

// settableClock returns a function that sets the process's clock off by so many seconds, or back, until the test ends.
func settableClock(t *testing.T) (set func(off bool, by time.Duration)) {
	t.Helper()
	vdso, at := mappedVDSO(t)
	f, err := elf.NewFile(bytes.NewReader(vdso))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.DynamicSymbols()
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == "__vdso_clock_gettime" })
	if err != nil || i < 0 {
		t.Fatalf("no clock_gettime in the vDSO: %v", err)
	}
	entry := at + uintptr(symbols[i].Value)

	// It is to begin with a jump to this, for which there has to be room not far from it.
	offset := new(atomic.Int64)
	code := []byte{
		0xb8, unix.SYS_CLOCK_GETTIME, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 0x10, // jnz to the end, unless it is CLOCK_REALTIME
		0x48, 0xb9, // mov rcx, offset
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(uintptr(unsafe.Pointer(offset))))
	code = append(code,
		0x48, 0x8b, 0x09, // mov rcx, [rcx]
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	)
	var page unsafe.Pointer
	err = unix.EEXIST
	for hint := at; err == unix.EEXIST; {
		hint -= 1 << 20
		page, err = unix.MmapPtr(-1, 0, unsafe.Add(unsafe.Pointer(nil), hint), uintptr(os.Getpagesize()),
			unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE)
	}
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	copy(unsafe.Slice((*byte)(page), len(code)), code)
	distance := int64(uintptr(page)) - int64(entry) - 5
	if distance != int64(int32(distance)) {
		t.Fatalf("%p is too far from %x", page, entry)
	}
	if err := unix.Mprotect(vdso, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC); err != nil {
		unavailable(t, fmt.Sprintf("a vDSO that may be changed (CONFIG_MSEAL_SYSTEM_MAPPINGS): %v", err))
	}
	word := (*uint64)(unsafe.Pointer(&vdso[symbols[i].Value])) // other threads may look at the clock right now
	before := *word
	jump := binary.LittleEndian.AppendUint64(nil, before)
	jump[0] = 0xe9
	binary.LittleEndian.PutUint32(jump[1:], uint32(distance))
	atomic.StoreUint64(word, binary.LittleEndian.Uint64(jump))
	t.Cleanup(func() {
		atomic.StoreUint64(word, before)
		offset.Store(0) // which it keeps alive
	})

	set = func(off bool, by time.Duration) {
		if !off {
			by = 0
		}
		offset.Store(int64(by / time.Second))
	}
	now := time.Now()
	set(true, time.Hour)
	then := time.Now()
	if then.Sub(now) > time.Hour/2 || then.Round(0).Sub(now.Round(0)) < time.Hour/2 {
		t.Fatalf("an hour ahead of %v it was %v", now, then)
	}
	return set
}

// mappedVDSO finds it in the process's memory.
func mappedVDSO(t *testing.T) (b []byte, at uintptr) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(maps) {
		if bytes.HasSuffix(line, []byte("[vdso]\n")) {
			var end uintptr
			if _, err := fmt.Sscanf(string(line), "%x-%x", &at, &end); err != nil {
				t.Fatal(err)
			}
			return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), at)), end-at), at
		}
	}
	unavailable(t, "a vDSO")
	return nil, 0
}
