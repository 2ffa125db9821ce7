// Every finding is provoked for real, on a network made for it, after an examination that must not make it.

package doctor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

const port = 12345

var (
	group4 = netip.MustParseAddr("239.1.2.3")
	group6 = netip.MustParseAddr("ff15::1234")
	both   = []netip.Addr{group4, group6}
)

// asks is a configuration that watches for a moment only.
func asks(groups ...netip.Addr) doctor.Config {
	return doctor.Config{Groups: groups, Port: port, Watch: time.Millisecond}
}

// examine runs the doctor on a host, on the interfaces with these names, or on its own choice if there are none.
func examine(t *testing.T, host *mcasttest.Host, cfg doctor.Config, names ...string) *doctor.Report {
	t.Helper()
	var report *doctor.Report
	var err error
	cfg = cfg.WithRoot(t.TempDir()) // the tests may run in a container
	host.Do(func() {
		if len(names) > 0 {
			if cfg.Interfaces, err = mcast.FindInterfaces(names...); err != nil {
				return
			}
		}
		report, err = doctor.Run(t.Context(), cfg)
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// never fails if there is a finding with the code.
func never(t *testing.T, report *doctor.Report, code string) {
	t.Helper()
	for _, f := range report.Findings {
		if f.Code == code {
			t.Errorf("a %s too many:\n%s", code, report)
		}
	}
}

// want fails unless there is one finding with the code, of that severity, interface and group, and returns it.
func want(t *testing.T, report *doctor.Report, code string, severity doctor.Severity, ifc string, group netip.Addr) doctor.Finding {
	t.Helper()
	var found []doctor.Finding
	for _, f := range report.Findings {
		if f.Code == code {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d findings of %s, want 1:\n%s", len(found), code, report)
	}
	f := found[0]
	if f.Severity != severity || f.Interface != ifc || f.Group != group {
		t.Errorf("want %v, interface %q, group %v:\n%s", severity, ifc, group, report)
	}
	if f.Summary == "" || f.Detail == "" || f.Fix == "" {
		t.Errorf("something is left unsaid: %+v", f)
	}
	return f
}

var noGroup netip.Addr

// command runs a command on the host, which may start with "sudo " as in a Fix. It sets kernel parameters by itself,
// since sysctl comes in a package of its own.
func command(t *testing.T, host *mcasttest.Host, line string) {
	t.Helper()
	for part := range strings.SplitSeq(line, "; ") {
		assignments, isSysctl := strings.CutPrefix(part, "sudo sysctl -w ")
		if !isSysctl {
			execute(t, host, strings.Fields(strings.TrimPrefix(part, "sudo "))...)
			continue
		}
		for assignment := range strings.FieldsSeq(assignments) {
			name, value, _ := strings.Cut(assignment, "=")
			host.Sysctl(strings.ReplaceAll(name, ".", "/"), value)
		}
	}
}

// execute runs a program on the host. Where there is no such program the test is skipped, or fails if it is strict.
func execute(t *testing.T, host *mcasttest.Host, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		if os.Getenv("MCAST_TEST_STRICT") == "1" {
			t.Fatal(cmd.Err)
		}
		t.Skip(cmd.Err)
	}
	host.Do(func() {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	})
}

// receive runs a receiver on the host until the test ends.
func receive(t *testing.T, host *mcasttest.Host, cfg mcast.RxConfig, names ...string) {
	t.Helper()
	rx, done := open(t, host, cfg, names...), make(chan struct{})
	t.Cleanup(func() { rx.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for err := error(nil); err == nil; _, _, err = rx.ReadFromUDPAddrPort(buf) {
		}
	}()
}

// open opens a receiver on the host. Nobody reads from it.
func open(t *testing.T, host *mcasttest.Host, cfg mcast.RxConfig, names ...string) (rx *mcast.RxSocket) {
	t.Helper()
	host.Do(func() {
		var err error
		if cfg.Interfaces, err = mcast.FindInterfaces(names...); err != nil {
			t.Fatal(err)
		}
		cfg.Port = port
		if rx, err = mcast.OpenRx(cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rx.Close() })
	})
	return rx
}

// send has the host send to the groups, by its interface of that name, until the test ends.
func send(t *testing.T, host *mcasttest.Host, name string, to uint16, size int, groups ...netip.Addr) {
	t.Helper()
	sendAs(t, host, mcast.TxConfig{Groups: groups}, name, to, size)
}

// sendAs does so with a configuration.
func sendAs(t *testing.T, host *mcasttest.Host, cfg mcast.TxConfig, name string, to uint16, size int) (stop func()) {
	t.Helper()
	host.Do(func() {
		ifaces, err := mcast.FindInterfaces(name)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Interfaces = ifaces
		tx, err := mcast.OpenTx(cfg)
		if err != nil {
			t.Fatal(err)
		}
		end, done := make(chan struct{}), make(chan struct{})
		stop = sync.OnceFunc(func() { close(end); <-done; tx.Close() })
		t.Cleanup(stop)
		go func() {
			defer close(done)
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				for _, g := range cfg.Groups {
					tx.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(g, to))
				}
				select {
				case <-end:
					tick.Stop()
					return
				case <-tick.C:
				}
			}
		}()
	})
	return stop
}

// A healthy network is one on which a program receives, and somebody sends.
func TestHealthy(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	ssm4, ssm6 := netip.MustParseAddr("232.1.2.3"), netip.MustParseAddr("ff35::1234")
	sources := []netip.Addr{there.IPv4, there.IPv6}
	receive(t, here, mcast.RxConfig{Groups: both}, "eth0")
	receive(t, here, mcast.RxConfig{Groups: []netip.Addr{ssm4, ssm6}, Sources: sources}, "eth0")
	send(t, there, "eth0", port, 100, group4, group6, ssm4, ssm6)
	ssm := doctor.Config{Groups: []netip.Addr{ssm4, ssm6}, Sources: sources}
	for _, test := range []struct {
		cfg        doctor.Config
		name, mode string
	}{
		{doctor.Config{Groups: both}, "", "2"},
		{doctor.Config{Groups: both}, "eth0", "1"},
		{ssm, "", "2"},
		{ssm, "eth0", "1"},
		{ssm, "eth0", "0"},
	} {
		here.Sysctl("net/ipv4/conf/all/rp_filter", test.mode)
		test.cfg.Port, test.cfg.Watch, test.cfg.SendTest, test.cfg.ReadBuffer = port, 1100*time.Millisecond, true, 64<<10
		report := examine(t, here, test.cfg, strings.Fields(test.name)...)
		if len(report.Findings) != 0 || !strings.HasPrefix(report.String(), "Nothing is wrong.\n") {
			t.Errorf("rp_filter %s, %v: want no finding:\n%s", test.mode, test.cfg.Groups, report)
		}
		if in := report.Facts.Traffic; len(in) != 2 || in[0].Datagrams < 10 || len(in[0].Sources) != 1 || in[0].Sources[0] != there.IPv4 {
			t.Errorf("want both groups from %v:\n%s", there.IPv4, report)
		}
		if report.Worst() != doctor.Info {
			t.Errorf("the worst of nothing is %v", report.Worst())
		}
	}
}

func TestInterfaceDown(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	never(t, examine(t, host, asks(both...), "v0"), doctor.InterfaceDown)
	var snapshot []mcast.Interface
	host.Do(func() { snapshot, _ = mcast.FindInterfaces("v0") })
	veth.Down()
	f := want(t, examine(t, host, asks(both...), "v0"), doctor.InterfaceDown, doctor.Error, "v0", noGroup)
	want(t, examine(t, host, asks(both...)), doctor.InterfaceDown, doctor.Error, "v0", noGroup) // there is no better one
	command(t, host, f.Fix)
	never(t, examine(t, host, asks(both...), "v0"), doctor.InterfaceDown)

	veth.Delete()
	cfg := asks(both...)
	cfg.Interfaces = snapshot
	want(t, examine(t, host, cfg), doctor.InterfaceDown, doctor.Error, "v0", noGroup)
	want(t, examine(t, host, asks(both...)), doctor.InterfaceDown, doctor.Error, "", noGroup) // only lo is left
}

// TestFallbackTunnels checks that the doctor passes over the tunnels that Linux makes by itself in each namespace.
func TestFallbackTunnels(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.Do(func() {
		if _, err := net.InterfaceByName("gre0"); err != nil { // the module is not loaded
			command(t, host, "ip tuntap add gre0 mode tun; ip link set gre0 multicast off")
		}
	})
	want(t, examine(t, host, asks(both...)), doctor.InterfaceDown, doctor.Error, "", noGroup)
	veth := host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	f := want(t, examine(t, host, asks(group4)), doctor.NoDefaultRoute, doctor.Warning, "", noGroup)
	if !strings.HasSuffix(f.Fix, " dev v0") {
		t.Errorf("with v0: %s", f.Fix)
	}
	veth.Down()
	r := examine(t, host, asks(both...))
	want(t, r, doctor.InterfaceDown, doctor.Error, "v0", noGroup)
	if text := r.String(); strings.Contains(text, "gre0") {
		t.Errorf("with v0 down:\n%s", text)
	}
}

func TestNoCarrier(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	never(t, examine(t, host, asks(both...)), doctor.NoCarrier)
	host.Unplug()
	host.Do(func() { // the kernel takes up to a second to tell (net/core/link_watch.c)
		for end := time.Now().Add(slow.Limit(10 * time.Second)); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if i, err := net.InterfaceByName("eth0"); err == nil && i.Flags&net.FlagRunning == 0 {
				return
			}
		}
		t.Fatal("eth0 keeps its carrier")
	})
	want(t, examine(t, host, asks(both...)), doctor.NoCarrier, doctor.Error, "eth0", noGroup)
	want(t, examine(t, host, asks(both...), "eth0"), doctor.NoCarrier, doctor.Error, "eth0", noGroup)
	host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24")) // now one works, and it may be meant so
	want(t, examine(t, host, asks(both...)), doctor.NoCarrier, doctor.Info, "eth0", noGroup)
}

