package wire

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// controlLinux is how Linux writes them on most processors: asm-generic/socket.h, linux/in.h, linux/in6.h, linux/udp.h. See
// controlHere in control_linux.go.
var controlLinux = controlFormat{wordSize, []controlKind{
	{0, 2, hopLimit},   // IP_TTL
	{0, 8, pktinfo4},   // IP_PKTINFO
	{41, 52, hopLimit}, // IPV6_HOPLIMIT
	{41, 50, pktinfo6}, // IPV6_PKTINFO
	{1, 35, timespec},  // SOL_SOCKET, SCM_TIMESTAMPNS
	{17, 104, segment}, // SOL_UDP, UDP_GRO
}}

// controlBytes are control messages as the systems write them on 64-bit little-endian machines, byte by byte.
var controlBytes = []struct {
	name   string
	format *controlFormat
	hex    string
	want   Metadata
}{
	{"Linux TTL", &controlLinux, "1400000000000000 00000000 02000000 03000000 00000000", Metadata{HopLimit: 3}},
	{"Linux hop limit", &controlLinux, "1400000000000000 29000000 34000000 40000000 00000000", Metadata{HopLimit: 64}},
	{"Linux IPV6_PKTINFO", &controlLinux, "2400000000000000 29000000 32000000 ff150000000000000000000000001234 07000000 00000000",
		Metadata{Group: netip.MustParseAddr("ff15::1234"), IfIndex: 7}},
	{"Linux time", &controlLinux, "2000000000000000 01000000 23000000 0100000000000000 0200000000000000", Metadata{Time: time.Unix(1, 2)}},
	{"Linux time of a 32-bit processor", &controlFormat{4, controlLinux.kinds}, "14000000 01000000 23000000 01000000 02000000",
		Metadata{Time: time.Unix(1, 2)}},
	{"Linux time of a 32-bit processor after 2038", &controlFormat{4, controlLinux.kinds}, "14000000 01000000 23000000 01000080 02000000",
		Metadata{Time: time.Unix(1<<31+1, 2)}},
	{"Linux, others in between", &controlLinux, "1c00000000000000 01000000 02000000 000000000000000000000000 00000000" +
		"1400000000000000 00000000 02000000 03000000 00000000", Metadata{HopLimit: 3}},

	{"macOS IP_PKTINFO", &controlDarwin, "18000000 00000000 1a000000 04000000 00000000 ef010203",
		Metadata{Group: netip.MustParseAddr("239.1.2.3"), IfIndex: 4}},
	{"macOS TTL", &controlDarwin, "0d000000 00000000 18000000 05000000", Metadata{HopLimit: 5}},
	{"macOS hop limit", &controlDarwin, "10000000 29000000 2f000000 ff000000", Metadata{HopLimit: 255}},
	{"macOS IPV6_PKTINFO", &controlDarwin, "20000000 29000000 2e000000 ff0200000000000000000000000000fb 0e000000",
		Metadata{Group: netip.MustParseAddr("ff02::fb"), IfIndex: 14}},
	{"macOS time", &controlDarwin, "1c000000 ffff0000 02000000 0100000000000000 03000000 00000000", Metadata{Time: time.Unix(1, 3000)}},
	{"macOS, TTL before info", &controlDarwin, "0d000000 00000000 18000000 05000000" +
		"18000000 00000000 1a000000 04000000 00000000 ef010203",
		Metadata{Group: netip.MustParseAddr("239.1.2.3"), IfIndex: 4, HopLimit: 5}},

	{"Windows IP_PKTINFO", &controlWindows, "1800000000000000 00000000 13000000 ef010203 0c000000",
		Metadata{Group: netip.MustParseAddr("239.1.2.3"), IfIndex: 12}},
	{"Windows TTL", &controlWindows, "1400000000000000 00000000 04000000 01000000 00000000", Metadata{HopLimit: 1}},
	{"Windows TTL as hop limit", &controlWindows, "1400000000000000 00000000 15000000 01000000 00000000", Metadata{HopLimit: 1}},
	{"Windows IPV6_PKTINFO", &controlWindows, "2400000000000000 29000000 13000000 ff050000000000000000000000000001 0c000000 00000000",
		Metadata{Group: netip.MustParseAddr("ff05::1"), IfIndex: 12}},
	{"Windows hop limit", &controlWindows, "1400000000000000 29000000 15000000 02000000 00000000", Metadata{HopLimit: 2}},
	{"Windows, both", &controlWindows, "1400000000000000 00000000 04000000 01000000 00000000" +
		"1800000000000000 00000000 13000000 ef010203 0c000000",
		Metadata{Group: netip.MustParseAddr("239.1.2.3"), IfIndex: 12, HopLimit: 1}},
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// requireLittleEndian64 is for tests that compare with bytes as 64-bit little-endian machines have them.
func requireLittleEndian64(t *testing.T) {
	t.Helper()
	if wordSize != 8 || binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("not a 64-bit little-endian machine, whose bytes these are")
	}
}

