// The promises of RxSocket, in the order of its documentation.
//
// Tests named Local run over one interface, on every system. The others need several interfaces or hosts, and so Linux.
// These do not wait to see that something is not delivered. They have a control: a socket of package net on the same port,
// which receives what the RxSocket must not. When the control has read it, the kernel has delivered it. The test then sends
// a marker on every path that the RxSocket receives from. Nothing unwanted may have arrived before the markers.

package mcast_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/wine"
)

func TestRxDeliversOnceWhenNamedTwice(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		groups := []netip.Addr{r.group, r.other, r.group}
		if r.group.Is4() { // once more, as IPv6 writes it
			groups = append(groups, netip.AddrFrom16(r.group.As16()))
		}
		rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: append(interfacesOf(wires), interfacesOf(wires)...)})
		if n := len(rx.Memberships()); n != 4 {
			t.Errorf("%d pairs of 2 groups and 2 interfaces: %+v", n, rx.Memberships())
		}
		var want []arrival
		for _, what := range []string{"datagram", "marker"} {
			for i, w := range wires {
				for _, group := range []netip.Addr{r.group, r.other} {
					a := arrival{fmt.Sprint(what, i, group), group, w.at.Index}
					w.station(t, r.group, 0).send(group, port, a.Payload)
					want = append(want, a)
				}
			}
		}
		wantArrivals(t, rx, want...)
	})
}

func TestRxMixesFamilies(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires)})
	var want []arrival
	for _, what := range []string{"datagram", "marker"} {
		for i, w := range wires {
			for _, r := range contractRanges {
				from := w.station(t, r.group, 0)
				if what == "datagram" { // one of the unwanted of each family
					control := newNaive(t, nil, r.other, port, w.Name())
					from.send(r.other, port, "other")
					control.await("other")
				}
				a := arrival{fmt.Sprint(what, i, r.group), r.group, w.at.Index}
				from.send(r.group, port, a.Payload)
				want = append(want, a)
			}
		}
	}
	wantArrivals(t, rx, want...)
}

// TestRxLocalManyGroups joins more groups than Linux allows for one OS socket.
func TestRxLocalManyGroups(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		const many = 30
		first := l.groups[0].As16()
		l.groups = nil
		for n := range many {
			first[15] = byte(n)
			l.groups = append(l.groups, netip.AddrFrom16(first).Unmap())
		}
		if wine.Here() && l.groups[0].Is4() {
			t.Skip("Wine has Linux's limit of 20 groups for a socket")
		}
		rx, tx := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups }), l.tx(nil)
		for n := range many {
			l.send(tx, n, fmt.Sprint(n))
		}
		got := make(map[string]netip.Addr)
		for len(got) < many {
			ms := make([]mcast.Message, 7)
			for i := range ms {
				ms[i].Buf = make([]byte, 10)
			}
			n, err := rx.ReadBatch(ms)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms[:n] {
				got[string(m.Buf[:m.N])] = m.Group
			}
		}
		for n, g := range l.groups {
			if got[fmt.Sprint(n)] != g {
				t.Errorf("datagram %d came by group %v, want %v", n, got[fmt.Sprint(n)], g)
			}
		}
		if all := rx.Memberships(); len(all) != many || all[many-1].Packets != 1 {
			t.Errorf("%d memberships, the last %+v", len(all), all[len(all)-1])
		}
	})
}

// A program that has bound the port to the wildcard address, as most do, changes nothing. Nor does the RxSocket take its
// unicast.
func TestRxSharesPortWithWildcard(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		before := newNaive(t, nil, r.other, port, wires[0].Name(), wires[1].Name())
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{wires[0].at}})
		control := newNaive(t, nil, r.group, port, wires[0].Name(), wires[1].Name())

		from, elsewhere := wires[0].station(t, r.group, 0), wires[1].station(t, r.group, 0)
		from.send(r.other, port, "other group")
		elsewhere.send(r.group, port, "other interface")
		elsewhere.send(r.other, port, "other group and interface")
		from.send(wires[0].like(r.group, 1), port, "unicast") // to the newest of the sockets
		control.await("other group", "other interface", "other group and interface", "unicast")
		before.await("other group", "other interface", "other group and interface")
		from.send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, wires[0].at.Index})
	})
}

