// What somebody on the link can send who keeps to no rules: packets made by hand, with sources that are nobody's or the
// receiver's own, lengths and checksums that lie, fragments that overlap or never end. What is no datagram to a joined
// group from another host is not received, and what is received beside it is all there.

package mcast_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// forged is a packet as its maker wants it. The zero value of what is not set is what is right.
type forged struct {
	mac      net.HardwareAddr // of the destination
	src, dst netip.Addr
	port     uint16
	payload  string

	checksum  uint16 // is added to that of UDP
	none      bool   // no checksum
	udpLength int    // instead of the right one, if not 0; -1 is 0
	header    uint16 // is added to the checksum of IPv4's header
	words     int    // length of IPv4's header, if not 0
	total     int    // is added to the length in the IP header
	protocol  byte   // if not 0
	options   []byte // of IPv4, or extension headers of IPv6, of which the first has the number next
	next      byte
	parts     []part // the fragments to send; nil: it is not fragmented
}

// part is a fragment: bytes of what follows the IP header, and whether more are said to follow.
type part struct {
	from, to int
	more     bool
}

// sum16 is the checksum of RFC 1071, not inverted.
func sum16(parts ...[]byte) uint16 {
	sum := uint32(0)
	for i, b := range bytes.Join(parts, nil) { // all but the last are of even length
		sum += uint32(b) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// frames are the Ethernet frames that carry the packet.
func (f forged) frames() (all [][]byte) {
	udp := binary.BigEndian.AppendUint16([]byte{0x30, 0x39}, f.port)
	length := 8 + len(f.payload)
	if f.udpLength != 0 {
		length = max(f.udpLength, 0)
	}
	udp = binary.BigEndian.AppendUint16(udp, uint16(length))
	udp = append(append(udp, 0, 0), f.payload...)
	pseudo := binary.BigEndian.AppendUint16(slices.Concat(f.src.AsSlice(), f.dst.AsSlice(), []byte{0, 17}), uint16(length))
	if !f.none {
		covered := udp[:min(max(length, 8), len(udp))]
		binary.BigEndian.PutUint16(udp[6:], ^sum16(pseudo, covered)+f.checksum)
	}
	identification++
	if f.parts == nil {
		return [][]byte{f.frame(udp, 0, false, false)}
	}
	for _, p := range f.parts {
		body := slices.Concat(udp, make([]byte, 1<<16))[p.from:p.to]
		all = append(all, f.frame(body, p.from, p.more, true))
	}
	return all
}

// identification tells the fragments of one packet from those of the next.
var identification uint16

func (f forged) frame(body []byte, offset int, more, fragment bool) []byte {
	protocol := byte(17)
	if f.protocol != 0 {
		protocol = f.protocol
	}
	flags := uint16(offset / 8)
	var ip []byte
	kind := uint16(unix.ETH_P_IP)
	if f.dst.Is4() {
		words := 5 + len(f.options)/4
		if f.words == 0 {
			f.words = words
		}
		if more {
			flags |= 0x2000
		}
		ip = binary.BigEndian.AppendUint16([]byte{0x40 | byte(f.words), 0}, uint16(4*words+len(body)+f.total))
		ip = binary.BigEndian.AppendUint16(ip, identification)
		ip = binary.BigEndian.AppendUint16(ip, flags)
		ip = slices.Concat(ip, []byte{1, protocol, 0, 0}, f.src.AsSlice(), f.dst.AsSlice(), f.options)
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip)+f.header)
	} else {
		kind = unix.ETH_P_IPV6
		extensions := f.options
		if f.next != 0 {
			protocol = f.next
		}
		if fragment {
			flags <<= 3
			if more {
				flags |= 1
			}
			extensions = binary.BigEndian.AppendUint16([]byte{protocol, 0}, flags)
			extensions = append(extensions, 0, 0, byte(identification>>8), byte(identification))
			protocol = 44
		}
		ip = binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(extensions)+len(body)+f.total))
		ip = slices.Concat(ip, []byte{protocol, 1}, f.src.AsSlice(), f.dst.AsSlice(), extensions)
	}
	frame := append(slices.Clone(f.mac), 2, 0, 0, 0, 0, 1)
	return append(binary.BigEndian.AppendUint16(frame, kind), append(ip, body...)...)
}

// groupMAC is the Ethernet address of a group (RFC 1112, section 6.4; RFC 2464, section 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	if a := group.AsSlice(); group.Is6() {
		return append(net.HardwareAddr{0x33, 0x33}, a[12:]...)
	} else {
		return net.HardwareAddr{1, 0, 0x5e, a[1] & 0x7f, a[2], a[3]}
	}
}