func TestNoMulticastFlag(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	never(t, examine(t, host, asks(group4), "eth0"), doctor.NoMulticastFlag)
	never(t, examine(t, host, asks(group4), "lo"), doctor.NoMulticastFlag)
	command(t, host, "ip link set dev eth0 multicast off")
	f := want(t, examine(t, host, asks(group4), "eth0"), doctor.NoMulticastFlag, doctor.Warning, "eth0", noGroup)
	want(t, examine(t, host, asks(group4)), doctor.NoMulticastFlag, doctor.Warning, "eth0", noGroup)
	command(t, host, f.Fix)
	never(t, examine(t, host, asks(group4), "eth0"), doctor.NoMulticastFlag)
}

func TestNoAddress(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("v0") // IPv6 is link-local
	never(t, examine(t, host, asks(group6), "v0"), doctor.NoAddress)
	want(t, examine(t, host, asks(both...), "v0"), doctor.NoAddress, doctor.Error, "v0", noGroup)
	want(t, examine(t, host, asks(both...)), doctor.NoAddress, doctor.Error, "v0", noGroup)
	veth.AddAddress(netip.MustParsePrefix("10.70.0.1/24"))
	never(t, examine(t, host, asks(both...), "v0"), doctor.NoAddress)
	host.Sysctl("net/ipv6/conf/v0/disable_ipv6", "1")
	want(t, examine(t, host, asks(both...), "v0"), doctor.NoAddress, doctor.Error, "v0", noGroup)
}