func TestRxEverySocketReceives(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		var sockets []*mcast.RxSocket
		for range 3 {
			sockets = append(sockets, openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}}))
		}
		from := w.station(t, r.group, 0)
		from.send(r.group, port, "datagram")
		from.send(r.group, port, "marker")
		for _, rx := range sockets {
			wantArrivals(t, rx, arrival{"datagram", r.group, w.at.Index}, arrival{"marker", r.group, w.at.Index})
		}
		// Closing one takes nothing from the others.
		sockets[0].Close()
		from.send(r.group, port, "last")
		for _, rx := range sockets[1:] {
			wantArrivals(t, rx, arrival{"last", r.group, w.at.Index})
		}
	})
}

// contractChild, in the environment of a child process, has its contractOrder as JSON.
const contractChild = "MCAST_CONTRACT_CHILD"

type contractOrder struct {
	Group     netip.Addr
	Port      uint16
	Interface string
	Until     string // the last payload
}

// contractReceive is the child process. It prints a line when it listens, and then what it has received.
func contractReceive(t *testing.T, order string) {
	var o contractOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		t.Fatal(err)
	}
	rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{o.Group}, Port: o.Port, Interfaces: mustFind(t, o.Interface)})
	fmt.Println("listening")
	json.NewEncoder(os.Stdout).Encode(arrivals(t, rx, o.Until))
}

func TestRxEveryProcessReceives(t *testing.T) {
	if order := os.Getenv(contractChild); order != "" {
		contractReceive(t, order)
		return
	}
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		order, err := json.Marshal(contractOrder{r.group, port, wires[0].Name(), "marker"})
		if err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestRxEveryProcessReceives$", "-test.count=1", "-test.timeout="+(2*patience).String())
		child.Env = append(os.Environ(), contractChild+"="+string(order),
			"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // which sleeps for a second otherwise
		child.Stderr = os.Stderr
		pipe, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { child.Process.Kill(); child.Wait() })
		said := bufio.NewScanner(pipe)
		if !said.Scan() || said.Text() != "listening" {
			rest, _ := io.ReadAll(pipe)
			t.Fatalf("the child says %q %s, %v", said.Text(), rest, said.Err())
		}

		// This one is on both interfaces, and so is the control: the other process must not get the other's.
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
		control := newNaive(t, nil, r.other, port, wires[0].Name())
		from, elsewhere := wires[0].station(t, r.group, 0), wires[1].station(t, r.group, 0)
		from.send(r.other, port, "other group")
		elsewhere.send(r.group, port, "other interface")
		control.await("other group", "other interface")
		from.send(r.group, port, "datagram")
		from.send(r.group, port, "marker")

		want := []arrival{{"datagram", r.group, wires[0].at.Index}, {"marker", r.group, wires[0].at.Index}}
		wantArrivals(t, rx, append(want, arrival{"other interface", r.group, wires[1].at.Index})...)
		if !said.Scan() {
			t.Fatalf("the child says no more: %v", said.Err())
		}
		var got []arrival
		if err := json.Unmarshal(said.Bytes(), &got); err != nil {
			t.Fatalf("the child says %q: %v", said.Text(), err)
		}
		compareArrivals(t, got, want)
		for said.Scan() { // to the end, as Wait wants it
		}
		if err := child.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestRxReceivesOnItsInterfaces(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		control := newNaive(t, nil, r.group, port, wires[0].Name(), wires[1].Name())
		both := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
		var single []*mcast.RxSocket
		for _, w := range wires {
			single = append(single, openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}}))
		}

		var all []arrival
		own := make([][]arrival, len(wires))
		for _, what := range []string{"datagram", "marker"} {
			for i, w := range wires {
				a := arrival{fmt.Sprint(what, i), r.group, w.at.Index}
				w.station(t, r.group, 0).send(r.group, port, a.Payload)
				control.await(a.Payload)
				all, own[i] = append(all, a), append(own[i], a)
			}
		}
		wantArrivals(t, both, all...)
		for i, rx := range single {
			wantArrivals(t, rx, own[i]...)
		}
	})
}