// forger sends them, from the far end of a wire.
type forger struct {
	t       testing.TB
	fd      int
	ifIndex int
}

func newForger(t testing.TB, w *wire) *forger {
	t.Helper()
	f := &forger{t: t}
	w.peer.Do(func() {
		var err error
		if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		f.ifIndex = mustFind(t, "eth0")[0].Index
	})
	t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

func (f *forger) send(frames ...[]byte) {
	f.t.Helper()
	for _, b := range frames {
		if err := unix.Sendto(f.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: f.ifIndex}); err != nil {
			f.t.Fatal(err)
		}
	}
}

// forgery is something to send, and what of it is to be received.
type forgery struct {
	name   string
	frames [][]byte
	want   []string
}

// forgeries are those that may come by a wire to a group and port, from src, which is an address of the far end.
func forgeries(w *wire, src, group, other netip.Addr, port uint16) (all []forgery) {
	valid := forged{mac: groupMAC(group), src: src, dst: group, port: port, payload: "forged"}
	add := func(name string, change func(*forged), want ...string) {
		f := valid
		change(&f)
		all = append(all, forgery{name: name, frames: f.frames(), want: want})
	}
	text := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	own, far, v4 := w.like(group, 1), w.like(group, 77), group.Is4()
	local := group.IsLinkLocalMulticast()

	add("as it should be", func(*forged) {}, "forged")
	// Sources.
	add("from an unknown host of the subnet", func(f *forged) { f.src = far }, "forged")
	add("from the receiver itself", func(f *forged) { f.src = own })
	if v4 {
		add("from a far network", func(f *forged) { f.src = text("198.51.100.1") }, "forged")
		add("from 127.0.0.1", func(f *forged) { f.src = text("127.0.0.1") })
		add("from a group", func(f *forged) { f.src = other })
		add("from the subnet's broadcast address", func(f *forged) { f.src = w.addr4(255) }, "forged")
		add("from 255.255.255.255", func(f *forged) { f.src = text("255.255.255.255") })
		if local { // what a host sends that has no address yet (RFC 1122, section 3.2.1.3)
			add("from 0.0.0.0", func(f *forged) { f.src = netip.IPv4Unspecified() }, "forged")
		} else {
			add("from 0.0.0.0", func(f *forged) { f.src = netip.IPv4Unspecified() })
		}
	} else {
		add("from a far network", func(f *forged) { f.src = text("2001:db8::1") }, "forged")
		add("from the receiver's link-local address", func(f *forged) { f.src = w.LinkLocal })
		add("from ::1", func(f *forged) { f.src = text("::1") })
		add("from a group", func(f *forged) { f.src = other })
		add("from ::", func(f *forged) { f.src = netip.IPv6Unspecified() }, "forged")
		add("from an IPv4 address", func(f *forged) { f.src = netip.AddrFrom16(text("::ffff:198.51.100.1").As16()) })
	}
	// Destinations.
	add("to another group", func(f *forged) { f.mac, f.dst = groupMAC(other), other })
	add("to another group, at the group's hardware address", func(f *forged) { f.dst = other })
	add("to another port", func(f *forged) { f.port++ })
	add("by unicast", func(f *forged) { f.mac, f.dst = w.at.HardwareAddr, own })
	add("by unicast, at the group's hardware address", func(f *forged) { f.dst = own })
	add("by unicast to somebody else", func(f *forged) { f.dst = far })
	add("to the group, at the receiver's hardware address", func(f *forged) { f.mac = w.at.HardwareAddr }, "forged")
	add("to the group, at the hardware address of all", func(f *forged) { f.mac = slices.Repeat(net.HardwareAddr{255}, 6) }, "forged")
	add("to the group, at another's hardware address", func(f *forged) { f.mac = net.HardwareAddr{2, 0, 0, 0, 0, 99} })
	if v4 {
		broadcast := slices.Repeat(net.HardwareAddr{255}, 6)
		add("by broadcast", func(f *forged) { f.mac, f.dst = broadcast, text("255.255.255.255") })
		add("by broadcast on the subnet", func(f *forged) { f.mac, f.dst = broadcast, w.addr4(255) })
		add("to all hosts", func(f *forged) { f.mac, f.dst = groupMAC(text("224.0.0.1")), text("224.0.0.1") })
	} else {
		add("to all nodes", func(f *forged) { f.mac, f.dst = groupMAC(text("ff02::1")), text("ff02::1") })
	}
	// Lengths and checksums.
	add("without a byte", func(f *forged) { f.payload = "" }, "")
	add("with a UDP length that is too large", func(f *forged) { f.udpLength = 100 })
	add("with a UDP length of 7", func(f *forged) { f.udpLength = 7 })
	add("with a UDP length that is smaller", func(f *forged) { f.udpLength = 8 + 3 }, "for")
	if v4 {
		add("with a UDP length of 0", func(f *forged) { f.udpLength = -1 })
		add("without a checksum", func(f *forged) { f.none = true }, "forged")
		add("with a wrong checksum of the header", func(f *forged) { f.header = 1 })
		add("with a header that is too short", func(f *forged) { f.words = 4 })
		add("with a header that is too long", func(f *forged) { f.words = 15 })
		add("with a loose source route", func(f *forged) { f.options = []byte{131, 7, 4, 10, 9, 9, 9, 0} })
		add("with an option that is too long", func(f *forged) { f.options = []byte{7, 39, 4, 0} })
	} else {
		add("without a checksum", func(f *forged) { f.none = true })
		add("with options for the destination", func(f *forged) { f.next, f.options = 60, []byte{17, 0, 1, 4, 0, 0, 0, 0} }, "forged")
		add("with an option nobody knows", func(f *forged) { f.next, f.options = 60, []byte{17, 0, 0xbe, 4, 0, 0, 0, 0} })
		add("with extension headers that have no end", func(f *forged) { f.next, f.options = 60, []byte{60, 200, 1, 4, 0, 0, 0, 0} })
	}
	add("longer than its frame", func(f *forged) { f.total = 10 })
	add("shorter than its UDP header", func(f *forged) { f.total = -10 })
	add("with a wrong checksum", func(f *forged) { f.checksum = 1 })
	add("with a wrong checksum, and longer", func(f *forged) { f.checksum, f.payload = 1, strings.Repeat("forged", 20) })
	add("that is not UDP", func(f *forged) { f.protocol = 253 })
	// Fragments. The payload and the UDP header are 32 bytes.
	long := func(parts ...part) func(*forged) {
		return func(f *forged) { f.payload, f.parts = "forged, in several parts", parts }
	}
	add("in two parts", long(part{0, 16, true}, part{16, 32, false}), "forged, in several parts")
	add("in two parts, the last first", long(part{16, 32, false}, part{0, 16, true}), "forged, in several parts")
	add("in one part", long(part{0, 32, false}), "forged, in several parts")
	add("the first part alone", long(part{0, 16, true}))
	add("the last part alone", long(part{16, 32, false}))
	add("without the middle", long(part{0, 8, true}, part{24, 32, false}))
	add("in parts that overlap", long(part{0, 24, true}, part{16, 32, false}))
	add("in parts, one within another", long(part{0, 24, true}, part{8, 16, true}, part{24, 32, false}), "forged, in several parts")
	add("in parts beyond the largest packet", long(part{0, 16, true}, part{65528, 65536, false}))
	add("in parts with an end in the middle", long(part{0, 16, true}, part{16, 24, false}, part{24, 32, false}))
	return all
}