func TestBridgePort(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	never(t, examine(t, host, asks(group4), "eth0"), doctor.BridgePort)
	command(t, host, "ip link add br7 type bridge; ip link set dev br7 up; ip link set dev eth0 master br7")
	r := examine(t, host, asks(group4), "eth0")
	f := want(t, r, doctor.BridgePort, doctor.Error, "eth0", noGroup)
	if !strings.Contains(f.Fix, "br7") {
		t.Errorf("which bridge? %+v", f)
	}
	if slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool { return f.Code == doctor.NotJoined && f.Severity == doctor.Error }) {
		t.Errorf("what follows from it is a finding of its own:\n%s", r)
	}
	never(t, examine(t, host, asks(group4)), doctor.BridgePort) // nobody named it
}

func TestRPFilterSources(t *testing.T) {
	a, b := mcasttest.NewLAN(t, 2), mcasttest.NewLAN(t, 1)
	host := a.Hosts[0]
	b.Attach(host) // eth1
	cfg := asks(group4)
	cfg.Sources = []netip.Addr{a.Hosts[1].IPv4} // by eth0
	host.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	for _, mode := range []string{"0", "2", "1"} {
		host.Sysctl("net/ipv4/conf/eth1/rp_filter", mode)
		report := examine(t, host, cfg, "eth1")
		if mode != "1" {
			never(t, report, doctor.RPFilter)
			continue
		}
		f := want(t, report, doctor.RPFilter, doctor.Error, "eth1", noGroup)
		never(t, examine(t, host, cfg, "eth0", "eth1"), doctor.RPFilter) // by eth0 it is taken
		never(t, examine(t, host, cfg), doctor.RPFilter)
		command(t, host, f.Fix)
		never(t, examine(t, host, cfg, "eth1"), doctor.RPFilter)
	}

	// A source without a route: the larger parameter counts, and the loose mode drops it, too.
	lone := mcasttest.NewHost(t)
	lone.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	cfg.Sources = []netip.Addr{netip.MustParseAddr("10.99.0.9")}
	lone.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	lone.Sysctl("net/ipv4/conf/v0/rp_filter", "0")
	never(t, examine(t, lone, cfg, "v0"), doctor.RPFilter)
	lone.Sysctl("net/ipv4/conf/all/rp_filter", "2")
	f := want(t, examine(t, lone, cfg, "v0"), doctor.RPFilter, doctor.Error, "v0", noGroup)
	command(t, lone, f.Fix)
	never(t, examine(t, lone, cfg, "v0"), doctor.RPFilter)
	command(t, lone, "ip route replace unreachable 10.99.0.9/32")
	want(t, examine(t, lone, cfg, "v0"), doctor.RPFilter, doctor.Error, "v0", noGroup)
	command(t, lone, "ip route del unreachable 10.99.0.9/32")

	// Routes of several next hops count by each of them.
	lone.NewVeth("v1", netip.MustParsePrefix("10.71.0.1/24"))
	lone.Sysctl("net/ipv4/conf/all/rp_filter", "1")
	command(t, lone, "ip route add 10.99.0.0/24 nexthop via 10.70.0.254 dev v0 nexthop via 10.71.0.254 dev v1")
	never(t, examine(t, lone, cfg, "v0"), doctor.RPFilter)
	never(t, examine(t, lone, cfg, "v1"), doctor.RPFilter)
}

