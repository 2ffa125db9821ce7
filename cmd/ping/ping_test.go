package main

// Ping as its users run it, on networks made for the test.

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
)

// fine is the sentence that one hopes for.
const fine = "\nWhat it means: everything arrives: unicast, and multicast both ways, ASM and SSM.\n"

// quick are flags of a prober that does not take its time.
const quick = "-n 4 -interval 20ms "

func TestLAN(t *testing.T) {
	t.Parallel() // they do little but wait
	lan := mcasttest.NewLAN(t, 3)
	var listeners []*testrun.Process
	for _, host := range lan.Hosts[1:] {
		listeners = append(listeners, listenOn(t, lan, host, ""))
	}
	// Both are found, and nothing is lost.
	p := ping(t, lan.Hosts[0], quick, 0, `(?s)\nfound 10\..*\nfound 10\..*`+regexp.QuoteMeta(fine)+"$")
	said := p.Stdout.String()
	if p.Stderr.String() != "" {
		t.Errorf("want no error from %s", p)
	}
	for _, host := range lan.Hosts[1:] {
		title := fmt.Sprintf("\n%s and %s\n", host.IPv4, host.IPv6)
		if !strings.Contains(said, title) || !strings.Contains(said, "\nfound"+strings.Replace(title, "\n", " ", 1)) {
			t.Errorf("want %q from %s", title, p)
		}
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		for kind, joined := range map[string]string{
			"unicast": "-", "ASM to it": "-", "ASM from it": `[\d.]+[µm]?s`, "SSM from it": `[\d.]+[µm]?s`,
		} {
			row := `(?m)^ *` + family + " " + kind + ` +4 +0 +0 +\d+( +[\d.]+[µm]?s){3} +0 +` + joined + "$"
			if got := len(regexp.MustCompile(row).FindAllString(said, -1)); got != 2 {
				t.Errorf("%d rows, want 2 of %s from %s", got, row, p)
			}
		}
	}
	for _, l := range listeners {
		l.Interrupt()
		code, said := l.Wait(), l.Stdout.String()
		if code != 0 || !strings.Contains(said, " probed by "+lan.Hosts[0].IPv4.String()+"\n") ||
			!strings.Contains(said, " probed by "+lan.Hosts[0].IPv6.String()+"\n") ||
			!regexp.MustCompile(`\nanswered \d+ probes, left 0 unanswered that were too many, and ignored 0 `).MatchString(said) {
			t.Errorf("exit code %d, want 0 and both addresses of the prober from %s", code, l)
		}
	}
}

// TestRouter: unicast passes a router, and multicast does so if its TTL allows it.
func TestRouter(t *testing.T) {
	t.Parallel() // they do little but wait
	a, b := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 1)
	mcasttest.NewRouter(t, a, b)
	here, there := a.Hosts[0], b.Hosts[0]
	hosts := there.IPv4.String() + " " + there.IPv6.String()
	for _, test := range []struct {
		listener, prober string
		code             int
		want             string
	}{
		{"-ttl 1", "", 1, "unicast is fine and multicast is lost, since its TTL (1 here, 1 there) is too small for a way with " +
			"1 router: start both ends with -ttl 2 or more; the routers must route multicast, too."},
		{"-ttl 1", "-ttl 2 ", 1, "multicast gets there and does not come back, since its TTL of 1 is too small for a way with " +
			"1 router: start the listener with -ttl 2 or more."},
		{"-ttl 2", "", 1, "multicast comes from there, and does not get there, since its TTL of 1 is too small for a way with " +
			"1 router: use -ttl 2 or more here."},
		{"-ttl 2", "-ttl 2 ", 0, "everything arrives: unicast, and multicast both ways, ASM and SSM."},
	} {
		l := listenOn(t, b, there, test.listener)
		p := ping(t, here, quick+test.prober+hosts, test.code, "\nWhat it means: "+regexp.QuoteMeta(test.want)+"\n$")
		n := len(regexp.MustCompile(`(?m)^ *IPv[46] .* +1 +\S+$`).FindAllString(p.Stdout.String(), -1))
		if n < 2 || test.code == 0 && n != 2*int(kinds) {
			t.Errorf("%d rows know of the router in %s", n, p)
		}
		l.Interrupt()
		l.Wait()
	}
}

