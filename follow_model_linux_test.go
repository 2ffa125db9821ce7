// A random life of interfaces and sockets against a model: after every burst of changes, what the sockets say of
// themselves and what they receive must be what the model says. The model knows nothing of how following is done. It
// says what must be so and what may be so: which of the states of a burst a socket got to see is up to chance.
//
//	MCAST_MODEL_SEED=7    plays one life again, as far as chance allows
//	MCAST_MODEL_TIME=10m  plays for longer than the usual seconds

package mcast

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

var modelPatience = slow.Limit(30 * time.Second) // for what takes milliseconds

const (
	modelPort  = 5000
	modelWires = 3
)

// modelGroups are those that may be joined. Those for which modelSSM holds are joined for some sources.
var modelGroups = groups("239.1.1.1", "239.1.1.2", "ff02::1234", "ff15::1234", "232.1.1.1", "ff35::1234")

func modelSSM(g netip.Addr) bool { return g == modelGroups[4] || g == modelGroups[5] }

// modelNames are what the interfaces can be called: the wires have the first ones when they are new.
var modelNames = []string{"m0", "m1", "m2", "x0", "x1"}

// modelWire is a cable: its near end is the interface that things happen to, at its far end is a host of its own.
type modelWire struct {
	n     int
	veth  *mcasttest.Interface
	peer  *mcasttest.Host
	rx    *modelPeer
	tx    *TxSocket
	there bool
	up    bool
	small bool // its MTU is too small for IPv6
	addrs []netip.Prefix

	index int // now, or the last
	was   modelPast
}

// modelPast is what happened to a wire since the last quiet moment.
type modelPast struct {
	names    map[string]bool // that it had, at one time or another
	eligible map[bool]bool   // by IPv4 or not: a socket on all interfaces would have joined
	lost     map[int]bool    // indexes whose memberships were lost
	renamed  bool
}

// has reports whether the interface has an address of g's family.
func (w *modelWire) has(g netip.Addr) bool {
	return slices.ContainsFunc(w.addrs, func(p netip.Prefix) bool {
		return p.Addr().Is4() == g.Is4() && (g.Is4() || w.up && !w.small)
	})
}

// joinable reports whether the kernel lets a group be joined on it.
func (w *modelWire) joinable(g netip.Addr) bool { return w.there && (g.Is4() || !w.small) }

// note takes down what a scan could see now.
func (w *modelWire) note() {
	if !w.there {
		return
	}
	w.was.names[w.veth.Name()] = true
	for _, g := range groups("239.1.1.1", "ff02::1234") {
		if w.up && w.has(g) {
			w.was.eligible[g.Is4()] = true
		}
	}
}

// modelSocket is a receiver and what it should have joined.
type modelSocket struct {
	name    string
	named   bool // its interfaces are: the first two wires
	blocked []netip.Addr

	rx      *RxSocket
	readers sync.WaitGroup
	groups  map[netip.Addr][]netip.Addr // what is joined: for which sources
	links   []modelLink                 // of a socket with named interfaces
	listed  map[modelPair]bool          // at the last quiet moment
	knows   map[int]bool                // of which interfaces, then
	steady  bool                        // nothing happened to interfaces since

	mu   sync.Mutex
	got  map[string]int // datagrams, by their text
	errs []error
}

// modelLink is a named interface: the name it must come back under, and its index; 0 if it is gone.
type modelLink struct {
	name  string
	index int
}

type modelPair struct {
	group netip.Addr
	index int
}

// modelPeer is a receiver at the far end of a wire.
type modelPeer struct {
	modelSocket
}

type model struct {
	*testing.T
	*rand.Rand
	host    *mcasttest.Host
	wires   []*modelWire
	sockets []*modelSocket
	tx      *TxSocket
	txLinks []modelLink
	serial  int
	log     []string // of the operations, for whoever has to find out

	marker *mcasttest.Interface // one that nobody joins on
	marks  atomic.Int32         // how often followers were told that it had been away
}

func TestFollowModel(t *testing.T) {
	mcasttest.Require(t)
	length := 10 * time.Second
	if text := os.Getenv("MCAST_MODEL_TIME"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	if text := os.Getenv("MCAST_MODEL_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(length); ; seed++ {
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { playModel(t, seed) })
		if !ok {
			t.Logf("play it again: MCAST_MODEL_SEED=%d", seed)
		}
		if !ok || time.Now().After(end) {
			return
		}
	}
}

