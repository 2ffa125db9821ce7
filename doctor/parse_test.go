package doctor

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
)

// The texts are those of Linux 6.18 on a machine whose words are little-endian, as the parsers read them on such a one.

const igmpText = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n" +
	"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
	"14\tenp0s31f6abcde:     2      V2\n\t\t\t\t030201EF     1 0:00000000\t\t1\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"

const igmp6Text = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n" +
	"4    eth0            ff150000000000000000000000001234     2 00000004 0\n"

const netstatText = "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 0 5\nIpExt: InBcastPkts InMcastPkts\nIpExt: 7 18446744073709551615\n"

const snmp6Text = "Udp6InDatagrams                 \t0\nUdp6IgnoredMulti                \t3\n"

const routeText = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT      \n" +
	"eth0\t00000000\tFE00580A\t0003\t0\t0\t100\t00000000\t0\t0\t0          \n" +
	"eth0\t0000580A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0          \n"

const route6Text = "ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 80000001       lo\n"

func little(t *testing.T) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the texts are of a little-endian machine")
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n%+v, want\n%+v", what, got, want)
	}
}

func TestParse(t *testing.T) {
	little(t)
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	joined, versions := parseIGMP(igmpText)
	equal(t, "igmp", joined, []membership{{"lo", addr("224.0.0.1")}, {"enp0s31f6abcde", addr("239.1.2.3")}, {"enp0s31f6abcde", addr("224.0.0.1")}})
	equal(t, "igmp versions", versions, map[string]string{"lo": "V3", "enp0s31f6abcde": "V2"})
	equal(t, "igmp6", parseIGMP6(igmp6Text), []membership{{"lo", addr("ff02::1")}, {"eth0", addr("ff15::1234")}})
	equal(t, "netstat", parseCounters(netstatText), map[string]uint64{"TcpExtSyncookiesSent": 0, "TcpExtIPReversePathFilter": 5,
		"IpExtInBcastPkts": 7, "IpExtInMcastPkts": 1<<64 - 1})
	equal(t, "snmp6", parseCounters(snmp6Text), map[string]uint64{"Udp6InDatagrams": 0, "Udp6IgnoredMulti": 3})
	equal(t, "route", parseRoutes(routeText), []textRoute{{prefix("0.0.0.0/0"), "eth0", 100, 3}, {prefix("10.88.0.0/24"), "eth0", 0, 1}})
	equal(t, "ipv6_route", parseRoutes6(route6Text), []textRoute{{prefix("ff00::/8"), "lo", 0x400, 0x80000001}})
}

func FuzzParseProc(f *testing.F) {
	for _, text := range []string{igmpText, igmp6Text, netstatText, snmp6Text, routeText, route6Text} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		joined, _ := parseIGMP(text)
		for _, m := range append(joined, parseIGMP6(text)...) {
			if !m.group.IsMulticast() || m.ifName == "" {
				t.Errorf("%+v is no membership", m)
			}
		}
		for _, r := range append(parseRoutes(text), parseRoutes6(text)...) {
			if !r.dst.IsValid() || r.ifName == "" {
				t.Errorf("%+v is no route", r)
			}
		}
		parseCounters(text)
	})
}
