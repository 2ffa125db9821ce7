// What happens at the limits that Linux has: descriptors, memory for options, sources, room in the receive buffer. They are
// real ones, set for the test, so what they refuse is refused by the kernel.

package mcast_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// limitDescriptors lets this process have descriptors below max only, until the test or the returned function ends it.
func limitDescriptors(t *testing.T, max uint64) (end func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: max, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	end = func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return end
}

// wantRefusal checks how a kernel's refusal is told.
func wantRefusal(t *testing.T, err, cause error, hint string) {
	t.Helper()
	var op *mcast.OpError
	if !errors.As(err, &op) || !errors.Is(err, cause) || !strings.Contains(op.Hint, hint) {
		t.Errorf("%v, want an OpError of %v that names %s", err, cause, hint)
	}
}

// TestLimitDescriptors opens sockets with ever more descriptors to be had: each of those they take is the one too many
// once.
func TestLimitDescriptors(t *testing.T) {
	wires := newWires(t, 2)
	groups := []netip.Addr{contractFamilies[0].group, contractFamilies[1].group}
	for _, open := range []struct {
		name string
		f    func() (interface{ Close() error }, error)
	}{
		{"OpenRx", func() (interface{ Close() error }, error) {
			return mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: 5000, Interfaces: interfacesOf(wires), Static: true})
		}},
		{"OpenRx that follows", func() (interface{ Close() error }, error) {
			return mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: 5000, Interfaces: interfacesOf(wires)})
		}},
		{"OpenTx", func() (interface{ Close() error }, error) {
			return mcast.OpenTx(mcast.TxConfig{Groups: groups, Interfaces: interfacesOf(wires)})
		}},
		{"OpenTx by default", func() (interface{ Close() error }, error) {
			return mcast.OpenTx(mcast.TxConfig{Groups: groups})
		}},
	} {
		t.Run(open.name, func(t *testing.T) {
			noLeaks(t)
			refused, before := 0, openFiles()
			for max := uint64(3); ; max++ {
				end := limitDescriptors(t, max)
				s, err := open.f()
				end()
				if err == nil {
					s.Close()
					break
				}
				var op *mcast.OpError
				if !errors.As(err, &op) || !errors.Is(err, unix.EMFILE) || max > 1000 {
					t.Fatalf("at %d descriptors: %v", max, err)
				}
				wantRefusal(t, err, unix.EMFILE, "ulimit -n")
				refused++
			}
			if openFiles() != before || refused < 3 {
				t.Errorf("%d descriptors, were %d, and %d refusals", openFiles(), before, refused)
			}
		})
	}
}

// TestLimitDescriptorsAll opens a receiver on all interfaces with too few descriptors. It is an error, not a part of the
// groups, and so is a group that comes later.
func TestLimitDescriptorsAll(t *testing.T) {
	noLeaks(t)
	h := mcasttest.NewHost(t)
	h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"))
	h.NewVeth("b", netip.MustParsePrefix("10.75.0.1/24"))
	var groups []netip.Addr
	for n := range 100 {
		groups = append(groups, groupLike(contractFamilies[0].group, n))
	}
	h.Do(func() {
		before := openFiles()
		end := limitDescriptors(t, uint64(before+64))
		_, err := mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: newPort()})
		wantRefusal(t, err, unix.EMFILE, "the socket needs 200 memberships")
		wantRefusal(t, err, unix.EMFILE, fmt.Sprintf("the limit is %d", before+64))
		end()
		if now := openFiles(); now != before {
			t.Errorf("%d descriptors, were %d", now, before)
		}

		rx := openRx(t, mcast.RxConfig{Groups: groups[:1], Port: newPort()})
		end = limitDescriptors(t, 3)
		wantRefusal(t, rx.Join(groups[1]), unix.EMFILE, "the socket needs 4 memberships")
		end()
		if all := rx.Memberships(); len(all) != 2 || !all[0].Joined || !all[1].Joined {
			t.Errorf("%+v", all)
		}
	})
}

// TestLimitDescriptorsFollow has an interface come back when there is no descriptor to be had. It is joined when there is
// one again.
func TestLimitDescriptorsFollow(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group))
		w.Delete()
		eventually(t, "the interface is gone", func() bool { return !membership(t, rx, r.group, w.Name()).Joined })
		end := limitDescriptors(t, 3)
		w.Create()
		eventually(t, "the refusal is told", func() bool {
			return errors.Is(membership(t, rx, r.group, w.Name()).Err, unix.EMFILE)
		})
		wantRefusal(t, membership(t, rx, r.group, w.Name()).Err, unix.EMFILE, "ulimit -n")
		end()
		w.scan(t)
		awaitJoined(t, rx, r.group, w.Interface)
		w.station(t, r.group, 0).send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
	})
}

