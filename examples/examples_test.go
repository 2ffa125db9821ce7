// Package examples tests the programs in its directories, as their users run them: the built program, on a network
// of its own.
package examples

import (
	"bytes"
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
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

func TestExamples(t *testing.T) {
	dir := testrun.Build(t, "./...")
	for _, test := range []struct {
		name string
		run  func(*testing.T, testrun.Programs)
	}{
		{"Usage", testUsage},
		{"Errors", testErrors},
		{"Communicator", testCommunicator},
		{"CommunicatorLoopback", testCommunicatorLoopback},
		{"CommunicatorLoopbackNoRoute", testCommunicatorLoopbackNoRoute},
		{"CommunicatorOneFamily", testCommunicatorOneFamily},
		{"CommunicatorLAN", testCommunicatorLAN},
		{"SenderReceiver", testSenderReceiver},
		{"SenderReceiverOneMachine", testSenderReceiverOneMachine},
		{"ReceiverTwoInterfacesOneLAN", testReceiverTwoInterfacesOneLAN},
		{"SenderAlone", testSenderAlone},
		{"SenderHarassed", testSenderHarassed},
		{"Ifaces", testIfaces},
		{"IfacesWatch", testIfacesWatch},
		{"Doctor", testDoctor},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, dir) })
	}
}

func testUsage(t *testing.T, dir testrun.Programs) {
	const port, ttl = "want 1 to 65535", "want 1 to 255, or -1"
	const group = "want a multicast address without a zone: 224.0.0.0/4 or ff00::/8"
	const source = "want a host's address without a zone, of the family of a group"
	dir.WantUsage(t, map[string]string{
		"communicator -nonsense":                  "flag provided but not defined: -nonsense",
		"communicator 239.1.2.3":                  `unexpected argument "239.1.2.3": want flags only`,
		"communicator -group nonsense":            `invalid value "nonsense" for flag -group: `,
		"communicator -group 10.88.0.1":           `invalid value "10.88.0.1" for flag -group: ` + group,
		"communicator -group ff02::1234%eth0":     `invalid value "ff02::1234%eth0" for flag -group: ` + group,
		"communicator -group":                     "flag needs an argument: -group",
		"communicator -port nonsense":             `invalid value "nonsense" for flag -port: parse error`,
		"communicator -port 0":                    `invalid value "0" for flag -port: ` + port,
		"communicator -port 65536":                `invalid value "65536" for flag -port: ` + port,
		"communicator -n -1":                      `invalid value "-1" for flag -n: want 0 or more`,
		"communicator -interval 0s":               `invalid value "0s" for flag -interval: want a time above 0`,
		"communicator -ttl nonsense":              `invalid value "nonsense" for flag -ttl: parse error`,
		"communicator -ttl 256":                   `invalid value "256" for flag -ttl: ` + ttl,
		"sender":                                  "no message: want one as the argument",
		"sender -wait 1s":                         "no message: want one as the argument",
		"sender -wait 0s hello":                   `invalid value "0s" for flag -wait: want a time above 0`,
		"sender -wait nonsense hello":             `invalid value "nonsense" for flag -wait: parse error`,
		"sender -answers 0 hello":                 `invalid value "0" for flag -answers: want 1 or more`,
		"sender -port 65536 hello":                `invalid value "65536" for flag -port: ` + port,
		"sender hello -port 65536":                `invalid value "65536" for flag -port: ` + port,
		"sender hello -port 1 world -nonsense":    "flag provided but not defined: -nonsense",
		"sender hello -port":                      "flag needs an argument: -port",
		"sender -group fd88::1 hello":             `invalid value "fd88::1" for flag -group: ` + group,
		"sender -group 239.1.2.3,239.1.2.4 hello": `invalid value "239.1.2.3,239.1.2.4" for flag -group: `,
		"sender -ttl 0 hello":                     `invalid value "0" for flag -ttl: ` + ttl,
		"sender -ttl -2 hello":                    `invalid value "-2" for flag -ttl: ` + ttl,
		"sender -ttl -1 -loopback=false hello":    `invalid value "-1" for flag -ttl: want 1 to 255 with -loopback=false`,
		"receiver 239.1.2.3":                      `unexpected argument "239.1.2.3": want flags only`,
		"receiver -answer 239.1.2.3 -port 9":      `unexpected argument "239.1.2.3": want flags only`,
		"receiver -answer=nonsense":               `invalid boolean value "nonsense" for -answer: parse error`,
		"receiver -group 239.1.2.3,":              `invalid value "239.1.2.3," for flag -group: `,
		"receiver -group 239.1.2.3,::1":           `invalid value "::1" for flag -group: ` + group,
		"receiver -source nonsense":               `invalid value "nonsense" for flag -source: `,
		"receiver -source 239.1.2.3":              `invalid value "239.1.2.3" for flag -source: ` + source,
		"receiver -source 10.0.0.1,fe80::1":       `invalid value "fe80::1" for flag -source: ` + source,
		"receiver -port 0":                        `invalid value "0" for flag -port: ` + port,
		"ifaces -nonsense":                        "flag provided but not defined: -nonsense",
		"ifaces lo -watch=nonsense":               `invalid boolean value "nonsense" for -watch: parse error`,
		"doctor 239.1.2.3":                        `unexpected argument "239.1.2.3": want flags only`,
		"doctor -group 239.1.2.3,":                `invalid value "239.1.2.3," for flag -group: `,
		"doctor -group 10.88.0.1 -json":           `invalid value "10.88.0.1" for flag -group: ` + group,
		"doctor -source nonsense":                 `invalid value "nonsense" for flag -source: `,
		"doctor -source ff02::1":                  `invalid value "ff02::1" for flag -source: ` + source,
		"doctor -port 65536":                      `invalid value "65536" for flag -port: ` + port,
		"doctor -watch 0s":                        `invalid value "0s" for flag -watch: want a time above 0`,
		"doctor -buffer -1":                       `invalid value "-1" for flag -buffer: want 0 or more`,
	})
	dir.WantHelp(t, "communicator", "sender", "receiver", "ifaces", "doctor")
}