func TestRxFiltersSources(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	const wanted, alsoWanted, unwanted = 11, 12, 13
	for _, tt := range []struct {
		name     string
		restrict func(cfg *mcast.RxConfig, family netip.Addr)
	}{
		{"Sources", func(cfg *mcast.RxConfig, family netip.Addr) {
			cfg.Sources = []netip.Addr{w.like(family, wanted), w.like(family, alsoWanted), w.like(family, wanted)}
		}},
		{"Blocked", func(cfg *mcast.RxConfig, family netip.Addr) {
			cfg.Blocked = []netip.Addr{w.like(family, unwanted), w.like(family, unwanted), w.like(family, 14)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}}
				tt.restrict(&cfg, r.group)
				rx := openRx(t, cfg)
				control := newNaive(t, nil, r.group, port, w.Name())

				w.station(t, r.group, unwanted).send(r.group, port, "unwanted")
				control.await("unwanted")
				w.station(t, r.group, wanted).send(r.group, port, "wanted")
				w.station(t, r.group, alsoWanted).send(r.group, port, "also wanted")
				wantArrivals(t, rx, arrival{"wanted", r.group, w.at.Index}, arrival{"also wanted", r.group, w.at.Index})
			})
		})
	}
}

// The Sources and Blocked of one family leave the groups of the other family as they are.
func TestRxFiltersSourcesPerFamily(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	v4, v6 := contractRanges[0].group, contractRanges[3].group
	const one, two = 11, 12
	for _, tt := range []struct {
		name     string
		restrict func(cfg *mcast.RxConfig)
		want     []arrival // of the four datagrams
	}{
		{"IPv4 source", func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{w.addr4(one)} },
			[]arrival{{"one", v4, w.at.Index}, {"one", v6, w.at.Index}, {"two", v6, w.at.Index}}},
		{"IPv6 source", func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{w.addr6(one)} },
			[]arrival{{"one", v4, w.at.Index}, {"two", v4, w.at.Index}, {"one", v6, w.at.Index}}},
		{"sources of both", func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{w.addr6(one), w.addr4(two)} },
			[]arrival{{"two", v4, w.at.Index}, {"one", v6, w.at.Index}}},
		{"both blocked", func(cfg *mcast.RxConfig) { cfg.Blocked = []netip.Addr{w.addr6(one), w.addr4(two)} },
			[]arrival{{"one", v4, w.at.Index}, {"two", v6, w.at.Index}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := newPort()
			cfg := mcast.RxConfig{Groups: []netip.Addr{v4, v6}, Port: port, Interfaces: []mcast.Interface{w.at}}
			tt.restrict(&cfg)
			rx := openRx(t, cfg)
			want := slices.Clone(tt.want)
			for _, group := range []netip.Addr{v4, v6} {
				control := newNaive(t, nil, group, port, w.Name())
				for id, payload := range map[byte]string{one: "one", two: "two"} {
					w.station(t, group, id).send(group, port, payload)
				}
				control.await("one", "two")
				for id, payload := range map[byte]string{one: "one", two: "two"} { // one of them arrives
					marker := "marker " + network(group) + payload
					w.station(t, group, id).send(group, port, marker)
					if slices.Contains(tt.want, arrival{payload, group, w.at.Index}) {
						want = append(want, arrival{marker, group, w.at.Index})
					}
				}
			}
			wantArrivals(t, rx, want...)
		})
	}
}

