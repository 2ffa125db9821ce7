package mcast

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestWinUsable(t *testing.T) {
	at := func(s string, state int32) winAddr { return winAddr{netip.MustParsePrefix(s), state} }
	for _, test := range []struct {
		name      string
		all       []winAddr
		want      []string
		tentative []string
	}{
		{"none", nil, nil, nil},
		{"preferred, in the order of the system", []winAddr{at("10.0.0.2/8", winPreferred), at("10.0.0.1/8", winPreferred)}, []string{"10.0.0.2/8", "10.0.0.1/8"}, nil},
		{"a duplicate first address", []winAddr{at("10.0.0.1/8", winDuplicate), at("169.254.1.1/16", winPreferred)}, []string{"169.254.1.1/16"}, nil},
		{"only a duplicate", []winAddr{at("10.0.0.1/8", winDuplicate), at("10.0.0.2/8", winInvalid)}, nil, nil},
		{"after boot", []winAddr{at("10.0.0.1/8", winTentative)}, []string{"10.0.0.1/8"}, []string{"10.0.0.1"}},
		{"all states", []winAddr{at("fe80::1/64", winTentative), at("fe80::2/64", winDeprecated), at("fe80::3/64", winDuplicate),
			at("fe80::4/64", winPreferred), at("fe80::5/64", winInvalid), at("fe80::6/64", 99)},
			[]string{"fe80::4/64", "fe80::2/64", "fe80::1/64"}, []string{"fe80::1"}},
	} {
		prefixes, tentative := winUsable(test.all)
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
	row := make([]byte, winAddressSize)
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
		name string
		row  []byte
		want watchAddr
		ok   bool
	}{
		{"IPv4", winTestRow(2, 4, v4.AsSlice(), 12), watchAddr{12, v4}, true},
		{"IPv6", winTestRow(23, 8, v6.AsSlice(), 1<<24), watchAddr{1 << 24, v6}, true},
		{"another family", winTestRow(10, 8, v6.AsSlice(), 12), watchAddr{}, false},
		{"cut short", winTestRow(2, 4, v4.AsSlice(), 12)[:winAddressSize-1], watchAddr{}, false},
		{"nothing", nil, watchAddr{}, false},
	} {
		if got, ok := winAddress(test.row); got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %v", test.name, got, ok)
		}
	}
}

// FuzzWinAddress checks that every row is read without a fault, and that an address that is read is in it.
func FuzzWinAddress(f *testing.F) {
	f.Add(winTestRow(2, 4, []byte{192, 0, 2, 1}, 12))
	f.Add(winTestRow(23, 8, make([]byte, 16), 0xffffffff))
	f.Fuzz(func(t *testing.T, row []byte) {
		a, ok := winAddress(row)
		if ok != a.addr.IsValid() || ok && a.addr.Zone() != "" {
			t.Errorf("%v, %v", a, ok)
		}
		if ok && !slices.Equal(a.addr.AsSlice(), row[map[bool]int{true: 4, false: 8}[a.addr.Is4()]:][:a.addr.BitLen()/8]) {
			t.Errorf("%v is not in %x", a, row)
		}
	})
}

// TestTentativeAddressesAreUsedLater covers what an interface says of addresses that are being checked.
func TestTentativeAddressesAreUsedLater(t *testing.T) {
	v4, v6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	ifc := Interface{Index: 12, Flags: net.FlagUp,
		IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24")},
		IPv6: []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}}
	checked := ifc
	ifc.tentative = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fe80::1")}
	if got := textsOf(ifc.usable(v4)); !slices.Equal(got, []string{"192.0.2.1"}) || ifc.checking(v4) {
		t.Errorf("IPv4: %v, checking %v", got, ifc.checking(v4))
	}
	if got := ifc.usable(v6); got != nil || !ifc.checking(v6) {
		t.Errorf("IPv6: %v, checking %v", got, ifc.checking(v6))
	}
	if ifc.equal(checked) || checked.checking(v6) {
		t.Error("the end of the check is no change")
	}
	if found, err := SelectInterfaces([]Interface{ifc}, "192.0.2.2"); err != nil || len(found) != 1 {
		t.Errorf("a user cannot name an address that is being checked: %v", err)
	}
	down := ifc
	down.Flags = 0
	if down.checking(v6) || (&Interface{Flags: net.FlagUp}).checking(v4) {
		t.Error("an interface that is down, or without addresses, is waited for")
	}
}

// TestOpenRxAwaitsAddresses plays the end of the check, in a time that stands still while something runs.
func TestOpenRxAwaitsAddresses(t *testing.T) {
	const never = time.Hour
	v4, v6 := groups("239.1.1.1"), groups("ff02::1:2")
	checking := func(index int) Interface {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(index)}), 8)
		return Interface{Index: index, Flags: net.FlagUp, IPv4: []netip.Prefix{a}, tentative: []netip.Addr{a.Addr()}}
	}
	checked := func(i Interface) Interface { i.tentative = nil; return i }
	down := checking(5)
	down.Flags = 0
	for _, test := range []struct {
		name   string
		ifaces []Interface
		groups []netip.Addr
		all    bool
		after  time.Duration // the addresses of interface 1 have been checked
		waits  time.Duration
		usable bool
	}{
		{"it has been checked", []Interface{checked(checking(1))}, v4, false, 0, 0, true},
		{"it is being checked", []Interface{checking(1)}, v4, false, 2 * time.Second, 2 * time.Second, true},
		{"all are being checked", []Interface{checking(1), checking(2)}, v4, true, 2 * time.Second, 2 * time.Second, true},
		{"one of several that were named", []Interface{checking(1), checked(checking(3))}, v4, false, time.Second, time.Second, true},
		{"one of all", []Interface{checking(1), checked(checking(3))}, v4, true, time.Second, 0, false},
		{"the check does not end", []Interface{checking(1)}, v4, false, never, addressPatience, false},
		{"IPv6 is bound to no address", []Interface{checking(1)}, v6, false, never, 0, false},
		{"it is down", []Interface{down}, v4, false, never, 0, true},
		{"it is gone", []Interface{checking(7)}, v4, false, 0, addressPatience, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			got := awaitUsable(test.ifaces, test.groups, test.all, func() ([]Interface, error) {
				list := []Interface{checking(1), checking(2), checked(checking(3))}
				if time.Since(start) >= test.after {
					list[0] = checked(list[0])
				}
				return list, nil
			})
			if waited := time.Since(start).Round(100 * time.Millisecond); waited != test.waits {
				t.Errorf("%s: waited %v, want %v", test.name, waited, test.waits)
			}
			if len(got) != len(test.ifaces) || got[0].checking(v4[0]) == test.usable {
				t.Errorf("%s: %+v", test.name, got)
			}
			if test.ifaces[0].Index == 1 && test.after > 0 && len(test.ifaces[0].tentative) == 0 {
				t.Errorf("%s: the caller's slice was changed", test.name)
			}
		})
	}
	failing := func() ([]Interface, error) { return nil, errors.New("no scan") }
	if got := awaitUsable([]Interface{checking(1)}, v4, false, failing); len(got) != 1 || got[0].Index != 1 {
		t.Errorf("when scans fail: %+v", got)
	}
}