func testErrors(t *testing.T, dir testrun.Programs) {
	needLinux(t)
	mcasttest.Require(t)
	dir.WantErrors(t, map[string]string{
		"communicator -iface nonsense": `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"sender hello -iface nonsense": `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"receiver -iface lo,nonsense":  `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"ifaces nonsense":              `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"ifaces -watch lo nonsense":    `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"doctor -iface lo,nonsense":    `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
	})
}

// testCommunicator is what a new user does first. On other systems it uses the network that there is.
func testCommunicator(t *testing.T, dir testrun.Programs) {
	mcasttest.Require(t)
	for _, test := range []struct{ args, source string }{
		{"communicator -n 2", "10.88.0.1:"},
		{"communicator -n 2 -interval 20ms", "[fd88::1]:"},
		{"communicator -n 2 -interval 20ms -group ff15::1234", "[fd88::1]:"},
		{"communicator -n 2 -interval 20ms -ttl -1 -iface mc1", "10.88.1.1:"},
		{"communicator -n 2 -interval 20ms -iface mc0,mc1", "10.88.1.1:"},
	} {
		p := dir.Start(t, nil, strings.Fields(test.args)...)
		checkTwoRounds(t, p)
		if runtime.GOOS != "linux" {
			return // mc1 is not there, and IPv6 need not be
		}
		if !strings.Contains(p.Stdout.String(), " "+test.source) {
			t.Errorf("want lines from %s in %s", test.source, p)
		}
	}
}

