package main

// The prober: it looks for listeners, joins the groups, counts, and waits for what is late.

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-multicast/mcast"
)

const (
	findEvery = 100 * time.Millisecond
	joinEvery = 10 * time.Millisecond
)

// prober is a session with its sockets.
type prober struct {
	*session
	ends   []*end
	failed map[string]bool // errors of sending that were told
}

// probe pings until it is done or ctx ends, tells what came of it, and reports whether all is well.
func probe(ctx context.Context, hosts []string) (fine bool, err error) {
	ifaces, err := choose()
	if err != nil {
		return false, err
	}
	p := &prober{session: newSession(), failed: make(map[string]bool)}
	p.ends, err = openEach(func(f family) (*end, error) {
		e, err := openEnd(f, ifaces, 0)
		if err == nil {
			if err = p.toGroup(e, 0); err != nil { // a route is missing, or a firewall does not let it out
				e.close()
			}
		}
		return e, err
	})
	if err != nil {
		return false, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, e := range p.ends {
		defer e.close()
		fmt.Printf("pinging %s and %s port %d by %s, TTL %d\n",
			groups[e.family], ssms[e.family], *port, ifaces[0].Name, *ttl)
	}
	if err := p.resolve(ctx, hosts, ifaces[0]); err != nil {
		return false, err
	}

	for _, e := range p.ends {
		e.receiveUnicast(&wg, p.take)
		e.receiveReplies(&wg, p.take)
	}
	p.find(ctx)
	for _, e := range p.ends {
		if err := p.joinASM(e, ifaces); err != nil {
			return false, err
		}
		e.receiveMulticast(&wg, p.take)
	}
	p.await(ctx, asmFrom)
	for _, e := range p.ends {
		if err := p.joinSSM(e); err != nil {
			return false, err
		}
	}
	p.await(ctx, ssmFrom)
	p.count(ctx)
	p.drain()

	p.mu.Lock()
	defer p.mu.Unlock()
	return report(os.Stdout, p.session), nil
}

// resolve makes paths to the hosts that the user named. Nothing is received yet, so they come first.
func (p *prober) resolve(ctx context.Context, hosts []string, ifc mcast.Interface) error {
	for _, host := range hosts {
		list, err := []netip.Addr(nil), error(nil)
		if addr, notAddress := netip.ParseAddr(host); notAddress == nil {
			list = append(list, addr)
		} else if list, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return err
		}
		added := 0
		for _, addr := range list {
			addr = addr.Unmap()
			if addr.IsMulticast() || addr.IsUnspecified() {
				return fmt.Errorf("%s is not the address of a host: groups are for -group and -ssm", host)
			}
			if addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "" {
				addr = addr.WithZone(ifc.Name)
			}
			if !slices.ContainsFunc(p.ends, func(e *end) bool { return e.family == familyOf(addr) }) {
				continue
			}
			to := path{family: familyOf(addr), name: host, addr: netip.AddrPortFrom(addr, uint16(*port)+1)}
			if p.add(to) == nil {
				return fmt.Errorf("%s is one host too many", host)
			}
			added++
		}
		if added == 0 {
			return fmt.Errorf("%s has no address of a family that is tried", host)
		}
	}
	return nil
}

