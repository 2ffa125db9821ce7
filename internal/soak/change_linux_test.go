// What happens: changes to interfaces and sockets, one at a time and at random. Each says beforehand what it may
// disturb, and that is no must until all have been told and the books are made up.

package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

const (
	fewest = 3 // receivers on this host
	most   = 7
)

// disturb says that something happens to what a wire carries.
func (l *life) disturb(w int) {
	s := l.states[w]
	s.shaky = true
	s.excused[fromPeer].Store(true)
	s.excused[fromHost].Store(true)
	for _, r := range l.all() {
		for g := range groups {
			r.release(w, g)
			r.allow(g)
		}
	}
}

// readdress says that this host's addresses on a wire change. Which datagrams are the host's own, a receiver may see
// late.
func (l *life) readdress(w int) {
	l.states[w].readdressed = true
	for _, r := range l.all() {
		for g := range groups {
			r.allow(g)
		}
	}
}

// allLinks are the named interfaces of all sockets on this host that have names for them.
func (l *life) allLinks() (all []map[int]*link) {
	for _, r := range l.receivers {
		if r.links != nil {
			all = append(all, r.links)
		}
	}
	return append(all, l.txs[0].links, l.txs[1].links)
}

// created and deleted follow what the sockets make of an interface that has a name now, or goes.
func (l *life) created(w int) {
	name := l.wires[w].veth.Name()
	for _, links := range l.allLinks() {
		if k := links[w]; k != nil && name == k.first {
			k.attached = true
		}
	}
}

func (l *life) deleted(w int) {
	for _, links := range l.allLinks() {
		if k := links[w]; k != nil {
			k.attached = false
		}
	}
}

// changeWire does something to an interface, or to what it lacks. When the kernel has taken memberships, or sources,
// from sockets, or one of them has its interface again, nothing else happens before they were told: until then Join says
// that the interface is gone.
func (l *life) changeWire(x *wire) {
	name := x.veth.Name()
	defer func() {
		if l.states[x.n].shaky || x.veth.Name() != name {
			settle([]*settler{l.told, x.told})
		}
	}()
	var e *event
	switch {
	case !x.there:
		e = &repairs[0]
	case !x.up:
		e = &repairs[1]
	case !x.plugged:
		e = &repairs[2]
	case x.small:
		e = &repairs[3]
	default:
		e = l.draw()
	}
	pause := time.Duration(l.rng.IntN(40)) * time.Millisecond
	l.record(e.kind, x.n, "", "wire %d (%s, index %d): %s, with %v for it", x.n, name, l.index(x), e.what, pause)
	if e.disturbs {
		l.disturb(x.n)
	}
	e.do(l, x, pause)
}

func (l *life) index(x *wire) int {
	if !x.there {
		return 0
	}
	return x.veth.Index()
}

// changeSocket does something to a receiver, or to the sender.
func (l *life) changeSocket() {
	r := l.receivers[l.rng.IntN(len(l.receivers))]
	g := l.rng.IntN(groupCount)
	sources := l.somePeers(g)
	switch choice := l.rng.IntN(23); {
	case choice < 3 && len(l.receivers) < most:
		l.openOne()
	case choice < 5 && len(l.receivers) > fewest:
		l.record("close", -1, r.name, "close %s", r.name)
		l.receivers = slices.DeleteFunc(l.receivers, func(other *receiver) bool { return other == r })
		r.close()
	case choice < 12:
		l.join(r, g, sources)
	case choice < 16:
		l.leave(r, g)
	case choice < 17:
		l.record("deadline", -1, r.name, "%s: a read deadline passes", r.name)
		if err := r.poke(); err != nil {
			l.problem(-1, r.name, "%s: deadline: %v", r.name, err)
		}
	case choice < 19:
		l.storm()
	case choice < 21:
		l.churn(r, g)
	case choice < 22:
		s := l.peers[l.rng.IntN(wireCount)]
		l.record("write deadline", s.wire, "", "a write deadline of sender %d passes", s.wire)
		if err := s.poke(); err != nil {
			l.problem(s.wire, "", "sender %d: deadline: %v", s.wire, err)
		}
	default:
		l.reopenSender(l.rng.IntN(2))
	}
}

// somePeers are sources of a group, for those groups that are joined with some.
func (l *life) somePeers(g int) (all []netip.Addr) {
	mask := 1 + l.rng.IntN(1<<wireCount-1)
	with := specific(g) || l.rng.IntN(6) == 0
	for w, x := range l.wires {
		if with && mask>>w&1 == 1 {
			all = append(all, x.source(groups[g]))
		}
	}
	return all
}

