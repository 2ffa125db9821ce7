// Windows and Linux to each other: a Windows process of this package, which Wine runs in the test's network namespace,
// and stations at the other ends of its cables. Wine has Linux's delivery rules, so this shows that the library's code
// for Windows does what it should, and not what Windows does.

package mcast_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// windows is a Windows process.
type windows struct {
	t      testing.TB
	orders io.Writer
	said   chan []byte // its answers; closed at the end
}

// windowsProgram is the tests of this package, built for Windows.
func windowsProgram(t testing.TB) string {
	t.Helper()
	mcasttest.Require(t)
	program := os.Getenv("MCAST_TEST_WINE")
	if program == "" {
		t.Skip("MCAST_TEST_WINE does not name the tests of this package as a Windows program; .ci/run builds it")
	}
	return program
}

// startWindows starts one.
func startWindows(t testing.TB) *windows {
	t.Helper()
	cmd := exec.Command("wine", windowsProgram(t), "-test.run=^TestRemote$", "-test.v", "-test.timeout="+(10*patience).String())
	cmd.Env = append(os.Environ(), remoteChild+"=1")
	cmd.WaitDelay = time.Second // Wine's helpers keep the pipes for a while
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
	w := &windows{t: t, orders: stdin, said: make(chan []byte)}
	var other bytes.Buffer // what it says besides
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(w.said)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if answer, ok := bytes.CutPrefix(lines.Bytes(), []byte(remoteMark)); ok {
				w.said <- bytes.Clone(answer)
			} else {
				fmt.Fprintf(&other, "%s\n", lines.Bytes())
			}
		}
	}()
	t.Cleanup(func() {
		w.tell(remoteOrder{Close: true})
		stdin.Close()
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer kill.Stop()
		<-ended
		if err := cmd.Wait(); err != nil || !bytes.Contains(other.Bytes(), []byte("\nPASS")) {
			t.Errorf("the Windows process: %v\n%s", err, other.Bytes())
		}
		// The sockets are wineserver's, which must not outlive the namespace's test.
		if out, err := exec.Command("wineserver", "-k", "-w").CombinedOutput(); err != nil {
			t.Logf("wineserver -k: %v %s", err, out)
		}
	})
	return w
}

// tell has the process do something and returns what arrived.
func (w *windows) tell(order remoteOrder) []remoteArrival {
	w.t.Helper()
	line, err := json.Marshal(order)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(w.orders, "%s\n", line); err != nil {
		w.t.Fatal(err)
	}
	select {
	case said, ok := <-w.said:
		var answer remoteAnswer
		if err := json.Unmarshal(said, &answer); !ok || err != nil {
			w.t.Fatalf("the Windows process says %q, %v", said, err)
		}
		if answer.Err != "" {
			w.t.Fatalf("the Windows process: %s, after %v", answer.Err, answer.Arrivals)
		}
		return answer.Arrivals
	case <-time.After(2 * patience):
		w.t.Fatalf("the Windows process does not answer to %s", line)
		return nil
	}
}

// TestWineReceives has a Windows process receive groups of all ranges on two interfaces, in one socket: exactly these,
// each with its group, interface, source and hop limit.
func TestWineReceives(t *testing.T) {
	windowsProgram(t)
	wires := newWires(t, 2)
	win := startWindows(t)
	var all []netip.Addr
	for _, r := range contractRanges {
		all = append(all, r.group)
	}
	port := newPort()
	win.tell(remoteOrder{OpenRx: true, Groups: all, Port: port, Interfaces: []string{wires[0].Name(), wires[1].Name()}})

	var want []remoteArrival
	for i, w := range wires {
		for _, r := range contractRanges {
			// The control joins on this host what the Windows process must not get. Wine's socket is then given it, too.
			control := newNaive(t, nil, r.other, port, w.Name())
			from := w.station(t, r.group, 9)
			for _, to := range []netip.Addr{r.other, w.like(r.group, 1)} {
				from.send(to, port, "unwanted")
			}
			control.await("unwanted")
			src := from.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
			src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
			for n := range 3 {
				payload := fmt.Sprintf("%s %d %d", r.name, i, n)
				from.send(r.group, port, payload)
				want = append(want, remoteArrival{arrival{payload, r.group, w.at.Index}, src, 1})
			}
		}
	}
	wantRemote(t, win.tell(remoteOrder{Read: len(want)}), want)
}

func wantRemote(t *testing.T, got, want []remoteArrival) {
	t.Helper()
	order := func(a, b remoteArrival) int {
		return cmp.Or(cmp.Compare(a.Payload, b.Payload), cmp.Compare(a.IfIndex, b.IfIndex))
	}
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("received %d, want %d:\n got %v\nwant %v", len(got), len(want), got, want)
	}
}