// playModel plays one life of a fixed number of quiet moments.
func playModel(t *testing.T, seed uint64) {
	const moments = 12
	m := &model{T: t, Rand: rand.New(rand.NewPCG(seed, 1)), host: mcasttest.NewHost(t)}
	defer func() {
		if t.Failed() {
			t.Logf("what happened:\n%s", strings.Join(m.log, "\n"))
			m.abandon()
		}
	}()
	m.plain(m.host)
	m.addMarker()
	for n := range modelWires {
		m.addWire(n)
	}
	m.forget()
	m.sockets = []*modelSocket{{name: "all"}, {name: "named", named: true}}
	for _, s := range m.sockets {
		m.open(s)
	}
	m.openTx()
	before := count(t)
	for range moments {
		m.forget()
		for range 1 + m.IntN(6) {
			m.step()
		}
		m.quiet()
	}
	// Everything is as in the beginning, and so must be what it takes.
	m.forget()
	for _, w := range m.wires {
		m.restore(w)
	}
	for _, s := range m.sockets {
		for _, g := range modelGroups {
			if s.groups[g] != nil {
				m.leave(s, g)
			}
		}
	}
	m.quiet()
	before.fds += 6 // no more than a part of them can have been open at the beginning
	for _, s := range m.sockets {
		s.close(t)
	}
	m.tx.Close()
	for _, w := range m.wires {
		w.tx.Close()
		w.rx.close(t)
	}
	wantResources(t, before)
}

// abandon closes what a test that failed has left open, so that others do not fail, too.
func (m *model) abandon() {
	for _, s := range m.sockets {
		if s.rx != nil {
			s.rx.Close()
		}
	}
	if m.tx != nil {
		m.tx.Close()
	}
	for _, w := range m.wires {
		w.tx.Close()
		w.rx.rx.Close()
	}
}

// plain has a host accept sources that it has no route to, so that addresses do not decide what arrives, and have no
// addresses but those that it is given.
func (m *model) plain(h *mcasttest.Host) {
	h.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	h.Sysctl("net/ipv4/conf/default/rp_filter", "0")
	// IN6_ADDR_GEN_MODE_NONE: the kernel must not give an interface that has IPv6 again an address of its own.
	h.Sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
}

func (m *model) addMarker() {
	m.marker = m.host.NewVeth("marker")
	m.marker.DelAddress(netip.PrefixFrom(m.marker.LinkLocal, 64))
	m.marker.Down()
	index := m.marker.Index()
	m.host.Do(func() {
		stop, err := processWatch.follow(func(c networkChange) time.Duration {
			if c.gone(index) {
				m.marks.Add(1)
			}
			return 0
		})
		if err != nil {
			m.Fatal(err)
		}
		m.Cleanup(stop)
	})
}

// settle waits until all that has happened was told to the sockets. That an interface was away is told after the scan
// that may already show it again; and with a name that it was given in between, it would be another one to them.
func (m *model) settle() {
	want := m.marks.Load() + 1
	m.marker.Travel()
	for end := time.Now().Add(modelPatience); m.marks.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			m.Fatal("nobody was told that the marker had been away")
		}
	}
}

func (m *model) addWire(n int) {
	w := &modelWire{n: n, there: true, up: true}
	w.addrs = []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(n), 1}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 7: byte(n), 15: 1}), 64),
	}
	w.veth = m.host.NewVeth(modelNames[n], w.addrs...)
	w.addrs = append(w.addrs, netip.PrefixFrom(w.veth.LinkLocal, 64))
	w.peer = w.veth.Peer()
	m.plain(w.peer)
	w.index = w.veth.Index()
	w.peer.Do(func() {
		eth0, err := FindInterfaces("eth0")
		if err != nil {
			m.Fatal(err)
		}
		if w.tx, err = OpenTx(TxConfig{Groups: modelGroups, Interfaces: eth0}); err != nil {
			m.Fatal(err)
		}
		w.rx = &modelPeer{modelSocket{name: fmt.Sprintf("peer %d", n)}}
		if w.rx.rx, err = OpenRx(RxConfig{Groups: modelGroups, Port: modelPort, Interfaces: eth0}); err != nil {
			m.Fatal(err)
		}
	})
	w.rx.read(2)
	m.wires = append(m.wires, w)
}

// source is where the datagrams of a wire to a group come from.
func (w *modelWire) source(g netip.Addr) netip.Addr {
	switch {
	case g.Is4():
		return w.peer.IPv4
	case g.IsLinkLocalMulticast():
		return w.peer.LinkLocal
	}
	return w.peer.IPv6
}

// forget begins a new burst.
func (m *model) forget() {
	for _, w := range m.wires {
		w.was = modelPast{names: make(map[string]bool), eligible: make(map[bool]bool), lost: make(map[int]bool)}
		w.note()
	}
	for _, s := range m.sockets {
		s.steady = true
	}
}

