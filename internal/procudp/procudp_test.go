package procudp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// The texts are those of Linux 6.18 on a little-endian machine.

const udpText = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             \n" +
	"  123: 030201EF:3039 00000000:0000 07 00000000:00000300 00:00000000 00000000  1000        0 40223 2 00000000f1c1e1d8 17           \n"

const udp6Text = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n" +
	"    7: 000015FF000000000000000034120000:3039 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 40224 2 00000000f1c1e1d8 0\n"

func TestParse(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the texts are of a little-endian machine")
	}
	got := append(Parse(udpText), Parse(udp6Text)...)
	want := []Socket{
		{netip.MustParseAddrPort("239.1.2.3:12345"), "1000", 40223, 17},
		{netip.MustParseAddrPort("[ff15::1234]:12345"), "0", 40224, 0},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	got[0].Inode, got[1].Inode = 1<<62, 1<<62 // no process has them
	if text := Describe(got[:1]); text != "239.1.2.3:12345 of user 1000 (the program is not visible)" {
		t.Error(text)
	}
	if text := Describe(slices.Repeat(got, 4)); !strings.HasSuffix(text, " and 3 more") {
		t.Error(text)
	}
}

func TestTakes(t *testing.T) {
	group4, group6 := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1")
	for _, c := range []struct {
		local  string
		v4, v6 bool
	}{
		{"0.0.0.0:5000", true, false},
		{"[::]:5000", true, true},
		{"239.1.2.3:5000", true, false},
		{"[ff15::1]:5000", false, true},
		{"239.1.2.4:5000", false, false},
		{"10.0.0.1:5000", false, false},
		{"0.0.0.0:5001", false, false},
	} {
		s := Socket{Local: netip.MustParseAddrPort(c.local)}
		if v4, v6 := s.Takes(group4, 5000), s.Takes(group6, 5000); v4 != c.v4 || v6 != c.v6 {
			t.Errorf("%s takes IPv4 %v, IPv6 %v", c.local, v4, v6)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(udpText)
	f.Add(udp6Text)
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range Parse(text) {
			if !s.Local.IsValid() {
				t.Errorf("%+v has no address", s)
			}
		}
	})
}
