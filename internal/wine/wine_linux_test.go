//go:build wine

// Windows and Linux to each other: the program agent, which Wine runs in the test's network namespace, and sockets of
// Linux, there and at the other ends of its cables.

package wine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

// patience limits every wait for Linux. That for the agent is longer than its own.
const patience = 20 * time.Second

const port = 5000

// TestWine builds the agent and runs the tests with it.
func TestWine(t *testing.T) {
	mcasttest.Require(t)
	if os.Getenv("WINE_GO_OVERLAY") == "" {
		t.Fatal(`WINE_GO_OVERLAY is not set: eval "$(bash .ci/wine env)" sets it`)
	}
	program := filepath.Join(t.TempDir(), "agent.exe")
	build := exec.Command("go", "build", "-overlay="+os.Getenv("WINE_GO_OVERLAY"), "-o", program, "./agent")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	for name, test := range map[string]func(*testing.T, string){
		"Receives": testReceives, "Memberships": testMemberships, "Sends": testSends, "Replies": testReplies,
	} {
		t.Run(name, func(t *testing.T) { test(t, program) })
	}
}

// agent is a Windows process.
type agent struct {
	t      testing.TB
	orders *json.Encoder
	said   <-chan Answer // closed at the end
}

// startAgent starts one. It ends with the test.
func startAgent(t testing.TB, program string) *agent {
	t.Helper()
	cmd := exec.Command("wine", program)
	cmd.WaitDelay = time.Second                                    // Wine's helpers keep the pipes for a while
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr")) // no pipe, for which Wait would wait
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan Answer)
	a := &agent{t, json.NewEncoder(stdin), said}
	var end error // why there are no more answers; read after said is closed
	go func() {
		defer close(said)
		for answers := json.NewDecoder(stdout); end == nil; {
			var answer Answer
			if end = answers.Decode(&answer); end == nil {
				said <- answer
			}
		}
	}()
	t.Cleanup(func() {
		a.order(Order{Do: Close})
		stdin.Close()
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer kill.Stop()
		for range said {
		}
		if err := cmd.Wait(); err != nil || end != io.EOF {
			said, _ := os.ReadFile(stderr.Name())
			t.Errorf("the agent: %v, %v\n%s", err, end, said)
		}
		// The sockets are wineserver's, which must not outlive the test's namespace.
		if out, err := exec.Command("wineserver", "-k", "-w").CombinedOutput(); err != nil {
			t.Logf("wineserver -k: %v %s", err, out)
		}
	})
	return a
}

// order has the agent do something and returns what has arrived.
func (a *agent) order(o Order) []Arrival {
	a.t.Helper()
	if err := a.orders.Encode(o); err != nil {
		a.t.Fatal(err)
	}
	select {
	case answer, ok := <-a.said:
		if !ok || answer.Err != "" {
			a.t.Fatalf("%+v: the agent answers %v, %s, after %v", o, ok, answer.Err, answer.Arrivals)
		}
		return answer.Arrivals
	case <-time.After(2 * patience):
		a.t.Fatalf("%+v: the agent does not answer", o)
		return nil
	}
}

// groupRange is a range of groups that the systems treat in its own way.
type groupRange struct{ group, other netip.Addr }

func ranges() (all []groupRange) {
	for _, first := range []string{"239.77.1.1", "224.0.0.177", "ff02::77:1", "ff05::77:1", "ff15::77:1"} {
		group := netip.MustParseAddr(first)
		all = append(all, groupRange{group, group.Next()})
	}
	return all
}

// forEachRange runs a test that has one agent for every range.
func forEachRange(t *testing.T, a *agent, test func(t *testing.T, r groupRange)) {
	defer func(outer testing.TB) { a.t = outer }(a.t)
	for _, r := range ranges() {
		t.Run(r.group.String(), func(t *testing.T) {
			a.t = t
			test(t, r)
		})
	}
}

// wire is an interface of the test's namespace, where the agent is, with a Linux host at the other end of its cable.
type wire struct {
	*mcasttest.Interface
	net byte // in its addresses
}

func newWires(t testing.TB, n byte) (wires []*wire) {
	t.Helper()
	for i := range n {
		w := &wire{net: i}
		w.Interface = mcasttest.NewVeth(t, fmt.Sprint("wine", i), netip.PrefixFrom(w.like(netip.IPv4Unspecified(), 1), 24),
			netip.PrefixFrom(w.like(netip.IPv6Unspecified(), 1), 64))
		wires = append(wires, w)
	}
	return wires
}