func testCommunicatorLoopback(t *testing.T, dir testrun.Programs) {
	host := mcasttest.NewHost(t)
	for _, test := range []struct{ args, source string }{
		{"communicator -n 2 -interval 20ms", "127.0.0.1:"},
		{"communicator -n 2 -interval 20ms -group ff15::1234", "[::1]:"},
	} {
		p := dir.Start(t, host, strings.Fields(test.args)...)
		checkTwoRounds(t, p)
		said := p.Stdout.String()
		if !strings.Contains(said, " on lo;") || !strings.Contains(said, " "+test.source) || !strings.Contains(said, "No default route") {
			t.Errorf("want lines from %s on lo, and why, in %s", test.source, p)
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

func testCommunicatorLoopbackNoRoute(t *testing.T, dir testrun.Programs) {
	host := mcasttest.NewHost(t)
	remove := exec.Command("ip", "-6", "route", "del", "local", "ff00::/8", "dev", "lo", "table", "local")
	if errors.Is(remove.Err, exec.ErrNotFound) {
		testrun.Missing(t, "this test needs ip of iproute2")
	}
	host.Do(func() {
		if out, err := remove.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
	p := dir.Start(t, host, "communicator", "-n", "1", "-group", "ff15::1234")
	if code := p.Wait(); code != 1 || !strings.Contains(p.Stderr.String(), "ip -6 route add local ff00::/8 dev lo") {
		t.Errorf("exit code %d, want 1 and the cure from %s", code, p)
	}
}

// testCommunicatorOneFamily is that a host which has one family uses that one, and says so.
func testCommunicatorOneFamily(t *testing.T, dir testrun.Programs) {
	for _, test := range []struct{ prefix, everything, gateway, family, group string }{
		{"10.77.0.1/24", "0.0.0.0/0", "10.77.0.254", "IPv4", "239.1.2.3"},
		{"fd77::1/64", "::/0", "fd77::fe", "IPv6", "ff15::1234"},
	} {
		host := mcasttest.NewHost(t)
		prefix := netip.MustParsePrefix(test.prefix)
		eth0 := host.NewVeth("eth0", prefix)
		for _, args := range []string{"communicator -n 2 -interval 20ms -iface eth0", "communicator -n 2 -interval 20ms"} {
			p := dir.Start(t, host, strings.Fields(args)...)
			checkTwoRounds(t, p)
			said := p.Stdout.String()
			from := strings.TrimSuffix(netip.AddrPortFrom(prefix.Addr(), 0).String(), "0")
			if !strings.Contains(said, test.family+" alone") || !strings.Contains(said, " ["+test.group+"] port 12345 on eth0;") ||
				strings.Count(said, " "+from) != 2 || strings.Count(said, " to "+test.group+": ") != 2 {
				t.Errorf("want two lines from %s to %s alone, and why, in %s", from, test.group, p)
			}
			eth0.AddRoute(netip.MustParsePrefix(test.everything), netip.MustParseAddr(test.gateway), 100)
		}
	}
}

func testCommunicatorLAN(t *testing.T, dir testrun.Programs) {
	const group = "239.1.2.3"
	lan := mcasttest.NewLAN(t, 3)
	var all []*testrun.Process
	for _, host := range lan.Hosts {
		all = append(all, dir.Start(t, host, "communicator", "-group", group, "-interval", "50ms"))
	}
	for _, p := range all {
		for _, host := range lan.Hosts {
			p.WaitFor(" " + host.IPv4.String() + ":")
		}
	}
	for i, p := range all {
		p.Signal(endings[i%len(endings)])
		if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
			t.Errorf("exit code %d, want 0 from %s", code, p)
		}
	}
}

// endings are the signals that end a program as its user wants.
var endings = []os.Signal{os.Interrupt, syscall.SIGTERM}

func testSenderReceiver(t *testing.T, dir testrun.Programs) {
	for i, group := range []string{"239.1.2.3", "ff15::1234"} {
		t.Run(group, func(t *testing.T) {
			lan := mcasttest.NewLAN(t, 3)
			addr := netip.MustParseAddr(group)
			sender, nobody := lan.Hosts[0].IPv4, "10.255.255.255"
			if addr.Is6() {
				sender, nobody = lan.Hosts[0].IPv6, "fd00::ffff"
			}

			// Two receivers that answer, one that does not, and one that has to do with another source only.
			groups := group + ",239.9.9.9"
			var receivers []*testrun.Process
			for _, host := range lan.Hosts[1:] {
				p := dir.Start(t, host, "receiver", "-answer", "-group", groups)
				p.WaitFor("receiving " + group + " port 12345 on eth0\n")
				lan.WaitJoined(host, addr)
				receivers = append(receivers, p)
			}
			quiet := dir.Start(t, lan.Hosts[2], "receiver", "-group", groups)
			quiet.WaitFor("receiving 239.9.9.9 port 12345 on eth0\n")
			receivers = append(receivers, quiet)
			filtered := dir.Start(t, lan.Hosts[2], "receiver", "-answer", "-group", group, "-iface", "eth0", "-source", nobody)
			filtered.WaitFor("receiving ")

			// An ack is shown and not answered.
			p := dir.Start(t, lan.Hosts[0], "sender", "-group", group, "-wait", "200ms", "ack")
			if code := p.Wait(); code != 1 || !strings.Contains(p.Stderr.String(), "no answer in 200ms") {
				t.Errorf("exit code %d, want 1 and that nobody answered from %s", code, p)
			}

			// A message is. It may be long, and hostile to terminals.
			message := "hello\x1b[31m\r\xff" + strings.Repeat("x", 5000)
			p = dir.Start(t, lan.Hosts[0],
				"sender", "-group", group, "-ttl", "7", "-iface", "eth*", "-wait", testrun.Limit.String(), message)
			for _, host := range lan.Hosts[1:] {
				from := netip.AddrPortFrom(host.IPv4, 12345)
				if addr.Is6() {
					from = netip.AddrPortFrom(host.IPv6, 12345)
				}
				p.WaitFor(from.String() + ` answers "ack" after `)
			}
			quiet.WaitFor(`"hello`)
			p.Signal(endings[i])
			code, said := p.Wait(), p.Stdout.String()
			if code != 0 || strings.Count(said, ` answers "ack" `) != 2 || !strings.HasSuffix(said, "\nanswers: 2\n") {
				t.Errorf("exit code %d, want 0 and two answers from %s", code, p)
			}

			// Without Ctrl-C it ends by itself. How many answer in time is not for us to say.
			p = dir.Start(t, lan.Hosts[0], "sender", "-group", group, "-wait", "300ms", "good", "bye")
			code, said = p.Wait(), p.Stdout.String()
			answers := strings.Count(said, ` answers "ack" `)
			total := strings.HasSuffix(said, fmt.Sprintf("\nanswers: %d\n", answers))
			if some := answers > 0; some != (code == 0) || some != total {
				t.Errorf("exit code %d after %d answers from %s", code, answers, p)
			}

			from := strings.TrimSuffix(netip.AddrPortFrom(sender, 0).String(), "0")
			shown := `(?m)^\d\d:\d\d:\d\d\.\d{3} ` + regexp.QuoteMeta(from) + `\d+ to ` + group + ` on eth0, TTL `
			for i, p := range receivers {
				p.WaitFor(`"good bye"`)
				p.Signal(endings[i%len(endings)])
				if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
					t.Errorf("exit code %d, want 0 from %s", code, p)
				}
				for _, want := range []string{
					shown + `1, 3 bytes: "ack"$`,
					shown + `7, 5012 bytes: "hello\\x1b\[31m\\r\\xffx{100,200}"$`,
					shown + `1, 8 bytes: "good bye"$`,
					"(?m)^" + group + " on eth0: 3 packets, 5023 bytes, 0 dropped$",
					"(?m)^239.9.9.9 on eth0: 0 packets, 0 bytes, 0 dropped$",
				} {
					if !regexp.MustCompile(want).MatchString(p.Stdout.String()) {
						t.Errorf("want %s from %s", want, p)
					}
				}
			}
			filtered.Interrupt()
			if code := filtered.Wait(); code != 0 || !strings.Contains(filtered.Stdout.String(), group+" on eth0: 0 packets") {
				t.Errorf("exit code %d, want 0 and no message from %s", code, filtered)
			}
		})
	}
}

// testSenderReceiverOneMachine is that Loopback is needed at both ends for datagrams of the same host, and that the
// programs set it, and what stays on the host.
func testSenderReceiverOneMachine(t *testing.T, dir testrun.Programs) {
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	with := dir.Start(t, here, "receiver", "-answer")
	without := dir.Start(t, here, "receiver", "-loopback=false")
	other := dir.Start(t, there, "receiver")
	for _, p := range []*testrun.Process{with, without, other} {
		p.WaitFor("receiving ")
	}
	for _, host := range lan.Hosts {
		lan.WaitJoined(host, netip.MustParseAddr("239.1.2.3"))
	}
	for _, test := range []struct {
		host *mcasttest.Host
		args string
		code int
	}{
		{here, "sender -answers 1 -wait 1m stays -ttl -1", 0},
		{here, "sender -wait 50ms leaves -loopback=false", 1},
		{here, "sender -answers 1 -wait 1m both", 0},
		{there, "sender -answers 1 -wait 1m back", 0},
	} {
		p := dir.Start(t, test.host, strings.Fields(test.args)...)
		if code := p.Wait(); code != test.code {
			t.Errorf("exit code %d, want %d from %s", code, test.code, p)
		}
	}
	message := regexp.MustCompile(`bytes: "(\w+)"`)
	for _, test := range []struct {
		p    *testrun.Process
		want string
	}{{with, "stays both back"}, {without, "back"}, {other, "leaves both back"}} {
		test.p.WaitFor(`"back"`)
		test.p.Interrupt()
		if code := test.p.Wait(); code != 0 {
			t.Errorf("exit code %d, want 0 from %s", code, test.p)
		}
		var got []string
		for _, m := range message.FindAllStringSubmatch(test.p.Stdout.String(), -1) {
			got = append(got, m[1])
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("got %q, want %q from %s", got, test.want, test.p)
		}
	}
}

// testReceiverTwoInterfacesOneLAN is that two interfaces on one LAN give each datagram once per interface, and that one
// of them gives it once. IPv6 has no reverse path filter that could drop one of the two.
func testReceiverTwoInterfacesOneLAN(t *testing.T, dir testrun.Programs) {
	const group = "ff15::1234"
	lan := mcasttest.NewLAN(t, 2)
	lan.Attach(lan.Hosts[0]) // eth1
	both := dir.Start(t, lan.Hosts[0], "receiver", "-group", group)
	one := dir.Start(t, lan.Hosts[0], "receiver", "-group", group, "-iface", "eth1")
	both.WaitFor("receiving " + group + " port 12345 on eth0\n")
	for _, p := range []*testrun.Process{both, one} {
		p.WaitFor("receiving " + group + " port 12345 on eth1\n")
	}
	send := func(message string) {
		dir.Start(t, lan.Hosts[1], "sender", message, "-group", group, "-wait", "1ms").Wait()
	}
	lan.WaitJoined(lan.Hosts[0], netip.MustParseAddr(group)) // on eth0
	for end := time.Now().Add(testrun.Limit); !strings.Contains(both.Stdout.String(), ` on eth1, TTL 1, 5 bytes: "early"`); {
		if send("early"); time.Now().After(end) {
			t.Fatalf("nothing on eth1 from %s", both)
		}
	}
	send("first")
	send("last")
	for _, test := range []struct {
		p      *testrun.Process
		copies map[string]int
	}{{both, map[string]int{"eth0": 1, "eth1": 1}}, {one, map[string]int{"eth1": 1}}} {
		for name := range test.copies {
			test.p.WaitFor(` on ` + name + `, TTL 1, 4 bytes: "last"`)
		}
		test.p.Interrupt()
		test.p.Wait()
		for _, name := range []string{"eth0", "eth1"} {
			copy := " on " + name + `, TTL 1, 5 bytes: "first"`
			if n := strings.Count(test.p.Stdout.String(), copy); n != test.copies[name] {
				t.Errorf("%d times %s, want %d from %s", n, copy, test.copies[name], test.p)
			}
		}
	}
}

func testSenderAlone(t *testing.T, dir testrun.Programs) {
	needLinux(t)
	mcasttest.Require(t)
	p := dir.Start(t, nil, "sender", "-port", "12399", "-wait", "50ms", "-iface", "mc0,mc1", "hello")
	code, sent := p.Wait(), p.Stdout.String()
	both := strings.Contains(sent, "on mc0\n") && strings.Contains(sent, "on mc1\n")
	if code != 1 || !both || !strings.Contains(p.Stderr.String(), "sender: no answer in 50ms") {
		t.Errorf("exit code %d, want 1 and that nobody answered from %s", code, p)
	}
	p = dir.Start(t, nil, "sender", "hello", "-port", "12399", "-wait", "50ms", "--", "-wait", "--", "0s")
	if code, sent := p.Wait(), p.Stdout.String(); code != 1 || sent != "sent 17 bytes to 239.1.2.3:12399 on mc0\n" {
		t.Errorf(`exit code %d, want 1 and "hello -wait -- 0s" sent from %s`, code, p)
	}
	p = dir.Start(t, mcasttest.NewHost(t), "sender", "hello")
	if code, said := p.Wait(), p.Stderr.String(); code != 1 || !strings.Contains(said, "no default route for ip4") {
		t.Errorf("exit code %d, want 1 and that there is no default route from %s", code, p)
	}
}

// testSenderHarassed has somebody answer with garbage: as fast as possible, or so slowly that it would never end.
func testSenderHarassed(t *testing.T, dir testrun.Programs) {
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
		p := dir.Start(t, lan.Hosts[0], "sender", "-wait", tt.wait, "hello")
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
		enough := "\nanswers: 1000, which is enough\n"
		if tt.pause > 0 {
			enough = fmt.Sprintf("\nanswers: %d\n", answers)
		}
		if code != 0 || answers == 0 || answers > 1000 || !strings.HasSuffix(said, enough) || len(said) > 1<<20 || strings.ContainsAny(said, "\x1b\r") {
			t.Errorf("exit code %d after %d answers in %d bytes, which end with %.100q", code, answers, len(said), said[max(0, len(said)-100):])
		}
	}
}

func testIfaces(t *testing.T, dir testrun.Programs) {
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
		p := dir.Start(t, nil, strings.Fields(test.args)...)
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

func testIfacesWatch(t *testing.T, dir testrun.Programs) {
	needLinux(t)
	mcasttest.Require(t)
	everything := dir.Start(t, nil, "ifaces", "-watch")
	some := dir.Start(t, nil, "ifaces", "-watch", "[lv]*", "lo")
	other := dir.Start(t, nil, "ifaces", "lo", "-watch", "mc0")
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
	for i, p := range all {
		p.Signal(endings[i%len(endings)])
		if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
			t.Errorf("exit code %d, want 0 from %s", code, p)
		}
	}
	if said := other.Stdout.String(); strings.Contains(said, "vx0") {
		t.Errorf("not asked for vx0: %s", other)
	}
}

func testDoctor(t *testing.T, dir testrun.Programs) {
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	const groups = "239.1.2.3,ff15::1234"
	receiver := dir.Start(t, here, "receiver", "-group", groups)
	receiver.WaitFor("receiving ff15::1234")
	talker := dir.Start(t, there, "communicator", "-group", "239.1.2.3", "-interval", "50ms")
	talker.WaitFor("round 1")

	// All is well with the one group, and nobody sends to the other.
	p := dir.Start(t, here, "doctor", "-group", "239.1.2.3", "-watch", "1200ms", "-send")
	code, said := p.Wait(), p.Stdout.String()
	traffic := regexp.MustCompile(`(?m)^RECEIVED   239\.1\.2\.3 by eth0, in 1\.\d+s: \d+ datagrams from ` + there.IPv4.String() + "$")
	if code != 0 || !traffic.MatchString(said) || !strings.HasSuffix(said, "\nNothing is wrong on this machine.\n") {
		t.Errorf("exit code %d, want 0 and no finding from %s", code, p)
	}
	p = dir.Start(t, here, "doctor", "-group", groups, "-watch", "1200ms")
	if code, said := p.Wait(), p.Stdout.String(); code != 1 || !strings.Contains(said, "\nWARNING    silent, group ff15::1234: ") {
		t.Errorf("exit code %d, want 1 and a silent group from %s", code, p)
	}

	// The worst comes first, with its cure, and Ctrl-C ends the watch.
	here.Interface("eth0").Down()
	p = dir.Start(t, here, "doctor", "-group", "224.0.0.251", "-watch", "1h", "-iface", "eth0")
	p.WaitFor("looking")
	time.Sleep(100 * time.Millisecond) // it may look as long as it likes, but not an hour
	p.Signal(syscall.SIGTERM)
	code, said = p.Wait(), p.Stdout.String()
	cure := strings.Index(said, "\n           cure     sudo ip link set dev eth0 up\n")
	if first := strings.Index(said, "\nERROR      interface-down, eth0: "); code != 1 || first < 0 || cure < first || strings.Index(said, "\nINFO ") < cure {
		t.Errorf("exit code %d, want 1 and the error first from %s", code, p)
	}
	p = dir.Start(t, here, "doctor", "-watch", "1ms", "-iface", "eth0", "-json")
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

// TestExamplesAreShort keeps each example a program to read: one file of less than 150 lines.
func TestExamplesAreShort(t *testing.T) {
	const limit = 150
	files, err := filepath.Glob("*/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples: ", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if lines := bytes.Count(text, []byte("\n")); err != nil || filepath.Base(name) != "main.go" || lines >= limit {
			t.Errorf("%s has %d lines, %v; want only main.go with less than %d lines", name, lines, err, limit)
		}
	}
}