// TestWineMemberships has it join and leave while it is open, for all sources, for some, and for all but some.
func TestWineMemberships(t *testing.T) {
	windowsProgram(t)
	forEachRange(t, func(t *testing.T, r contractRange) {
		w := newWires(t, 1)[0]
		win := startWindows(t)
		port := newPort()
		a, b := w.station(t, r.group, 8), w.station(t, r.group, 9)
		addrA, addrB := w.like(r.group, 8), w.like(r.group, 9)
		on := []string{w.Name()}
		want := func(payloads ...string) {
			t.Helper()
			var got []string
			for _, arrived := range win.tell(remoteOrder{Read: len(payloads)}) {
				got = append(got, arrived.Payload)
			}
			if !slices.Equal(got, payloads) {
				t.Errorf("received %q, want %q", got, payloads)
			}
		}
		control := newNaive(t, nil, r.group, port, w.Name())
		both := func() {
			a.send(r.group, port, "a")
			b.send(r.group, port, "b")
			control.await("a", "b")
		}
		marker := func() { a.send(r.other, port, "marker") }

		win.tell(remoteOrder{OpenRx: true, Groups: []netip.Addr{r.other}, Port: port, Interfaces: on})
		both() // not joined
		marker()
		want("marker")
		win.tell(remoteOrder{Join: true, Groups: []netip.Addr{r.group}})
		both()
		want("a", "b")
		win.tell(remoteOrder{Leave: true, Groups: []netip.Addr{r.group}})
		both()
		marker()
		want("marker")
		win.tell(remoteOrder{Join: true, Groups: []netip.Addr{r.group}, Sources: []netip.Addr{addrB}})
		both()
		want("b")
		win.tell(remoteOrder{Join: true, Groups: []netip.Addr{r.group}, Sources: []netip.Addr{addrA}})
		a.send(r.group, port, "a too")
		want("a too")
		win.tell(remoteOrder{Close: true})

		win.tell(remoteOrder{OpenRx: true, Groups: []netip.Addr{r.group}, Port: port, Interfaces: on, Blocked: []netip.Addr{addrA}})
		both()
		want("b")
	})
}

// TestWineSends has it send by two interfaces, with a TTL, and read what is answered; and answer itself.
func TestWineSends(t *testing.T) {
	windowsProgram(t)
	wires := newWires(t, 2)
	win := startWindows(t)
	for _, r := range contractRanges {
		t.Run(r.name, func(t *testing.T) {
			port := newPort()
			group := []netip.Addr{r.group}
			win.t = t
			win.tell(remoteOrder{OpenTx: true, Groups: group, Interfaces: []string{wires[0].Name(), wires[1].Name()}, TTL: 5, Loopback: true})
			for _, w := range wires {
				var rx *mcast.RxSocket
				w.peer.Do(func() {
					rx = openRx(t, mcast.RxConfig{Groups: group, Port: port, Interfaces: mustFind(t, "eth0"), HopLimits: true})
				})
				rx.SetReadDeadline(time.Now().Add(patience))
				for _, round := range []string{"one", "two"} {
					win.tell(remoteOrder{Send: round, Groups: group, Port: port})
					ms := []mcast.Message{{Buf: make([]byte, 100)}}
					n, err := rx.ReadBatch(ms)
					m := ms[0]
					if n != 1 || err != nil || string(m.Buf[:m.N]) != round || m.HopLimit != 5 {
						t.Fatalf("%s: %d, %v: %+v", w.Name(), n, err, m)
					}
					own := slices.Concat(w.at.IPv4, w.at.IPv6)
					if !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == m.Addr.Addr().WithZone("") }) {
						t.Errorf("%s: from %v, want one of %v", w.Name(), m.Addr, own)
					}
					if _, err := rx.WriteToUDPAddrPort([]byte("reply"), m.Addr); err != nil {
						t.Fatal(err)
					}
					reply := win.tell(remoteOrder{ReadReply: true})[0]
					if reply.Payload != "reply" || reply.Src.Port() != port {
						t.Errorf("%s: the reply is %+v", w.Name(), reply)
					}
				}
			}
			win.tell(remoteOrder{Close: true})
		})
	}
	win.t = t
}

// TestWineReplies has it answer, from its port, what it received: also to a link-local source.
func TestWineReplies(t *testing.T) {
	windowsProgram(t)
	w := newWires(t, 1)[0]
	win := startWindows(t)
	for _, r := range contractRanges {
		t.Run(r.name, func(t *testing.T) {
			win.t = t
			port := newPort()
			win.tell(remoteOrder{OpenRx: true, Groups: []netip.Addr{r.group}, Port: port, Interfaces: []string{w.Name()}})
			from := w.station(t, r.group, 0)
			from.send(r.group, port, "question")
			got := win.tell(remoteOrder{Read: 1})[0]
			if zone := got.Src.Addr().Zone(); zone != "" && zone != fmt.Sprint(w.at.Index) {
				t.Errorf("the zone of %v is not %d", got.Src, w.at.Index)
			}
			win.tell(remoteOrder{Reply: "answer", To: got.Src})
			buf := make([]byte, 100)
			from.SetReadDeadline(time.Now().Add(patience))
			n, src, err := from.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != "answer" || src.Port() != port {
				t.Errorf("read %q from %v, %v", buf[:n], src, err)
			}
			win.tell(remoteOrder{Close: true})
		})
	}
	win.t = t
}
