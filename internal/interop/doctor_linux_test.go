// Firewalls that nft and iptables make, and what the doctor says of a group that they drop.

package interop

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/mcasttest"
)

var firewalled = []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")}

// behindFirewall makes a host that another one sends to, until the test ends.
func behindFirewall(t *testing.T) *mcasttest.Host {
	t.Helper()
	host := mcasttest.NewHost(t)
	peer := host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64")).Peer()
	tx := openTx(t, peer, mcast.TxConfig{Groups: firewalled, Interfaces: interfaces(t, peer)})
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for _, g := range firewalled {
				tx.WriteToUDPAddrPort([]byte("datagram"), netip.AddrPortFrom(g, 12345))
			}
		}
	})
	t.Cleanup(func() { close(stop); done.Wait() })
	return host
}

func interfaces(t *testing.T, h *mcasttest.Host) (found []mcast.Interface) {
	t.Helper()
	h.Do(func() {
		var err error
		if found, err = mcast.FindInterfaces("eth0"); err != nil {
			t.Fatal(err)
		}
	})
	return found
}

// run runs a shell command on the host, as root without sudo, and returns what it says.
func run(t *testing.T, h *mcasttest.Host, stdin, command string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", strings.ReplaceAll(command, "sudo ", ""))
	cmd.Stdin = strings.NewReader(stdin)
	var said []byte
	var err error
	h.Do(func() { said, err = cmd.CombinedOutput() })
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, said)
	}
	return string(said)
}

// nft gives the host these rules.
func nft(t *testing.T, h *mcasttest.Host, rules string) {
	t.Helper()
	run(t, h, strings.NewReplacer("; }", ";\n}\n", "} }", "}\n}\n").Replace(rules), "nft -f -") // it insists on line ends
}

// examine asks the doctor about the groups, and returns its finding about the firewall of each that has one. Of a group
// that arrives there is none.
func examine(t *testing.T, h *mcasttest.Host) (found map[netip.Addr]doctor.Finding, report *doctor.Report) {
	t.Helper()
	var err error
	h.Do(func() {
		report, err = doctor.Run(t.Context(), doctor.Config{Groups: firewalled, Port: 12345, Interfaces: interfaces(t, h),
			Watch: 1100 * time.Millisecond})
	})
	if err != nil {
		t.Fatal(err)
	}
	found = make(map[netip.Addr]doctor.Finding)
	for _, f := range report.Findings {
		if f.Code == doctor.Firewall {
			found[f.Group] = f
		}
	}
	for _, in := range report.Facts.Traffic {
		if _, has := found[in.Group]; has != (in.Datagrams == 0) {
			t.Errorf("%s: a finding %v, and %d datagrams:\n%s", in.Group, has, in.Datagrams, report)
		}
	}
	return found, report
}

// likeFirewalld is a rule set of the form that firewalld makes, with what the user lets in.
func likeFirewalld(letIn string) string {
	return `table inet firewalld {
		chain allow { tcp dport 22 accept; ip daddr 224.0.0.251 udp dport 5353 accept; ` + letIn + ` }
		chain deny { }
		chain public { jump deny; jump allow; meta l4proto { icmp, ipv6-icmp } accept;
			reject with icmpx type admin-prohibited; }
		chain zones { iifname "eth7" goto deny; goto public; }
		chain in { type filter hook input priority 10; policy accept;
			ct state { established, related } accept; ct status dnat accept; iifname "lo" accept;
			ct state invalid drop; jump zones; reject with icmpx type admin-prohibited; } }`
}