func names(wires []*wire) (all []string) {
	for _, w := range wires {
		all = append(all, w.Name())
	}
	return all
}

// like is the address on the wire of that family that ends in id. The agent's host has 1.
func (w *wire) like(family netip.Addr, id byte) netip.Addr {
	if family.Is4() {
		return netip.AddrFrom4([4]byte{10, 77, w.net, id})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 7: w.net, 15: id})
}

// station is a socket of package net at the other end of a wire.
type station struct {
	*net.UDPConn
	t testing.TB
}

// station opens one. It sends from the address that ends in id. With 0 the kernel chooses one.
func (w *wire) station(t testing.TB, family netip.Addr, id byte) *station {
	t.Helper()
	eth0 := w.Peer().Interface("eth0")
	src := w.like(family, id)
	switch {
	case id == 0 && src.Is4():
		src = netip.IPv4Unspecified()
	case id == 0:
		src = netip.IPv6Unspecified()
	case src.Is4():
		eth0.AddAddress(netip.PrefixFrom(src, 24))
	default:
		eth0.AddAddress(netip.PrefixFrom(src, 64))
	}
	s := &station{t: t}
	w.Peer().Do(func() {
		var err error
		if s.UDPConn, err = net.ListenUDP(network(src), net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))); err != nil {
			t.Fatal(err)
		}
		if ifi := (&net.Interface{Index: eth0.Index()}); src.Is4() {
			err = ipv4.NewPacketConn(s).SetMulticastInterface(ifi)
		} else {
			err = ipv6.NewPacketConn(s).SetMulticastInterface(ifi)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { s.Close() })
	return s
}

func network(family netip.Addr) string {
	if family.Is4() {
		return "udp4"
	}
	return "udp6"
}

func (s *station) send(to netip.Addr, payload string) {
	s.t.Helper()
	if _, err := s.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(to, port)); err != nil {
		s.t.Fatal(err)
	}
}

// receiver is a receiver of the library on Linux.
type receiver struct {
	*mcast.RxSocket
	t testing.TB
}