// Sockets of one process that restrict the sources differently do not disturb each other, nor one that takes all. Their
// filters are in the kernel, which combines them for the host.
func TestRxFiltersSourcesPerSocket(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		open := func(restrict func(cfg *mcast.RxConfig)) *mcast.RxSocket {
			cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)}
			restrict(&cfg)
			return openRx(t, cfg)
		}
		var first, second, blocked []netip.Addr
		for _, w := range wires {
			first, second, blocked = append(first, w.like(r.group, 11)), append(second, w.like(r.group, 12)), append(blocked, w.like(r.group, 11))
		}
		all := open(func(*mcast.RxConfig) {})
		onlyFirst := open(func(cfg *mcast.RxConfig) { cfg.Sources = first })
		onlySecond := open(func(cfg *mcast.RxConfig) { cfg.Sources = second })
		notFirst := open(func(cfg *mcast.RxConfig) { cfg.Blocked = blocked })
		// The second source of one interface, and the first of the other: a filter must not spill over to the other.
		crossed := open(func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{second[0], first[1]} })

		var from1, from2, cross []arrival
		for _, what := range []string{"datagram", "marker"} {
			for i, w := range wires {
				a1, a2 := arrival{fmt.Sprint(what, i, "/1"), r.group, w.at.Index}, arrival{fmt.Sprint(what, i, "/2"), r.group, w.at.Index}
				w.station(t, r.group, 11).send(r.group, port, a1.Payload)
				w.station(t, r.group, 12).send(r.group, port, a2.Payload)
				from1, from2 = append(from1, a1), append(from2, a2)
				cross = append(cross, [][]arrival{{a2}, {a1}}[i]...)
			}
		}
		wantArrivals(t, all, slices.Concat(from1, from2)...) // the control, too
		wantArrivals(t, onlyFirst, from1...)
		wantArrivals(t, onlySecond, from2...)
		wantArrivals(t, notFirst, from2...)
		wantArrivals(t, crossed, cross...)
	})
}

func TestRxLocalSources(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		if wine.Here() && l.groups[0].Is4() {
			t.Skip("Wine hands IP_ADD_SOURCE_MEMBERSHIP to Linux, which has the fields in another order, and so takes a source that is " +
				"an address of this host for the interface")
		}
		tx, probe := l.tx(nil), l.rx(nil)
		l.send(tx, 0, "probe")
		own := l.want(probe, "probe").Addr().WithZone("")
		other := addr("192.0.2.9")
		if own.Is6() {
			other = addr("2001:db8::9")
		}
		with := func(sources, blocked []netip.Addr) *mcast.RxSocket {
			return l.rx(func(cfg *mcast.RxConfig) { cfg.Groups, cfg.Sources, cfg.Blocked = l.groups, sources, blocked })
		}
		wanted := []*mcast.RxSocket{
			with([]netip.Addr{own}, nil), with([]netip.Addr{other, own}, nil), with(nil, []netip.Addr{other}),
		}
		refused := []*mcast.RxSocket{with([]netip.Addr{other}, nil), with(nil, []netip.Addr{own})}
		l.send(tx, 0, "datagram")
		for _, rx := range wanted {
			l.want(rx, "datagram")
		}
		for i, rx := range refused {
			buf := make([]byte, 100)
			rx.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, src, err := rx.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %q from %v, %v", buf[:n], src, err)
			}
			rx.SetReadDeadline(time.Now().Add(patience))
			// Once the source is let in it gets what comes then, and not what was refused before.
			if err := rx.Leave(l.groups[0]); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := rx.Join(l.groups[0], other); err != nil {
					t.Fatal(err)
				}
				if err := rx.Join(l.groups[0], own); err != nil {
					t.Fatal(err)
				}
				l.send(tx, 0, "let in")
				l.want(rx, "let in")
			}
		}
		m := wanted[1].Memberships()[0]
		if !slices.Equal(m.Sources, []netip.Addr{other, own}) || m.Packets != 1 {
			t.Errorf("%+v", m)
		}
	})
}

// A host receives what it sends if Loopback is set on both ends.
func TestRxLoopbackTakesBothEnds(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, tt := range []struct{ tx, rx bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		t.Run(fmt.Sprintf("tx=%v,rx=%v", tt.tx, tt.rx), func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}, Loopback: tt.rx}
				rx := openRx(t, cfg)
				tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Loopback: tt.tx})
				sent := newNaive(t, w.peer, r.group, port, "eth0")
				looped := newNaive(t, nil, r.group, port, w.Name())

				if _, err := tx.WriteToUDPAddrPort([]byte("own"), netip.AddrPortFrom(r.group, port)); err != nil {
					t.Fatal(err)
				}
				sent.await("own") // in any case
				if tt.tx {
					looped.await("own")
				}
				w.station(t, r.group, 0).send(r.group, port, "marker")
				want := []arrival{{"marker", r.group, w.at.Index}}
				if tt.tx && tt.rx {
					want = append(want, arrival{"own", r.group, w.at.Index})
				}
				wantArrivals(t, rx, want...)
			})
		})
	}
}