// usable says that a socket with these links can join now, as far as is known.
func (l *life) usable(links map[int]*link) bool {
	for w, k := range links {
		if !k.attached || !l.wires[w].whole() || l.states[w].shaky {
			return false
		}
	}
	return true
}

// join joins a group, or adds sources to it.
func (l *life) join(r *receiver, g int, sources []netip.Addr) {
	old, joined := r.groups[g]
	which := sources // else those of the configuration
	if len(which) == 0 {
		which = family(r.cfg.Sources, groups[g])
	}
	blocked := slices.ContainsFunc(sources, func(a netip.Addr) bool { return slices.Contains(r.cfg.Blocked, a) })
	if blocked || joined && (len(old) == 0) != (len(which) == 0) {
		return // that is refused, which is for other tests
	}
	if !l.usable(r.links) || g == loud4 && !r.tells() {
		return // it may fail, or nobody knows what it does
	}
	r.record("join", -1, r.name, "%s joins %s %v", r.name, groups[g], sources)
	r.groups[g] = append(slices.Clone(old), which...)
	r.allow(g)
	if err := r.join(g, sources); err != nil {
		r.problem(-1, r.name, "%s joins %s %v: %v", r.name, groups[g], sources, err)
	}
	if !joined {
		r.demand(g)
		return
	}
	for w := range wireCount { // the numbers of its drops are those of all its sources
		r.release(w, g)
	}
}

// join calls Join on the receiver's host: a thread in another network would join there.
func (r *receiver) join(g int, sources []netip.Addr) (err error) {
	r.host.Do(func() { err = r.rx.Join(groups[g], sources...) })
	return err
}

func (l *life) leave(r *receiver, g int) {
	_, joined := r.groups[g]
	r.record("leave", -1, r.name, "%s leaves %s", r.name, groups[g])
	for w := range wireCount {
		r.release(w, g)
	}
	err := r.rx.Leave(groups[g])
	if joined != (err == nil) || err != nil && !errors.Is(err, mcast.ErrNotJoined) {
		r.problem(-1, r.name, "%s leaves %s: %v", r.name, groups[g], err)
	}
	delete(r.groups, g)
	r.refuse(g)
}

// plan makes a receiver that is not open yet.
func (l *life) plan(rng *rand.Rand) *receiver {
	l.serial++
	r := l.newReceiver(fmt.Sprintf("receiver %d", l.serial), -1)
	r.way = rng.IntN(wayCount)
	r.cfg = mcast.RxConfig{
		Port:       port,
		Loopback:   rng.IntN(3) == 0,
		Coalesce:   rng.IntN(3) == 0,
		Timestamps: rng.IntN(5) == 0,
		HopLimits:  rng.IntN(5) == 0,
		ReadBuffer: 1 << 20,
	}
	if r.way == bySlow {
		r.cfg.ReadBuffer = 8 << 10
	}
	mask, named, special := 1+rng.IntN(1<<wireCount-1), rng.IntN(3) > 0, rng.IntN(6)
	var peers []netip.Addr
	for w, x := range l.wires {
		if mask>>w&1 == 1 {
			peers = append(peers, x.peer.IPv4, x.peer.IPv6, x.peer.LinkLocal)
		}
	}
	chosen := 1 + rng.IntN(1<<groupCount-1)
	chosen |= 1<<rng.IntN(2) | 1<<(4+rng.IntN(3)) // one of each family, for which the sources are
	if !r.tells() {
		chosen &^= 1 << loud4
	}
	switch special {
	case 0:
		r.cfg.Sources = peers
	case 1, 2:
		r.cfg.Blocked = peers
	}
	for g, a := range groups {
		if chosen>>g&1 == 1 && (!specific(g) || special == 0) {
			r.cfg.Groups = append(r.cfg.Groups, a)
			r.groups[g] = family(r.cfg.Sources, a)
		}
	}
	if named {
		r.links = make(map[int]*link)
		for w, x := range l.wires {
			if (mask>>w&1 == 1 || len(r.links) == 0 && w == wireCount-1) && x.there && x.whole() && !l.states[w].shaky {
				r.links[w] = &link{x.veth.Name(), true}
			}
		}
		if len(r.links) == 0 {
			r.links = nil
		}
	}
	return r
}

// nameLinks finds the interfaces that the receiver is to be opened on, as they are now.
func (r *receiver) nameLinks() (err error) {
	if r.links == nil {
		return nil
	}
	var names []string
	for _, k := range r.links {
		names = append(names, k.first)
	}
	slices.Sort(names)
	r.host.Do(func() { r.cfg.Interfaces, err = mcast.FindInterfaces(names...) })
	return err
}

