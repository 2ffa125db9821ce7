// Package examples tests the programs in its directories, as their users run them: the built program, on a network
// of its own.
package examples

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

func TestExamples(t *testing.T) {
	dir := build(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, programs)
	}{
		{"Usage", testUsage},
		{"Errors", testErrors},
		{"Communicator", testCommunicator},
		{"CommunicatorLoopback", testCommunicatorLoopback},
		{"CommunicatorLoopbackNoRoute", testCommunicatorLoopbackNoRoute},
		{"CommunicatorLAN", testCommunicatorLAN},
		{"SenderReceiver", testSenderReceiver},
		{"SenderAlone", testSenderAlone},
		{"SenderHarassed", testSenderHarassed},
		{"Ifaces", testIfaces},
		{"IfacesWatch", testIfacesWatch},
		{"Doctor", testDoctor},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, dir) })
	}
}

func testUsage(t *testing.T, dir programs) {
	for _, command := range []string{
		"communicator -nonsense",
		"communicator 239.1.2.3",
		"communicator -group nonsense",
		"communicator -port nonsense",
		"communicator -port 0",
		"communicator -port 65536",
		"communicator -n -1",
		"communicator -interval 0s",
		"communicator -ttl nonsense",
		"sender",
		"sender -wait 0s hello",
		"sender -wait nonsense hello",
		"sender -answers 0 hello",
		"sender -port 65536 hello",
		"sender -group 239.1.2.3,239.1.2.4 hello",
		"receiver 239.1.2.3",
		"receiver -group 239.1.2.3,",
		"receiver -source nonsense",
		"receiver -port 0",
		"ifaces -nonsense",
		"doctor 239.1.2.3",
		"doctor -group 239.1.2.3,",
		"doctor -source nonsense",
		"doctor -port 65536",
		"doctor -watch 0s",
		"doctor -buffer -1",
		"mdns eth0",
		"mdns -timeout 0s",
		"mdns -service http",
		"mdns -service _printer._sub._http._tcp",
		"ping -nonsense",
		"ping -group 239.1.2.3,",
		"ping -group 239.1.2.3,239.1.2.4",
		"ping -ssm 232.1.2.3",
		"ping -source nonsense",
		"ping -port 0",
		"ping -port 65535",
		"ping -n 0",
		"ping -n 10001",
		"ping -interval 19ms",
		"ping -wait 0s",
		"ping -ttl 0",
		"ping -ttl 256",
		"ping -listen 192.0.2.1",
		"ping -listen -n 10",
		"ping -listen -source 192.0.2.1",
	} {
		args := strings.Fields(command)
		p := dir.start(t, nil, args...)
		if code := p.Wait(); code != 2 || !strings.Contains(p.Stderr.String(), "For example:\n\n  "+args[0]) {
			t.Errorf("exit code %d, want 2 and the usage from %s", code, p)
		}
	}
	for _, name := range []string{"communicator", "sender", "receiver", "ifaces", "doctor", "mdns", "ping"} {
		p := dir.start(t, nil, name, "-h")
		if code := p.Wait(); code != 0 || !strings.Contains(p.Stderr.String(), "For example:\n\n  "+name) {
			t.Errorf("exit code %d, want 0 and the usage from %s", code, p)
		}
	}
}