// An RxSocket receives traffic on the loopback interface with and without Loopback.
func TestRxLoopbackInterface(t *testing.T) {
	noLeaks(t)
	lo := mustFind(t, "lo")
	w := newWires(t, 1)[0]
	for _, loopback := range []bool{true, false} {
		t.Run(strconv.FormatBool(loopback), func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: lo, Loopback: loopback})
				tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: lo, Loopback: loopback})
				// What comes in by another interface stays out.
				control := newNaive(t, nil, r.group, port, w.Name())
				w.station(t, r.group, 0).send(r.group, port, "other interface")
				control.await("other interface")

				for _, payload := range []string{"datagram", "marker"} {
					if _, err := tx.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(r.group, port)); err != nil {
						t.Fatal(err)
					}
				}
				wantArrivals(t, rx, arrival{"datagram", r.group, lo[0].Index}, arrival{"marker", r.group, lo[0].Index})
			})
		})
	}
}

// Without Loopback an RxSocket does not receive what its host sends, except on the loopback interface.
func TestRxLocalLoopback(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		without := l.rx(func(cfg *mcast.RxConfig) { cfg.Loopback = false })
		control := l.rx(nil)
		l.send(l.tx(nil), 0, "own")
		l.want(control, "own")
		if l.ifc.IsLoopback() {
			l.want(without, "own")
			return
		}
		without.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, src, err := without.ReadFromUDPAddrPort(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes from %v, %v", n, src, err)
		}
	})
}

func TestRxReceivesItsGroupsOnly(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}})
		other := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.other}, Port: port, Interfaces: []mcast.Interface{w.at}})
		// It has joined one group and receives both, as programs without the library do.
		control := newNaive(t, nil, r.group, port, w.Name())
		from := w.station(t, r.group, 0)

		from.send(r.other, port, "other")
		control.await("other")
		from.send(r.group, port, "marker")
		from.send(r.other, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
		wantArrivals(t, other, arrival{"other", r.other, w.at.Index}, arrival{"marker", r.other, w.at.Index})
	})
}

func TestRxReceivesNoUnicast(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}})
		from := w.station(t, r.group, 0)
		self, wayTo := w.like(r.group, 1), w.like(r.group, 1)
		if r.group.IsLinkLocalMulticast() && r.group.Is6() {
			self, wayTo = w.LinkLocal.WithZone(strconv.Itoa(w.at.Index)), w.LinkLocal.WithZone(strconv.Itoa(w.peer.Interface("eth0").Index()))
		}
		control := newUnicast(t, nil, self, port)

		from.send(wayTo, port, "unicast")
		control.await("unicast")
		from.send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
	})
}

// The controls are a socket that receives the other group, and a marker on the same path as what must not be received.
func TestRxLocalReceivesItsGroupsOnly(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx := l.rx(nil)
		control := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups[1:2] })
		tx := l.tx(nil)
		unicast, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.ownAddr(), l.port)))
		if err != nil {
			t.Fatal(err)
		}
		defer unicast.Close()
		unicast.Write([]byte("unicast")) // refused where nobody listens for it
		l.send(tx, 1, "other")
		l.send(tx, 0, "marker")
		l.want(rx, "marker")
		l.want(control, "other")
	})
}

// contractReader is an RxSocket of the random test, with what it wants.
type contractReader struct {
	*mcast.RxSocket
	groups []netip.Addr
	wires  []*wire
	port   uint16
}

func (r *contractReader) wants(group netip.Addr, w *wire, port uint16) bool {
	return port == r.port && slices.Contains(r.groups, group) && slices.Contains(r.wires, w)
}