// TestLimitDescriptorsReply gives an interface its first address of a family when there is no descriptor to be had. Its group
// is joined when there is one again, and hosts of the family get replies.
func TestLimitDescriptorsReply(t *testing.T) {
	forEachFamily(t, func(t *testing.T, r contractRange) {
		noLeaks(t)
		h := mcasttest.NewHost(t)
		a := h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"), netip.MustParsePrefix("fd76::1/64"))
		h.Do(func() { withoutFamily(t, "a", r.group) })
		far, first := a.Peer().IPv6, netip.MustParsePrefix("fd76::1/64")
		if r.group.Is4() {
			far, first = a.Peer().IPv4, netip.MustParsePrefix("10.76.0.1/24")
		} else {
			h.Sysctl("net/ipv6/conf/a/addr_gen_mode", "1") // no address by itself
			h.Sysctl("net/ipv6/conf/a/disable_ipv6", "0")
		}
		var rx *mcast.RxSocket
		h.Do(func() {
			rx = openRx(t, mcast.RxConfig{Groups: []netip.Addr{contractFamilies[0].group, contractFamilies[1].group}, Port: newPort()})
		})
		end := limitDescriptors(t, 3)
		a.AddAddress(first)
		eventually(t, "the refusal is told", func() bool {
			all := rx.Memberships()
			return slices.ContainsFunc(all, func(m mcast.Membership) bool { return m.Group == r.group && errors.Is(m.Err, unix.EMFILE) })
		})
		end()
		awaitJoined(t, rx, r.group, a)
		port := newPort()
		there := newUnicast(t, a.Peer(), far, port)
		eventually(t, "a reply is sent", func() bool {
			_, err := rx.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(far, port))
			return err == nil
		})
		there.await("reply")
	})
}

// TestLimitMemory gives sockets ever more memory for their options, among which are memberships and sources. Each
// allocation is refused once. Without a refusal all must be received, though a kernel that has no room for the list of
// those that are blocked leaves that to the library.
func TestLimitMemory(t *testing.T) {
	noLeaks(t)
	h := mcasttest.NewHost(t)
	far := h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"), netip.MustParsePrefix("fd76::1/64")).Peer()
	const knob = "net/core/optmem_max"
	h.Do(func() {
		if _, err := os.Stat("/proc/sys/" + knob); err != nil {
			testrun.Since(t, 6, 8, "net.core.optmem_max is one for all namespaces")
			unavailable(t, "net.core.optmem_max of a namespace's own")
		}
	})
	for _, r := range contractFamilies {
		source, cause := far.IPv4, error(unix.ENOBUFS)
		if r.group.Is6() {
			source, cause = far.IPv6, unix.ENOMEM
		}
		from := newStation(t, far, "eth0", source)
		for _, kind := range []string{"any", "sources", "blocked"} {
			refused := 0
			for bytes := 0; ; bytes += 16 {
				h.Sysctl(knob, strconv.Itoa(bytes))
				port := newPort()
				cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Static: true}
				switch other := source.Next(); kind {
				case "sources":
					cfg.Sources = []netip.Addr{other, source}
				case "blocked":
					cfg.Blocked = []netip.Addr{other}
				}
				var rx *mcast.RxSocket
				var err error
				h.Do(func() { rx, err = mcast.OpenRx(cfg) })
				if err != nil {
					cause := cause
					if kind == "sources" && errors.Is(err, unix.ENOBUFS) {
						cause = unix.ENOBUFS // for want of room for the list of them
					}
					if wantRefusal(t, err, cause, fmt.Sprintf("net.core.optmem_max is %d", bytes)); t.Failed() || bytes > 10000 {
						t.Fatalf("%s, %s, at %d bytes", r.name, kind, bytes)
					}
					refused++
					continue
				}
				from.send(r.group, port, "marker")
				if got := arrivals(t, rx, "marker"); len(got) != 1 {
					t.Errorf("%v", got)
				}
				rx.Close()
				t.Logf("%s, %s: refused below %d bytes", r.name, kind, bytes)
				break
			}
			if refused == 0 {
				t.Errorf("%s, %s: nothing was refused", r.name, kind)
			}
		}
	}
}

// TestLimitSources allows an OS socket one source only.
func TestLimitSources(t *testing.T) {
	noLeaks(t)
	h := mcasttest.NewHost(t)
	far := h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24")).Peer()
	h.Sysctl("net/ipv4/igmp_max_msf", "1")
	group, port := contractFamilies[0].group, newPort()
	var sources []netip.Addr
	for n := range byte(4) {
		sources = append(sources, netip.AddrFrom4([4]byte{10, 76, 0, 101 + n}))
	}
	var rx *mcast.RxSocket
	h.Do(func() {
		rx = openRx(t, mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, Sources: sources[:3], Static: true})
	})
	send := func(n int) {
		far.Interface("eth0").AddAddress(netip.PrefixFrom(sources[n], 24))
		newStation(t, far, "eth0", sources[n]).send(group, port, strconv.Itoa(n))
	}
	for _, n := range []int{3, 0, 1, 2} { // the first is none of them
		send(n)
	}
	if got := arrivals(t, rx, "0", "1", "2"); len(got) != 3 {
		t.Errorf("%v", got)
	}
	h.Do(func() {
		if err := rx.Join(group, sources[3]); err != nil {
			t.Error(err)
		}
	})
	send(3)
	if got := arrivals(t, rx, "3"); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// TestLimitReadBuffer sends datagrams of all sizes into the smallest buffer there is. What is not received is counted.
