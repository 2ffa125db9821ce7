// Pure functions that read the texts of Linux's /proc/net. They take what they understand, skip the rest, since each
// kernel adds columns, and never panic. proc(5) describes the files. The kernel functions named below show what it
// leaves out.

package doctor

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"github.com/go-multicast/mcast/internal/procudp"
)

// membership is a group that a program, or the system itself, has joined on an interface.
type membership struct {
	ifName string
	group  netip.Addr
}

// parseIGMP reads /proc/net/igmp. It has a line for each interface, with the version of its querier, and below it a
// line for each group (igmp_mc_seq_show).
func parseIGMP(text string) (joined []membership, versions map[string]string) {
	versions = make(map[string]string)
	name := ""
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case line[0] >= '0' && line[0] <= '9': // 4 eth0 : 1 V3; after a long name the colon follows at once
			name = ""
			if len(fields) >= 4 {
				name = strings.TrimSuffix(fields[1], ":")
				versions[name] = fields[len(fields)-1]
			}
		case name != "" && (line[0] == '\t' || line[0] == ' '):
			if group, ok := procudp.HexAddr(fields[0]); ok && group.IsMulticast() {
				joined = append(joined, membership{name, group})
			}
		}
	}
	return joined, versions
}

// parseIGMP6 reads /proc/net/igmp6: index, name, group, …, in network byte order (igmp6_mc_seq_show).
func parseIGMP6(text string) (joined []membership) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		if group, ok := parseHex6(fields[2]); ok && group.IsMulticast() {
			joined = append(joined, membership{fields[1], group})
		}
	}
	return joined
}

func parseHex6(text string) (netip.Addr, bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}

// parseCounters reads /proc/net/snmp, netstat and snmp6. The first two have a line of names and a line of values for
// each protocol; snmp6 has a name and a value in each line. Names of the first two become as in nstat:
// TcpExtIPReversePathFilter.
func parseCounters(text string) map[string]uint64 {
	counters := make(map[string]uint64)
	set := func(name, value string) {
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			counters[name] = n
		}
	}
	var header []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		prefix, isTable := strings.CutSuffix(fields[0], ":")
		switch {
		case !isTable:
			set(fields[0], fields[1])
		case len(header) == len(fields) && header[0] == fields[0]:
			for i := 1; i < len(fields); i++ {
				set(prefix+header[i], fields[i])
			}
			header = nil
		default:
			header = fields
		}
	}
	return counters
}

// textRoute is an entry of a routing table.
type textRoute struct {
	dst    netip.Prefix
	ifName string
	metric uint64
	flags  uint64
}

// parseRoutes reads /proc/net/route, which has the main table of IPv4 (fib_route_seq_show).
func parseRoutes(text string) (routes []textRoute) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			continue
		}
		dst, ok := procudp.HexAddr(fields[1])
		mask, ok2 := procudp.HexAddr(fields[7])
		flags, err := strconv.ParseUint(fields[3], 16, 32)
		metric, err2 := strconv.ParseUint(fields[6], 10, 64)
		if !ok || !ok2 || err != nil || err2 != nil {
			continue
		}
		bits := 0
		for _, b := range mask.AsSlice() {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
		routes = append(routes, textRoute{netip.PrefixFrom(dst, bits), fields[0], metric, flags})
	}
	return routes
}

// parseRoutes6 reads /proc/net/ipv6_route, which has all tables of IPv6 (ipv6_route_native_seq_show).
func parseRoutes6(text string) (routes []textRoute) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 10 {
			continue
		}
		dst, ok := parseHex6(fields[0])
		bits, err := strconv.ParseUint(fields[1], 16, 8)
		metric, err2 := strconv.ParseUint(fields[5], 16, 32)
		flags, err3 := strconv.ParseUint(fields[8], 16, 32)
		if !ok || err != nil || err2 != nil || err3 != nil || bits > 128 {
			continue
		}
		routes = append(routes, textRoute{netip.PrefixFrom(dst, int(bits)), fields[9], metric, flags})
	}
	return routes
}