// Each of these drops the groups of the families for which it has a severity.
func TestFirewallOfNft(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	const none, info, warning = doctor.Severity(-1), doctor.Info, doctor.Warning
	for _, test := range []struct {
		name, rules string
		four, six   doctor.Severity
		where       string // it is dropped
	}{
		{"none", "", none, none, ""},
		{"policy", "table inet t { chain in { type filter hook input priority 0; policy drop; } }", info, info,
			"the policy of chain inet t in"},
		{"let in before the policy", `table inet t { chain in { type filter hook input priority 0; policy drop;
			ct state established,related accept; ct state invalid counter drop; iif lo accept;
			meta l4proto { igmp, ipv6-icmp } accept; udp dport 12345 accept; } }`, none, none, ""},
		{"drop", `table inet t { chain in { type filter hook input priority 0; udp dport 12345 counter drop; } }`,
			warning, warning, "chain inet t in (by "},
		{"log", `table inet t { chain in { type filter hook input priority 0;
			udp dport 12345 counter log prefix "lost " level debug drop; } }`, warning, warning, "chain inet t in (by "},
		{"reject", `table inet t { chain in { type filter hook input priority 0; udp dport 12345 counter reject; } }`,
			warning, warning, "chain inet t in (by "},
		{"reject in words of a family", `table ip t { chain in { type filter hook input priority 0;
			udp dport 12345 counter reject with icmp type admin-prohibited; } }`, warning, none, "chain ip t in (by "},
		{"set", `table inet t { set groups { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 239.0.0.0/8 }; }
			chain in { type filter hook input priority 0; ip daddr @groups counter drop; } }`,
			warning, none, "chain inet t in (by "},
		{"counter with a name", `table inet t { counter lost { }
			chain in { type filter hook input priority 0; udp dport 12345 counter name lost drop; } }`,
			info, info, "chain inet t in."},
		{"verdict map", `table inet t { chain in { type filter hook input priority 0;
			udp dport vmap { 1-12344 : accept, 12345 : drop }; } }`, info, info, "chain inet t in."},
		{"chain of a verdict map", `table inet t { chain eth { udp dport 12345 counter drop; }
			chain elsewhere { udp dport 12346 counter drop; }
			chain in { type filter hook input priority 0; iifname vmap { "lo" : accept, "eth0" : jump eth }; } }`,
			warning, warning, "chain inet t eth (by "},
		{"chain without a name", `table inet t { chain in { type filter hook input priority 0;
			meta l4proto udp jump { tcp dport 22 accept; udp dport 12345 counter drop; }
			accept; } }`, warning, warning, "chain inet t __chain"},
		{"goto", `table inet t { chain last { udp dport 12345 counter drop; } chain mine { goto last; }
			chain in { type filter hook prerouting priority -300; jump mine; } }`, warning, warning, "chain inet t last (by "},
		{"ingress", `table netdev t { chain in { type filter hook ingress device eth0 priority 0;
			ip daddr 239.1.2.3 counter drop; ip6 daddr ff15::1234 counter drop; } }`,
			warning, warning, "chain netdev t in (by "},
		{"ingress of inet", `table inet t { chain in { type filter hook ingress device eth0 priority 0;
			ip daddr 239.1.2.3 counter drop; } }`, warning, none, "chain inet t in (by "},
		{"ingress of devices", `table netdev t { chain in { type filter hook ingress devices = { lo, eth0 } priority 0;
			ip6 daddr ff15::1234 counter drop; } }`, none, warning, "chain netdev t in (by "},
		{"closed, as by firewalld", likeFirewalld(""), info, info, "chain inet firewalld in, "},
		{"open, as by firewalld", likeFirewalld("udp dport 12345 accept;"), none, none, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			host := behindFirewall(t)
			nft(t, host, test.rules)
			found, report := examine(t, host)
			for i, want := range []doctor.Severity{test.four, test.six} {
				f, has := found[firewalled[i]]
				if has != (want != none) || has && (f.Severity != want || !strings.Contains(f.Detail, test.where)) {
					t.Errorf("%s: want %v and %q:\n%s", firewalled[i], want, test.where, report)
				}
			}
		})
	}
}

// What iptables makes today is of nftables. Its policies count. These rules are much like ufw's.
func TestFirewallOfIptables(t *testing.T) {
	t.Parallel()
	need(t, "iptables-nft", "ip6tables-nft")
	for i, program := range []string{"iptables", "ip6tables"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			host := behindFirewall(t)
			igmp := []string{"2", "ipv6-icmp"}[i]
			for _, line := range []string{"-N before", "-A INPUT -j before", "-A before -i lo -j ACCEPT",
				"-A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
				"-A before -m conntrack --ctstate INVALID -m comment --comment bad -j DROP",
				"-A before -p " + igmp + " -j ACCEPT", "-A before -m limit --limit 3/min -j LOG",
				"-A before -p udp --dport 12346 -j DROP", "-P INPUT DROP"} {
				run(t, host, "", program+"-nft "+line)
			}
			check := func(place string) {
				t.Helper()
				found, report := examine(t, host)
				f := found[firewalled[i]]
				family := strings.TrimSuffix(program, "tables")
				fix, _, _ := strings.Cut(f.Fix, "; ")
				if len(found) != 1 || f.Severity != doctor.Warning || !strings.Contains(f.Detail, fmt.Sprintf(place, family)) ||
					!strings.HasPrefix(fix, "sudo "+program+" -I INPUT ") {
					t.Fatalf("want a warning about "+place+":\n%s", family, report)
				}
				run(t, host, "", strings.Replace(fix, "tables", "tables-nft", 1))
				if found, report := examine(t, host); len(found) > 0 {
					t.Errorf("after %s:\n%s", fix, report)
				}
			}
			check("the policy of chain %s filter INPUT (by ")
			run(t, host, "", program+"-nft -I INPUT -p udp --dport 12345 -m comment --comment x -m conntrack ! --ctstate "+
				"RELATED,ESTABLISHED -j REJECT")
			check("of chain %s filter INPUT (by ")
		})
	}
}

