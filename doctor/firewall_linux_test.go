// Firewalls of nftables, made over netlink. What nft and iptables make is tested in internal/interop.

package doctor_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/rtnl"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

func be32(v int) []byte    { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
func cstr(s string) []byte { return append([]byte(s), 0) }

// expr is an expression of a rule.
func expr(name string, attributes ...[]byte) []byte {
	return rtnl.Attr(unix.NFTA_LIST_ELEM, rtnl.Attr(unix.NFTA_EXPR_NAME, cstr(name)), rtnl.Attr(unix.NFTA_EXPR_DATA, attributes...))
}

func verdict(code int, chain ...string) []byte {
	v := rtnl.Attr(unix.NFTA_VERDICT_CODE, be32(code))
	for _, name := range chain {
		v = append(v, rtnl.Attr(unix.NFTA_VERDICT_CHAIN, cstr(name))...)
	}
	return expr("immediate", rtnl.Attr(unix.NFTA_IMMEDIATE_DREG, be32(unix.NFT_REG_VERDICT)),
		rtnl.Attr(unix.NFTA_IMMEDIATE_DATA, rtnl.Attr(unix.NFTA_DATA_VERDICT, v)))
}

var counter = expr("counter")

// toPort matches the UDP port of a datagram's destination.
func toPort(port uint16) []byte {
	is := func(value ...byte) []byte {
		return expr("cmp", rtnl.Attr(unix.NFTA_CMP_SREG, be32(unix.NFT_REG_1)), rtnl.Attr(unix.NFTA_CMP_OP, be32(unix.NFT_CMP_EQ)),
			rtnl.Attr(unix.NFTA_CMP_DATA, rtnl.Attr(unix.NFTA_DATA_VALUE, value)))
	}
	return slices.Concat(
		expr("meta", rtnl.Attr(unix.NFTA_META_DREG, be32(unix.NFT_REG_1)), rtnl.Attr(unix.NFTA_META_KEY, be32(unix.NFT_META_L4PROTO))),
		is(unix.IPPROTO_UDP),
		expr("payload", rtnl.Attr(unix.NFTA_PAYLOAD_DREG, be32(unix.NFT_REG_1)),
			rtnl.Attr(unix.NFTA_PAYLOAD_BASE, be32(unix.NFT_PAYLOAD_TRANSPORT_HEADER)),
			rtnl.Attr(unix.NFTA_PAYLOAD_OFFSET, be32(2)), rtnl.Attr(unix.NFTA_PAYLOAD_LEN, be32(2))),
		is(byte(port>>8), byte(port)))
}

// table is a table of nftables. Its chain "in" is at a hook, and its chain "other" is not.
type table struct {
	family, flags, hook, policy int
	device                      string
	in, other                   [][]byte // rules
}

// firewall gives the host these tables, t0, t1 and so on, and no others.
func firewall(t *testing.T, host *mcasttest.Host, tables ...table) {
	t.Helper()
	var batch []byte
	acks := 0
	add := func(typ uint16, family, id int, body ...[]byte) {
		b := append([]byte{byte(family), unix.NFNETLINK_V0, byte(id >> 8), byte(id)}, slices.Concat(body...)...)
		flags := uint16(unix.NLM_F_REQUEST)
		if typ>>8 == unix.NFNL_SUBSYS_NFTABLES {
			flags |= unix.NLM_F_CREATE | unix.NLM_F_APPEND | unix.NLM_F_ACK
			acks++
		}
		batch = rtnl.Message{Type: typ, Flags: flags, Body: b}.AppendTo(batch)
	}
	const nft = unix.NFNL_SUBSYS_NFTABLES << 8
	add(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFNL_SUBSYS_NFTABLES)
	add(nft|unix.NFT_MSG_DELTABLE, 0, 0)
	for n, table := range tables {
		name := rtnl.Attr(unix.NFTA_TABLE_NAME, fmt.Appendf(nil, "t%d\x00", n)) // 1, in messages of chains and rules too
		add(nft|unix.NFT_MSG_NEWTABLE, table.family, 0, name, rtnl.Attr(unix.NFTA_TABLE_FLAGS, be32(table.flags)))
		hook := [][]byte{rtnl.Attr(unix.NFTA_HOOK_HOOKNUM, be32(table.hook)), rtnl.Attr(unix.NFTA_HOOK_PRIORITY, be32(0))}
		if table.device != "" {
			hook = append(hook, rtnl.Attr(unix.NFTA_HOOK_DEV, cstr(table.device)))
		}
		add(nft|unix.NFT_MSG_NEWCHAIN, table.family, 0, name, rtnl.Attr(unix.NFTA_CHAIN_NAME, cstr("other")))
		add(nft|unix.NFT_MSG_NEWCHAIN, table.family, 0, name, rtnl.Attr(unix.NFTA_CHAIN_NAME, cstr("in")),
			rtnl.Attr(unix.NFTA_CHAIN_HOOK, hook...), rtnl.Attr(unix.NFTA_CHAIN_POLICY, be32(table.policy)),
			rtnl.Attr(unix.NFTA_CHAIN_TYPE, cstr("filter")))
		for chain, rules := range map[string][][]byte{"in": table.in, "other": table.other} {
			for _, rule := range rules {
				add(nft|unix.NFT_MSG_NEWRULE, table.family, 0, name, rtnl.Attr(unix.NFTA_RULE_CHAIN, cstr(chain)),
					rtnl.Attr(unix.NFTA_RULE_EXPRESSIONS, rule))
			}
		}
	}
	add(unix.NFNL_MSG_BATCH_END, 0, unix.NFNL_SUBSYS_NFTABLES)

	host.Do(func() {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
		if err := unix.Sendto(fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 1<<16)
		for acks > 0 {
			n, _, err := unix.Recvfrom(fd, answer, 0)
			if err == unix.EINTR {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			for m := range rtnl.Messages(answer[:n]) {
				if code := int32(binary.NativeEndian.Uint32(m.Body)); m.Type != unix.NLMSG_ERROR || code != 0 {
					t.Fatalf("message of type %d, error %v", m.Type, syscall.Errno(-code))
				}
				acks--
			}
		}
	})
}

// What a verdict or a policy is.
const (
	drops   = 0
	accepts = 1
)

// Of a group that does not arrive, rules that drop are reported if they are on its way: those whose counters rose as a
// warning, those without a counter as an info. Of one that arrives nothing is reported.
func TestFirewall(t *testing.T) {
	const (
		none = doctor.Severity(-1)
		inet = unix.NFPROTO_INET
	)
	counted := slices.Concat(toPort(port), counter, verdict(drops))
	uncounted := slices.Concat(toPort(port), verdict(drops))
	in := func(family int, rules ...[]byte) []table {
		return []table{{family: family, hook: unix.NF_INET_LOCAL_IN, policy: accepts, in: rules}}
	}
	for _, test := range []struct {
		name      string
		tables    []table
		four, six doctor.Severity
		where     string // the rule that the finding names
		letIn     string // what its fix begins with
	}{
		{name: "no rules", four: none, six: none},
		{"counted", in(inet, counted), doctor.Warning, doctor.Warning,
			"the rule with handle 3 of chain inet t0 in (by ", "sudo nft insert rule inet t0 in "},
		{"uncounted", in(inet, uncounted),
			doctor.Info, doctor.Info, "the rule with handle 3 of chain inet t0 in.", "while"},
		{"counted before the condition", in(inet, slices.Concat(counter, toPort(port), verdict(drops))),
			doctor.Info, doctor.Info, "the rule with handle 3 of chain inet t0 in.", "while"},
		{"IPv4", in(unix.NFPROTO_IPV4, counted),
			doctor.Warning, none, "chain ip t0 in (by ", "sudo nft insert rule ip t0 in "},
		{"IPv6", in(unix.NFPROTO_IPV6, counted),
			none, doctor.Warning, "chain ip6 t0 in (by ", "sudo nft insert rule ip6 t0 in "},
		{"policy", []table{{family: inet, hook: unix.NF_INET_PRE_ROUTING, policy: drops,
			in: [][]byte{slices.Concat(toPort(port+1), verdict(accepts))}}},
			doctor.Info, doctor.Info, "the policy of chain inet t0 in.", "while"},
		{"jump", []table{{family: inet, hook: unix.NF_INET_LOCAL_IN, policy: accepts,
			in: [][]byte{verdict(unix.NFT_JUMP, "other")}, other: [][]byte{counted}}},
			doctor.Warning, doctor.Warning, "chain inet t0 other (by ", "sudo nft insert rule inet t0 in "},
		{"ingress", []table{{family: unix.NFPROTO_NETDEV, hook: unix.NF_NETDEV_INGRESS, device: "eth0", policy: accepts,
			in: [][]byte{slices.Concat(counter, verdict(drops))}}},
			doctor.Warning, doctor.Warning, "chain netdev t0 in (by ", "sudo nft insert rule netdev t0 in "},
		{"accepted", in(inet, slices.Concat(toPort(port), verdict(accepts)), slices.Concat(counter, verdict(drops))),
			none, none, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			host := mcasttest.NewHost(t)
			peer := host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64")).Peer()
			firewall(t, host, test.tables...)
			send(t, peer, "eth0", port, 10, group4, group6)
			cfg := asks(both...)
			cfg.Watch = 1100 * time.Millisecond
			report := examine(t, host, cfg, "eth0")
			for group, severity := range map[netip.Addr]doctor.Severity{group4: test.four, group6: test.six} {
				about := slices.DeleteFunc(slices.Clone(report.Findings), func(f doctor.Finding) bool {
					return f.Code != doctor.Firewall || f.Group != group
				})
				silent := slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
					return f.Code == doctor.Silent && f.Group == group
				})
				if silent != (severity != none) { // a counter that rose does not explain it
					t.Errorf("%s is silent: %v\n%s", group, silent, report)
				}
				switch {
				case severity == none && len(about) > 0:
					t.Errorf("%s arrives:\n%s", group, report)
				case severity == none:
				case len(about) != 1 || about[0].Severity != severity || !strings.Contains(about[0].Detail, test.where) ||
					!strings.HasPrefix(about[0].Fix, test.letIn) || !strings.Contains(about[0].Fix, "nft monitor trace"):
					t.Errorf("%s: want %v, %q, %q:\n%s", group, severity, test.where, test.letIn, report)
				}
			}
			hidden := strings.Contains(report.String(), "have no counter")
			if want := test.four == doctor.Info; hidden != want {
				t.Errorf("not visible: %v, want %v:\n%s", hidden, want, report)
			}
		})
	}
}