func testErrors(t *testing.T, dir programs) {
	needLinux(t)
	mcasttest.Require(t)
	for _, test := range []struct{ command, want string }{
		{"communicator -iface nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"sender -iface nonsense hello", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"receiver -iface lo,nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"ifaces nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"ifaces -watch lo nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"communicator -group 10.88.0.1", "10.88.0.1: not a multicast address"},
		{"communicator -ttl 256", "TTL 256"},
		{"sender -group fd88::1 hello", "fd88::1: not a multicast address"},
		{"sender -ttl -2 hello", "TTL -2"},
		{"receiver -group 239.1.2.3,::1", "::1: not a multicast address"},
		{"receiver -source fe80::1", "fe80::1"},
		{"doctor -group 10.88.0.1 -json", "10.88.0.1: not a multicast address"},
		{"ping -iface nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"ping -listen -iface nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"ping -iface mc*", `"mc*" names 2 interfaces, among them mc0 and mc1`},
		{"ping -group 10.88.0.1", "10.88.0.1: not a multicast address"},
		{"ping -listen -group 239.1.2.3 -ssm 10.88.0.1", "10.88.0.1: not a multicast address"},
		{"doctor -iface lo,nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"mdns -iface lo,nonsense", `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`},
		{"mdns -service _nobody._tcp -timeout 300ms", "no services"},
	} {
		args := strings.Fields(test.command)
		p := dir.start(t, nil, args...)
		code, said := p.Wait(), p.Stderr.String()
		found := strings.HasPrefix(said, args[0]+": ") && strings.Contains(said, test.want)
		if code != 1 || !found || strings.Count(said, "\n") != 1 {
			t.Errorf("exit code %d, want 1 and one line with %q from %s", code, test.want, p)
		}
	}
}

// testCommunicator is what a new user does first. On other systems it uses the network that there is.
func testCommunicator(t *testing.T, dir programs) {
	mcasttest.Require(t)
	for _, test := range []struct{ args, source string }{
		{"communicator -n 2", "10.88.0.1:"},
		{"communicator -n 2 -interval 20ms -group ff15::1234", "[fd88::1]:"},
		{"communicator -n 2 -interval 20ms -ttl -1 -iface mc1", "10.88.1.1:"},
		{"communicator -n 2 -interval 20ms -iface mc0,mc1", "10.88.1.1:"},
	} {
		p := dir.start(t, nil, strings.Fields(test.args)...)
		checkTwoRounds(t, p)
		if runtime.GOOS != "linux" {
			return // mc1 is not there, and IPv6 need not be
		}
		if !strings.Contains(p.Stdout.String(), " "+test.source) {
			t.Errorf("want lines from %s in %s", test.source, p)
		}
	}
}

func testCommunicatorLoopback(t *testing.T, dir programs) {
	host := mcasttest.NewHost(t)
	for _, test := range []struct{ group, source string }{{"239.1.2.3", "127.0.0.1:"}, {"ff15::1234", "[::1]:"}} {
		p := dir.start(t, host, "communicator", "-n", "2", "-interval", "20ms", "-group", test.group)
		checkTwoRounds(t, p)
		said := p.Stdout.String()
		if !strings.Contains(said, " by lo;") || !strings.Contains(said, " "+test.source) || !strings.Contains(said, "No default route") {
			t.Errorf("want lines from %s by lo, and why, in %s", test.source, p)
		}
	}
}

// checkTwoRounds lets a communicator of two rounds end, and checks that it has shown both of its lines.
func checkTwoRounds(t *testing.T, p *testrun.Process) {
	t.Helper()
	code, said := p.Wait(), p.Stdout.String()
	first, second := strings.Index(said, `, round 1"`), strings.Index(said, `, round 2"`)
	if code != 0 || first < 0 || second < first || strings.Contains(said, "round 3") || p.Stderr.String() != "" {
		t.Errorf("exit code %d, want 0 and two rounds from %s", code, p)
	}
}

func testCommunicatorLoopbackNoRoute(t *testing.T, dir programs) {
	host := mcasttest.NewHost(t)
	remove := exec.Command("ip", "-6", "route", "del", "local", "ff00::/8", "dev", "lo", "table", "local")
	if errors.Is(remove.Err, exec.ErrNotFound) {
		missing(t, "this test needs ip of iproute2")
	}
	host.Do(func() {
		if out, err := remove.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
	p := dir.start(t, host, "communicator", "-n", "1", "-group", "ff15::1234")
	if code := p.Wait(); code != 1 || !strings.Contains(p.Stderr.String(), "ip -6 route add local ff00::/8 dev lo") {
		t.Errorf("exit code %d, want 1 and the cure from %s", code, p)
	}
}

func testCommunicatorLAN(t *testing.T, dir programs) {
	const group = "239.1.2.3"
	lan := mcasttest.NewLAN(t, 3)
	var all []*testrun.Process
	for _, host := range lan.Hosts {
		all = append(all, dir.start(t, host, "communicator", "-group", group, "-interval", "50ms"))
	}
	for _, p := range all {
		for _, host := range lan.Hosts {
			p.WaitFor(" " + host.IPv4.String() + ":")
		}
	}
	for _, p := range all {
		p.Interrupt()
		if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
			t.Errorf("exit code %d, want 0 from %s", code, p)
		}
	}
}

func testSenderReceiver(t *testing.T, dir programs) {
	for _, group := range []string{"239.1.2.3", "ff15::1234"} {
		t.Run(group, func(t *testing.T) {
			lan := mcasttest.NewLAN(t, 3)
			addr := netip.MustParseAddr(group)
			sender, nobody := lan.Hosts[0].IPv4, "10.255.255.255"
			if addr.Is6() {
				sender, nobody = lan.Hosts[0].IPv6, "fd00::ffff"
			}

			// Two receivers, and a third that has to do with another source only.
			groups := group + ",239.9.9.9"
			var receivers []*testrun.Process
			for _, host := range lan.Hosts[1:] {
				p := dir.start(t, host, "receiver", "-group", groups)
				p.WaitFor("listening to " + group + " port 12345 by eth0\n")
				lan.WaitJoined(host, addr)
				receivers = append(receivers, p)
			}
			deaf := dir.start(t, lan.Hosts[2], "receiver", "-group", group, "-iface", "eth0", "-source", nobody)
			deaf.WaitFor("listening to ")

			// An ack is shown and not answered.
			p := dir.start(t, lan.Hosts[0], "sender", "-group", group, "-wait", "200ms", "ack")
			if code := p.Wait(); code != 1 || !strings.Contains(p.Stderr.String(), "no answer in 200ms") {
				t.Errorf("exit code %d, want 1 and that nobody answered from %s", code, p)
			}

			// A message is. It may be long, and hostile to terminals.
			message := "hello\x1b[31m\r\xff" + strings.Repeat("x", 5000)
			p = dir.start(t, lan.Hosts[0],
				"sender", "-group", group, "-ttl", "7", "-iface", "eth*", "-wait", testrun.Limit.String(), message)
			for _, host := range lan.Hosts[1:] {
				from := netip.AddrPortFrom(host.IPv4, 12345)
				if addr.Is6() {
					from = netip.AddrPortFrom(host.IPv6, 12345)
				}
				p.WaitFor(from.String() + ` answers "ack" after `)
			}
			p.Interrupt()
			if code, said := p.Wait(), p.Stdout.String(); code != 0 || strings.Count(said, "answers") != 2 {
				t.Errorf("exit code %d, want 0 and two answers from %s", code, p)
			}

			// Without Ctrl-C it ends by itself. How many answer in time is not for us to say.
			p = dir.start(t, lan.Hosts[0], "sender", "-group", group, "-wait", "300ms", "good", "bye")
			code, said := p.Wait(), p.Stdout.String()
			answers := strings.Count(said, ` answers "ack" `)
			total := strings.HasSuffix(said, fmt.Sprintf("\nanswers: %d\n", answers))
			if some := answers > 0; some != (code == 0) || some != total {
				t.Errorf("exit code %d after %d answers from %s", code, answers, p)
			}

			from := strings.TrimSuffix(netip.AddrPortFrom(sender, 0).String(), "0")
			shown := `(?m)^\d\d:\d\d:\d\d\.\d{3} ` + regexp.QuoteMeta(from) + `\d+ to ` + group + ` by eth0, TTL `
			for _, p := range receivers {
				p.WaitFor(`"good bye"`)
				p.Interrupt()
				if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
					t.Errorf("exit code %d, want 0 from %s", code, p)
				}
				for _, want := range []string{
					shown + `1, 3 bytes: "ack"$`,
					shown + `7, 5012 bytes: "hello\\x1b\[31m\\r\\xffx{100,200}"$`,
					shown + `1, 8 bytes: "good bye"$`,
					"(?m)^" + group + " by eth0: 3 messages, 5023 bytes, 0 dropped$",
					"(?m)^239.9.9.9 by eth0: 0 messages, 0 bytes, 0 dropped$",
				} {
					if !regexp.MustCompile(want).MatchString(p.Stdout.String()) {
						t.Errorf("want %s from %s", want, p)
					}
				}
			}
			deaf.Interrupt()
			if code := deaf.Wait(); code != 0 || !strings.Contains(deaf.Stdout.String(), group+" by eth0: 0 messages") {
				t.Errorf("exit code %d, want 0 and no message from %s", code, deaf)
			}
		})
	}
}

func testSenderAlone(t *testing.T, dir programs) {
	needLinux(t)
	mcasttest.Require(t)
	p := dir.start(t, nil, "sender", "-port", "12399", "-wait", "50ms", "-iface", "mc0,mc1", "hello")
	code, sent := p.Wait(), p.Stdout.String()
	both := strings.Contains(sent, "by mc0\n") && strings.Contains(sent, "by mc1\n")
	if code != 1 || !both || !strings.Contains(p.Stderr.String(), "sender: no answer in 50ms") {
		t.Errorf("exit code %d, want 1 and that nobody answered from %s", code, p)
	}
	p = dir.start(t, mcasttest.NewHost(t), "sender", "hello")
	if code, said := p.Wait(), p.Stderr.String(); code != 1 || !strings.Contains(said, "no default route for ip4") {
		t.Errorf("exit code %d, want 1 and that there is no default route from %s", code, p)
	}
}

// testSenderHarassed has somebody answer with garbage: as fast as possible, or so slowly that it would never end.
func testSenderHarassed(t *testing.T, dir programs) {
	lan := mcasttest.NewLAN(t, 2)
	group := netip.MustParseAddr("239.1.2.3")
	var rx *mcast.RxSocket
	lan.Hosts[1].Do(func() {
		var err error
		if rx, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: 12345}); err != nil {
			t.Fatal(err)
		}
	})
	defer rx.Close()
	lan.WaitJoined(lan.Hosts[1], group)
	garbage := [][]byte{nil, []byte("\x1b[31m\r\xff"), make([]byte, 60000)}
	for _, tt := range []struct {
		pause time.Duration
		wait  string
	}{{0, testrun.Limit.String()}, {10 * time.Millisecond, "100ms"}} {
		p := dir.start(t, lan.Hosts[0], "sender", "-wait", tt.wait, "hello")
		_, from, err := rx.ReadFromUDPAddrPort(make([]byte, 100))
		if err != nil {
			t.Fatal(err)
		}
		done, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(tt.pause):
				}
				rx.WriteToUDPAddrPort(garbage[n%len(garbage)], from) // until nobody listens
			}
		}()
		code, said := p.Wait(), p.Stdout.String()
		close(done)
		<-stopped
		answers := strings.Count(said, " answers \"")
		enough := "\nanswers: 1000, and that is enough\n"
		if tt.pause > 0 {
			enough = fmt.Sprintf("\nanswers: %d\n", answers)
		}
		if code != 0 || answers == 0 || answers > 1000 || !strings.HasSuffix(said, enough) || len(said) > 1<<20 || strings.ContainsAny(said, "\x1b\r") {
			t.Errorf("exit code %d after %d answers in %d bytes, which end with %.100q", code, answers, len(said), said[max(0, len(said)-100):])
		}
	}
}

