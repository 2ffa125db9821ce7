// Firewalls of nftables, made by nft on hosts of their own, and what the kernel makes of datagrams beside what the
// doctor says of them.

package doctor_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// nft gives the host these rules, and no others.
func nft(t *testing.T, host *mcasttest.Host, rules string) {
	t.Helper()
	rules = strings.NewReplacer("; }", ";\n}\n", "} }", "}\n}\n").Replace(rules) // which nft insists on
	execute(t, host, "flush ruleset\n"+rules, "nft", "-f", "-")
}

// Rules and what becomes of datagrams to group4 and group6, port 12345, by eth0, and of IGMP and MLD.
var firewalls = []struct {
	name, rules        string
	drops4, drops6     bool
	reports4, reports6 bool // are dropped
	unsure4, unsure6   bool // it hangs on what is not known
}{
	{name: "none"},
	{name: "accepts all", rules: "table inet t { chain in { type filter hook input priority 0; policy accept; } }"},
	{name: "policy", rules: "table inet t { chain in { type filter hook input priority 0; policy drop; } }",
		drops4: true, drops6: true, reports4: true, reports6: true},
	{name: "dormant", rules: `table inet t { flags dormant;
		chain in { type filter hook input priority 0; policy drop; } }`},
	{name: "no base chain", rules: "table inet t { chain in { drop; } }"},
	{name: "forwarding", rules: "table inet t { chain in { type filter hook forward priority 0; policy drop; } }"},
	{name: "port", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport 12345 counter drop; } }`, drops4: true, drops6: true},
	{name: "another port", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport 12346 drop; tcp dport 12345 drop; udp dport 1-12344 drop; udp dport != 12000-13000 drop; } }`},
	{name: "ports", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport >= 12345 udp dport < 12346 drop; } }`, drops4: true, drops6: true},
	{name: "negated range", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport != 1-12344 reject; } }`, drops4: true, drops6: true},
	{name: "let in before the policy", rules: `table inet t { chain in { type filter hook input priority 0; policy drop;
		ct state established,related accept; ct state invalid drop; iif lo accept;
		meta l4proto { igmp, ipv6-icmp } accept; udp dport 12345 accept; } }`},
	{name: "let in too late", rules: `table inet t { chain in { type filter hook input priority 0;
		ct state new drop; udp dport 12345 accept; } }`, drops4: true, drops6: true, reports4: true},
	{name: "state", rules: `table inet t { chain in { type filter hook input priority 0; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop, untracked : accept }; } }`,
		drops4: true, drops6: true, reports4: true},
	{name: "let in by state", rules: `table inet t { chain in { type filter hook input priority 0; policy drop;
		ct state new,untracked accept; } }`},
	{name: "group", rules: `table ip t { chain in { type filter hook input priority 0;
		ip daddr 239.1.2.0/24 drop; ip daddr 239.1.3.0/24 accept; } }`, drops4: true},
	{name: "another group", rules: `table inet t { chain in { type filter hook input priority 0;
		ip daddr 239.1.2.4 drop; ip daddr 239.1.3.0/24 drop; ip6 daddr ff15::1235 drop; ip daddr != 224.0.0.0/4 drop; } }`},
	{name: "IPv6 alone", rules: `table ip6 t { chain in { type filter hook input priority 0; policy drop;
		icmpv6 type { 130, 131, 132, 143 } accept; } }`, drops6: true},
	{name: "ICMPv6 by its next header, which MLD has not", rules: `table ip6 t {
		chain in { type filter hook input priority 0; policy drop; ip6 nexthdr icmpv6 accept; } }`,
		drops6: true, reports6: true},
	{name: "interface", rules: `table inet t { chain in { type filter hook input priority 0;
		iifname "eth0" udp dport 12345 drop; } }`, drops4: true, drops6: true},
	{name: "interfaces", rules: `table inet t { chain in { type filter hook input priority 0;
		iifname "eth*" iifname != "lo" meta iifname { "eth0", "wlan0" } udp dport 12345 drop; } }`,
		drops4: true, drops6: true},
	{name: "another interface", rules: `table inet t { chain in { type filter hook input priority 0;
		iifname "eth1" drop; iif lo drop; iifname "wl*" drop; } }`},
	{name: "sets", rules: `table inet t { set ports { type inet_service; elements = { 5353, 12345 }; }
		set groups { type ipv4_addr; flags interval;
			elements = { 10.0.0.0/8, 239.0.0.0-239.1.2.3, 239.1.2.5-239.255.255.255 }; }
		chain in { type filter hook input priority 0; ip daddr @groups udp dport @ports drop; } }`, drops4: true},
	{name: "sets without it", rules: `table inet t { set ports { type inet_service; elements = { 5353, 12346 }; }
		set groups { type ipv4_addr; flags interval; elements = { 239.0.0.0-239.1.2.2, 239.1.2.4-239.255.255.255 }; }
		set none { type inet_service; }
		chain in { type filter hook input priority 0;
			ip daddr @groups drop; udp dport @ports drop; udp dport @none drop; } }`},
	{name: "intervals side by side", rules: `table inet t { set ports { type inet_service; flags interval; }
		chain in { type filter hook input priority 0; udp dport @ports drop; } }
		add element inet t ports { 12300-12344 }
		add element inet t ports { 12345-12350 }`, drops4: true, drops6: true},
	{name: "negated set", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport != { 53, 5353 } drop; } }`, drops4: true, drops6: true},
	{name: "concatenation", rules: `table inet t { chain in { type filter hook input priority 0;
		ip daddr . udp dport { 239.1.2.3 . 12345, 239.1.2.4 . 53 } drop; } }`, drops4: true},
	{name: "ports by verdict", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport vmap { 1-12344 : accept, 12345 : drop }; } }`, drops4: true, drops6: true},
	{name: "chains", rules: `table inet t { chain mine { udp dport 12345 goto last; return; } chain last { log; drop; }
		chain other { udp dport 12345 return; drop; }
		chain in { type filter hook input priority 0; meta l4proto != udp accept; jump other; jump mine; accept; } }`,
		drops4: true, drops6: true},
	{name: "chains that return", rules: `table inet t { chain mine { udp dport 12345 return; drop; } chain last { }
		chain in { type filter hook input priority 0; udp dport 12345 jump mine; udp dport 12345 goto last; drop; } }`,
		reports4: true, reports6: true},
	{name: "packet type", rules: `table inet t { chain in { type filter hook input priority 0;
		meta pkttype multicast udp dport 12345 drop; } }`, drops4: true, drops6: true},
	{name: "address type", rules: `table inet t { chain in { type filter hook input priority 0; policy drop;
		fib daddr type multicast accept; } }`},
	{name: "before routing", rules: `table inet t { chain in { type filter hook prerouting priority -300;
		meta nfproto ipv4 udp dport 12345 drop; } }`, drops4: true},
	{name: "ingress", rules: `table netdev t { chain in { type filter hook ingress device eth0 priority 0;
		ip daddr 239.1.2.3 drop; } }`, drops4: true},
	{name: "ingress of inet", rules: `table inet t { chain in { type filter hook ingress device eth0 priority 0;
		ip6 daddr ff15::1234 drop; } }`, drops6: true},
	{name: "ingress elsewhere", rules: `table netdev t { chain in { type filter hook ingress device lo priority 0;
		policy drop; } }`},
	{name: "two chains", rules: `table inet t { chain in { type filter hook input priority 0; udp dport 12345 accept; } }
		table inet u { chain in { type filter hook input priority 10; udp dport 12345 drop; } }`, drops4: true, drops6: true},
	{name: "IGMP and MLD", rules: `table inet t { chain in { type filter hook input priority 0;
		meta l4proto igmp drop; icmpv6 type mld-listener-query drop; } }`, reports4: true, reports6: true},
	{name: "reports", rules: `table inet t { chain out { type filter hook output priority 0;
		oifname "eth0" ip daddr 224.0.0.22 drop; oifname "eth0" icmpv6 type 143 drop; } }`, reports4: true, reports6: true},
	{name: "reports by where they come in, which is nowhere", rules: `table inet t {
		chain out { type filter hook output priority 0; iifname "eth0" drop; } }`},
	{name: "closed, as by firewalld", rules: likeFirewalld(""), drops4: true, drops6: true, reports4: true},
	{name: "open, as by firewalld", rules: likeFirewalld("udp dport 12345 accept; ip protocol igmp accept;"),
		unsure6: true},
	{name: "what has another destination", rules: `table inet t {
		chain pre { type nat hook prerouting priority -100; udp dport 12345 redirect to :12346; }
		chain in { type filter hook input priority 0; policy drop; meta l4proto != udp accept;
			ct status dnat accept; } }`, unsure4: true, unsure6: true},
	{name: "untracked", rules: `table inet t {
		chain pre { type filter hook prerouting priority -300; udp dport 12345 notrack; }
		chain in { type filter hook input priority 0; udp dport 12345 ct state new drop; } }`, unsure4: true, unsure6: true},
	{name: "a source", rules: `table inet t { chain in { type filter hook input priority 0;
		ip saddr 10.1.2.3 drop; ip6 saddr fd12::/16 drop; } }`, unsure4: true, unsure6: true},
	{name: "a limit", rules: `table inet t { chain in { type filter hook input priority 0;
		udp dport 12345 limit rate over 1000/second drop; } }`, unsure4: true, unsure6: true},
	{name: "a mark", rules: `table inet t { chain in { type filter hook input priority 0; policy drop;
		meta l4proto != udp accept; meta mark 7 accept; } }`, unsure4: true, unsure6: true},
}