func (m *model) say(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

// step does one random thing.
func (m *model) step() {
	w := m.wires[m.IntN(len(m.wires))]
	s := m.sockets[m.IntN(len(m.sockets))]
	g := modelGroups[m.IntN(len(modelGroups))]
	switch m.IntN(18) {
	case 0, 1, 2:
		if w.there {
			m.delete(w)
		} else {
			m.create(w)
		}
	case 3:
		if w.there {
			m.delete(w)
			m.noise()
			m.create(w)
		}
	case 4, 5:
		m.rename(w)
	case 6:
		m.setUp(w, !w.up)
	case 7, 8:
		m.changeAddress(w)
	case 9:
		m.setSmall(w, !w.small)
	case 10:
		if !w.small {
			m.setSmall(w, true)
			m.noise()
			m.setSmall(w, false)
		}
	case 11, 12:
		m.travel(w)
	case 13, 14:
		m.join(s, g)
	case 15:
		m.leave(s, g)
	case 16:
		s.rx.SetReadDeadline(time.Unix(1, 0))
		m.noise()
		s.rx.SetReadDeadline(time.Time{})
	case 17:
		if m.IntN(4) == 0 {
			s.close(m.T)
			m.open(s)
		}
	}
	for _, w := range m.wires {
		w.note()
	}
	if m.IntN(3) == 0 {
		m.noise()
	}
	if m.IntN(4) == 0 { // now and then the sockets get to see what is in the middle of a burst
		m.pause()
	}
}

// pause gives the sockets the time to follow what has happened so far, or to be in the middle of it.
func (m *model) pause() { time.Sleep(time.Duration(m.IntN(200)) * time.Millisecond) }

func (m *model) happened(w *modelWire, format string, args ...any) {
	m.say("wire %d (%s, index %d): %s", w.n, w.veth.Name(), w.index, fmt.Sprintf(format, args...))
	for _, s := range m.sockets {
		s.steady = false
	}
}

func (m *model) delete(w *modelWire) {
	m.happened(w, "delete")
	w.veth.Delete()
	w.there = false
	w.was.lost[w.index] = true
}

func (m *model) create(w *modelWire) {
	w.veth.Create()
	w.index = w.veth.Index()
	w.there, w.up, w.small = true, true, false
	m.happened(w, "create")
	w.note()
}

func (m *model) setUp(w *modelWire, up bool) {
	if !w.there {
		return
	}
	m.happened(w, "up %v", up)
	if up {
		w.veth.Up()
	} else {
		w.veth.Down()
	}
	w.up = up
}

func (m *model) setSmall(w *modelWire, small bool) {
	if !w.there {
		return
	}
	m.happened(w, "small %v", small)
	mtu := 1500
	if small {
		mtu = 1200
	}
	w.veth.SetMTU(mtu)
	w.small = small
}

func (m *model) travel(w *modelWire) {
	// After a name that the sockets may not have seen yet, it would be another interface to them. And mcasttest cannot
	// do it with an interface that has no IPv6, nor give one that is down its addresses again.
	if !w.there || !w.up || w.small || w.was.renamed {
		return
	}
	m.happened(w, "travel")
	w.was.lost[w.index] = true
	w.veth.Travel()
	if index := w.veth.Index(); index != w.index {
		m.say("it has index %d now", index)
		w.index = index
	}
}

func (m *model) rename(w *modelWire) {
	if !w.there || w.was.lost[w.index] {
		return
	}
	name := modelNames[m.IntN(len(modelNames))]
	for _, other := range m.wires {
		if other.veth.Name() == name { // or it will have it again
			return
		}
	}
	m.happened(w, "rename to %s", name)
	w.veth.Rename(name)
	w.was.renamed = true
}

func (m *model) changeAddress(w *modelWire) {
	if !w.there {
		return
	}
	all := []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(w.n), 1}), 24),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(w.n), 1}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 7: byte(w.n), 15: 1}), 64),
		netip.PrefixFrom(w.veth.LinkLocal, 64),
	}
	p := all[m.IntN(len(all))]
	if p.Addr().Is6() && (!w.up || w.small) {
		return // the kernel has none of them now
	}
	if i := slices.Index(w.addrs, p); i >= 0 {
		m.happened(w, "delete %s", p)
		w.veth.DelAddress(p)
		w.addrs = slices.Delete(w.addrs, i, i+1)
		return
	}
	m.happened(w, "add %s", p)
	w.veth.AddAddress(p)
	w.addrs = append(w.addrs, p)
}

// restore makes a wire what it was at first.
func (m *model) restore(w *modelWire) {
	if !w.there {
		m.create(w)
	}
	m.setSmall(w, false)
	m.setUp(w, true)
}