func testIfaces(t *testing.T, dir programs) {
	needLinux(t)
	mcasttest.Require(t)
	for _, test := range []struct {
		args  string
		names []string
	}{
		{"ifaces", []string{"lo", "mc0", "mc1"}},
		{"ifaces lo mc1 10.88.1.0/24", []string{"lo", "mc1"}},
		{"ifaces default", []string{"mc0"}},
		{"ifaces mc*", []string{"mc0", "mc1"}},
	} {
		p := dir.start(t, nil, strings.Fields(test.args)...)
		code, said := p.Wait(), p.Stdout.String()
		if code != 0 || !strings.HasPrefix(said, "INDEX  NAME ") {
			t.Errorf("exit code %d, want 0 and a table from %s", code, p)
		}
		for name, line := range map[string]string{
			"lo":  `(?m)^1 +lo +up\|loopback\S*\|running +65536 +127\.0\.0\.1/8 *\n +::1/128$`,
			"mc0": `(?m)^\d+ +mc0 +up\|broadcast\|multicast\|running +1500 +(\w\w:){5}\w\w +ip4 ip6 +10\.88\.0\.1/24 *\n +fd88::1/64$`,
			"mc1": `(?m)^\d+ +mc1 +up\|broadcast\|multicast\|running +1500 +(\w\w:){5}\w\w +10\.88\.1\.1/24 *\n +fd88:0:0:1::1/64$`,
		} {
			if regexp.MustCompile(line).MatchString(said) != slices.Contains(test.names, name) {
				t.Errorf("%s is where it should not be, or the other way round: %s", name, p)
			}
		}
	}
}