// likeFirewalld is a rule set of the form that firewalld makes, with what the user lets in.
func likeFirewalld(letIn string) string {
	return `table inet firewalld {
		chain allow { tcp dport 22 accept; ip daddr 224.0.0.251 udp dport 5353 accept; ` + letIn + ` }
		chain deny { }
		chain public { jump deny; jump allow; meta l4proto { icmp, ipv6-icmp } accept;
			reject with icmpx type admin-prohibited; }
		chain zones { iifname "eth7" goto deny; goto public; }
		chain pre { type filter hook prerouting priority -290; policy accept;
			icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept;
			meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }
		chain in { type filter hook input priority 10; policy accept;
			ct state { established, related } accept; ct status dnat accept; iifname "lo" accept;
			ct state invalid drop; jump zones; reject with icmpx type admin-prohibited; } }`
}

// What the doctor says of each firewall is what the kernel does.
func TestFirewall(t *testing.T) {
	host := mcasttest.NewHost(t)
	peer := host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64")).Peer()
	for _, test := range firewalls {
		t.Run(test.name, func(t *testing.T) {
			for _, f := range []struct {
				group                  netip.Addr
				drops, reports, unsure bool
			}{
				{group4, test.drops4, test.reports4, test.unsure4},
				{group6, test.drops6, test.reports6, test.unsure6},
			} {
				nft(t, host, test.rules)
				report := examine(t, host, asks(f.group), "eth0")
				has := func(severity doctor.Severity, group netip.Addr) bool {
					return slices.ContainsFunc(report.Findings, func(x doctor.Finding) bool {
						return x.Code == doctor.Firewall && x.Severity == severity && x.Group == group && x.Interface == "eth0"
					})
				}
				if has(doctor.Error, f.group) != f.drops || has(doctor.Warning, noGroup) != f.reports {
					t.Errorf("%v: want datagrams dropped %v, reports %v:\n%s", f.group, f.drops, f.reports, report)
				}
				if said := strings.Contains(report.String(), "whether the firewall lets"); said != f.unsure {
					t.Errorf("%v: it cannot be told %v, want %v:\n%s", f.group, said, f.unsure, report)
				}
				if dropped := drops(t, host, peer, f.group); dropped != f.drops && !f.unsure {
					t.Errorf("%v: the kernel drops datagrams: %v", f.group, dropped)
				}
			}
		})
	}
}