// Datagrams to random groups, ports and interfaces reach several sockets, which differ in all they can. The datagrams are
// sent in rounds that fit into a receive buffer, with markers at the end of each. ReadFrom reads every other round, one
// datagram at a time.
func TestRxReceivesExactlyWhatItWants(t *testing.T) {
	noLeaks(t)
	const rounds, perRound = 20, 100
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	wires := newWires(t, 3)
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group, r.other)
	}
	portA, portB := newPort(), newPort()
	readers := []*contractReader{
		{groups: groups, wires: wires, port: portA},
		{groups: []netip.Addr{groups[0], groups[2], groups[4], groups[6], groups[8]}, wires: wires[:1], port: portA},
		{groups: []netip.Addr{groups[1], groups[2], groups[5], groups[6], groups[9]}, wires: wires[1:], port: portA},
		{groups: []netip.Addr{groups[0], groups[4]}, wires: []*wire{wires[0], wires[2]}, port: portB},
		{groups: []netip.Addr{groups[7]}, wires: wires[2:], port: portB},
	}
	for i, r := range readers {
		r.RxSocket = openRx(t, mcast.RxConfig{Groups: r.groups, Port: r.port, Interfaces: interfacesOf(r.wires),
			Coalesce: i%2 == 1, HopLimits: i == 2})
	}
	stations := map[*wire][2]*station{}
	for _, w := range wires {
		stations[w] = [2]*station{w.station(t, w.IPv4, 0), w.station(t, w.IPv6, 0)}
	}
	send := func(w *wire, to netip.Addr, port uint16, payload string) {
		i := 0
		if to.Is6() {
			i = 1
		}
		stations[w][i].send(to, port, payload)
	}

	for round := range rounds {
		want := make([][]arrival, len(readers))
		note := func(w *wire, group netip.Addr, port uint16, payload string) {
			for i, r := range readers {
				if r.wants(group, w, port) {
					want[i] = append(want[i], arrival{payload, group, w.at.Index})
				}
			}
		}
		for i := range perRound {
			w := wires[random.IntN(len(wires))]
			group := groups[random.IntN(len(groups))]
			port := []uint16{portA, portB}[random.IntN(2)]
			payload := fmt.Sprintf("%d.%d", round, i)
			if random.IntN(5) == 0 {
				send(w, w.like(group, 1), port, payload+" unicast")
				continue
			}
			send(w, group, port, payload)
			note(w, group, port, payload)
		}
		for _, w := range wires {
			for _, group := range groups {
				for _, port := range []uint16{portA, portB} {
					payload := fmt.Sprintf("%d marker %s %s %d", round, w.Name(), group, port)
					send(w, group, port, payload)
					note(w, group, port, payload)
				}
			}
		}
		for i, r := range readers {
			if round%2 == 0 {
				wantArrivals(t, r.RxSocket, want[i]...)
				continue
			}
			var got []arrival // without what ReadFrom does not return
			r.SetReadDeadline(time.Now().Add(patience))
			buf := make([]byte, 2048)
			for range want[i] {
				n, _, err := r.ReadFrom(buf)
				if err != nil {
					t.Fatalf("%v after %d of %d", err, len(got), len(want[i]))
				}
				got = append(got, arrival{Payload: string(buf[:n])})
			}
			for j := range want[i] {
				want[i][j] = arrival{Payload: want[i][j].Payload}
			}
			compareArrivals(t, got, want[i]) // one too many is one that is missing here, or else in the next round
		}
		if t.Failed() {
			t.Fatalf("in round %d with seed %d", round, seed)
		}
	}
}

func TestRxLocalDescribesDatagrams(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(func(cfg *mcast.RxConfig) { cfg.HopLimits = true }), l.tx(func(cfg *mcast.TxConfig) { cfg.TTL = 7 })
		l.send(tx, 0, "one")
		src := l.want(rx, "one")
		if zone := src.Addr().Zone(); src.Addr().IsLinkLocalUnicast() != (zone == strconv.Itoa(l.ifc.Index)) {
			t.Errorf("the zone of %v is %q, want the interface's index", src, zone)
		}
		l.send(tx, 0, "two")
		l.send(tx, 0, "")
		ms := []mcast.Message{{Buf: make([]byte, 10)}}
		for _, payload := range []string{"two", ""} {
			n, err := rx.ReadBatch(ms)
			m := ms[0]
			if n != 1 || err != nil || string(m.Buf[:m.N]) != payload || m.Addr != src || m.Group != l.groups[0] ||
				m.IfIndex != l.ifc.Index || m.HopLimit != 7 || m.Truncated {
				t.Errorf("%d, %v: %+v", n, err, m)
			}
		}
		all := rx.Memberships()
		if len(all) != 1 || !all[0].Joined || all[0].Packets != 3 || all[0].Bytes != 6 || all[0].ReadBuffer <= 0 || all[0].IfIndex != l.ifc.Index {
			t.Errorf("%+v", all)
		}
	})
}