func TestRPFilterCounter(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	host, sender := lan.Hosts[0], lan.Hosts[1]
	host.Sysctl("net/ipv4/conf/eth0/rp_filter", "1")
	send(t, sender, "eth0", port, 10, group4)
	cfg := asks(group4)
	cfg.Watch = 1100 * time.Millisecond
	never(t, examine(t, host, cfg), doctor.RPFilter)
	host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24")).AddRoute(netip.PrefixFrom(sender.IPv4, 32), netip.Addr{}, 1)
	report := examine(t, host, cfg, "eth0")
	want(t, report, doctor.RPFilter, doctor.Warning, "eth0", noGroup)
	never(t, report, doctor.Silent) // it is explained
}

func TestAcceptLocal(t *testing.T) {
	lan := mcasttest.NewLAN(t, 1)
	host := lan.Hosts[0]
	lan.Attach(host) // eth1, on the same switch
	cfg := asks(group4)
	cfg.Sources = []netip.Addr{host.IPv4}
	never(t, examine(t, host, cfg, "eth0"), doctor.AcceptLocal)
	never(t, examine(t, host, cfg, "lo"), doctor.AcceptLocal)
	f := want(t, examine(t, host, cfg, "eth1"), doctor.AcceptLocal, doctor.Error, "eth1", noGroup)

	// It is really so, and the cure cures it.
	send(t, host, "eth0", port, 10, group4)
	cfg.Watch = 200 * time.Millisecond
	if got := examine(t, host, cfg, "eth1").Facts.Traffic[0].Datagrams; got != 0 {
		t.Errorf("%d datagrams came in all the same", got)
	}
	command(t, host, f.Fix)
	report := examine(t, host, cfg, "eth1")
	never(t, report, doctor.AcceptLocal)
	never(t, report, doctor.RPFilter)
	if in := report.Facts.Traffic[0]; in.Datagrams == 0 || in.Own != 0 { // Loopback makes no difference to these
		t.Errorf("the cure did not help:\n%s", report)
	}
}

func TestLoRoute(t *testing.T) {
	host := mcasttest.NewHost(t)
	never(t, examine(t, host, asks(both...), "lo"), doctor.LoRoute)
	command(t, host, "ip -6 route del local ff00::/8 dev lo table local")
	never(t, examine(t, host, asks(group4), "lo"), doctor.LoRoute)
	cfg := asks(both...)
	cfg.SendTest = true
	report := examine(t, host, cfg, "lo")
	want(t, report, doctor.LoRoute, doctor.Error, "lo", group6)
	never(t, report, doctor.SelfTest) // it is explained
	command(t, host, "ip -6 route add ff00::/8 dev lo")
	f := want(t, examine(t, host, cfg, "lo"), doctor.LoRoute, doctor.Error, "lo", group6)
	command(t, host, f.Fix)
	report = examine(t, host, cfg, "lo")
	never(t, report, doctor.LoRoute)
	never(t, report, doctor.SelfTest)
}

func TestNotJoined(t *testing.T) {
	a, b := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 1)
	host := a.Hosts[0]
	b.Attach(host)
	for _, g := range both {
		want(t, examine(t, host, asks(g), "eth0"), doctor.NotJoined, doctor.Info, "eth0", g)
		want(t, examine(t, host, asks(g)), doctor.NotJoined, doctor.Info, "", g)
	}
	host.Do(func() { // a program that takes the port and forgets to join
		c, err := (&net.ListenConfig{Control: reuse}).ListenPacket(t.Context(), "udp4", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	})
	f := want(t, examine(t, host, asks(group4), "eth0"), doctor.NotJoined, doctor.Warning, "eth0", group4)
	if self := fmt.Sprintf("process %d (", os.Getpid()); !strings.Contains(f.Detail, self) {
		t.Errorf("want %s in %s", self, f.Detail)
	}
	receive(t, host, mcast.RxConfig{Groups: both}, "eth1")
	for _, g := range both {
		want(t, examine(t, host, asks(g), "eth0"), doctor.NotJoined, doctor.Warning, "eth0", g)
		never(t, examine(t, host, asks(g), "eth1"), doctor.NotJoined)
		never(t, examine(t, host, asks(g)), doctor.NotJoined)
	}
}

