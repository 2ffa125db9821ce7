package route

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/go-multicast/mcast/internal/rtnl"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

func number(typ uint16, value uint32) []byte {
	return rtnl.Attr(typ, binary.NativeEndian.AppendUint32(nil, value))
}

// nexthop is struct rtnexthop, with a gateway.
func nexthop(flags byte, index int) []byte {
	gateway := rtnl.Attr(unix.RTA_GATEWAY, []byte{10, 0, 0, 1})
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtNexthop+len(gateway)))
	b = binary.NativeEndian.AppendUint32(append(b, flags, 0), uint32(index))
	return append(b, gateway...)
}

func TestBestDefault(t *testing.T) {
	type route struct {
		bits, tos, table, kind byte
		flags                  uint32
		attrs                  [][]byte
	}
	const uni, main = unix.RTN_UNICAST, unix.RT_TABLE_MAIN
	by := func(index int, more ...[]byte) [][]byte {
		return append([][]byte{number(unix.RTA_OIF, uint32(index))}, more...)
	}
	metric := func(m uint32) []byte { return number(unix.RTA_PRIORITY, m) }
	pref := func(p byte) []byte { return rtnl.Attr(unix.RTA_PREF, []byte{p}) }
	table := func(n uint32) []byte { return number(unix.RTA_TABLE, n) }
	multipath := func(hops ...[]byte) [][]byte {
		return [][]byte{rtnl.Attr(unix.RTA_MULTIPATH, slices.Concat(hops...))}
	}
	for _, test := range []struct {
		name   string
		routes []route
		want   int
	}{
		{"none", nil, 0},
		{"one", []route{{0, 0, main, uni, 0, by(3)}}, 3},
		{"not to everywhere", []route{{1, 0, main, uni, 0, by(3)}, {8, 0, main, uni, 0, by(4)}}, 0},
		{"other kinds", []route{{0, 0, main, unix.RTN_UNREACHABLE, 0, by(1)}, {0, 0, main, unix.RTN_BLACKHOLE, 0, nil}, {0, 0, main, unix.RTN_LOCAL, 0, by(1)}}, 0},
		{"for a type of service", []route{{0, 16, main, uni, 0, by(3)}}, 0},
		{"another table", []route{{0, 0, 99, uni, 0, by(3)}}, 0},
		{"another table by attribute", []route{{0, 0, 252, uni, 0, by(3, table(51820))}}, 0},
		{"main table by attribute", []route{{0, 0, 252, uni, 0, by(3, table(254))}}, 3},
		{"from the cache", []route{{0, 0, main, uni, unix.RTM_F_CLONED, by(3)}}, 0},
		{"without an interface", []route{{0, 0, main, uni, 0, nil}}, 0},
		{"a negative interface", []route{{0, 0, main, uni, 0, by(-3)}}, 0},
		{"metric", []route{{0, 0, main, uni, 0, by(3, metric(200))}, {0, 0, main, uni, 0, by(4, metric(100))}, {0, 0, main, uni, 0, by(5, metric(300))}}, 4},
		{"no metric is the best", []route{{0, 0, main, uni, 0, by(3, metric(1))}, {0, 0, main, uni, 0, by(4)}}, 4},
		{"a metric beyond 31 bits", []route{{0, 0, main, uni, 0, by(3, metric(1<<31))}, {0, 0, main, uni, 0, by(4, metric(1<<31-1))}}, 4},
		{"the first of equals", []route{{0, 0, main, uni, 0, by(3, metric(5))}, {0, 0, main, uni, 0, by(4, metric(5))}}, 3},
		{"preference", []route{{0, 0, main, uni, 0, by(3, metric(1024), pref(3))}, {0, 0, main, uni, 0, by(4, metric(1024), pref(0))}, {0, 0, main, uni, 0, by(5, metric(1024), pref(1))}}, 5},
		{"no preference is medium", []route{{0, 0, main, uni, 0, by(3, pref(3))}, {0, 0, main, uni, 0, by(4)}}, 4},
		{"metric before preference", []route{{0, 0, main, uni, 0, by(3, metric(1025), pref(1))}, {0, 0, main, uni, 0, by(4, metric(1024), pref(3))}}, 4},
		{"dead", []route{{0, 0, main, uni, unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN, by(3)}, {0, 0, main, uni, 0, by(4, metric(9))}}, 4},
		{"without carrier", []route{{0, 0, main, uni, unix.RTNH_F_LINKDOWN, by(3)}, {0, 0, main, uni, 0, by(4, metric(9))}}, 4},
		{"all without carrier", []route{{0, 0, main, uni, unix.RTNH_F_LINKDOWN, by(3, metric(9))}, {0, 0, main, uni, unix.RTNH_F_LINKDOWN, by(4)}}, 4},
		{"multipath", []route{{0, 0, main, uni, 0, multipath(nexthop(0, 3), nexthop(0, 4))}}, 3},
		{"multipath, first dead", []route{{0, 0, main, uni, 0, multipath(nexthop(unix.RTNH_F_DEAD, 3), nexthop(unix.RTNH_F_LINKDOWN, 4), nexthop(0, 5))}}, 5},
		{"multipath without carrier", []route{{0, 0, main, uni, 0, multipath(nexthop(unix.RTNH_F_LINKDOWN, 3), nexthop(unix.RTNH_F_LINKDOWN, 4))}, {0, 0, main, uni, 0, by(5, metric(9))}}, 5},
		{"multipath, all dead", []route{{0, 0, main, uni, 0, multipath(nexthop(unix.RTNH_F_DEAD, 3))}}, 0},
		{"multipath, broken", []route{{0, 0, main, uni, 0, multipath([]byte{3, 0, 0, 0, 1, 0, 0, 0})}}, 0},
		{"a nexthop object without its interface", []route{{0, 0, main, uni, 0, [][]byte{number(30 /* RTA_NH_ID */, 5)}}}, 0},
	} {
		var b []byte
		for _, r := range test.routes {
			header := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, r.bits, 0, r.tos, r.table, 0, 0, r.kind}, r.flags)
			b = rtnl.Message{Type: unix.RTM_NEWROUTE, Body: slices.Concat(append([][]byte{header}, r.attrs...)...)}.AppendTo(b)
		}
		if got := bestDefault(b); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