// Floods of two groups from several goroutines do not keep a third group from being read.
func TestRxLocalFloodSilencesNoGroup(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, quiet := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups }), l.tx(nil)
		var flooding sync.WaitGroup
		defer flooding.Wait()
		stop, end := context.WithCancel(context.Background())
		defer end()
		for _, group := range l.groups[1:] {
			tx := l.tx(nil)
			flooding.Go(func() {
				for stop.Err() == nil {
					tx.WriteToUDPAddrPort([]byte("flood"), netip.AddrPortFrom(group, l.port))
				}
			})
		}
		buf := make([]byte, 100)
		for n := range 20 {
			// On a system where the groups of an interface share a buffer, it may be full.
			want, tries := fmt.Sprint(n), 0
			for got := ""; got != want; tries++ {
				if tries%1000 == 0 {
					l.send(quiet, 0, want)
				}
				k, _, err := rx.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Fatalf("round %d: %v", n, err)
				}
				got = string(buf[:k])
			}
		}
	})
}

// OpenRx names the cause when another program does not share the port.
func TestRxLocalPortTaken(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		other, err := net.ListenUDP(network(l.groups[0]), &net.UDPAddr{Port: int(l.port)})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		rx, err := mcast.OpenRx(mcast.RxConfig{Groups: l.groups, Port: l.port, Interfaces: []mcast.Interface{l.ifc}})
		if err == nil {
			rx.Close()
			t.Skip("this system has room for an address beside a wildcard that does not share")
		}
		var e *mcast.OpError
		if !errors.As(err, &e) || !strings.Contains(e.Hint, "SO_REUSE") {
			t.Errorf("%v, want an OpError whose hint says what shares a port", err)
		}
	})
}

func TestRxLocalJoinLeave(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		control := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups })
		for range 3 {
			if err := rx.Join(l.groups[1]); err != nil {
				t.Fatal(err)
			}
			l.send(tx, 1, "joined")
			l.want(rx, "joined")
			l.want(control, "joined")
			if err := rx.Leave(l.groups[1]); err != nil {
				t.Fatal(err)
			}
			l.send(tx, 1, "left")
			l.want(control, "left")
			l.send(tx, 0, "marker")
			l.want(rx, "marker")
			l.want(control, "marker")
		}
		if err := rx.Leave(l.groups[1]); !errors.Is(err, mcast.ErrNotJoined) {
			t.Errorf("leaving again: %v", err)
		}
		// Leave all, and join again: where groups share an OS socket, that is closed and opened again.
		if err := rx.Leave(l.groups[0]); err != nil {
			t.Fatal(err)
		}
		if all := rx.Memberships(); len(all) != 0 {
			t.Errorf("left: %+v", all)
		}
		if err := rx.Join(l.groups[2]); err != nil {
			t.Fatal(err)
		}
		l.send(tx, 2, "again")
		l.want(rx, "again")
	})
}

func TestRxLocalTruncates(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		l.send(tx, 0, "0123456789")
		l.send(tx, 0, "0123456789")
		l.send(tx, 0, "after")
		buf := make([]byte, 4)
		if n, src, err := rx.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "0123" || !l.own(src.Addr()) {
			t.Errorf("read %q from %v, %v", buf[:n], src, err)
		}
		ms := []mcast.Message{{Buf: buf}}
		if _, err := rx.ReadBatch(ms); err != nil || ms[0].N != 4 || !ms[0].Truncated || !l.own(ms[0].Addr.Addr()) {
			t.Errorf("%+v, %v", ms[0], err)
		}
		l.want(rx, "after")
		if m := rx.Memberships()[0]; m.Truncated != 2 || m.Packets != 3 {
			t.Errorf("%+v", m)
		}
	})
}