func reuse(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return err
}

func TestMembershipLimit(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	groups := []netip.Addr{group4, netip.MustParseAddr("239.1.2.4"), group6}
	never(t, examine(t, host, asks(groups...)), doctor.MembershipLimit)
	host.Sysctl("net/ipv4/igmp_max_memberships", "2")
	never(t, examine(t, host, asks(groups...)), doctor.MembershipLimit)
	host.Sysctl("net/ipv4/igmp_max_memberships", "1")
	f := want(t, examine(t, host, asks(groups...)), doctor.MembershipLimit, doctor.Info, "", noGroup)
	if !strings.HasSuffix(f.Fix, "net.ipv4.igmp_max_memberships=2") {
		t.Errorf("Fix: %s", f.Fix)
	}
	host.Sysctl("net/ipv4/igmp_max_memberships", "0")
	report := examine(t, host, asks(group4))
	if report.Worst() != doctor.Error || report.Findings[0].Code != doctor.MembershipLimit || report.Findings[0].Fix == "" {
		t.Errorf("want an error first, with a cure:\n%s", report)
	}
}

func TestSourceLimit(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	cfg := asks(group4)
	cfg.Sources = []netip.Addr{netip.MustParseAddr("10.70.0.2"), netip.MustParseAddr("10.70.0.3")}
	never(t, examine(t, host, cfg), doctor.SourceLimit)
	host.Sysctl("net/ipv4/igmp_max_msf", "1")
	want(t, examine(t, host, cfg), doctor.SourceLimit, doctor.Info, "", noGroup)
}

func TestIGMPVersion(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64"))
	ssm4, ssm6 := netip.MustParseAddr("232.1.2.3"), netip.MustParseAddr("ff35::1234")
	ask4, ask6 := asks(ssm4), asks(ssm6)
	ask4.Sources = []netip.Addr{veth.Peer().IPv4}
	ask6.Sources = []netip.Addr{veth.Peer().IPv6}
	never(t, examine(t, host, ask4, "v0"), doctor.IGMPVersion)
	never(t, examine(t, host, ask6, "v0"), doctor.IGMPVersion)

	// An old querier: IGMPv2, general query, 10 seconds.
	generalQuery(t, veth.Peer())
	want(t, examine(t, host, ask4, "v0"), doctor.IGMPVersion, doctor.Warning, "v0", ssm4)
	never(t, examine(t, host, asks(group4), "v0"), doctor.IGMPVersion) // it needs none
	ask4.Groups = []netip.Addr{group4}
	want(t, examine(t, host, ask4, "v0"), doctor.IGMPVersion, doctor.Info, "v0", group4)

	host.Sysctl("net/ipv6/conf/v0/force_mld_version", "1")
	want(t, examine(t, host, ask6, "v0"), doctor.IGMPVersion, doctor.Warning, "v0", ssm6)
}

func TestPortTaken(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	receive(t, host, mcast.RxConfig{Groups: both}, "eth0")
	never(t, examine(t, host, asks(group4)), doctor.PortTaken)
	other := asks(group4)
	other.Port++
	host.Do(func() {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(other.Port)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	})
	never(t, examine(t, host, asks(group4)), doctor.PortTaken)
	f := want(t, examine(t, host, other), doctor.PortTaken, doctor.Error, "", group4)
	if self := fmt.Sprintf("process %d (", os.Getpid()); !strings.Contains(f.Detail, self) {
		t.Errorf("want %s in %s", self, f.Detail)
	}
}

func TestBufferClamped(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	cfg := asks(both...)
	cfg.ReadBuffer = 64 << 10
	never(t, examine(t, host, cfg), doctor.BufferClamped)
	cfg.ReadBuffer = 1 << 30
	f := want(t, examine(t, host, cfg), doctor.BufferClamped, doctor.Warning, "", noGroup)
	if !strings.HasSuffix(f.Fix, "=1073741824") {
		t.Errorf("Fix: %s", f.Fix)
	}
}