// TestForged sends each forgery by itself. What is as it should be is the control: it is made by the same function.
func TestForged(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	w, elsewhere := wires[0], wires[1]
	forEachRange(t, func(t *testing.T, r contractRange) {
		for _, coalesce := range []bool{false, true} {
			port := newPort()
			cfg := onWire(w, port, r.group)
			cfg.Coalesce = coalesce
			rx := openRx(t, cfg)
			there := openRx(t, onWire(elsewhere, port, r.group))
			f, g := newForger(t, w), newForger(t, elsewhere)
			src := w.peer.IPv4
			if r.group.Is6() {
				src = w.peer.IPv6
			}
			marker := forged{mac: groupMAC(r.group), src: src, dst: r.group, port: port}
			for n, forgery := range forgeries(w, src, r.group, r.other, port) {
				f.send(forgery.frames...)
				marker.payload = fmt.Sprint("marker ", n)
				f.send(marker.frames()...)
				var got []string
				for _, a := range arrivals(t, rx, marker.payload) {
					got = append(got, a.Payload)
				}
				if want := append(slices.Clone(forgery.want), marker.payload); !slices.Equal(got, want) {
					t.Errorf("%s, Coalesce %v: received %q, want %q", forgery.name, coalesce, got, want)
				}
			}
			// By the other wire everything is for the other socket.
			marker.payload = "elsewhere"
			g.send(marker.frames()...)
			wantArrivals(t, there, arrival{"elsewhere", r.group, elsewhere.at.Index})
			marker.payload = "last"
			f.send(marker.frames()...)
			wantArrivals(t, rx, arrival{"last", r.group, w.at.Index})
			rx.Close()
			there.Close()
		}
	})
}

