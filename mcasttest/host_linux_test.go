// This file tests hosts and interfaces, and that nothing is left of them.

package mcasttest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

var (
	prefix4 = netip.MustParsePrefix("10.99.0.1/24")
	prefix6 = netip.MustParsePrefix("fd99::1/64")
)

func addresses(t *testing.T, h *mcasttest.Host, name string) string {
	t.Helper()
	var addrs []net.Addr
	on(h, func() {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if addrs, err = ifi.Addrs(); err != nil {
			t.Fatal(err)
		}
	})
	return fmt.Sprint(addrs)
}

func TestVeth(t *testing.T) {
	v := mcasttest.NewVeth(t, "v0", prefix4, prefix6)
	testVeth(t, nil, v)
}

func TestVethOfHost(t *testing.T) {
	h := mcasttest.NewHost(t)
	testVeth(t, h, h.NewVeth("v0", prefix4, prefix6))
}

// testVeth checks what can happen to an interface. It is done to it on the host.
func testVeth(t *testing.T, h *mcasttest.Host, v *mcasttest.Interface) {
	peer := v.Peer()
	if peer.IPv4.String() != "10.99.0.254" || peer.IPv6.String() != "fd99::fe" {
		t.Errorf("peer has %v and %v", peer.IPv4, peer.IPv6)
	}
	fromPeer := func(what string) {
		t.Helper()
		for _, g := range append(groups, netip.MustParseAddr("ff02::1234")) {
			conn := join(t, h, v.Name(), g)
			send(t, peer, "eth0", g, 1, what)
			from := expect(t, conn, what).Addr().WithZone("")
			if from != peer.IPv4 && from != peer.IPv6 && from != peer.LinkLocal {
				t.Errorf("%s: packet to %s is from %s", what, g, from)
			}
			send(t, h, v.Name(), g, 1, what+", sent") // needs an address of the family
			expect(t, conn, what+", sent")
			conn.Close()
		}
	}
	carrier := func() (on bool) {
		run := func() {
			ifi, err := net.InterfaceByName(v.Name())
			on = err == nil && ifi.Flags&net.FlagRunning != 0
		}
		if h == nil {
			run()
		} else {
			h.Do(run)
		}
		return on
	}
	all := addresses(t, h, v.Name())
	fromPeer("new")
	v.Down()
	if carrier() {
		t.Error("running though down")
	}
	v.Up()
	fromPeer("up")
	v.Unplug()
	eventually(t, "no carrier", func() bool { return !carrier() })
	v.Plug()
	fromPeer("plugged in")
	index := v.Index()
	v.Rename("v1")
	fromPeer("renamed")
	if v.Index() != index || v.Name() != "v1" {
		t.Errorf("renamed interface is %s, %d", v.Name(), v.Index())
	}
	v.SetMTU(1000)
	if a := addresses(t, h, "v1"); strings.Contains(a, "fd99::1") {
		t.Errorf("with a small MTU: %s", a)
	}
	v.SetMTU(1400)
	fromPeer("with MTU 1400")
	v.Delete()
	eventually(t, "interface is gone", func() bool { return !carrier() })
	v.Create()
	if v.Index() == index {
		t.Errorf("new interface has index %d as before", index)
	}
	fromPeer("created")
	if a := addresses(t, h, "v1"); a != all {
		t.Errorf("created interface has %s, before %s", a, all)
	}

	more := netip.MustParsePrefix("10.99.1.1/24")
	v.AddAddress(more)
	v.Down()
	v.Up()
	if a := addresses(t, h, "v1"); !strings.Contains(a, more.String()) {
		t.Errorf("%s is not among %s", more, a)
	}
	v.DelAddress(more)
	v.DelAddress(prefix6)
	if a := addresses(t, h, "v1"); strings.Contains(a, more.String()) || strings.Contains(a, "fd99::1/") {
		t.Errorf("deleted address is among %s", a)
	}

	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	source := func() (from string) {
		run := func() {
			if conn, err := net.Dial("udp4", "192.0.2.1:9"); err != nil {
				from = err.Error()
			} else {
				from = conn.LocalAddr().(*net.UDPAddr).IP.String()
				conn.Close()
			}
		}
		on(h, run)
		return from
	}
	before := source()
	v.AddRoute(everywhere, peer.IPv4, 1)
	v.Down() // forgets it
	v.Up()
	if from := source(); from != "10.99.0.1" {
		t.Errorf("default route leads out from %s", from)
	}
	v.DelRoute(everywhere, peer.IPv4, 1)
	if from := source(); from != before {
		t.Errorf("without the route packets leave from %s, before it from %s", from, before)
	}
}