// TestSwitch: the switch does not forward what the listener has not joined. That it had joined, and the switch forgot,
// looks the same from outside.
func TestSwitch(t *testing.T) {
	t.Parallel() // they do little but wait
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	listenOn(t, lan, there, "-group 239.1.2.4,ff15::4 -ssm 232.1.2.4,ff35::8000:4")
	count := there.Interface("eth0").CountUDP(netip.MustParseAddr("239.1.2.3"))
	p := ping(t, here, quick+there.IPv4.String()+" "+there.IPv6.String(), 1,
		"\nWhat it means: unicast is fine and multicast is lost both ways: the switch")
	if n := count(); n != 0 {
		t.Errorf("the switch has forwarded %d packets: this test is not about what it says", n)
	}
	for row, lost := range map[string]int{"unicast": 0, "ASM to it": 4, "ASM from it": 4, "SSM from it": 4} {
		for _, family := range []string{"IPv4", "IPv6"} {
			if want := fmt.Sprintf("%s %s +4 +%d ", family, row, lost); !regexp.MustCompile(want).MatchString(p.Stdout.String()) {
				t.Errorf("want %q from %s", want, p)
			}
		}
	}

	// The same names on both ends, and all is well.
	ping(t, here, quick+"-group 239.1.2.4,ff15::4 -ssm 232.1.2.4,ff35::8000:4 "+there.IPv4.String(), 0, regexp.QuoteMeta(fine)+"$")
}

func TestNobody(t *testing.T) {
	t.Parallel() // they do little but wait
	lan := mcasttest.NewLAN(t, 3)
	here, silent, there := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
	ping(t, here, quick, 1, "\nWhat it means: nobody answers. ")
	lone := ping(t, mcasttest.NewHost(t), quick, 1, "\nWhat it means: nobody answers. ")
	if said := lone.Stderr.String(); !strings.Contains(said, "no default route") {
		t.Errorf("it does not say that it reaches this machine only: %s", lone)
	}
	ping(t, here, quick+silent.IPv4.String()+" "+silent.IPv6.String(), 1, ", which does not answer\n(?s:.*)"+
		"\nWhat it means: nothing comes back, neither by unicast nor by multicast: ping -listen does not run there")

	// One that answers and one that does not are told apart.
	listenOn(t, lan, there, "")
	ping(t, here, quick+silent.IPv4.String()+" "+there.IPv4.String(), 1,
		regexp.QuoteMeta(fmt.Sprintf("\n- %s by IPv4: nothing comes back", silent.IPv4))+"(?s:.*)"+
			regexp.QuoteMeta(fmt.Sprintf("\n- %s by IPv4, %s: everything arrives", there.IPv4, there.IPv6)))
}

// TestSource: a listener that answers from one address and sends multicast from another.
func TestSource(t *testing.T) {
	t.Parallel() // they do little but wait
	a, b := mcasttest.NewLAN(t, 2), mcasttest.NewLAN(t, 0)
	here, there := a.Hosts[0], a.Hosts[1]
	b.Attach(here)
	other := b.Attach(there)
	// Other groups for ASM at both ends, since else the prober sees by them where multicast comes from.
	listenOn(t, b, there, "-iface eth1 -group 239.1.2.4")
	args := "-iface eth1 -group 239.1.2.3 " + there.IPv4.String()
	ping(t, here, quick+args, 1, `IPv4 unicast +4 +0 (?s:.*)IPv4 SSM from it +4 +4 `)
	ping(t, here, quick+"-source fd00::99,"+other.IPv4.String()+" "+args, 1, `IPv4 ASM from it +4 +4 (?s:.*)IPv4 SSM from it +4 +0 `)
}

func TestInterrupt(t *testing.T) {
	t.Parallel() // they do little but wait
	lan := mcasttest.NewLAN(t, 2)
	listenOn(t, lan, lan.Hosts[1], "")
	pingUntil(t, lan.Hosts[0], "-n 10000 ", 0, regexp.QuoteMeta(fine)+"$", func(p *testrun.Process) {
		p.WaitFor("\ncounting: 10000 probes of each kind, one every 200ms;")
		p.Interrupt()
	})
	p := start(t, lan.Hosts[0], "-wait 1h")
	p.WaitFor("pinging ")
	time.Sleep(100 * time.Millisecond) // it may look for listeners as long as it likes, but not an hour
	p.Signal(syscall.SIGTERM)
	code, said := p.Wait(), p.Stdout.String()
	if code != 1 || !strings.Contains(said, "\nWhat it means: ") || strings.Contains(said, "everything") {
		t.Errorf("exit code %d, want 1 from %s", code, p)
	}
}

// TestLate: answers that come after the last probe, out of order and twice. Only the network does such things, and here
// a listener that knows nothing but unicast.
func TestLate(t *testing.T) {
	t.Parallel() // they do little but wait
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	var conn *net.UDPConn
	there.Do(func() {
		var err error
		if conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 12351}); err != nil {
			t.Fatal(err)
		}
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() {
		buf := make([]byte, 2*packetSize)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			p, ok := parse(buf[:n])
			if !ok || p.kind != unicast || p.seq != 0 && p.seq != 4 {
				continue
			}
			p.answer, p.id, p.flags = true, 1, flagIP4
			numbers := []uint32{0}
			if p.seq == 4 {
				time.Sleep(200 * time.Millisecond) // late, and long before anybody gives up
				numbers = []uint32{2, 1, 3, 3, 4}
			}
			for _, p.seq = range numbers {
				conn.WriteToUDPAddrPort(p.append(nil), from)
			}
		}
	})
	ping(t, here, quick+"-group 239.1.2.3 "+there.IPv4.String(), 1, `IPv4 unicast +4 +0 +1 +1 (?s:.*)`+
		`ASM to it +4 +4 (?s:.*) Datagrams come more than once, unicast too: .* The order changes on the way: `)
}