// TestRxDroppedChecksum sends what the kernel sees to be wrong only when its turn comes to be read: it counts as dropped.
func TestRxDroppedChecksum(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group))
		f := forged{mac: groupMAC(r.group), src: w.like(r.group, 99), dst: r.group, port: port, payload: strings.Repeat("forged", 20)}
		wrong := f
		wrong.checksum = 1
		newForger(t, w).send(slices.Concat(wrong.frames(), f.frames())...)
		wantArrivals(t, rx, arrival{f.payload, r.group, w.at.Index})
		if m := membership(t, rx, r.group, w.Name()); m.Dropped != 1 || m.Packets != 1 {
			t.Errorf("%+v", m)
		}
	})
}

// TestForgedFlood sends a stream amid a flood of forgeries. All of it is received, and nothing else.
func TestForgedFlood(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	w := wires[0]
	for _, tt := range []struct {
		name              string
		sources, coalesce bool
	}{{"all sources", false, false}, {"one source", true, false}, {"runs", false, true}, {"runs of one source", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			forEachFamily(t, func(t *testing.T, r contractRange) {
				port, src := newPort(), w.peer.IPv4
				if r.group.Is6() {
					src = w.peer.IPv6
				}
				cfg := onWire(w, port, r.group)
				cfg.Coalesce = tt.coalesce
				if tt.sources {
					cfg.Sources = []netip.Addr{src}
				}
				rx := openRx(t, cfg)
				var tx *mcast.TxSocket
				w.peer.Do(func() {
					tx = openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "eth0"), Static: true})
				})
				flood, beside := newForger(t, w), newForger(t, wires[1])
				// What is sent is what must not be received: with Sources, also what is fine but for its source.
				var noise [][]byte
				for _, f := range forgeries(w, w.like(r.group, 88), r.group, r.other, port) {
					if tt.sources || len(f.want) == 0 && !strings.HasPrefix(f.name, "from ") {
						noise = append(noise, f.frames...)
					}
				}
				for _, f := range forgeries(w, src, r.group, r.other, port) {
					if len(f.want) == 0 {
						noise = append(noise, f.frames...)
					}
				}
				ms := make([]mcast.Message, 16)
				for i := range ms {
					ms[i].Buf = make([]byte, 2048)
				}
				rx.SetReadDeadline(time.Now().Add(patience))
				const rounds, each = 100, 10
				for round := range rounds {
					var batch []mcast.Message
					for i := range each {
						batch = append(batch, mcast.Message{Buf: fmt.Appendf(nil, "stream %4d", round*each+i), Addr: netip.AddrPortFrom(r.group, port)})
					}
					flood.send(noise...)
					beside.send(noise...)
					if n, err := tx.WriteBatch(batch); n != each || err != nil {
						t.Fatal(n, err)
					}
					flood.send(noise...)
					for next := 0; next < each; {
						n, err := rx.ReadBatch(ms)
						if err != nil {
							t.Fatalf("%v, in round %d, after %d", err, round, next)
						}
						for _, m := range ms[:n] {
							if want := fmt.Sprintf("stream %4d", round*each+next); string(m.Buf[:m.N]) != want || m.Addr.Addr() != src && r.group.Is4() {
								t.Fatalf("received %q from %v, want %q", m.Buf[:m.N], m.Addr, want)
							}
							next++
						}
					}
				}
				t.Logf("%d packets beside %d: %+v", 3*rounds*len(noise), rounds*each, membership(t, rx, r.group, w.Name()))
			})
		})
	}
}