// newReceiver opens one on the host; nil: where the agent is.
func newReceiver(t testing.TB, host *mcasttest.Host, ifname string, group netip.Addr) *receiver {
	t.Helper()
	r := &receiver{t: t}
	open := func() {
		ifaces, err := mcast.FindInterfaces(ifname)
		if err != nil {
			t.Fatal(err)
		}
		r.RxSocket, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, Interfaces: ifaces, HopLimits: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	if host == nil {
		open()
	} else {
		host.Do(open)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// read returns the next datagram, which must be the payload.
func (r *receiver) read(payload string) mcast.Message {
	r.t.Helper()
	ms := []mcast.Message{{Buf: make([]byte, 100)}}
	r.SetReadDeadline(time.Now().Add(patience))
	_, err := r.ReadBatch(ms)
	if got := ms[0].Buf[:ms[0].N]; err != nil || string(got) != payload {
		r.t.Fatalf("read %q, %v; want %q", got, err, payload)
	}
	return ms[0]
}

// testReceives has the agent receive groups of all ranges on two interfaces, in one socket: exactly these, each with its
// group, interface, source and hop limit.
func testReceives(t *testing.T, program string) {
	wires := newWires(t, 2)
	a := startAgent(t, program)
	var all []netip.Addr
	for _, r := range ranges() {
		all = append(all, r.group)
	}
	a.order(Order{Do: OpenRx, Groups: all, Port: port, Interfaces: names(wires)})

	var want []Arrival
	for _, w := range wires {
		for _, r := range ranges() {
			// The control joins on this host what the agent must not receive. Wine's socket receives it then.
			control := newReceiver(t, nil, w.Name(), r.other)
			from := w.station(t, r.group, 9)
			from.send(w.like(r.group, 1), "unwanted")
			from.send(r.other, "unwanted")
			control.read("unwanted")
			src := from.LocalAddr().(*net.UDPAddr).AddrPort()
			for n := range 3 {
				payload := fmt.Sprint(w.Name(), r.group, n)
				from.send(r.group, payload)
				want = append(want, Arrival{payload, r.group, w.Index(), netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), 1})
			}
			from.Close()
			control.Close()
		}
	}
	got := a.order(Order{Do: Read, Count: len(want)})
	order := func(a, b Arrival) int { return cmp.Compare(a.Payload, b.Payload) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("received %d, want %d:\n got %v\nwant %v", len(got), len(want), got, want)
	}
}

// testMemberships has the agent join and leave while it is open: for all sources, for some, and for all but some.
func testMemberships(t *testing.T, program string) {
	w := newWires(t, 1)[0]
	a := startAgent(t, program)
	forEachRange(t, a, func(t *testing.T, r groupRange) {
		first, second := w.station(t, r.group, 8), w.station(t, r.group, 9)
		source1, source2 := []netip.Addr{w.like(r.group, 8)}, []netip.Addr{w.like(r.group, 9)}
		group, other, on := []netip.Addr{r.group}, []netip.Addr{r.other}, []string{w.Name()}
		want := func(payloads ...string) {
			t.Helper()
			var got []string
			for _, arrived := range a.order(Order{Do: Read, Count: len(payloads)}) {
				got = append(got, arrived.Payload)
			}
			if !slices.Equal(got, payloads) {
				t.Errorf("received %q, want %q", got, payloads)
			}
		}
		control := newReceiver(t, nil, w.Name(), r.group)
		both := func() {
			first.send(r.group, "1")
			control.read("1")
			second.send(r.group, "2")
			control.read("2")
		}
		marker := func() { first.send(r.other, "marker") }

		a.order(Order{Do: OpenRx, Groups: other, Port: port, Interfaces: on})
		both() // not joined
		marker()
		want("marker")
		a.order(Order{Do: Join, Groups: group})
		both()
		want("1", "2")
		a.order(Order{Do: Leave, Groups: group})
		both()
		marker()
		want("marker")
		a.order(Order{Do: Join, Groups: group, Sources: source2})
		both()
		want("2")
		a.order(Order{Do: Join, Groups: group, Sources: source1})
		first.send(r.group, "1 too")
		control.read("1 too")
		want("1 too")
		a.order(Order{Do: Close})

		a.order(Order{Do: OpenRx, Groups: group, Port: port, Interfaces: on, Blocked: source1})
		both()
		want("2")
		a.order(Order{Do: Close})
		first.Close()
		second.Close()
		control.Close()
	})
}

// testSends has the agent send by two interfaces, with a TTL, and read what Linux replies.
func testSends(t *testing.T, program string) {
	wires := newWires(t, 2)
	a := startAgent(t, program)
	forEachRange(t, a, func(t *testing.T, r groupRange) {
		group := []netip.Addr{r.group}
		a.order(Order{Do: OpenTx, Groups: group, Interfaces: names(wires), TTL: 5, Loopback: true})
		for _, w := range wires {
			here, err := mcast.FindInterfaces(w.Name())
			if err != nil {
				t.Fatal(err)
			}
			rx := newReceiver(t, w.Peer(), "eth0", r.group)
			for _, round := range []string{"one", "two"} {
				a.order(Order{Do: Send, Payload: round, Groups: group, Port: port})
				m := rx.read(round)
				if m.HopLimit != 5 {
					t.Errorf("%s: a hop limit of %d, want 5", w.Name(), m.HopLimit)
				}
				own := slices.Concat(here[0].IPv4, here[0].IPv6)
				if !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == m.Addr.Addr().WithZone("") }) {
					t.Errorf("%s: from %v, want one of %v", w.Name(), m.Addr, own)
				}
				if _, err := rx.WriteToUDPAddrPort([]byte("reply"), m.Addr); err != nil {
					t.Fatal(err)
				}
				reply := a.order(Order{Do: ReadReply})[0]
				if reply.Payload != "reply" || reply.Src.Port() != port {
					t.Errorf("%s: the reply is %+v", w.Name(), reply)
				}
			}
			rx.Close()
		}
		a.order(Order{Do: Close})
	})
}

// testReplies has the agent reply, from its port, to what it has received: also to a link-local source.
func testReplies(t *testing.T, program string) {
	w := newWires(t, 1)[0]
	a := startAgent(t, program)
	forEachRange(t, a, func(t *testing.T, r groupRange) {
		a.order(Order{Do: OpenRx, Groups: []netip.Addr{r.group}, Port: port, Interfaces: []string{w.Name()}})
		from := w.station(t, r.group, 0)
		from.send(r.group, "question")
		got := a.order(Order{Do: Read, Count: 1})[0]
		if zone := got.Src.Addr().Zone(); zone != "" && zone != strconv.Itoa(w.Index()) {
			t.Errorf("the zone of %v is not %d", got.Src, w.Index())
		}
		a.order(Order{Do: Reply, Payload: "answer", To: got.Src})
		buf := make([]byte, 100)
		from.SetReadDeadline(time.Now().Add(patience))
		n, src, err := from.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "answer" || src.Port() != port {
			t.Errorf("read %q from %v, %v", buf[:n], src, err)
		}
		a.order(Order{Do: Close})
	})
}
