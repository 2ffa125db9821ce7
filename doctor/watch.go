// What doctor finds out by experiment: it joins the groups as any receiver does, sends a datagram to itself, and waits
// for datagrams from others.

package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/hint"
)

// listener receives one group on one interface. Each pair has its own socket, so that a pair that cannot be joined does
// not keep the others from receiving.
type listener struct {
	group netip.Addr
	ifc   mcast.Interface
	rx    *mcast.RxSocket
	done  chan struct{}

	self      []netip.Addr  // addresses of the interface; none on loopback, where Loopback makes no difference
	mu        sync.Mutex    // guards the fields below
	nonce     []byte        // of the self-test
	echo      chan struct{} // closed when the datagram has come back
	datagrams uint64
	own       uint64 // of these, sent by this machine
	sources   []netip.Addr
}

const maxSources = 16 // so that a forger cannot fill the report

// listen joins every group on every interface that can have it. A failure to join becomes a finding.
func (c *checkup) listen(groups []netip.Addr, sources func(netip.Addr) []netip.Addr, s *system) (all []*listener) {
	clamped := false
	for _, group := range groups {
		for _, ifc := range c.ifaces {
			if !usable(ifc, group) || s.master(ifc.Index) != "" {
				continue
			}
			rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: c.Port, Interfaces: []mcast.Interface{ifc},
				Sources: sources(group), ReadBuffer: c.ReadBuffer, Loopback: true, Static: true})
			if err != nil {
				c.cannotJoin(group, ifc, err, s)
				continue
			}
			l := &listener{group: group, ifc: ifc, rx: rx, done: make(chan struct{})}
			if !ifc.IsLoopback() {
				l.self = ownAddrs(ifc, group.Is4())
			}
			go l.receive()
			all = append(all, l)
			if !clamped {
				clamped = c.checkBuffer(rx)
			}
		}
	}
	return all
}

func (l *listener) close() {
	l.rx.Close()
	<-l.done
}

func (l *listener) receive() {
	defer close(l.done)
	buf := make([]byte, 128) // enough for the self-test; there may be thousands of listeners
	for {
		n, src, err := l.rx.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // an error of one read does not end a socket
			continue
		}
		l.received(buf[:n], src.Addr().WithZone(""))
	}
}

func (l *listener) received(data []byte, src netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.HasPrefix(data, []byte(selfTestMark)) {
		if l.nonce != nil && bytes.Equal(data, l.nonce) {
			l.nonce = nil
			close(l.echo)
		}
		return // also if another doctor sent it
	}
	l.datagrams++
	if slices.Contains(l.self, src) {
		l.own++
	}
	if len(l.sources) < maxSources && !slices.Contains(l.sources, src) {
		l.sources = append(l.sources, src)
	}
}

func (l *listener) expect(nonce []byte) (echo <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nonce, l.echo = nonce, make(chan struct{})
	return l.echo
}

// report adds to the report what arrived.
func (c *checkup) report(all []*listener, watched time.Duration) {
	c.Report.Facts.Watched = watched.Round(10 * time.Millisecond).String()
	for _, l := range all {
		l.mu.Lock()
		c.Report.Facts.Traffic = append(c.Report.Facts.Traffic,
			Traffic{Group: l.group, Interface: l.ifc.Name, Datagrams: l.datagrams, Own: l.own, Sources: slices.Clone(l.sources)})
		l.mu.Unlock()
	}
}

// silent reports whether nothing arrived for a group on any interface.
func (c *checkup) silent(group netip.Addr) bool {
	came := func(t Traffic) bool { return t.Group == group && t.Datagrams > 0 }
	return !slices.ContainsFunc(c.Report.Facts.Traffic, came)
}

// someSilent reports whether nothing arrived for some group of the family.
func (c *checkup) someSilent(v4 bool) bool {
	return slices.ContainsFunc(c.Groups, func(g netip.Addr) bool { return g.Is4() == v4 && c.silent(g) })
}

