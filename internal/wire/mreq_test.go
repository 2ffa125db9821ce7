package wire

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

// TestMembershipRequests compares what the systems are given with their headers' layouts, byte by byte.
func TestMembershipRequests(t *testing.T) {
	requireLittleEndian64(t)
	v4, source4 := netip.MustParseAddr("232.1.2.3"), netip.MustParseAddr("10.0.0.9")
	v6, source6 := netip.MustParseAddr("ff35::1"), netip.MustParseAddr("2001:db8::9")
	zeros := func(n int) string { return strings.Repeat("00", n) }
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"ip_mreq", Mreq4(v4, source4), "e8010203 0a000009"},
		{"ip_mreq by index", Mreq4(v4, IndexAddr(12)), "e8010203 0000000c"},
		{"ip_mreq by large index", Mreq4(v4, IndexAddr(0x123456)), "e8010203 00123456"},
		{"ip_mreq_source", MreqSource4(v4, source4, IndexAddr(12)), "e8010203 0a000009 0000000c"},
		{"group_req, Windows, IPv6", MreqWindows.GroupReq(7, v6),
			"0700000000000000" + "1700 0000 00000000 ff350000000000000000000000000001" + zeros(104)},
		{"group_source_req, Linux, IPv4", MreqLinux.GroupSourceReq(7, v4, source4),
			"0700000000000000" + "0200 0000 e8010203" + zeros(120) + "0200 0000 0a000009" + zeros(120)},
		{"group_source_req, Linux, IPv6", MreqLinux.GroupSourceReq(7, v6, source6),
			"0700000000000000" + "0a00 0000 00000000 ff350000000000000000000000000001" + zeros(104) +
				"0a00 0000 00000000 20010db8000000000000000000000009" + zeros(104)},
		{"group_source_req, Linux, 32 bits", MreqLayout{align: 4, inet6: 10}.GroupSourceReq(7, v4, source4),
			"07000000" + "0200 0000 e8010203" + zeros(120) + "0200 0000 0a000009" + zeros(120)},
		{"group_source_req, Windows, IPv6", MreqWindows.GroupSourceReq(7, v6, source6),
			"0700000000000000" + "1700 0000 00000000 ff350000000000000000000000000001" + zeros(104) +
				"1700 0000 00000000 20010db8000000000000000000000009" + zeros(104)},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, c.got, want)
		}
	}
}