func TestBufferOverflow(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	host := lan.Hosts[0]
	cfg := asks(group4)
	cfg.Watch = 300 * time.Millisecond
	send(t, lan.Hosts[1], "eth0", port, 1000, group4)
	never(t, examine(t, host, cfg), doctor.BufferOverflow) // there is only the doctor, who reads
	receive(t, host, mcast.RxConfig{Groups: both}, "eth0")
	lan.WaitJoined(host, group4)
	never(t, examine(t, host, cfg), doctor.BufferOverflow)
	open(t, host, mcast.RxConfig{Groups: both, ReadBuffer: 1}, "eth0")
	lan.WaitJoined(host, group4)
	f := want(t, examine(t, host, cfg), doctor.BufferOverflow, doctor.Warning, "", noGroup)
	if self := fmt.Sprintf("process %d (", os.Getpid()); !strings.Contains(f.Detail, self) {
		t.Errorf("want %s in %s", self, f.Detail)
	}
}

func TestWrongPort(t *testing.T) {
	for _, group := range both {
		lan := mcasttest.NewLAN(t, 2)
		host, sender := lan.Hosts[0], lan.Hosts[1]
		cfg := asks(group)
		cfg.Watch = 300 * time.Millisecond
		broadcast(t, sender) // is none
		never(t, examine(t, host, cfg), doctor.WrongPort)
		send(t, sender, "eth0", port+1, 10, group)
		want(t, examine(t, host, cfg), doctor.WrongPort, doctor.Warning, "", group)
		send(t, sender, "eth0", port, 10, group) // others may use other ports
		never(t, examine(t, host, cfg), doctor.WrongPort)
	}
}