// drops reports whether the host's firewall drops a datagram from the peer. A second one comes after it, when there is
// no firewall, so that nothing has to be waited for that does not come.
func drops(t *testing.T, host, peer *mcasttest.Host, group netip.Addr) bool {
	t.Helper()
	rx := open(t, host, mcast.RxConfig{Groups: []netip.Addr{group}}, "eth0")
	defer rx.Close()
	tx := openTx(t, peer, group)
	defer tx.Close()
	write := func(text string) {
		if _, err := tx.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(group, port)); err != nil {
			t.Fatal(err)
		}
	}
	write("datagram")
	nft(t, host, "")
	write("after it")
	buf := make([]byte, 100)
	rx.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := rx.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]) == "after it"
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

// The cures cure: datagrams, and then reports, in both families.
func TestFirewallFix(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64"))
	for _, group := range both {
		nft(t, host, `table inet t { chain in { type filter hook input priority 0; policy drop; }
			chain out { type filter hook output priority 0; policy drop; } }`)
		report := examine(t, host, asks(group), "eth0")
		for range 3 { // datagrams, queries, reports
			for _, f := range report.Findings {
				if f.Code == doctor.Firewall {
					command(t, host, f.Fix)
					break
				}
			}
			report = examine(t, host, asks(group), "eth0")
		}
		never(t, report, doctor.Firewall)
	}
}