// cannotJoin makes the finding about a pair that could not be joined.
func (c *checkup) cannotJoin(group netip.Addr, ifc mcast.Interface, err error, s *system) {
	f := Finding{Code: NotJoined, Severity: Error, Group: group, Interface: ifc.Name,
		Summary: "the group cannot be joined",
		Detail:  fmt.Sprintf("This was tried: %v.", err)}
	if e := (*mcast.OpError)(nil); errors.As(err, &e) {
		f.Fix = e.Hint
	}
	switch failure(err) {
	case failedPort:
		f.Code, f.Interface = PortTaken, ""
		f.Summary = fmt.Sprintf("port %d is taken and not shared", c.Port)
		f.Detail += s.holders(c, group)
		f.Fix = fixSharePort()
	case failedMemberships:
		f.Code, f.Interface = MembershipLimit, ""
		f.Summary = "the system refuses to join even one group on a socket"
	}
	same := func(o Finding) bool { return o.Code == f.Code && o.Group == f.Group && o.Interface == f.Interface }
	if !slices.ContainsFunc(c.Report.Findings, same) {
		c.add(f)
	}
}

// The causes of a failure to join, as far as there is a code for them.
const (
	failedOtherwise = iota
	failedPort
	failedMemberships
)

// checkBuffer compares the granted size with the requested one.
func (c *checkup) checkBuffer(rx *mcast.RxSocket) (clamped bool) {
	granted := rx.Memberships()[0].ReadBuffer
	if c.ReadBuffer == 0 || granted == 0 || granted >= c.ReadBuffer {
		return false
	}
	c.add(Finding{Code: BufferClamped, Severity: Warning,
		Summary: fmt.Sprintf("a receive buffer of %d bytes was asked for, and %d are granted", c.ReadBuffer, granted),
		Detail: "A socket was opened with that buffer, and the system then asked for its size. It clamps it silently; " +
			"what does not fit into the buffer while the program is busy is lost.",
		Fix: hint.ReceiveBuffer(fmt.Sprint(c.ReadBuffer))})
	return true
}

// selfTestMark begins the datagrams of a self-test.
const selfTestMark = "mcast doctor self-test "

// selfTest sends a datagram to each pair, which comes back to this machine alone, and waits for it.
func (c *checkup) selfTest(ctx context.Context, listeners []*listener) {
	if len(c.Sources) > 0 {
		// The machine itself is hardly one of the sources. So other sockets join here, with the machine's own addresses
		// as sources: no router takes that for a wish to have the group.
		for _, ifc := range c.ifaces {
			one := &checkup{Config: c.Config, ifaces: []mcast.Interface{ifc}} // what cannot be joined is already reported
			own := func(g netip.Addr) []netip.Addr { return ownAddrs(ifc, g.Is4()) }
			for _, l := range one.listen(slices.DeleteFunc(slices.Clone(c.Groups), func(g netip.Addr) bool {
				return !slices.ContainsFunc(listeners, func(l *listener) bool { return l.group == g && l.ifc.Index == ifc.Index })
			}), own, &system{}) {
				defer l.close()
				if c.sendTo(ctx, l) {
					c.awaitEcho(ctx, []*listener{l})
				}
			}
		}
		return
	}
	var sent []*listener
	for _, l := range listeners {
		if c.sendTo(ctx, l) {
			sent = append(sent, l)
		}
	}
	c.awaitEcho(ctx, sent)
}

func ownAddrs(ifc mcast.Interface, v4 bool) (own []netip.Addr) {
	prefixes := ifc.IPv6
	if v4 {
		prefixes = ifc.IPv4
	}
	for _, p := range prefixes {
		own = append(own, p.Addr())
	}
	return own
}

// sendTo sends the datagram of the self-test, and reports whether that succeeded.
func (c *checkup) sendTo(ctx context.Context, l *listener) (sent bool) {
	known := func(f Finding) bool { return f.Code == LoRoute && f.Group == l.group && f.Interface == l.ifc.Name }
	if ctx.Err() != nil || slices.ContainsFunc(c.Report.Findings, known) {
		return false // no time, or the cause of a failure is known
	}
	nonce := []byte(selfTestMark + rand.Text())
	l.expect(nonce)
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{l.group}, Interfaces: []mcast.Interface{l.ifc},
		TTL: mcast.TTLHost, Loopback: true})
	if err == nil {
		_, err = tx.WriteToUDPAddrPort(nonce, netip.AddrPortFrom(l.group, c.Port))
		tx.Close()
	}
	if err == nil {
		return true
	}
	r := refused(err)
	r.ifc, r.group = l.ifc, l.group
	if f, private := r.private(); private {
		c.add(f)
		return false
	}
	f := Finding{Code: SelfTest, Severity: Error, Group: l.group, Interface: l.ifc.Name,
		Summary: "a datagram cannot be sent to the group by this interface",
		Detail:  fmt.Sprintf("This was tried, with a hop limit of 0: %v.", err)}
	if e := (*mcast.OpError)(nil); errors.As(err, &e) {
		f.Fix = e.Hint
	}
	c.add(f)
	return false
}