// broadcast has the host send broadcasts that nobody receives, until the test ends.
func broadcast(t *testing.T, host *mcasttest.Host) {
	t.Helper()
	host.Do(func() {
		c, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		stop := time.AfterFunc(0, func() {
			for {
				if _, err := c.WriteToUDPAddrPort([]byte("anyone?"), netip.MustParseAddrPort("255.255.255.255:17500")); errors.Is(err, net.ErrClosed) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		t.Cleanup(func() { stop.Stop(); c.Close() })
	})
}

func TestDefaultRoutes(t *testing.T) {
	a, b := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 1)
	host := a.Hosts[0]
	never(t, examine(t, host, asks(both...)), doctor.NoDefaultRoute)
	never(t, examine(t, host, asks(both...)), doctor.MultipleDefault)
	b.Attach(host)
	want(t, examine(t, host, asks(group4)), doctor.MultipleDefault, doctor.Info, "", noGroup)
	want(t, examine(t, host, asks(group6)), doctor.MultipleDefault, doctor.Info, "", noGroup)
	want(t, examine(t, host, asks(group4), "eth1"), doctor.MultipleDefault, doctor.Info, "", noGroup)
	never(t, examine(t, host, asks(group4), "eth0"), doctor.MultipleDefault) // is where it goes

	lone := mcasttest.NewHost(t)
	lone.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	want(t, examine(t, lone, asks(group4)), doctor.NoDefaultRoute, doctor.Warning, "", noGroup)
	want(t, examine(t, lone, asks(group6)), doctor.NoDefaultRoute, doctor.Warning, "", noGroup)
	want(t, examine(t, lone, asks(group4), "v0"), doctor.NoDefaultRoute, doctor.Info, "", noGroup)
}

func TestGroups(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	const none = doctor.Severity(-1)
	for _, test := range []struct {
		groups, sources, code string
		severity              doctor.Severity
	}{
		{"239.1.2.3 ff15::1234 232.1.2.3 ff05::1:3", "", doctor.LinkScope, none},
		{"224.0.0.251", "", doctor.LinkScope, doctor.Info},
		{"ff12::1234", "", doctor.LinkScope, doctor.Info},
		{"ff02::fb", "fe80::1", doctor.LinkScope, doctor.Info},
		{"224.0.0.251", "192.0.2.1", doctor.LinkScope, doctor.Warning},
		{"ff12::1234", "2001:db8::1", doctor.LinkScope, doctor.Warning},
		{"ff11::1234", "", doctor.LinkScope, doctor.Warning},
		{"239.1.2.3 ff15::1234", "", doctor.SSMRange, none},
		{"232.1.2.3", "10.0.0.1", doctor.SSMRange, none},
		{"ff35::1234", "2001:db8::1", doctor.SSMRange, none},
		{"232.1.2.3", "", doctor.SSMRange, doctor.Warning},
		{"ff35::1234", "", doctor.SSMRange, doctor.Warning},
		{"ff35::1234 239.1.2.3", "10.0.0.1", doctor.SSMRange, doctor.Warning}, // and an info
		{"239.1.2.3", "10.0.0.1", doctor.SSMRange, doctor.Info},
		{"ff15::1234", "2001:db8::1", doctor.SSMRange, doctor.Info},
		{"ff35:40:2001:db8::1", "", doctor.SSMRange, none}, // unicast-prefix-based (RFC 3306)
		{"239.1.2.3 239.1.2.4 239.127.2.3", "", doctor.MACCollision, none},
		{"239.1.2.3 238.1.2.3", "", doctor.MACCollision, doctor.Info},
		{"239.1.2.3 239.129.2.3", "", doctor.MACCollision, doctor.Info},
		{"ff15::1234 ff15::1:0:1234", "", doctor.MACCollision, doctor.Info},
		{"ff15::1234 ff15::1:1234", "", doctor.MACCollision, none},
		{"239.128.0.251", "", doctor.MACCollision, doctor.Info},
		{"224.0.0.251", "", doctor.MACCollision, none},
		{"239.1.2.3 224.0.0.251 233.1.2.3 234.1.2.3 224.2.127.254 ff02::fb ff1e::1", "", doctor.ReservedGroup, none},
		{"224.0.0.0", "", doctor.ReservedGroup, doctor.Error},
		{"ff10::1234", "", doctor.ReservedGroup, doctor.Error},
		{"ff1f::1234", "", doctor.ReservedGroup, doctor.Info},
		{"224.0.0.1", "", doctor.ReservedGroup, doctor.Info},
		{"ff02::1", "", doctor.ReservedGroup, doctor.Info},
		{"225.1.2.3", "", doctor.ReservedGroup, doctor.Info},
		{"231.255.255.255", "", doctor.ReservedGroup, doctor.Info},
		{"235.1.2.3", "", doctor.ReservedGroup, doctor.Info},
		{"238.1.2.3", "", doctor.ReservedGroup, doctor.Info},
		{"232.0.0.200", "10.0.0.1", doctor.ReservedGroup, doctor.Info},
	} {
		t.Run(strings.Join([]string{test.code, test.groups, test.sources}, " "), func(t *testing.T) {
			cfg := asks()
			for text := range strings.FieldsSeq(test.groups) {
				cfg.Groups = append(cfg.Groups, netip.MustParseAddr(text))
			}
			for text := range strings.FieldsSeq(test.sources) {
				cfg.Sources = append(cfg.Sources, netip.MustParseAddr(text))
			}
			report := examine(t, host, cfg, "eth0")
			if test.severity == none {
				never(t, report, test.code)
				return
			}
			for _, f := range report.Findings { // the worst is first
				if f.Code == test.code {
					if f.Severity != test.severity || f.Group != cfg.Groups[0] {
						t.Errorf("want %v:\n%s", test.severity, report)
					}
					return
				}
			}
			t.Errorf("want %s:\n%s", test.code, report)
		})
	}
}

func TestSelfTest(t *testing.T) {
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	cfg := asks(both...)
	cfg.SendTest = true
	never(t, examine(t, host, cfg), doctor.SelfTest)
	never(t, examine(t, host, cfg, "lo", "eth0"), doctor.SelfTest)
	cfg.Groups = []netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff12::1234"), netip.MustParseAddr("ff11::1234")}
	never(t, examine(t, host, cfg), doctor.SelfTest)
	cfg.Groups = both
	// An IPsec policy drops silently what it blocks, as a firewall does.
	command(t, host, "ip xfrm policy add src 0.0.0.0/0 dst 239.1.2.3/32 dir in action block")
	report := examine(t, host, cfg)
	want(t, report, doctor.SelfTest, doctor.Error, "eth0", group4)
	cfg.SendTest = false
	never(t, examine(t, host, cfg), doctor.SelfTest)
	// And one that refuses to send.
	command(t, host, "ip xfrm policy deleteall; ip xfrm policy add src 0.0.0.0/0 dst 239.1.2.3/32 dir out action block")
	cfg.SendTest, cfg.Sources = true, []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	want(t, examine(t, host, cfg), doctor.SelfTest, doctor.Error, "eth0", group4)
}

func TestSilent(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	host := lan.Hosts[0]
	receive(t, host, mcast.RxConfig{Groups: both}, "eth0")
	never(t, examine(t, host, asks(both...)), doctor.Silent) // too short for a finding
	cfg := asks(both...)
	cfg.Watch = 1100 * time.Millisecond
	send(t, lan.Hosts[1], "eth0", port, 10, group6)
	want(t, examine(t, host, cfg), doctor.Silent, doctor.Warning, "", group4)

	// What is wrong for other programs alone does not explain it.
	lone := mcasttest.NewHost(t)
	veth := lone.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	cfg.Groups, cfg.ReadBuffer = []netip.Addr{group4}, 1<<30
	report := examine(t, lone, cfg)
	want(t, report, doctor.NoDefaultRoute, doctor.Warning, "", noGroup)
	want(t, report, doctor.Silent, doctor.Warning, "", group4)
	send(t, veth.Peer(), "eth0", port, 10, group4)
	report = examine(t, lone, cfg)
	want(t, report, doctor.NoDefaultRoute, doctor.Info, "", noGroup)
	never(t, report, doctor.Silent)
}

// A group that only this machine sends to needs Loopback at both ends. Where the sender has not set it, the datagrams
// are not visible, and the last resort names it.
func TestOwnHost(t *testing.T) {
	for _, group := range both {
		t.Run(group.String(), func(t *testing.T) { testOwnHost(t, group) })
	}
}

func testOwnHost(t *testing.T, group netip.Addr) {
	t.Parallel()
	host := mcasttest.NewHost(t)
	peer := host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"), netip.MustParsePrefix("fd70::1/64")).Peer()
	cfg := asks(group)
	cfg.Watch = 1100 * time.Millisecond
	own := mcast.TxConfig{Groups: []netip.Addr{group}}
	stop := sendAs(t, host, own, "v0", port, 10)
	report := examine(t, host, cfg, "v0")
	never(t, report, doctor.OwnHost)
	f := want(t, report, doctor.Silent, doctor.Warning, "", group)
	if !strings.Contains(f.Detail, "Loopback") || !strings.Contains(f.Fix, "Loopback at both ends") {
		t.Errorf("want Loopback in %+v", f)
	}
	stop()

	own.Loopback = true
	sendAs(t, host, own, "v0", port, 10)
	report = examine(t, host, cfg, "v0")
	never(t, report, doctor.Silent)
	f = want(t, report, doctor.OwnHost, doctor.Warning, "", group)
	if in := report.Facts.Traffic[0]; in.Own == 0 || in.Own != in.Datagrams {
		t.Errorf("want all datagrams to be its own:\n%s", report)
	}
	if !strings.Contains(f.Fix, "Loopback at both ends") {
		t.Errorf("want Loopback in %+v", f)
	}
	short := asks(group) // too short for a finding
	short.Watch = 200 * time.Millisecond
	never(t, examine(t, host, short, "v0"), doctor.OwnHost)

	stop = sendAs(t, host, own, "lo", port, 10) // which is received without Loopback
	never(t, examine(t, host, cfg, "lo"), doctor.OwnHost)
	never(t, examine(t, host, cfg, "lo", "v0"), doctor.OwnHost)
	stop()
	stop = sendAs(t, peer, own, "eth0", port, 10) // which sends as well
	report = examine(t, host, cfg, "v0")
	never(t, report, doctor.OwnHost)
	if in := report.Facts.Traffic[0]; in.Own == 0 || in.Own >= in.Datagrams {
		t.Errorf("want datagrams of both:\n%s", report)
	}
	stop()
	want(t, examine(t, host, cfg, "v0"), doctor.OwnHost, doctor.Warning, "", group)
}

// Nothing of an examination is on the wire but the reports of its memberships.
func TestNothingSent(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("v0", netip.MustParsePrefix("10.70.0.1/24"))
	peer := veth.Peer()
	for _, group := range both {
		count := peer.Interface("eth0").CountUDP(group)
		for _, sendTest := range []bool{false, true} {
			cfg := asks(group)
			cfg.SendTest = sendTest
			never(t, examine(t, host, cfg), doctor.SelfTest)
		}
		if n := count(); n != 0 {
			t.Errorf("%d datagrams to %v left the machine", n, group)
		}
		host.Do(func() { // and now one does, which shows that they would be counted
			ifaces, err := mcast.FindInterfaces("v0")
			if err != nil {
				t.Fatal(err)
			}
			tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: ifaces})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			if _, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(group, port)); err != nil {
				t.Fatal(err)
			}
		})
		n := count()
		for end := time.Now().Add(slow.Limit(10 * time.Second)); n == 0 && time.Now().Before(end); n = count() {
			time.Sleep(time.Millisecond)
		}
		if n != 1 {
			t.Errorf("%d datagrams to %v were counted, want 1", n, group)
		}
	}
}

// A report is plain data.
func TestJSON(t *testing.T) {
	host := mcasttest.NewHost(t)
	report := examine(t, host, asks(both...), "lo")
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var again doctor.Report
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(*report, again) {
		t.Errorf("%v:\n%+v\n%+v", err, *report, again)
	}
	if !strings.Contains(string(text), `"severity":"`) || len(report.Findings) == 0 {
		t.Errorf("%s", text)
	}
}