// noise sends something by every wire. It need not arrive, but not twice, and to no socket that did not want it.
func (m *model) noise() {
	for _, w := range m.wires {
		for _, g := range modelGroups {
			m.serial++
			_, _ = w.tx.WriteToUDPAddrPort(modelText(m.serial, w, g), netip.AddrPortFrom(g, modelPort))
		}
	}
}

func modelText(serial int, w *modelWire, g netip.Addr) []byte {
	return fmt.Appendf(nil, "%d wire %d %s", serial, w.n, g)
}

// open opens a receiver for some groups.
func (m *model) open(s *modelSocket) {
	s.groups = make(map[netip.Addr][]netip.Addr)
	s.got = make(map[string]int)
	s.listed = make(map[modelPair]bool)
	s.links, s.knows = nil, nil
	cfg := RxConfig{Port: modelPort}
	for _, g := range modelGroups[:4] {
		if m.IntN(2) == 0 {
			cfg.Groups = append(cfg.Groups, g)
		}
	}
	if len(cfg.Groups) == 0 {
		cfg.Groups = modelGroups[:1]
	}
	s.blocked = nil
	if m.IntN(2) == 0 {
		for _, g := range groups("239.1.1.1", "ff02::1234", "ff15::1234") {
			if slices.ContainsFunc(cfg.Groups, func(other netip.Addr) bool { return other.Is4() == g.Is4() }) {
				s.blocked = append(s.blocked, m.wires[1].source(g))
			}
		}
		cfg.Blocked = s.blocked
	}
	// An interface that is not what the socket needs is for the tests of opening.
	for _, w := range m.wires {
		m.ready(w)
	}
	m.host.Do(func() {
		var err error
		if s.named {
			cfg.Interfaces = m.firstTwo()
			for _, ifc := range cfg.Interfaces {
				s.links = append(s.links, modelLink{ifc.Name, ifc.Index})
			}
		}
		if s.rx, err = OpenRx(cfg); err != nil {
			m.Fatalf("open %s: %v", s.name, err)
		}
	})
	for _, g := range cfg.Groups {
		s.groups[g] = []netip.Addr{}
	}
	m.say("open %s: %v, blocked %v", s.name, cfg.Groups, s.blocked)
	s.read(2)
}

// ready gives a wire what every group needs.
func (m *model) ready(w *modelWire) {
	m.restore(w)
	for _, p := range []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(w.n), 1}), 24),
		netip.PrefixFrom(w.veth.LinkLocal, 64),
	} {
		if !slices.Contains(w.addrs, p) {
			m.happened(w, "add %s", p)
			w.veth.AddAddress(p)
			w.addrs = append(w.addrs, p)
		}
	}
	w.note()
}

// firstTwo are the interfaces of the first two wires. It is to be called on the host.
func (m *model) firstTwo() (list []Interface) {
	list, err := FindInterfaces(m.wires[0].veth.Name(), m.wires[1].veth.Name())
	if err != nil {
		m.Fatal(err)
	}
	return list
}

func (m *model) openTx() {
	m.host.Do(func() {
		two := m.firstTwo()
		for _, ifc := range two {
			m.txLinks = append(m.txLinks, modelLink{ifc.Name, ifc.Index})
		}
		var err error
		if m.tx, err = OpenTx(TxConfig{Groups: modelGroups, Interfaces: two}); err != nil {
			m.Fatal(err)
		}
	})
}

// read has goroutines read what comes, in both ways, until the socket is closed.
func (s *modelSocket) read(n int) {
	rx := s.rx
	s.got = make(map[string]int)
	take := func(text string, err error) (more bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case errors.Is(err, net.ErrClosed):
			return false
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			s.errs = append(s.errs, err)
		default:
			s.got[text]++
		}
		return true
	}
	for range n {
		s.readers.Go(func() {
			ms := []Message{{Buf: make([]byte, 100)}, {Buf: make([]byte, 100)}}
			for more := true; more; runtime.Gosched() {
				n, err := rx.ReadBatch(ms)
				for _, msg := range ms[:n] {
					text := string(msg.Buf[:msg.N])
					if !strings.HasSuffix(text, " "+msg.Group.String()) {
						text = fmt.Sprintf("%s, which was said to be to %s", text, msg.Group)
					}
					more = take(text, nil)
				}
				if n == 0 {
					more = take("", err)
				}
			}
		})
		s.readers.Go(func() {
			buf := make([]byte, 100)
			for more := true; more; runtime.Gosched() {
				n, _, err := rx.ReadFromUDPAddrPort(buf)
				more = take(string(buf[:n]), err)
			}
		})
	}
}