func (c *checkup) awaitEcho(ctx context.Context, sent []*listener) {
	late := time.NewTimer(echoTime)
	defer late.Stop()
	over := false
	for _, l := range sent {
		l.mu.Lock()
		echo := l.echo
		l.mu.Unlock()
		if !over {
			select {
			case <-echo:
				continue
			case <-late.C:
				over = true
			case <-ctx.Done():
				return // nothing can be said
			}
		}
		select {
		case <-echo:
		default:
			c.add(Finding{Code: SelfTest, Severity: Error, Group: l.group, Interface: l.ifc.Name,
				Summary: "a datagram that this machine sent to the group did not come back to it",
				Detail: fmt.Sprintf("It was sent by this interface to port %d with a hop limit of 0, which keeps it on the "+
					"machine, and a socket that has joined the group there "+
					"did not get it within %v. No network is involved, so it is something on this machine.", c.Port, echoTime),
				Fix: fixSelfTest()})
		}
	}
}

// checkOwnHost finds groups that only this machine sends to. Receivers of this module discard such datagrams unless
// Loopback is set. Whether another program has set it is not visible.
func (c *checkup) checkOwnHost(watched time.Duration) {
	if watched < silence {
		return
	}
	for _, g := range c.Groups {
		var all, own uint64
		var on, from []string
		for _, t := range c.Report.Facts.Traffic {
			if t.Group != g || t.Datagrams == 0 {
				continue
			}
			all, own, on = all+t.Datagrams, own+t.Own, append(on, t.Interface)
			for _, s := range t.Sources {
				from = append(from, s.String())
			}
		}
		if all == 0 || own < all {
			continue
		}
		c.add(Finding{Code: OwnHost, Severity: Warning, Group: g,
			Summary: "this machine itself sends all datagrams of the group, and no other host sends any",
			Detail: fmt.Sprintf("%d datagrams arrived on %s. Their source is an address of the interface (%s), so this "+
				"machine sent them. A receiver of this module discards them unless it has set Loopback. Whether the "+
				"receiver has set it is not visible.", all, list(on), list(from)),
			Fix: fixOwnHost})
	}
}

// checkSilence makes the last finding: all looks right, and nothing arrived.
func (c *checkup) checkSilence(listeners []*listener, watched time.Duration) {
	if watched < silence {
		return
	}
	// These findings keep other programs from receiving, and not this one, or they do not prove that the group was
	// lost.
	aside := []string{NotJoined, NoDefaultRoute, MultipleDefault, BufferClamped, BufferOverflow, NoQuerier, Firewall}
	for _, g := range c.Groups {
		joined := slices.ContainsFunc(listeners, func(l *listener) bool { return l.group == g && !l.ifc.IsLoopback() })
		explained := slices.ContainsFunc(c.Report.Findings, func(f Finding) bool {
			return f.Severity > Info && (f.Group == g || !f.Group.IsValid()) && !slices.Contains(aside, f.Code)
		})
		if !joined || !c.silent(g) || explained {
			continue
		}
		firewall := ", or a firewall of this machine drops it"
		letIn := slices.Contains(c.letIn, g)
		if letIn {
			firewall = ". The firewall of this machine dropped nothing meanwhile"
		}
		c.add(Finding{Code: Silent, Severity: Warning, Group: g,
			Summary: fmt.Sprintf("all looks right here, yet nothing came in for port %d", c.Port),
			Detail: fmt.Sprintf("The group was joined on %s and watched for %v. Either no host sends, or the sender is on "+
				"this machine and has not set Loopback, or the datagrams are lost on the way%s.", names(c.ifaces),
				watched.Round(10*time.Millisecond), firewall),
			Fix: fixSilence(!letIn)})
	}
}