func testIfacesWatch(t *testing.T, dir programs) {
	needLinux(t)
	mcasttest.Require(t)
	everything := dir.start(t, nil, "ifaces", "-watch")
	some := dir.start(t, nil, "ifaces", "-watch", "[lv]*", "lo")
	other := dir.start(t, nil, "ifaces", "-watch", "lo", "mc0")
	all := []*testrun.Process{everything, some, other}
	for _, p := range all {
		p.WaitFor(" lo ")
	}
	everything.WaitFor(" mc1 ")

	veth := mcasttest.NewVeth(t, "vx0", netip.MustParsePrefix("10.77.1.1/24"))
	for _, p := range all[:2] {
		p.WaitFor(fmt.Sprintf(" added %d vx0 up|broadcast|multicast", veth.Index()))
		p.WaitFor("10.77.1.1/24")
	}
	veth.AddAddress(netip.MustParsePrefix("10.77.2.1/24"))
	for _, p := range all[:2] {
		p.WaitFor(` vx0: ADDRESSES "10.77.1.1/24, 10.77.2.1/24, `)
	}
	veth.SetMTU(1400)
	for _, p := range all[:2] {
		p.WaitFor(fmt.Sprintf(` changed %d vx0: MTU "1400", was "1500"`, veth.Index()))
	}
	index := veth.Index()
	veth.Delete()
	for _, p := range all[:2] {
		p.WaitFor(fmt.Sprintf(" gone %d vx0\n", index))
	}
	for _, p := range all {
		p.Interrupt()
		if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
			t.Errorf("exit code %d, want 0 from %s", code, p)
		}
	}
	if said := other.Stdout.String(); strings.Contains(said, "vx0") {
		t.Errorf("not asked for vx0: %s", other)
	}
}

