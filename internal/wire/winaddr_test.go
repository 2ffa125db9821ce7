package wire

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

func TestWinUsable(t *testing.T) {
	at := func(s string, state int32) WinAddr { return WinAddr{netip.MustParsePrefix(s), state} }
	for _, test := range []struct {
		name      string
		all       []WinAddr
		want      []string
		tentative []string
	}{
		{"none", nil, nil, nil},
		{"preferred, in the order of the system", []WinAddr{at("10.0.0.2/8", winPreferred), at("10.0.0.1/8", winPreferred)}, []string{"10.0.0.2/8", "10.0.0.1/8"}, nil},
		{"a duplicate first address", []WinAddr{at("10.0.0.1/8", winDuplicate), at("169.254.1.1/16", winPreferred)}, []string{"169.254.1.1/16"}, nil},
		{"only a duplicate", []WinAddr{at("10.0.0.1/8", winDuplicate), at("10.0.0.2/8", winInvalid)}, nil, nil},
		{"after boot", []WinAddr{at("10.0.0.1/8", winTentative)}, []string{"10.0.0.1/8"}, []string{"10.0.0.1"}},
		{"all states", []WinAddr{at("fe80::1/64", winTentative), at("fe80::2/64", winDeprecated), at("fe80::3/64", winDuplicate),
			at("fe80::4/64", winPreferred), at("fe80::5/64", winInvalid), at("fe80::6/64", 99)},
			[]string{"fe80::4/64", "fe80::2/64", "fe80::1/64"}, []string{"fe80::1"}},
	} {
		prefixes, tentative := WinUsable(test.all)
		if got := textsOf(prefixes); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
		if got := textsOf(tentative); !slices.Equal(got, test.tentative) {
			t.Errorf("%s: %v are tentative, want %v", test.name, got, test.tentative)
		}
	}
}

func textsOf[T interface{ String() string }](all []T) (texts []string) {
	for _, x := range all {
		texts = append(texts, x.String())
	}
	return texts
}

// winTestRow is the beginning of a MIB_UNICASTIPADDRESS_ROW as Windows fills it in, for both word sizes.
func winTestRow(family uint16, at int, addr []byte, index uint32) []byte {
	row := make([]byte, WinAddressSize)
	for i := range row {
		row[i] = 0xee // what a notice leaves undefined
	}
	binary.NativeEndian.PutUint16(row, family)
	copy(row[at:], addr)
	binary.NativeEndian.PutUint32(row[40:], index)
	return row
}

func TestWinAddress(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")
	for _, test := range []struct {
		name  string
		row   []byte
		index int
		want  netip.Addr
	}{
		{"IPv4", winTestRow(2, 4, v4.AsSlice(), 12), 12, v4},
		{"IPv6", winTestRow(23, 8, v6.AsSlice(), 1<<24), 1 << 24, v6},
		{"another family", winTestRow(10, 8, v6.AsSlice(), 12), 0, netip.Addr{}},
		{"cut short", winTestRow(2, 4, v4.AsSlice(), 12)[:WinAddressSize-1], 0, netip.Addr{}},
		{"nothing", nil, 0, netip.Addr{}},
	} {
		if index, got := WinAddress(test.row); index != test.index || got != test.want {
			t.Errorf("%s: interface %d, %v", test.name, index, got)
		}
	}
}

// FuzzWinAddress checks that every row is read without a fault, and that an address that is read is in it.
func FuzzWinAddress(f *testing.F) {
	f.Add(winTestRow(2, 4, []byte{192, 0, 2, 1}, 12))
	f.Add(winTestRow(23, 8, make([]byte, 16), 0xffffffff))
	f.Fuzz(func(t *testing.T, row []byte) {
		index, a := WinAddress(row)
		if !a.IsValid() {
			if index != 0 {
				t.Errorf("interface %d without an address", index)
			}
			return
		}
		at := 4
		if a.Is6() {
			at = 8
		}
		if a.Zone() != "" || !slices.Equal(a.AsSlice(), row[at:][:a.BitLen()/8]) {
			t.Errorf("%v is not in %x", a, row)
		}
	})
}