// Rules that iptables makes, today, are those of nftables. These are much like ufw's.
func TestFirewallOfIptables(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64"))
	for program, group := range map[string]netip.Addr{"iptables-nft": group4, "ip6tables-nft": group6} {
		nft(t, host, "")
		igmp := map[bool]string{true: "2", false: "ipv6-icmp"}[group.Is4()]
		for line := range strings.Lines(`-N before
			-A INPUT -j before
			-A before -i lo -j ACCEPT
			-A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			-A before -m conntrack --ctstate INVALID -m comment --comment bad -j DROP
			-A before -p ` + igmp + ` -j ACCEPT
			-A before -m addrtype --dst-type MULTICAST -j RETURN
			-A before -m limit --limit 3/min -j LOG
			-A before -p udp --dport 12346 -j DROP
			-P INPUT DROP`) {
			execute(t, host, "", append([]string{program}, strings.Fields(line)...)...)
		}
		report := examine(t, host, asks(group), "eth0")
		f := want(t, report, doctor.Firewall, doctor.Error, "eth0", group)
		family := strings.TrimSuffix(program, "tables-nft")
		if !strings.Contains(f.Detail, "the policy of chain "+family+" filter INPUT") ||
			!strings.HasPrefix(f.Fix, "sudo "+family+"tables -I INPUT ") {
			t.Errorf("%s: %+v", program, f)
		}
		command(t, host, strings.Replace(f.Fix, "tables", "tables-nft", 1))
		never(t, examine(t, host, asks(group), "eth0"), doctor.Firewall)

		nft(t, host, "")
		execute(t, host, "", append([]string{program}, strings.Fields("-A INPUT -p udp --dport 12345 -m comment --comment x "+
			"-m conntrack ! --ctstate RELATED,ESTABLISHED -j REJECT")...)...)
		want(t, examine(t, host, asks(group), "eth0"), doctor.Firewall, doctor.Error, "eth0", group)
	}
}