// TestDefaultManyRoutes looks for default routes among thousands of others. For IPv4 it does not read them all.
func TestDefaultManyRoutes(t *testing.T) {
	h := mcasttest.NewHost(t)
	v4, v6 := netip.MustParsePrefix("192.0.2.1/26"), netip.MustParsePrefix("fd00::1/64")
	near := h.NewVeth("near", v4, v6)
	far := h.NewVeth("far", netip.MustParsePrefix("192.0.2.65/26"), netip.MustParsePrefix("fd00:0:0:1::1/64"))
	// All of these begin where the default routes do.
	for _, dst := range []string{"0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/8", "0.0.0.0/32", "::/1", "::/8"} {
		far.AddRoute(netip.MustParsePrefix(dst), netip.Addr{}, 0)
	}
	for n := range 3000 {
		hi, lo := byte(n/250), byte(1+n%250)
		far.AddRoute(netip.PrefixFrom(netip.AddrFrom4([4]byte{1, hi, lo, 0}), 24), netip.Addr{}, 0)
		far.AddRoute(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0, hi, 0, lo}), 48), netip.Addr{}, 0)
	}
	far.AddRoute(netip.MustParsePrefix("2000::/3"), netip.Addr{}, 0)
	for _, v4 := range []bool{true, false} {
		everywhere := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if v4 {
			everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		for _, step := range []struct {
			what   string
			by     *mcasttest.Interface // of a new default route
			metric int
			want   *mcasttest.Interface
		}{
			{"no default route", nil, 0, far},
			{"one", far, 30, far},
			{"a better one", near, 20, near},
			{"a worse one", far, 40, near},
		} {
			if step.by != nil {
				step.by.AddRoute(everywhere, netip.Addr{}, step.metric)
			}
			h.Do(func() {
				if got, err := Default(v4); err != nil || got != step.want.Index() {
					t.Errorf("IPv4 %v, %s: %d, %v; want %d", v4, step.what, got, err, step.want.Index())
				}
				c, err := rtnl.Dial(unix.NETLINK_ROUTE)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				want := step.want.Index()
				if step.by == nil {
					want = 0
				}
				if index, err := mainDefault(c, v4); err != nil || index != want {
					t.Errorf("IPv4 %v, %s: the main table has %d, %v; want %d", v4, step.what, index, err, want)
				}
				_, err = c.Dump(unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg), nil)
				unfinished := errors.Is(err, unix.EBUSY) // netlink_dump_start in net/netlink/af_netlink.c
				if sorted := v4 && c.Strict(); sorted != unfinished {
					t.Errorf("IPv4 %v, %s: a second dump: %v", v4, step.what, err)
				}
			})
		}
	}
}

// FuzzBestDefault has any bytes read as routes.
func FuzzBestDefault(f *testing.F) {
	header := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, 0, 0, unix.RTN_UNICAST, 0, 0, 0, 0}
	f.Add(rtnl.Message{Type: unix.RTM_NEWROUTE, Body: append(header, number(unix.RTA_OIF, 3)...)}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if index := bestDefault(b); index < 0 {
			t.Errorf("the default interface is %d", index)
		}
	})
}
