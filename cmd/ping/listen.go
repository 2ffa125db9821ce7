package main

// The listener: it answers probes, and is of no use to anybody who wants to harm a third party. An answer is as large
// as its probe. It goes to the asker alone, or, by multicast, to a group for which the asker has shown a token that
// came to its address by unicast, so that nobody asks in the name of another. One asker gets so many answers a second,
// all together get so many, and of multicast there are fewer still.

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-multicast/mcast"
)

const (
	perAsker     = 500  // answers to one address in a second
	perSecond    = 2000 // answers to all
	perMulticast = 1000 // answers by multicast, of those
	perReader    = 5    // lines about what happens
	maxAskers    = 256  // whom the listener remembers; of more, those it heard last
	maxRuns      = 4    // of each, the runs it remembers
)

// listener is the state of -listen. It does what it does under its lock, and without sockets.
type listener struct {
	id     uint64
	secret []byte // makes tokens
	flags  uint8  // the families it listens by
	mttl   uint8

	mu                sync.Mutex
	all, multicast    bucket
	lines             bucket // for the user, who reads no more than that
	askers            map[netip.Addr]*asker
	answered, refused uint64
	strange           uint64
}

// asker is what is known about an address.
type asker struct {
	bucket bucket
	last   time.Time
	runs   []run // the newest last
}

// run is a prober's run.
type run struct {
	nonce   uint64
	heard   uint32 // counted probes to the group
	refused bool
}

// bucket lets so many through in a second, and no more at once. The zero value is full.
type bucket struct {
	left float64
	last time.Time
}