func TestLimitReadBuffer(t *testing.T) {
	noLeaks(t)
	lo := mustFind(t, "lo")
	for _, r := range contractFamilies {
		for _, coalesce := range []bool{false, true} {
			port := newPort()
			to := netip.AddrPortFrom(r.group, port)
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: lo, ReadBuffer: 1, Coalesce: coalesce})
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: lo})
			sent, got := 0, 0
			sizes := []int{0, 1, 1472, 1472, 1472, 9000, 40000, 65507}
			if coalesce { // a run that is dropped counts once, and these make none
				sizes = []int{0, 1, 1000, 1472, 5000, 9000, 40000, 65507}
			}
			payload := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, sizes[n%len(sizes)]) }
			ms := make([]mcast.Message, 3)
			for i := range ms {
				ms[i].Buf = make([]byte, 65536)
			}
			// read takes what is there and checks it.
			read := func() {
				t.Helper()
				n, err := rx.ReadBatch(ms)
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				got += n
				for _, m := range ms[:n] {
					if b := m.Buf[:m.N]; m.Truncated || len(b) > 0 && !bytes.Equal(b, payload(int(b[0]))) {
						t.Fatalf("%d bytes of %v, truncated: %v", m.N, b[:1], m.Truncated)
					}
				}
			}
			accounted := func() bool { return got+int(membership(t, rx, r.group, "lo").Dropped) == sent }
			for round := range 40 {
				batch := make([]mcast.Message, 32)
				for i := range batch {
					batch[i] = mcast.Message{Buf: payload((round + i) % 256), Addr: to}
				}
				n, err := tx.WriteBatch(batch)
				if sent += n; err != nil {
					t.Fatal(err)
				}
				eventually(t, "all is read or counted", func() bool {
					rx.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
					for end := got; ; end = got {
						if read(); got == end {
							break
						}
					}
					return accounted()
				})
			}
			m := membership(t, rx, r.group, "lo")
			if m.Dropped == 0 || got == 0 || int(m.Packets) != got {
				t.Errorf("%s: sent %d, read %d, counted %+v", r.name, sent, got, m)
			}
			t.Logf("%s, Coalesce %v: %d sent, %d read, %d dropped", r.name, coalesce, sent, got, m.Dropped)
			// With time to read, all is received, of whatever size.
			rx.SetReadDeadline(time.Now().Add(patience))
			for n := range 16 {
				before := got
				if _, err := tx.WriteToUDPAddrPort(payload(n), to); err != nil {
					t.Fatal(err)
				}
				if read(); got != before+1 {
					t.Errorf("%s: %d of one", r.name, got-before)
				}
			}
			rx.Close()
			tx.Close()
		}
	}
}

// withoutNetAdmin calls f without CAP_NET_ADMIN, in the test's network.
func withoutNetAdmin(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		t.Fatal(err)
	}
	without := before
	without[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &without[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &before[0]); err != nil {
			t.Error(err)
		}
	}()
	f()
}

// TestLimitBuffers asks for buffers that are larger than the kernel's limits. A process that may exceed them gets them; the
// log of any other has what was granted and the cure.
func TestLimitBuffers(t *testing.T) {
	noLeaks(t)
	lo := mustFind(t, "lo")
	group := contractFamilies[0].group
	open := func() (granted int, log string) {
		var text bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&text, nil))
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{group}, Port: newPort(), Interfaces: lo, ReadBuffer: 64 << 20, Logger: logger, Static: true})
		granted = rx.Memberships()[0].ReadBuffer
		rx.Close()
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: lo, WriteBuffer: 64 << 20, Logger: logger, Static: true})
		tx.Close()
		return granted, text.String()
	}
	withoutNetAdmin(t, func() {
		granted, log := open()
		if granted >= 64<<20 || strings.Count(log, "\n") != 2 || !strings.Contains(log, fmt.Sprint("granted=", granted)) ||
			!strings.Contains(log, "net.core.rmem_max=67108864") || !strings.Contains(log, "net.core.wmem_max=67108864") {
			t.Errorf("%d bytes are granted, and the log is %q", granted, log)
		}
		// What was granted is what a user would ask for to get the same.
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{group}, Port: newPort(), Interfaces: lo, ReadBuffer: granted, Static: true})
		if again := rx.Memberships()[0].ReadBuffer; again != granted {
			t.Errorf("%d bytes are granted of %d", again, granted)
		}
	})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) != nil {
		return // an ordinary user, whose root of a namespace is none for this
	}
	if granted, log := open(); granted != 64<<20 || log != "" {
		t.Errorf("with CAP_NET_ADMIN: %d bytes are granted, and the log is %q", granted, log)
	}
}