func TestHost(t *testing.T) {
	h := mcasttest.NewHost(t)
	h.Sysctl("net/ipv4/igmp_max_memberships", "2")
	h.Do(func() {
		if ifs, err := net.Interfaces(); err != nil || ifs[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, %v", ifs, err)
		}
		if v, err := os.ReadFile("/proc/sys/net/ipv4/igmp_max_memberships"); err != nil || string(v) != "2\n" {
			t.Errorf("sysctl is %q, %v", v, err)
		}
	})
	if v, err := os.ReadFile("/proc/sys/net/ipv4/igmp_max_memberships"); err != nil || string(v) == "2\n" {
		t.Errorf("sysctl of the test's own namespace is %q, %v", v, err)
	}
	for _, g := range groups {
		conn := join(t, h, "lo", g)
		send(t, h, "", g, 1, "over lo by default")
		expect(t, conn, "over lo by default")
	}
}

func TestStart(t *testing.T) {
	h := mcasttest.NewHost(t)
	own := namespace()
	var out strings.Builder
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), helperVariable+"=require")
	cmd.Stdout = &out
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "net:") || strings.Contains(out.String(), own) {
		t.Errorf("%v, should be in a namespace other than %s: %s", err, own, &out)
	}
	if err := h.Start(exec.Command("/does/not/exist")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start of no program: %v", err)
	}
}

// TestDo checks how a function on a host ends otherwise than by returning.
func TestDo(t *testing.T) {
	h := mcasttest.NewHost(t)
	cause := errors.New("on purpose")
	func() {
		defer func() {
			if got := recover(); got != cause {
				t.Errorf("recovered %v, want %v", got, cause)
			}
		}()
		h.Do(func() { panic(cause) })
		t.Error("no panic")
	}()

	ended := make(chan bool)
	go func() {
		defer close(ended)
		h.Do(runtime.Goexit)
		t.Error("Goexit ended only the function")
	}()
	<-ended

	out, err := helper("skip on a host").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- SKIP: TestHelper") {
		t.Errorf("Skip on a host: %v\n%s", err, out)
	}
	h.Do(func() { h.Do(func() {}) }) // nested
}

// TestManyThreads checks that hosts' namespaces stay on their threads. Among many goroutines one is on the process's
// first thread, which must not enter a namespace as it can never end.
func TestManyThreads(t *testing.T) {
	h := mcasttest.NewHost(t)
	done := make(chan string)
	const n = 200
	for range n {
		go func() {
			var inside string
			h.Do(func() { inside, _ = os.Readlink("/proc/thread-self/ns/net") })
			done <- inside
		}()
	}
	seen := map[string]int{}
	for range n {
		seen[<-done]++
	}
	if len(seen) != 1 || seen[namespace()] != 0 {
		t.Errorf("functions on the host ran in %v; the test is in %s", seen, namespace())
	}
	eventually(t, "all threads are in the test's own namespace", threadsAtHome)
}

func threadsAtHome() bool {
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != namespace() {
			return false
		}
	}
	return len(tasks) > 0
}