func TestParseControl(t *testing.T) {
	requireLittleEndian64(t)
	for _, c := range controlBytes {
		b := unhex(t, c.hex)
		if got := parseControl(b, c.format); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		for n := range b { // cut anywhere, it may tell less, but nothing else
			got := parseControl(slices.Clip(b[:n]), c.format)
			for _, same := range []bool{
				!got.Group.IsValid() || got.Group == c.want.Group, got.IfIndex == 0 || got.IfIndex == c.want.IfIndex,
				got.HopLimit == 0 || got.HopLimit == c.want.HopLimit, got.Time.IsZero() || got.Time.Equal(c.want.Time),
			} {
				if !same {
					t.Errorf("%s, cut to %d bytes: %+v", c.name, n, got)
				}
			}
		}
	}
	if got := parseControl(nil, &controlLinux); got != (Metadata{}) {
		t.Errorf("nothing: %+v", got)
	}
	if got := parseControl(unhex(t, "1100000000000000 00000000 02000000 03"), &controlLinux); got.HopLimit != 3 {
		t.Errorf("a byte instead of an int: %+v", got)
	}
}

func FuzzParseControl(f *testing.F) {
	for _, c := range controlBytes {
		f.Add(unhex(f, c.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, format := range []*controlFormat{&controlLinux, &controlDarwin, &controlWindows, {word: 4}, {word: 8}} {
			parseControl(b, format)
		}
	})
}

// putControl appends a control message as a system writes it.
func putControl(b []byte, f *controlFormat, level, kind int32, data []byte) []byte {
	n := f.word + 8 + len(data)
	if f.word == 8 {
		b = binary.NativeEndian.AppendUint64(b, uint64(n))
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(n))
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	b = append(binary.NativeEndian.AppendUint32(b, uint32(kind)), data...)
	return append(b, make([]byte, -n&(f.word-1))...)
}

// FuzzControlRoundTrip writes control messages in the way of each system, with others between them, and has them read.
func FuzzControlRoundTrip(f *testing.F) {
	f.Add([]byte{239, 1, 2, 3}, uint32(7), uint32(64), uint64(1), uint32(2), []byte("others"), false)
	f.Add(netip.MustParseAddr("ff15::1234").AsSlice(), uint32(1<<31), uint32(0), uint64(1<<40), uint32(999999), []byte(nil), true)
	f.Fuzz(func(t *testing.T, ip []byte, ifIndex, hops uint32, sec uint64, sub uint32, other []byte, reverse bool) {
		group, ok := netip.AddrFromSlice(ip)
		if !ok || len(other) > 100 || sec > 1<<40 || sub >= 1e6 || hops > 255 {
			return
		}
		u32 := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
		u64 := func(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }
		for _, format := range []*controlFormat{&controlLinux, &controlDarwin, &controlWindows} {
			var messages [][]byte
			var want Metadata
			for _, k := range format.kinds {
				var data []byte
				switch k.what {
				case hopLimit:
					want.HopLimit, data = int(hops), u32(hops)
				case pktinfo4:
					if !group.Is4() {
						continue
					}
					want.Group, want.IfIndex = group, int(ifIndex)
					data = slices.Concat(u32(ifIndex), []byte{9, 9, 9, 9}, ip)
				case pktinfoWindows:
					if !group.Is4() {
						continue
					}
					want.Group, want.IfIndex = group, int(ifIndex)
					data = slices.Concat(ip, u32(ifIndex))
				case pktinfo6:
					if !group.Is6() {
						continue
					}
					want.Group, want.IfIndex = group, int(ifIndex)
					data = slices.Concat(ip, u32(ifIndex))
				case timespec:
					want.Time = time.Unix(int64(sec), int64(sub)*1000)
					data = slices.Concat(u64(sec), u64(uint64(sub)*1000))
				case timeval:
					want.Time = time.Unix(int64(sec), int64(sub)*1000)
					data = slices.Concat(u64(sec), u32(sub), u32(0))
				case segment:
					want.Segment, data = int(hops), u32(hops)
				}
				messages = append(messages, putControl(nil, format, k.level, k.kind, data), putControl(nil, format, 77, k.kind, other))
			}
			if reverse {
				slices.Reverse(messages)
			}
			if got := parseControl(slices.Concat(messages...), format); got != want {
				t.Errorf("%+v is read as %+v", want, got)
			}
		}
	})
}