func (b *bucket) take(now time.Time, perSecond float64) bool {
	b.left = min(perSecond, b.left+perSecond*now.Sub(b.last).Seconds())
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func newListener() *listener {
	l := &listener{id: draw(), secret: make([]byte, 32), mttl: uint8(max(*ttl, 0)), askers: make(map[netip.Addr]*asker)}
	rand.Read(l.secret)
	return l
}

// draw draws a number by lot, which nobody guesses, and which is not 0.
func draw() (n uint64) {
	for n == 0 {
		var b [8]byte
		rand.Read(b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	return n
}

// token is for the asker's eyes only.
func (l *listener) token(asker netip.Addr, nonce uint64) uint64 {
	mac := hmac.New(sha256.New, l.secret)
	mac.Write(asker.AppendTo(nil))
	mac.Write(binary.BigEndian.AppendUint64(nil, nonce))
	return binary.BigEndian.Uint64(mac.Sum(nil))
}

// ask looks up the run of an asker. It is valid until the next call.
func (l *listener) ask(addr netip.Addr, nonce uint64, now time.Time) (a *asker, r *run) {
	a = l.askers[addr]
	if a == nil {
		if len(l.askers) == maxAskers {
			var oldest netip.Addr
			for other, o := range l.askers {
				if !oldest.IsValid() || o.last.Before(l.askers[oldest].last) {
					oldest = other
				}
			}
			delete(l.askers, oldest)
		}
		a = &asker{}
		l.askers[addr] = a
	}
	a.last = now
	i := slices.IndexFunc(a.runs, func(r run) bool { return r.nonce == nonce })
	if i < 0 {
		if len(a.runs) == maxRuns {
			a.runs = slices.Delete(a.runs, 0, 1)
		}
		a.runs = append(a.runs, run{nonce: nonce})
		i = len(a.runs) - 1
	}
	return a, &a.runs[i]
}

// answer returns the answer to what has arrived, if it is to have one, and whether the user
// is to hear of the asker, who is a new one.
func (l *listener) answer(d datagram) (p packet, ok, isNew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	probe, ok := parse(d.buf)
	from := d.from.Addr().WithZone("") // which is a name from package net, and an index from an RxSocket
	if ok && probe.answer && d.group.IsValid() {
		return packet{}, false, false // another listener's answer to the group
	}
	// What came to a group must be a probe for all, and the other way round; and an answer goes to one host.
	if !ok || probe.answer || d.group.IsValid() != (probe.kind == asmTo) || !d.fromHost() {
		l.strange++
		return packet{}, false, false
	}
	byMulticast := probe.kind == asmFrom || probe.kind == ssmFrom
	token := l.token(from, probe.nonce)
	if byMulticast && probe.token != token {
		l.strange++
		return packet{}, false, false
	}
	isNew = l.askers[from] == nil && l.lines.take(d.at, perReader)
	a, r := l.ask(from, probe.nonce, d.at)
	if probe.kind == asmTo && probe.seq > 0 {
		r.heard++
	}
	if !a.bucket.take(d.at, perAsker) || !l.all.take(d.at, perSecond) ||
		byMulticast && !l.multicast.take(d.at, perMulticast) {
		r.refused = true
		l.refused++
		return packet{}, false, false
	}
	l.answered++
	p = packet{answer: true, kind: probe.kind, flags: l.flags, nonce: probe.nonce, id: l.id, seq: probe.seq,
		heard: r.heard, path: probe.path, ttl: unicastTTL, seen: uint8(d.ttl), mttl: l.mttl}
	if r.refused {
		p.flags |= flagLimited
	}
	if byMulticast {
		p.ttl = l.mttl // and no token: the others shall not have it
	} else {
		p.token = token
	}
	return p, true, isNew
}

// mayTell reports whether the user can read one more line.
func (l *listener) mayTell(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.take(now, perReader)
}

// listen answers until ctx ends.
func listen(ctx context.Context) error {
	ifaces, err := choose()
	if err != nil {
		return err
	}
	l := newListener()
	ends, err := openEach(func(f family) (*end, error) {
		e, err := openEnd(f, ifaces, int(*port)+1)
		if err == nil {
			if err = e.join(ifaces); err != nil {
				e.close()
			}
		}
		return e, err
	})
	if err != nil {
		return err
	}
	for _, e := range ends {
		l.flags |= 1 << e.family
		fmt.Printf("listening to %s port %d by %s, and to unicast to %s port %d\n",
			groups[e.family], *port, ifaces[0].Name, address(e.family, ifaces[0]), *port+1)
	}

	var wg sync.WaitGroup
	handle := func(d datagram) {
		p, ok, isNew := l.answer(d)
		if !ok {
			return
		}
		if isNew {
			fmt.Printf("%s probed by %s\n", d.at.Format("15:04:05.000"), d.from.Addr())
		}
		var err error
		b := p.append(make([]byte, 0, packetSize))
		switch p.kind {
		case asmFrom:
			_, err = d.end.tx.WriteToUDPAddrPort(b, netip.AddrPortFrom(groups[d.end.family], uint16(*port)))
		case ssmFrom:
			_, err = d.end.tx.WriteToUDPAddrPort(b, netip.AddrPortFrom(ssms[d.end.family], uint16(*port)))
		default:
			_, err = d.end.uni.WriteToUDPAddrPort(b, d.from)
		}
		if err != nil && ctx.Err() == nil && l.mayTell(d.at) {
			fmt.Fprintln(os.Stderr, "ping:", err) // and go on: others may be in reach
		}
	}
	for _, e := range ends {
		e.receiveMulticast(&wg, handle)
		e.receiveUnicast(&wg, handle)
	}
	<-ctx.Done()
	for _, e := range ends {
		e.close()
	}
	wg.Wait()
	fmt.Printf("answered %d probes, left %d unanswered that were too many, and ignored %d datagrams\n",
		l.answered, l.refused, l.strange)
	return nil
}

// address returns what to call an interface by in a family, for somebody who wants to give it as an argument: an
// address for the site, if there is one.
func address(f family, ifc mcast.Interface) (addr netip.Addr) {
	for _, p := range slices.Concat(ifc.IPv4, ifc.IPv6) {
		if familyOf(p.Addr()) == f && (!addr.IsValid() || addr.IsLinkLocalUnicast()) {
			addr = p.Addr()
		}
	}
	return addr
}