// TestHostile: a host that answers everything with garbage and lies, and sends garbage to the listener. What the honest
// one is told to have lost is not changed by it.
func TestHostile(t *testing.T) {
	t.Parallel() // they do little but wait
	lan := mcasttest.NewLAN(t, 3)
	here, honest, hostile := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
	l := listenOn(t, lan, honest, "")
	var rx *mcast.RxSocket
	var tx *mcast.TxSocket
	var err error
	group := groups[ip4]
	hostile.Do(func() {
		if rx, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 12350}); err != nil {
			t.Fatal(err)
		}
		if tx, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}}); err != nil {
			t.Fatal(err)
		}
	})
	lan.WaitJoined(hostile, group)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer tx.Close()
	defer rx.Close()
	lies := 0
	wg.Go(func() {
		for m, err := range rx.Messages(t.Context()) {
			if err != nil {
				t.Error(err)
				return
			}
			p, ok := parse(m.Buf[:m.N])
			if !ok || p.answer || m.Addr.Addr() != here.IPv4 {
				continue
			}
			p.answer, p.ttl, p.flags, p.mttl = true, 255, flagsAll, 255
			for i := range 10 {
				p.id, p.heard, p.seen = uint64(i/2+1), 1<<32-1, 255
				lie, garbage := p.append(nil), p.append(nil)
				garbage[i]++
				q := p
				q.kind, q.path, q.seq = kind(2*(i%2)), uint16(i), uint32(i) // about other probes, which it has not seen
				for _, b := range [][]byte{lie, garbage, q.append(nil), []byte("x")} {
					rx.WriteToUDPAddrPort(b, m.Addr)
					if _, err := tx.WriteToUDPAddrPort(b, netip.AddrPortFrom(group, 12350)); err != nil {
						t.Error(err)
						return
					}
					lies++
				}
			}
		}
	})
	p := ping(t, here, quick+"-group 239.1.2.3", 1, `\nnot counted: \d+ answers of listeners .* were too many, `+
		`[1-9]\d* datagrams that were no answers\n(?s:.*)`+
		regexp.QuoteMeta(fmt.Sprintf("\n- %s: everything arrives: ", honest.IPv4)))
	if strings.Count(p.Stdout.String(), "\n"+hostile.IPv4.String()+"\n") != 5 {
		t.Errorf("want each of the liar's five names from %s", p)
	}
	l.Interrupt()
	if code, said := l.Wait(), l.Stdout.String(); code != 0 || !regexp.MustCompile(`and ignored [1-9]\d* datagrams`).MatchString(said) {
		t.Errorf("exit code %d, want 0 and what was ignored from %s", code, l)
	}
	tx.Close()
	rx.Close()
	wg.Wait()
	if lies == 0 {
		t.Error("nobody has lied")
	}
}

// start starts it on a host. It ends with the test.
func start(t *testing.T, host *mcasttest.Host, args string) *testrun.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, strings.Fields(args)...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0")
	return testrun.Start(t, host, cmd)
}

// ping runs a prober, whose exit code and output have to be as said.
func ping(t *testing.T, host *mcasttest.Host, args string, code int, want string) *testrun.Process {
	t.Helper()
	return pingUntil(t, host, args, code, want, func(*testrun.Process) {})
}

// pingUntil calls a function while the prober runs. How long that waits for answers is not for a busy machine to say: if
// it was not long enough, it is run again, and waits longer. Nothing that a test looks for comes of waiting too long.
func pingUntil(t *testing.T, host *mcasttest.Host, args string, code int, want string, during func(*testrun.Process)) (p *testrun.Process) {
	t.Helper()
	pattern := regexp.MustCompile(want)
	for _, wait := range []string{"-wait 300ms ", "-wait 2s ", "-wait 10s "} {
		p = start(t, host, wait+args)
		during(p)
		got := p.Wait()
		if got == code && pattern.MatchString(p.Stdout.String()) {
			return p
		}
		t.Logf("exit code %d, want %d and %s from %s", got, code, want, p)
	}
	t.Fatal("not even with so much time")
	return nil
}

// listenOn starts a listener, and waits until the switch knows what it has joined.
func listenOn(t *testing.T, lan *mcasttest.LAN, host *mcasttest.Host, args string) *testrun.Process {
	t.Helper()
	p := start(t, host, "-listen "+args)
	p.WaitFor("listening to ")
	for _, group := range groups {
		if i := strings.Index(args, "-group "); i >= 0 {
			var list []netip.Addr
			if err := cli.Addresses(&list)(strings.Fields(args[i:])[1]); err != nil {
				t.Fatal(err)
			}
			group = list[min(len(list)-1, int(familyOf(group)))]
		}
		lan.WaitJoined(host, group)
	}
	return p
}