// every calls do at once and then at an interval, until it returns false, the time is over or ctx ends.
func every(ctx context.Context, interval, limit time.Duration, do func() bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil && do() {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// find finds the listeners, by probes that are not counted.
func (p *prober) find(ctx context.Context) {
	every(ctx, findEvery, *wait, func() bool {
		for _, e := range p.ends {
			p.tell(p.toGroup(e, 0))
		}
		for _, to := range p.where(func(to *path) bool { return to.name != "" }) {
			p.toPath(to, unicast, false)
		}
		return true
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finding = false
	p.complete(p.ends)
	for _, who := range p.listeners() {
		if who[0].id != 0 {
			fmt.Println("found", title(who))
		}
	}
}

// joinASM joins the group, and joinSSM the one for which every listener is a source.
func (p *prober) joinASM(e *end, ifaces []mcast.Interface) error {
	for _, to := range p.where(func(to *path) bool { return to.family == e.family }) {
		p.mu.Lock()
		to.streams[asmFrom].joined = time.Since(p.start)
		p.mu.Unlock()
	}
	return e.join(ifaces)
}

func (p *prober) joinSSM(e *end) error {
	var named []netip.Addr
	for _, addr := range sources {
		if familyOf(addr) == e.family {
			named = append(named, addr)
		}
	}
	for _, to := range p.where(func(to *path) bool { return to.family == e.family && to.token != 0 }) {
		p.mu.Lock()
		from := to.source
		to.streams[ssmFrom].joined = time.Since(p.start)
		p.mu.Unlock()
		if err := e.rx.Join(ssms[e.family], append(named, from.WithZone(""))...); err != nil {
			return err
		}
	}
	return nil
}

// await asks for multicast until some has come from every listener.
func (p *prober) await(ctx context.Context, k kind) {
	every(ctx, joinEvery, *wait, func() bool {
		missing := p.where(func(to *path) bool { return to.token != 0 && to.streams[k].first == 0 })
		for _, to := range missing {
			p.toPath(to, k, false)
		}
		return len(missing) > 0
	})
}

// count sends the probes that count.
func (p *prober) count(ctx context.Context) {
	n := 0
	every(ctx, *interval, 1<<62, func() bool {
		n++
		for _, e := range p.ends {
			p.tell(p.toGroup(e, uint32(n)))
		}
		for _, to := range p.where(func(to *path) bool { return to.addr.IsValid() }) {
			p.toPath(to, unicast, true)
			if to.streams[ssmFrom].joined > 0 {
				p.toPath(to, asmFrom, true)
				p.toPath(to, ssmFrom, true)
			}
		}
		if n == 1 {
			fmt.Printf("counting: %d probes of each kind, one every %v; Ctrl-C ends it with what there is\n", *probes, *interval)
		}
		return n < *probes
	})
}

// drain waits until everything is there, and asks what came to the listeners in the end.
func (p *prober) drain() {
	every(context.Background(), findEvery, *wait, func() bool {
		missing := p.where(func(to *path) bool {
			return slices.ContainsFunc(to.streams[:], func(s stream) bool { return s.lost() > 0 })
		})
		for _, to := range missing {
			if to.addr.IsValid() {
				p.toPath(to, unicast, false)
			}
		}
		return len(missing) > 0
	})
}

// where returns the paths that count and that a function wants.
func (p *prober) where(wants func(*path) bool) (list []*path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, to := range p.paths {
		if !to.same && wants(to) {
			list = append(list, to)
		}
	}
	return list
}

// toGroup sends a probe to all listeners.
func (p *prober) toGroup(e *end, seq uint32) error {
	if seq > 0 {
		for _, to := range p.where(func(to *path) bool { return to.family == e.family }) {
			p.mu.Lock()
			to.streams[asmTo].send(time.Since(p.start))
			p.mu.Unlock()
		}
	}
	probe := packet{kind: asmTo, nonce: p.nonce, seq: seq, path: noPath, ttl: uint8(max(*ttl, 0))}
	_, err := e.tx.WriteToUDPAddrPort(probe.append(nil), netip.AddrPortFrom(groups[e.family], uint16(*port)))
	return err
}

// toPath sends a probe to one listener.
func (p *prober) toPath(to *path, k kind, counted bool) {
	i := slices.IndexFunc(p.ends, func(e *end) bool { return e.family == to.family })
	p.mu.Lock()
	probe := packet{kind: k, nonce: p.nonce, path: to.number, ttl: unicastTTL, token: to.token}
	if counted {
		probe.seq = to.streams[k].send(time.Since(p.start))
	}
	addr := to.addr
	p.mu.Unlock()
	_, err := p.ends[i].uni.WriteToUDPAddrPort(probe.append(nil), addr)
	p.tell(err)
}

// tell tells an error of sending once. The probe counts as lost, and the next ones may go.
func (p *prober) tell(err error) {
	if err != nil && !p.failed[err.Error()] {
		p.failed[err.Error()] = true
		fmt.Fprintln(os.Stderr, "ping:", err)
	}
}