// Without privilege the rules are not visible, and nothing is said of them.
func TestFirewallUnprivileged(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"))
	nft(t, host, "table inet t { chain in { type filter hook input priority 0; policy drop; } }")
	const notVisible = "Not visible: the rules of the firewall"
	report := examine(t, host, asks(group4), "eth0")
	if strings.Contains(report.String(), notVisible) {
		t.Errorf("with privilege:\n%s", report)
	}
	host.Do(func() { // whose thread ends with it
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		err := unix.Capset(&header, &none[0])
		cfg := asks(group4)
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

// What came in was let in, whatever the rules look like. That IGMP is dropped may still matter, later.
func TestFirewallTraffic(t *testing.T) {
	host := mcasttest.NewHost(t)
	peer := host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24")).Peer()
	cfg := asks(group4)
	cfg.Watch = 300 * time.Millisecond
	send(t, peer, "eth0", port, 10, group4)

	nft(t, host, `table inet t { chain in { type filter hook input priority 0; policy drop; udp dport 12345 accept; } }`)
	want(t, examine(t, host, cfg, "eth0"), doctor.Firewall, doctor.Info, "eth0", noGroup)
	nft(t, host, `table inet t { chain in { type filter hook input priority 0; policy drop; ct state established accept;
		meta l4proto igmp accept; ip saddr 10.70.0.0/24 udp dport 12345 accept; } }`)
	never(t, examine(t, host, cfg, "eth0"), doctor.Firewall)

	// The counter of the rule is evidence.
	nft(t, host, `table inet t { chain in { type filter hook input priority 0; udp dport 12345 counter drop; } }`)
	f := want(t, examine(t, host, cfg, "eth0"), doctor.Firewall, doctor.Error, "eth0", group4)
	if !strings.Contains(f.Detail, "Its counter rose by ") {
		t.Errorf("%+v", f)
	}

	// Of some sources.
	nft(t, host, `table inet t { chain in { type filter hook input priority 0; ip saddr `+peer.IPv4.String()+` drop; } }`)
	cfg.Sources = []netip.Addr{peer.IPv4}
	want(t, examine(t, host, cfg, "eth0"), doctor.Firewall, doctor.Error, "eth0", group4)
	cfg.Sources = append(cfg.Sources, netip.MustParseAddr("10.70.0.99"))
	want(t, examine(t, host, cfg, "eth0"), doctor.Firewall, doctor.Warning, "eth0", group4)
	cfg.Sources = cfg.Sources[1:]
	never(t, examine(t, host, cfg, "eth0"), doctor.Firewall)
}

// A silent group is said to be let in only if the rules were all seen.
func TestFirewallSilent(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"))
	receive(t, host, mcast.RxConfig{Groups: []netip.Addr{group4}}, "eth0")
	cfg := asks(group4)
	cfg.Watch = 1100 * time.Millisecond
	for _, test := range []struct {
		rules string
		letIn bool
	}{
		{"table inet t { chain in { type filter hook input priority 0; udp dport 12346 drop; } }", true},
		{"table inet t { chain in { type filter hook input priority 0; meta mark 7 drop; } }", false},
	} {
		nft(t, host, test.rules)
		f := want(t, examine(t, host, cfg, "eth0"), doctor.Silent, doctor.Warning, "", group4)
		if strings.Contains(f.Detail, "lets it in") != test.letIn || strings.Contains(f.Fix, "firewall") == test.letIn {
			t.Errorf("%s: %+v", test.rules, f)
		}
	}
	// Rules that drop it explain it; those that drop the queries alone do not.
	nft(t, host, "table inet t { chain in { type filter hook input priority 0; meta l4proto igmp drop; } }")
	report := examine(t, host, cfg, "eth0")
	want(t, report, doctor.Firewall, doctor.Warning, "eth0", noGroup)
	want(t, report, doctor.Silent, doctor.Warning, "", group4)
	nft(t, host, "table inet t { chain in { type filter hook input priority 0; meta l4proto udp drop; } }")
	cfg.SendTest = true
	report = examine(t, host, cfg, "eth0")
	want(t, report, doctor.Firewall, doctor.Error, "eth0", group4)
	never(t, report, doctor.Silent)
	never(t, report, doctor.SelfTest)
}

// The rules of the older iptables are not looked into, which is said, and the doctor does not say that they let it in.
func TestFirewallOlder(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"))
	const notVisible = "Not visible: the rules of the older iptables (tables: filter)"
	if report := examine(t, host, asks(group4), "eth0"); strings.Contains(report.String(), "the older") {
		t.Errorf("there are none:\n%s", report)
	}
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
	execute(t, host, "", "iptables-legacy", "-A", "INPUT", "-p", "udp", "-j", "DROP")
	report := examine(t, host, asks(group4), "eth0")
	never(t, report, doctor.Firewall)
	if !strings.Contains(report.String(), notVisible) {
		t.Errorf("want %q:\n%s", notVisible, report)
	}
}