// TestReplyToForged has somebody ask from an address that is no single host's, which may be received, and answers. An
// answer to the unspecified address would go to the host's own programs: systems take it for the loopback one.
func TestReplyToForged(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, tt := range []struct {
		r     contractRange
		src   netip.Addr
		at    *mcasttest.Host // where the answer would arrive
		bound netip.Addr
		by    string
	}{
		{contractRanges[1], addr("0.0.0.0"), nil, addr("127.0.0.1"), "lo"},
		{contractRanges[2], addr("::"), nil, addr("::1"), "lo"},
		{contractRanges[1], w.addr4(255), w.peer, addr("0.0.0.0"), w.Name()}, // EACCES
	} {
		port := newPort()
		rx := openRx(t, onWire(w, port, tt.r.group))
		newForger(t, w).send(forged{mac: groupMAC(tt.r.group), src: tt.src, dst: tt.r.group, port: port, payload: "question"}.frames()...)
		rx.SetReadDeadline(time.Now().Add(patience))
		_, src, err := rx.ReadFromUDPAddrPort(make([]byte, 100))
		if err != nil || src.Addr().WithZone("") != tt.src {
			t.Fatal(src, err)
		}
		there := newUnicast(t, tt.at, tt.bound, src.Port())
		var op *mcast.OpError
		if n, err := rx.WriteToUDPAddrPort([]byte("answer"), src); n != 0 || !errors.As(err, &op) || op.Hint == "" {
			t.Errorf("to %v: %d, %v", src, n, err)
		}
		newStation(t, nil, tt.by, unspecified(tt.src)).send(tt.src, src.Port(), "control") // package net allows that
		if got := there.await("control"); len(got) != 1 {
			t.Errorf("to %v: there came %q", src, got)
		}
	}
}

// TestForgedSources has thousands of hosts send that do not exist. Each datagram is received, and nothing is kept of them.
func TestForgedSources(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx, f := openRx(t, onWire(w, port, r.group)), newForger(t, w)
		rx.SetReadDeadline(time.Now().Add(patience))
		const hosts = 5000
		ms := []mcast.Message{{Buf: make([]byte, 10)}}
		from := func(n int) netip.Addr {
			if r.group.Is4() {
				return netip.AddrFrom4([4]byte{10, 77, byte(100 + n>>8), byte(n)})
			}
			return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 13: 0x77, 14: byte(n >> 8), 15: byte(n)})
		}
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapObjects
		}
		var before uint64
		for n := range hosts {
			if n == 10 { // by then all is there that is made once
				before = heap()
			}
			f.send(forged{mac: groupMAC(r.group), src: from(n), dst: r.group, port: port, payload: "forged"}.frames()...)
			if _, err := rx.ReadBatch(ms); err != nil || ms[0].Addr.Addr().WithZone("") != from(n) {
				t.Fatalf("from %v: %v, %v", from(n), ms[0].Addr, err)
			}
		}
		if after := heap(); after > before+hosts/10 {
			t.Errorf("%d objects, were %d, after %d hosts", after, before, hosts)
		}
	})
}

// TestPortSharing shows who else can have a port: of a sender that lets the system choose it, nobody. What comes back to
// one that set it goes to whoever bound it last, and a datagram for a group to all who joined.
func TestPortSharing(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
			return err
		}}
		intrude := func(port uint16) (net.PacketConn, error) {
			return shared.ListenPacket(t.Context(), network(r.group), netip.AddrPortFrom(unspecified(r.group), port).String())
		}
		for _, port := range []uint16{0, newPort()} {
			cfg := toWire(w, r.group)
			cfg.Port = port
			tx := openTx(t, cfg)
			own := tx.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			intruder, err := intrude(own)
			if port == 0 {
				if !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("a port that the system chose: %v", err)
				}
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			station := w.station(t, r.group, 0)
			answer := func(text string) {
				if _, err := station.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(w.like(r.group, 1), own)); err != nil {
					t.Fatal(err)
				}
			}
			answer("stolen")
			(&naive{intruder.(*net.UDPConn), t}).await("stolen")
			intruder.Close()
			answer("not stolen")
			if got, _ := readTx(t, tx); got != "not stolen" {
				t.Errorf("the sender reads %q", got)
			}
		}
	})
}

// TestForgedOwn has somebody on the link claim to be this host. With Loopback, IPv6 cannot tell that from this host's own
// datagrams; Linux drops it for IPv4.
func TestForgedOwn(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		cfg := onWire(w, port, r.group)
		without := openRx(t, cfg)
		cfg.Loopback = true
		with := openRx(t, cfg)
		f := newForger(t, w)
		own := forged{mac: groupMAC(r.group), src: w.like(r.group, 1), dst: r.group, port: port, payload: "forged"}
		f.send(own.frames()...)
		own.src, own.payload = w.like(r.group, 99), "marker"
		f.send(own.frames()...)
		marker := arrival{"marker", r.group, w.at.Index}
		wantArrivals(t, without, marker)
		if r.group.Is4() {
			wantArrivals(t, with, marker)
		} else {
			wantArrivals(t, with, arrival{"forged", r.group, w.at.Index}, marker)
		}
	})
}