func TestRxLocalDoesNotAllocate(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		// A socket that follows the network allocates when the network changes.
		rx := l.rx(func(cfg *mcast.RxConfig) { cfg.Static = true })
		tx := l.tx(func(cfg *mcast.TxConfig) { cfg.Static = true })
		dst, buf := netip.AddrPortFrom(l.groups[0], l.port), make([]byte, 100)
		ms := []mcast.Message{{Buf: make([]byte, 100)}}
		if n := testing.AllocsPerRun(100, func() {
			tx.WriteToUDPAddrPort(buf, dst)
			_, src, _ := rx.ReadFromUDPAddrPort(buf)
			rx.WriteToUDPAddrPort(buf, src)
			tx.WriteToUDPAddrPort(buf, dst)
			rx.ReadBatch(ms)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// Messages ends with its context, and other reads go on.
func TestRxLocalMessages(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		l.send(tx, 0, "0")
		n := 0
		for m, err := range rx.Messages(ctx) {
			if err != nil || string(m.Buf[:m.N]) != fmt.Sprint(n) || m.Group != l.groups[0] {
				t.Fatalf("message %d: %+v, %v", n, m, err)
			}
			if n++; n == 3 {
				time.AfterFunc(10*time.Millisecond, cancel)
				continue
			}
			l.send(tx, 0, fmt.Sprint(n))
		}
		if n != 3 {
			t.Errorf("%d messages", n)
		}
		l.send(tx, 0, "after")
		l.want(rx, "after")
	})
}

func TestRxLocalReplies(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		for _, round := range []string{"first", "second"} {
			l.send(tx, 0, "question")
			src := l.want(rx, "question")
			if _, err := rx.WriteToUDPAddrPort([]byte(round), src); err != nil {
				t.Fatal(err)
			}
			if from := l.want(tx, round); from.Port() != l.port || !l.own(from.Addr()) {
				t.Errorf("the reply came from %v, want one of our own addresses, and port %d", from, l.port)
			}
		}
		rx.Close()
		if _, err := rx.WriteToUDPAddrPort([]byte("late"), netip.AddrPortFrom(l.ownAddr(), 9)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}

// A source that was forged may be the address of no single host. TestRxLocalReplies is the control.
func TestRxLocalRepliesToSingleHostsOnly(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx := l.rx(nil)
		to := groupsOf("::")
		if l.groups[0].Is4() {
			// The broadcast address of the network, too.
			p := l.ifc.IPv4[0]
			b := binary.BigEndian.Uint32(p.Addr().AsSlice()) | uint32(1<<(32-p.Bits())-1)
			to = append(groupsOf("0.0.0.0", "255.255.255.255"), netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, b))))
		}
		for _, a := range append(to, l.groups[0]) {
			var op *mcast.OpError
			if n, err := rx.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(a, 9)); n != 0 || !errors.As(err, &op) || op.Op != "write" {
				t.Errorf("to %v: %d, %v", a, n, err)
			}
		}
	})
}

func TestRxLocalDeadlineEndsReads(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		deadlineEndsRead(t, rx)
		l.send(tx, 0, "after")
		l.want(rx, "after")
	})
}

func TestRxLocalCloseEndsReads(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		for range 5 {
			rx := l.rx(nil)
			closeEndsReads(t, rx)
			if err := rx.Join(l.groups[1]); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Join after Close: %v", err)
			}
		}
	})
}

// Close discards what nobody has read, and frees the port.
func TestRxCloseDeliversNoMore(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}})
		control := newNaive(t, nil, r.group, port, w.Name())
		w.station(t, r.group, 0).send(r.group, port, "datagram")
		control.await("datagram")
		if err := rx.Close(); err != nil {
			t.Error(err)
		}
		if n, err := rx.ReadBatch(make([]mcast.Message, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch after Close: %d, %v", n, err)
		}
		control.Close()
		// Now a socket that does not share its port can bind it.
		newUnicast(t, nil, unspecified(r.group), port)
	})
}

// Many sockets are opened and closed on one port, one after the other.
func TestRxLocalOpensAndClosesOften(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		for n := range 50 {
			rx, tx := l.rx(nil), l.tx(nil)
			l.send(tx, 0, fmt.Sprint(n))
			l.want(rx, fmt.Sprint(n))
			if err := cmp.Or(rx.Close(), tx.Close()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