// where names the interfaces of a receiver, for the record.
func (r *receiver) where() string {
	if r.links == nil {
		return "all interfaces"
	}
	var all []string
	for _, k := range r.links {
		all = append(all, k.first)
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}

func (l *life) openOne() {
	r := l.plan(l.rng)
	l.record("open", -1, r.name, "open %s on %s (%s): %v sources %v blocked %v loopback %v coalesce %v",
		r.name, r.where(), ways[r.way], r.cfg.Groups, r.cfg.Sources, r.cfg.Blocked, r.cfg.Loopback, r.cfg.Coalesce)
	err := r.nameLinks()
	if err == nil {
		err = r.open()
	}
	if err != nil {
		l.problem(-1, r.name, "open %s: %v", r.name, err)
		return
	}
	l.receivers = append(l.receivers, r)
}

// churn joins and leaves a group again and again.
func (l *life) churn(r *receiver, g int) {
	for range 2 * (1 + l.rng.IntN(20)) {
		if _, joined := r.groups[g]; joined {
			l.leave(r, g)
		} else {
			l.join(r, g, l.somePeers(g))
		}
	}
}

// storm has several receivers at once open, join, leave and close.
func (l *life) storm() {
	n := 2 + l.rng.IntN(4)
	l.record("storm", -1, "", "%d receivers for a moment, from %d on", n, l.serial+1)
	var all sync.WaitGroup
	for range n {
		r := l.plan(rand.New(rand.NewPCG(l.rng.Uint64(), 0)))
		steps := make([][2]int, l.rng.IntN(8))
		for i := range steps {
			steps[i] = [2]int{l.rng.IntN(3), l.rng.IntN(3) + 4*l.rng.IntN(2)}
		}
		all.Go(func() {
			err := r.nameLinks()
			if err == nil {
				err = r.open()
			}
			if err != nil {
				l.problem(-1, r.name, "open %s on %s: %v", r.name, r.where(), err)
				return
			}
			for _, s := range steps {
				g := s[1]
				_, joined := r.groups[g]
				switch {
				case s[0] == 0:
					if err := r.poke(); err != nil {
						l.problem(-1, r.name, "%s: deadline: %v", r.name, err)
					}
				case joined:
					l.leave(r, g)
				default:
					l.join(r, g, nil)
				}
				time.Sleep(time.Millisecond)
			}
			r.close()
		})
	}
	all.Wait()
}

// reopenSender replaces one of this host's sockets, while it is sending.
func (l *life) reopenSender(which int) {
	l.record("sender", -1, "", "the sender is opened again, loopback %v", which == 1)
	tx := &l.txs[which]
	tx.reopened = true
	l.hostSender.excused.Store(true)
	for _, r := range l.all() {
		for g := range groups {
			for w := range wireCount {
				if loud(g) == (which == 1) && r.wants(w, g, fromHost) {
					r.release(w, g)
				}
			}
		}
	}
	l.openSender(which)
}

// openSender opens one of this host's sockets for sending, and closes the one before it.
func (l *life) openSender(which int) {
	tx := &l.txs[which]
	cfg := mcast.TxConfig{Loopback: which == 1}
	for g, a := range groups {
		if loud(g) == cfg.Loopback {
			cfg.Groups = append(cfg.Groups, a)
		}
	}
	var names []string
	links := make(map[int]*link)
	for w, x := range l.wires {
		if x.there && x.whole() {
			names = append(names, x.veth.Name())
			links[w] = &link{x.veth.Name(), true}
		} else {
			l.states[w].excused[fromHost].Store(true)
		}
	}
	socket, err := openTx(l.host, cfg, names...)
	if err != nil {
		l.t.Fatalf("open the sender on %v: %v", names, err)
	}
	tx.links = links
	into := &l.hostSender.plain
	if which == 1 {
		into = &l.hostSender.noisy
	}
	if old := into.Swap(socket); old != nil {
		if err := old.Close(); err != nil {
			l.problem(-1, "", "close the sender: %v", err)
		}
	}
}

func openTx(h *mcasttest.Host, cfg mcast.TxConfig, names ...string) (tx *mcast.TxSocket, err error) {
	h.Do(func() {
		if cfg.Interfaces, err = mcast.FindInterfaces(names...); err == nil {
			tx, err = mcast.OpenTx(cfg)
		}
	})
	return tx, err
}