func (s *modelSocket) close(t *testing.T) {
	if err := s.rx.Close(); err != nil {
		t.Errorf("close %s: %v", s.name, err)
	}
	s.readers.Wait()
	s.check(t)
	s.steady = false
}

// check looks at what was read so far: nothing twice, and no errors.
func (s *modelSocket) check(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text, n := range s.got {
		if n > 1 {
			t.Errorf("%s: %q came %d times", s.name, text, n)
		}
	}
	for _, err := range s.errs {
		t.Errorf("%s: %v", s.name, err)
	}
}

// join joins a group, or adds sources to it.
func (m *model) join(s *modelSocket, g netip.Addr) {
	var sources []netip.Addr
	if modelSSM(g) {
		for _, w := range m.wires {
			if m.IntN(2) == 0 {
				sources = append(sources, w.source(g))
			}
		}
		if len(sources) == 0 {
			sources = append(sources, m.wires[0].source(g))
		}
	}
	var err error
	m.host.Do(func() { err = s.rx.Join(g, sources...) }) // a thread in another network would open the OS sockets there
	m.say("%s joins %s %v: %v", s.name, g, sources, err)
	if s.steady {
		blocked := slices.ContainsFunc(sources, func(a netip.Addr) bool { return slices.Contains(s.blocked, a) })
		if possible := !blocked && m.mayJoin(s, g, s.named); (err == nil) != possible {
			m.Errorf("%s joins %s %v: %v, want success %v", s.name, g, sources, err, possible)
		}
	}
	if err != nil {
		return
	}
	all := append(s.groups[g], sources...)
	slices.SortFunc(all, netip.Addr.Compare)
	if s.groups[g] == nil && all == nil {
		all = []netip.Addr{}
	}
	s.groups[g] = slices.Compact(all)
	for p := range s.listed { // for a quiet moment to come
		if p.group == g && s.named {
			delete(s.listed, p)
		}
	}
}

// mayJoin says whether a group can be joined on every interface of a socket, or on one of them, in a quiet moment.
func (m *model) mayJoin(s *modelSocket, g netip.Addr, everywhere bool) bool {
	if len(s.groups[g]) == 0 && s.groups[g] != nil {
		return true // it is joined already
	}
	if !s.named {
		if s.groups[g] != nil {
			return true // it is a member where it can
		}
		tried, joined := false, false // with none to try, the group waits
		for _, w := range m.wires {
			if w.there && w.has(g) && (w.up || s.knows[w.index]) { // it may know of the interface from before that was down
				tried, joined = true, joined || w.joinable(g)
			}
		}
		return joined || !tried
	}
	for _, l := range s.links {
		w := m.byIndex(l.index)
		if s.groups[g] != nil {
			continue // more sources, where it is joined: those that are not will have them in time
		}
		if w == nil || !w.joinable(g) || g.Is6() && !w.has(g) {
			return false
		}
	}
	return true
}

func (m *model) leave(s *modelSocket, g netip.Addr) {
	err := s.rx.Leave(g)
	m.say("%s leaves %s: %v", s.name, g, err)
	if joined := s.groups[g] != nil; joined != (err == nil) {
		m.Errorf("%s leaves %s: %v", s.name, g, err)
	}
	delete(s.groups, g)
	for p := range s.listed {
		if p.group == g {
			delete(s.listed, p)
		}
	}
}

func (m *model) byIndex(index int) *modelWire {
	for _, w := range m.wires {
		if w.there && w.index == index {
			return w
		}
	}
	return nil
}

// quiet waits until everything is as the model has it, by what the sockets say and by what arrives.
func (m *model) quiet() {
	m.Helper()
	m.say("quiet?")
	var wrong string
	for end := time.Now().Add(modelPatience); ; time.Sleep(5 * time.Millisecond) {
		if wrong = m.compare(); wrong == "" {
			if wrong = m.exchange(); wrong == "" {
				break
			}
		}
		if time.Now().After(end) {
			m.Fatalf("no quiet: %s%s", wrong, m.kernelSays())
		}
	}
	for _, s := range m.sockets {
		s.check(m.T)
		s.listed = make(map[modelPair]bool)
		for _, x := range s.rx.Memberships() {
			s.listed[modelPair{x.Group, x.IfIndex}] = true
		}
		s.knows = s.known()
		m.adopt(s.links, func(l modelLink) int { return m.linkIndex(s, l) })
	}
	m.adopt(m.txLinks, m.txIndex)
	for _, w := range m.wires {
		w.rx.check(m.T)
	}
	if slices.ContainsFunc(m.wires, func(w *modelWire) bool { return w.there && w.was.lost[w.index] }) {
		m.settle()
	}
	if m.Failed() {
		m.FailNow()
	}
}