// Where all rules that can drop are elsewhere, or counted nothing, the firewall is not the reason.
func TestFirewallInnocent(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"))
	host.NewVeth("eth1", netip.MustParsePrefix("10.71.0.1/24"))
	receive(t, host, mcast.RxConfig{Groups: []netip.Addr{group4}}, "eth0")
	const inet, dormant = unix.NFPROTO_INET, unix.NFT_TABLE_F_DORMANT
	everything := [][]byte{verdict(drops)}
	innocent := []table{
		{family: inet, hook: unix.NF_INET_FORWARD, policy: drops, in: everything},
		{family: inet, hook: unix.NF_INET_LOCAL_OUT, policy: accepts,
			in: [][]byte{slices.Concat(toPort(port), verdict(drops))}},
		{family: inet, hook: unix.NF_INET_LOCAL_IN, policy: drops, flags: dormant, in: everything},
		{family: unix.NFPROTO_IPV6, hook: unix.NF_INET_LOCAL_IN, policy: drops},
		{family: unix.NFPROTO_NETDEV, hook: unix.NF_NETDEV_INGRESS, device: "eth1", policy: drops},
		{family: inet, hook: unix.NF_INET_LOCAL_IN, policy: accepts, other: everything},
		{family: inet, hook: unix.NF_INET_LOCAL_IN, policy: accepts,
			in: [][]byte{slices.Concat(toPort(port), counter, verdict(drops))}},
	}
	cfg := asks(group4)
	cfg.Watch = 1100 * time.Millisecond
	const says = "The firewall of this machine dropped nothing meanwhile"
	firewall(t, host, innocent...)
	report := examine(t, host, cfg, "eth0")
	never(t, report, doctor.Firewall)
	if f := want(t, report, doctor.Silent, doctor.Warning, "", group4); !strings.Contains(f.Detail, says) {
		t.Errorf("want %q:\n%s", says, report)
	}

	// A rule that may have dropped it without a trace takes that back.
	firewall(t, host, append(innocent, table{family: inet, hook: unix.NF_INET_LOCAL_IN, policy: accepts,
		in: [][]byte{slices.Concat(toPort(port+1), verdict(drops))}})...)
	report = examine(t, host, cfg, "eth0")
	want(t, report, doctor.Firewall, doctor.Info, "", group4)
	if f := want(t, report, doctor.Silent, doctor.Warning, "", group4); strings.Contains(f.Detail, says) {
		t.Errorf("want no %q:\n%s", says, report)
	}
	cfg.Watch = time.Millisecond // too short for a finding
	never(t, examine(t, host, cfg, "eth0"), doctor.Firewall)
}