// TestNothingLeft checks that a test leaves no namespace, file, goroutine or thread behind.
func TestNothingLeft(t *testing.T) {
	mcasttest.Require(t)
	files := func() int {
		fds, _ := os.ReadDir("/proc/self/fd")
		return len(fds)
	}
	links := func() int {
		ifs, _ := net.Interfaces()
		return len(ifs)
	}
	witness := mcasttest.NewHost(t)
	namespaces := func() int { return countLinks(t, witness, "w") }
	everything(t, witness) // once before, for what the runtime keeps for later
	eventually(t, "threads are home", threadsAtHome)
	filesBefore, linksBefore, goroutinesBefore := files(), links(), runtime.NumGoroutine()
	for range 3 {
		everything(t, witness)
	}
	eventually(t, "threads are home", threadsAtHome)
	eventually(t, fmt.Sprintf("as few files as before: %d", filesBefore), func() bool { return files() <= filesBefore })
	eventually(t, fmt.Sprintf("as few interfaces as before: %d", linksBefore), func() bool { return links() <= linksBefore })
	eventually(t, "as few goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutinesBefore })
	eventually(t, "the namespaces are gone", func() bool { return namespaces() == 0 })
}

// countLinks counts the host's interfaces whose names begin like that.
func countLinks(t *testing.T, h *mcasttest.Host, prefix string) (n int) {
	h.Do(func() {
		ifs, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, ifi := range ifs {
			if strings.HasPrefix(ifi.Name, prefix) {
				n++
			}
		}
	})
	return n
}

// everything uses all that makes namespaces. From each a cable leads to the witness, where its end vanishes with it.
func everything(t *testing.T, witness *mcasttest.Host) {
	t.Run("everything", func(t *testing.T) {
		a, b := mcasttest.NewLAN(t, 2), mcasttest.NewLAN(t, 1)
		r := mcasttest.NewRouter(t, a, b)
		v := mcasttest.NewVeth(t, "v0", prefix4)
		w := mcasttest.NewVeth(t, "v1", prefix6)
		w.Delete()
		hosts := []*mcasttest.Host{a.Hosts[0], a.Hosts[1], b.Hosts[0], r.Host, v.Peer(), w.Peer(), mcasttest.NewHost(t)}
		for _, h := range hosts {
			name := fmt.Sprintf("w%d", witnesses.Add(1))
			if err := mcasttest.Connect(h, name, witness, name); err != nil {
				t.Fatal(err)
			}
		}
		if n := countLinks(t, witness, "w"); n < len(hosts) {
			t.Fatalf("%d witnesses of %d hosts", n, len(hosts))
		}
		join(t, a.Hosts[0], "eth0", group4)
		a.Hosts[1].Interface("eth0").CountUDP(group4)
		if err := a.Hosts[1].Start(exec.Command("/proc/self/exe", "-test.run=^$")); err != nil {
			t.Fatal(err)
		}
	})
}

var witnesses atomic.Uint32

// TestTravel checks that an interface that was away is the same as before, and that the kernel took it for a new one.
func TestTravel(t *testing.T) {
	h := mcasttest.NewHost(t)
	eth := h.NewVeth("eth", netip.MustParsePrefix("10.7.7.1/24"), netip.MustParsePrefix("fd77::1/64"))
	index := eth.Index()
	h.Do(func() {
		group := &net.UDPAddr{IP: net.IPv4(239, 7, 7, 7), Port: 5000}
		c, err := net.ListenMulticastUDP("udp4", &net.Interface{Index: index, Name: "eth"}, group)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		member := func() bool {
			text, err := os.ReadFile("/proc/thread-self/net/igmp")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(text), fmt.Sprintf("%08X", binary.NativeEndian.Uint32([]byte{239, 7, 7, 7})))
		}
		if !member() {
			t.Error("not a member at first")
		}
		eth.Travel()
		if eth.Index() != index {
			t.Errorf("index %d has become %d", index, eth.Index())
		}
		if member() {
			t.Error("still a member")
		}
		for _, a := range []netip.Addr{eth.IPv4, eth.IPv6} {
			c, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.AsSlice()})
			if err != nil {
				t.Errorf("the address %s is not back: %v", a, err)
				continue
			}
			c.Close()
		}
	})
}