// kernelSays is what the kernel has on the host, and what the far ends have.
func (m *model) kernelSays() (text string) {
	for _, w := range m.wires {
		text += fmt.Sprintf("\n%s sends by %v and receives\n%s", w.rx.name, w.tx.Interfaces(), modelPrint(w.rx.rx.Memberships()))
		w.peer.Do(func() {
			list, err := Interfaces()
			text += fmt.Sprintf("there is %v %v", list, err)
		})
	}
	m.host.Do(func() {
		for _, name := range []string{"igmp", "igmp6", "mcfilter", "mcfilter6", "netstat"} {
			b, _ := os.ReadFile("/proc/thread-self/net/" + name)
			text += "\n" + name + "\n" + string(b)
		}
	})
	return text
}

// adopt takes over what has become of named interfaces.
func (m *model) adopt(links []modelLink, index func(modelLink) int) {
	for i, l := range links {
		links[i].index = index(l)
	}
}

// compare says what is wrong with what the sockets say of themselves; nothing: "".
func (m *model) compare() string {
	for _, s := range m.sockets {
		if wrong := m.compareSocket(s); wrong != "" {
			return fmt.Sprintf("%s: %s; it says\n%s", s.name, wrong, modelPrint(s.rx.Memberships()))
		}
	}
	var own []modelLink
	for _, l := range m.txLinks {
		own = append(own, modelLink{l.name, m.txIndex(l)})
	}
	if wrong := m.compareLinks(m.txLinks, own); wrong != "" {
		return fmt.Sprintf("the sender: %s; it says %v", wrong, m.tx.Interfaces())
	}
	for _, w := range m.wires {
		if !w.there {
			continue
		}
		for _, x := range w.rx.rx.Memberships() {
			if !x.Joined {
				return fmt.Sprintf("%s: %s is not joined: %v", w.rx.name, x.Group, x.Err)
			}
		}
	}
	return ""
}

func modelPrint(all []Membership) string {
	var b strings.Builder
	for _, x := range all {
		fmt.Fprintf(&b, "  %s on %s (%d) %v joined %v %v\n", x.Group, x.Interface, x.IfIndex, x.Sources, x.Joined, x.Err)
	}
	return b.String()
}

func (m *model) compareSocket(s *modelSocket) string {
	all := s.rx.Memberships()
	listed := make(map[modelPair]Membership)
	for _, x := range all {
		if x.IfIndex == 0 && !s.named { // the group waits for an interface
			if x.Joined || !errors.Is(x.Err, ErrNoInterface) {
				return fmt.Sprintf("%s waits, with %+v", x.Group, x)
			}
			continue
		}
		key := modelPair{x.Group, x.IfIndex}
		if other, twice := listed[key]; twice && (x.Joined || other.Joined) {
			return fmt.Sprintf("%v is there twice", key)
		}
		listed[key] = x
		sources, joined := s.groups[x.Group]
		slices.SortFunc(x.Sources, netip.Addr.Compare)
		if !joined || !slices.Equal(x.Sources, sources) {
			return fmt.Sprintf("%s is joined for %v, want %v", x.Group, x.Sources, sources)
		}
		if x.Joined != (x.Err == nil) {
			return fmt.Sprintf("%v is joined %v with error %v", key, x.Joined, x.Err)
		}
		w := m.byIndex(x.IfIndex)
		switch gone := errors.Is(x.Err, ErrNoInterface); {
		case gone && s.named:
		case gone:
			return fmt.Sprintf("%v is gone, and should be forgotten", key)
		case w == nil:
			return fmt.Sprintf("%v: there is no such interface", key)
		case x.Interface != w.veth.Name():
			return fmt.Sprintf("%v: the interface is %s", key, w.veth.Name())
		case x.Joined != w.joinable(x.Group):
			return fmt.Sprintf("%v: joined %v, want %v", key, x.Joined, w.joinable(x.Group))
		}
	}
	if s.named {
		return cmp.Or(m.compareNamed(s, all), m.compareSeen(s))
	}
	return cmp.Or(m.compareAll(s, listed), m.compareSeen(s))
}