func testDoctor(t *testing.T, dir programs) {
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	const groups = "239.1.2.3,ff15::1234"
	receiver := dir.start(t, here, "receiver", "-group", groups)
	receiver.WaitFor("listening to ff15::1234")
	talker := dir.start(t, there, "communicator", "-group", "239.1.2.3", "-interval", "50ms")
	talker.WaitFor("round 1")

	// All is well with the one group, and nobody sends to the other.
	p := dir.start(t, here, "doctor", "-group", "239.1.2.3", "-watch", "1200ms", "-send")
	code, said := p.Wait(), p.Stdout.String()
	traffic := regexp.MustCompile(`(?m)^RECEIVED   239\.1\.2\.3 by eth0, in 1\.\d+s: \d+ datagrams from ` + there.IPv4.String() + "$")
	if code != 0 || !traffic.MatchString(said) || !strings.HasSuffix(said, "\nNothing is wrong on this machine.\n") {
		t.Errorf("exit code %d, want 0 and no finding from %s", code, p)
	}
	p = dir.start(t, here, "doctor", "-group", groups, "-watch", "1200ms")
	if code, said := p.Wait(), p.Stdout.String(); code != 1 || !strings.Contains(said, "\nWARNING    silent, group ff15::1234: ") {
		t.Errorf("exit code %d, want 1 and a silent group from %s", code, p)
	}

	// The worst comes first, with its cure, and Ctrl-C ends the watch.
	here.Interface("eth0").Down()
	p = dir.start(t, here, "doctor", "-group", "224.0.0.251", "-watch", "1h", "-iface", "eth0")
	p.WaitFor("looking")
	time.Sleep(100 * time.Millisecond) // it may look as long as it likes, but not an hour
	p.Interrupt()
	code, said = p.Wait(), p.Stdout.String()
	cure := strings.Index(said, "\n           cure     sudo ip link set dev eth0 up\n")
	if first := strings.Index(said, "\nERROR      interface-down, eth0: "); code != 1 || first < 0 || cure < first || strings.Index(said, "\nINFO ") < cure {
		t.Errorf("exit code %d, want 1 and the error first from %s", code, p)
	}
	p = dir.start(t, here, "doctor", "-watch", "1ms", "-iface", "eth0", "-json")
	var report doctor.Report
	code = p.Wait()
	if err := json.Unmarshal([]byte(p.Stdout.String()), &report); err != nil || code != 1 || report.Findings[0].Code != doctor.InterfaceDown {
		t.Errorf("exit code %d, %v, want 1 and that in JSON from %s", code, err, p)
	}
}

func needLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the interfaces mc0 and mc1 of mcasttest are there on Linux only")
	}
}

// missing skips a test for want of a program, which is a failure in CI.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("MCAST_TEST_STRICT") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// programs is the directory that has them.
type programs string

// build builds the programs for the time of the test.
func build(t *testing.T) programs {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", dir+string(filepath.Separator), "./...")
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		missing(t, "the go command, which builds the examples, is not in PATH")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return programs(dir)
}

// start starts a program on a host, or where the test is if that is nil. It ends with the test.
func (dir programs) start(t *testing.T, host *mcasttest.Host, args ...string) *testrun.Process {
	t.Helper()
	return testrun.Start(t, host, exec.Command(filepath.Join(string(dir), args[0]), args[1:]...))
}