// The rules of the older iptables are not looked into, which is said, and nothing is said to let the group in.
func TestFirewallOfOlderIptables(t *testing.T) {
	t.Parallel()
	need(t, "iptables-legacy")
	host := behindFirewall(t)
	const notVisible = "Not visible: the rules of the older iptables (tables: filter)"
	if _, report := examine(t, host); strings.Contains(report.String(), "the older") {
		t.Errorf("there are none:\n%s", report)
	}
	run(t, host, "", "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock")+" iptables-legacy -A INPUT -p udp -j DROP")
	var report *doctor.Report
	host.Do(func() {
		var err error
		if report, err = doctor.Run(t.Context(), doctor.Config{Groups: firewalled[:1], Port: 12345,
			Interfaces: interfaces(t, host), Watch: 1100 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	})
	text := report.String()
	if !strings.Contains(text, notVisible) || strings.Contains(text, "dropped nothing") ||
		strings.Contains(text, "firewall of 239.1.2.3") {
		t.Errorf("want %q:\n%s", notVisible, report)
	}
}

// The cure cures, and the trace shows the rule that drops.
func TestFirewallFix(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	for name, rules := range map[string]string{
		"inet": "table inet t { chain in { type filter hook input priority 0; udp dport 12345 counter drop; } }",
		"netdev": `table netdev t { chain in { type filter hook ingress device eth0 priority 0;
			meta protocol { ip, ip6 } counter drop; } }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := behindFirewall(t)
			nft(t, host, rules)
			found, report := examine(t, host)
			if len(found) != 2 {
				t.Fatalf("want two findings:\n%s", report)
			}
			for _, f := range found {
				fix, _, _ := strings.Cut(f.Fix, "; ")
				run(t, host, "", fix)
			}
			if found, report := examine(t, host); len(found) > 0 {
				t.Errorf("after the cure:\n%s", report)
			}
		})
	}
	for _, group := range firewalled {
		t.Run("trace/"+group.String(), func(t *testing.T) {
			t.Parallel()
			host := behindFirewall(t)
			nft(t, host, "table inet t { chain in { type filter hook input priority 0; udp dport 12345 drop; } }")
			found, report := examine(t, host)
			const prefix = "while the receiver runs and somebody sends: "
			fix := found[group].Fix
			if !strings.HasPrefix(fix, prefix) {
				t.Fatalf("want %q:\n%s", prefix, report)
			}
			openRx(t, host, mcast.RxConfig{Groups: firewalled, Port: 12345, Interfaces: interfaces(t, host)})
			said := run(t, host, "", strings.TrimPrefix(fix, prefix))
			if !strings.Contains(said, "udp dport 12345 drop") || !strings.Contains(said, group.String()) {
				t.Errorf("%.1000s", said)
			}
			if left := run(t, host, "", "nft list tables"); left != "table inet t\n" {
				t.Errorf("tables that are left: %s", left)
			}
		})
	}
}

// On a machine with 100,000 rules, such as a node of Kubernetes, the group arrives, and nothing is wrong.
func TestFirewallOfManyRules(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	host := behindFirewall(t)
	var rules strings.Builder
	rules.WriteString("table ip nat {\n")
	const services, each = 1000, 50
	for s := range services {
		fmt.Fprintf(&rules, "chain service-%d {\n", s)
		for n := range each {
			fmt.Fprintf(&rules, "ip daddr 10.96.%d.%d tcp dport %d counter accept\n", s%256, n, 1000+n)
		}
		rules.WriteString("}\n")
	}
	rules.WriteString("chain services {\n")
	for s := range services {
		fmt.Fprintf(&rules, "ip daddr 10.96.%d.0/24 counter jump service-%d\n", s%256, s)
	}
	rules.WriteString("}\nchain in {\ntype filter hook prerouting priority -100\njump services\n}\n}\n")
	rules.WriteString("table inet t {\nchain in {\ntype filter hook input priority 0\n")
	for n := range 50_000 {
		fmt.Fprintf(&rules, "ip saddr 10.%d.%d.%d counter drop\n", 128+n>>16, n>>8&255, n&255)
	}
	rules.WriteString("}\n}\n")
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(rules.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	run(t, host, "", "nft -f "+file)
	_, report := examine(t, host)
	worse := func(f doctor.Finding) bool { return f.Severity > doctor.Info && f.Code != doctor.NoDefaultRoute }
	if slices.ContainsFunc(report.Findings, worse) {
		t.Errorf("want nothing worse than an info:\n%s", report)
	}
}