// compareSeen says what a socket has yet to see. Memberships do not tell as long as no group has to do with it, but Join
// goes by it.
func (m *model) compareSeen(s *modelSocket) string {
	s.rx.mu.Lock()
	defer s.rx.mu.Unlock()
	seen := make(map[int]bool)
	for _, link := range s.rx.links {
		if link.gone {
			continue
		}
		seen[link.ifc.Index] = true
		w := m.byIndex(link.ifc.Index)
		if w == nil {
			return fmt.Sprintf("it has not seen yet that interface %d is gone", link.ifc.Index)
		}
		for _, g := range groups("239.1.1.1", "ff02::1234") {
			if link.ifc.hasFamily(g) != w.has(g) {
				return fmt.Sprintf("it has not seen yet the addresses of interface %d", link.ifc.Index)
			}
		}
	}
	for _, w := range m.wires {
		if !s.named && w.there && w.up && !seen[w.index] {
			return fmt.Sprintf("it has not seen yet interface %d", w.index)
		}
	}
	return ""
}

// compareNamed looks at a socket with named interfaces: each group is there for each of them.
func (m *model) compareNamed(s *modelSocket, all []Membership) string {
	if want := len(s.groups) * len(s.links); len(all) != want {
		return fmt.Sprintf("%d pairs, want %d", len(all), want)
	}
	var now []modelLink
	for _, l := range s.links {
		now = append(now, modelLink{l.name, m.linkIndex(s, l)})
	}
	return m.compareLinks(s.links, now)
}

// linkIndex says which interface a socket has for one of its links: 0 if it is gone. The order of links is that of the
// pairs of every group.
func (m *model) linkIndex(s *modelSocket, l modelLink) int {
	s.rx.mu.Lock()
	defer s.rx.mu.Unlock()
	for _, link := range s.rx.links {
		if link.name == l.name {
			if link.gone {
				return 0
			}
			return link.ifc.Index
		}
	}
	m.Fatalf("%s has no interface %s", s.name, l.name)
	return 0
}

// txIndex says which interface the sender has for one of its links: 0 if that is not there.
func (m *model) txIndex(l modelLink) int {
	for _, link := range *m.tx.links.Load() {
		if link.name == l.name && m.byIndex(link.ifc.Index) != nil {
			return link.ifc.Index
		}
	}
	return 0
}

// compareLinks says what is wrong with what has become of named interfaces.
func (m *model) compareLinks(before, now []modelLink) string {
	for i, l := range now {
		old := before[i].index
		w := m.byIndex(old)
		kept := old != 0 && w != nil && !w.was.lost[old]
		switch {
		case kept && l.index != old:
			return fmt.Sprintf("%s is interface %d, want %d still", l.name, l.index, old)
		case kept:
		case l.index == 0:
			for _, w := range m.wires {
				taken := slices.ContainsFunc(now, func(other modelLink) bool { return other.index == w.index })
				if w.there && !taken && w.veth.Name() == l.name {
					return fmt.Sprintf("%s is there, as interface %d", l.name, w.index)
				}
			}
		default:
			w := m.byIndex(l.index)
			if w == nil || !w.was.names[l.name] && l.index != old {
				return fmt.Sprintf("%s is interface %d, which is none or was never called that", l.name, l.index)
			}
		}
		for _, other := range now[:i] {
			if l.index != 0 && l.index == other.index {
				return fmt.Sprintf("%s and %s are both interface %d", l.name, other.name, l.index)
			}
		}
	}
	return ""
}

// compareAll looks at a socket on all interfaces.
func (m *model) compareAll(s *modelSocket, listed map[modelPair]Membership) string {
	lost := false
	for _, w := range m.wires {
		lost = lost || len(w.was.lost) > 0
	}
	for _, w := range m.wires {
		if !w.there {
			continue
		}
		for g := range s.groups {
			key := modelPair{g, w.index}
			_, is := listed[key]
			had := s.listed[key] && !w.was.lost[w.index]
			must := had || w.up && w.has(g)
			may := must || lost || w.was.eligible[g.Is4()] || w.was.eligible[!g.Is4()] && w.has(g) || s.knows[w.index] && w.has(g)
			if must && !is || is && !may {
				return fmt.Sprintf("%v is listed %v; it must be %v, it may be %v", key, is, must, may)
			}
		}
	}
	return ""
}

// known are the interfaces that a socket joins on.
func (s *modelSocket) known() map[int]bool {
	s.rx.mu.Lock()
	defer s.rx.mu.Unlock()
	known := make(map[int]bool)
	for _, link := range s.rx.links {
		known[link.ifc.Index] = true
	}
	return known
}