// Without privilege the rules are not visible, and nothing is said of them.
func TestFirewallUnprivileged(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"))
	firewall(t, host, table{family: unix.NFPROTO_INET, hook: unix.NF_INET_LOCAL_IN, policy: drops})
	const notVisible = "Not visible: the rules of the firewall: "
	cfg := asks(group4)
	cfg.Watch = 1100 * time.Millisecond
	report := examine(t, host, cfg, "eth0")
	want(t, report, doctor.Firewall, doctor.Info, "", group4)
	if strings.Contains(report.String(), notVisible) {
		t.Errorf("with privilege:\n%s", report)
	}
	host.Do(func() { // whose thread ends with it
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		err := unix.Capset(&header, &none[0])
		if err == nil {
			cfg.Interfaces, err = mcast.FindInterfaces("eth0")
		}
		if err == nil {
			report, err = doctor.Run(t.Context(), cfg)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	never(t, report, doctor.Firewall)
	if !strings.Contains(report.String(), notVisible) {
		t.Errorf("without privilege:\n%s", report)
	}
}

// The time and the memory that reading takes are bounded, and what is left out for it is said.
func TestFirewallBounds(t *testing.T) {
	host := mcasttest.NewHost(t)
	rules := slices.Repeat([][]byte{verdict(drops)}, 200)
	firewall(t, host, table{family: unix.NFPROTO_INET, hook: unix.NF_INET_LOCAL_IN, policy: drops, in: rules})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	host.Do(func() {
		for _, test := range []struct {
			ctx  context.Context
			room int
			all  bool
		}{{t.Context(), 1 << 20, true}, {t.Context(), 1 << 10, false}, {ended, 1 << 20, false}} {
			partial, err := doctor.ReadRules(test.ctx, test.room)
			if err != nil || (partial == "") != test.all {
				t.Errorf("%d bytes, context %v: %q, %v", test.room, test.ctx.Err(), partial, err)
			}
		}
	})
}

// openTx opens a sender by the host's eth0.
func openTx(t *testing.T, host *mcasttest.Host, group netip.Addr) (tx *mcast.TxSocket) {
	t.Helper()
	host.Do(func() {
		ifaces, err := mcast.FindInterfaces("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if tx, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: ifaces}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tx.Close() })
	})
	return tx
}