// exchange sends a datagram from each wire to each group, and by the sender to each of its wires, and says what is wrong
// with what arrives.
func (m *model) exchange() string {
	type arrival struct {
		s    *modelSocket
		text string
	}
	want := make(map[arrival]bool)
	may := make(map[arrival]bool)
	var sent []string
	first := m.serial + 1
	for _, s := range m.sockets {
		for _, x := range s.rx.Memberships() {
			w := m.byIndex(x.IfIndex)
			if !x.Joined || w == nil || !w.up {
				continue
			}
			src := w.source(x.Group)
			if len(x.Sources) > 0 && !slices.Contains(x.Sources, src) || len(x.Sources) == 0 && slices.Contains(s.blocked, src) {
				continue
			}
			serial := first + w.n*len(modelGroups) + slices.Index(modelGroups, x.Group)
			want[arrival{s, string(modelText(serial, w, x.Group))}] = true
		}
	}
	for _, w := range m.wires {
		if w.there && w.up {
			if err := m.sendAll(w); err != nil {
				return err.Error()
			}
		} else {
			m.serial += len(modelGroups)
		}
	}
	for serial := first; serial <= m.serial; serial++ {
		n := serial - first
		sent = append(sent, string(modelText(serial, m.wires[n/len(modelGroups)], modelGroups[n%len(modelGroups)])))
	}
	for _, g := range modelGroups {
		m.serial++
		text := fmt.Sprintf("%d sender %s", m.serial, g)
		sent = append(sent, text)
		_, _ = m.tx.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(g, modelPort)) // some of its wires may be out of order
		for _, l := range m.txLinks {
			w := m.byIndex(m.txIndex(l))
			if w == nil || !w.up {
				continue
			}
			if w.has(g) {
				want[arrival{&w.rx.modelSocket, text}] = true
			}
			may[arrival{&w.rx.modelSocket, text}] = true
		}
	}
	missing := ""
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		if missing = ""; len(want) == 0 {
			break
		}
		for a := range want {
			a.s.mu.Lock()
			if a.s.got[a.text] == 0 {
				missing = fmt.Sprintf("%s: %q is missing", a.s.name, a.text)
			}
			a.s.mu.Unlock()
		}
		if missing == "" || time.Now().After(end) {
			break
		}
	}
	if missing != "" {
		return missing
	}
	all := slices.Clone(m.sockets)
	for _, w := range m.wires {
		all = append(all, &w.rx.modelSocket)
	}
	for _, s := range all {
		s.mu.Lock()
		for _, text := range sent {
			a := arrival{s, text}
			switch n := s.got[text]; {
			case n > 1:
				m.Errorf("%s: %q came %d times", s.name, text, n)
			case n == 1 && !want[a] && !may[a]:
				m.Errorf("%s: %q should not have come\n%s", s.name, text, modelPrint(s.rx.Memberships()))
			}
		}
		s.mu.Unlock()
	}
	return ""
}

// sendAll sends to every group from the far end of a wire, and returns when everything is in the sockets that want it:
// it comes by one processor's queue, and the last of it is a datagram for a socket that is there for that alone.
func (m *model) sendAll(w *modelWire) (err error) {
	witness, err := m.newWitness(w.index)
	if err != nil {
		return err
	}
	defer witness.close()
	w.peer.Do(func() {
		var all, one unix.CPUSet
		if err = unix.SchedGetaffinity(0, &all); err != nil {
			return
		}
		for cpu := range 1024 {
			if all.IsSet(cpu) {
				one.Set(cpu)
				break
			}
		}
		if err = unix.SchedSetaffinity(0, &one); err != nil { // of this thread, which ends with the function
			return
		}
		for _, g := range modelGroups {
			m.serial++
			if _, e := w.tx.WriteToUDPAddrPort(modelText(m.serial, w, g), netip.AddrPortFrom(g, modelPort)); e != nil {
				err = cmp.Or(err, fmt.Errorf("peer %d: %w", w.n, e))
			}
		}
		if err == nil {
			err = witness.mark(w.tx.Interfaces()[0].Index)
		}
	})
	if err != nil {
		return err
	}
	return witness.wait()
}

// modelWitness is a socket that sees what comes in by an interface, before the kernel looks at what it is.
type modelWitness struct{ fd int }

const modelMarker = 0x88b5 // an EtherType for experiments, IEEE 802

func (m *model) newWitness(index int) (w modelWitness, err error) {
	m.host.Do(func() { w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		return w, err
	}
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: modelProtocol(), Ifindex: index}); err != nil {
		unix.Close(w.fd)
		return w, err
	}
	wait := unix.NsecToTimeval(int64(modelPatience))
	return w, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
}

func modelProtocol() uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, modelMarker))
}

// mark sends what the witness waits for, by an interface of the calling thread's network.
func (w modelWitness) mark(index int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: modelProtocol(), Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	return unix.Sendto(fd, []byte("marker"), 0, to)
}

func (w modelWitness) wait() error {
	for {
		_, _, err := unix.Recvfrom(w.fd, make([]byte, 10), 0)
		if err != unix.EINTR {
			return err
		}
	}
}

func (w modelWitness) close() { unix.Close(w.fd) }
