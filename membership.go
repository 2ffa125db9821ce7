// The memberships of an RxSocket: its groups, and a pair for each group on an interface. Here they are joined and left.
// follow.go joins them again when the network changes.

package mcast

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
)

// rxGroup is a group that is to be received wherever that is possible.
type rxGroup struct {
	addr             netip.Addr
	sources, blocked []netip.Addr
	blockedSet       *addrSet // blocked, for the screens
	pairs            []*pair
	orphans          []*conn // of pairs that were let go, which may still have something to deliver
}

// rxLink is an interface on which the groups are to be received.
type rxLink struct {
	known
	own *addrSet // see RxSocket.own; the OS sockets of the interface share it
}

// pair is a group on an interface.
type pair struct {
	*rxGroup
	link    *rxLink
	conns   []*conn // the OS sockets that hold the membership; none if it is not joined
	err     error   // why it is not
	retry   backoff // when to try again
	left    bool    // the membership was dropped, to be renewed
	retired []*conn // OS sockets of before, which may still have something to deliver

	past Membership // what OS sockets that are gone have counted; guarded by the merge's lock
}

// waits is the error of a group that no interface has the family of.
func (s *RxSocket) waitError(group netip.Addr) error {
	e := noUsableInterface("join", group)
	e.Hint = "the group is joined when there is one"
	if s.cfg.Static {
		e.Hint = "RxConfig.Static keeps the socket from following the network"
	}
	return e
}

// addGroup adds a group that is to be received. joinGroup joins it. s.mu is held.
func (s *RxSocket) addGroup(group netip.Addr, sources []netip.Addr) *rxGroup {
	g := &rxGroup{addr: group, sources: sources}
	if len(sources) == 0 {
		g.sources, g.blocked = ofFamily(s.cfg.Sources, group), ofFamily(s.cfg.Blocked, group)
		g.blockedSet = newAddrSet(g.blocked)
	}
	s.groups = append(s.groups, g)
	return g
}

// joinGroup joins a new group on every link that can have it. Without named interfaces it must be joined on one of them
// only, unless there is none: then the group waits for one. s.mu is held.
func (s *RxSocket) joinGroup(g *rxGroup) (err error) {
	joined := false
	for _, link := range s.links {
		if !s.canHave(link, g.addr) {
			if !s.all {
				return s.noFamily(g.addr, link.ifc.Name)
			}
			continue
		}
		p := &pair{rxGroup: g, link: link}
		g.pairs = append(g.pairs, p)
		s.join(p)
		if p.err != nil && (!s.all || isExhausted(p.err)) {
			return p.err
		}
		joined = joined || p.err == nil
		err = cmp.Or(err, p.err)
	}
	if len(g.pairs) == 0 {
		s.logger.log(slog.LevelWarn, "a group waits for an interface", Interface{}, s.waitError(g.addr))
	}
	if !joined {
		return err
	}
	for _, p := range g.pairs {
		if p.err != nil { // not returned, since others are joined
			s.log(slog.LevelWarn, "cannot join", p, p.err)
		}
	}
	err = s.replies.moveTo(s.vrf())
	if err == nil {
		err = s.replies.allow(g.addr)
	}
	if err != nil {
		return &OpError{Op: "join", Group: g.addr, Err: err, Hint: openHint(err)}
	}
	return nil
}

// canHave reports whether a group is to be joined on link. A named interface needs no IPv4 address where the system does
// without.
func (s *RxSocket) canHave(link *rxLink, group netip.Addr) bool {
	return link.ifc.hasFamily(group) || !s.all && group.Is4() && joinsWithoutIPv4
}

func (s *RxSocket) noFamily(group netip.Addr, name string) error {
	return &OpError{Op: "join", Group: group, Interface: name, Err: noInterface("the interface has no " + familyName(group) + " address")}
}

// needed is the number of memberships that the socket is to have.
func (s *RxSocket) needed() (n int) {
	for _, g := range s.groups {
		for _, link := range s.links {
			if s.canHave(link, g.addr) {
				n++
			}
		}
	}
	return n
}

// removeGroup leaves a group everywhere and forgets it. s.mu is held.
func (s *RxSocket) removeGroup(g *rxGroup) (err error) {
	for _, p := range g.pairs {
		err = errors.Join(err, s.leave(p))
	}
	for _, c := range g.orphans {
		err = errors.Join(err, s.m.remove(c))
	}
	s.groups = slices.DeleteFunc(s.groups, func(other *rxGroup) bool { return other == g })
	return err
}

// join opens the sockets of a pair that has none, or says in p.err why it cannot. s.mu is held.
func (s *RxSocket) join(p *pair) {
	if p.link.gone { // its index may be another's now
		p.err = p.goneError()
		return
	}
	if p.link.ifc.isPort() {
		p.err = p.portError()
		return
	}
	p.left = false
	p.conns, p.err = s.stage(p, p.sources)
}

func (p *pair) goneError() error {
	return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: ErrNoInterface, Hint: hintGone}
}

func (p *pair) portError() error {
	e := p.link.ifc.portError("join")
	e.Group = p.addr
	return e
}

// stage opens OS sockets of a pair for the given sources, and adds them to the merge but not to the pair.
func (s *RxSocket) stage(p *pair, sources []netip.Addr) ([]*conn, error) {
	conns, err := openPair(s.m, &s.cfg, p, sources)
	if op := (*OpError)(nil); isExhausted(err) && errors.As(err, &op) {
		needs := fmt.Sprintf("the socket needs %d memberships", s.needed())
		if op.Hint != "" {
			needs += "; " + op.Hint
		}
		op.Hint = needs
	}
	if err != nil {
		return nil, err
	}
	for i, c := range conns {
		c.filter.own = p.link.own
		if err := s.m.add(c); err != nil {
			for _, c := range conns[:i] {
				s.m.remove(c)
			}
			for _, c := range conns[i:] {
				c.release()
			}
			return nil, &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: openHint(err)}
		}
	}
	return conns, nil
}

// leave closes the sockets of a pair. s.mu is held.
func (s *RxSocket) leave(p *pair) (err error) {
	for _, c := range slices.Concat(p.conns, p.retired) {
		err = errors.Join(err, s.m.remove(c))
	}
	p.conns, p.retired = nil, nil
	return err
}

func (s *RxSocket) newLink(ifc Interface) *rxLink {
	return &rxLink{known{name: ifc.Name, ifc: ifc}, newAddrSet(s.own(&ifc))}
}

// own returns the sources that mark a datagram on ifc as this host's own, if those are not wanted.
func (s *RxSocket) own(ifc *Interface) (own []netip.Addr) {
	if s.cfg.Loopback || ifc.IsLoopback() {
		return nil
	}
	for _, prefixes := range [][]netip.Prefix{ifc.IPv4, ifc.IPv6} {
		for _, p := range prefixes {
			own = append(own, p.Addr())
		}
	}
	return own
}

// Join joins a group, IPv4 or IPv6, on all interfaces of the socket. With sources, only their datagrams are received, and
// none may be in RxConfig.Blocked; without, RxConfig.Sources and Blocked apply. A read that is blocked receives the group
// as well.
//
// Joining a group again is harmless, and adds the sources that are new. But a group that is joined for some
// sources cannot be opened to all, nor the other way round, without leaving it first.
//
// As with OpenRx, all interfaces that were named must be able to join. Without named interfaces one of them must, and a
// group of a family that none has waits. On error nothing has changed. On Linux both join in the network namespace of the
// calling thread.
func (s *RxSocket) Join(group netip.Addr, sources ...netip.Addr) error {
	if !s.opened() {
		return errNotOpen("join")
	}
	group, err := checkGroup("join", group)
	if err != nil {
		return err
	}
	sources, wrong := checkSources(sources, familiesOf([]netip.Addr{group}))
	if i := slices.IndexFunc(sources, func(a netip.Addr) bool { return slices.Contains(s.cfg.Blocked, a) }); i >= 0 {
		wrong = &OpError{Source: sources[i], Err: errors.New("it is in RxConfig.Blocked"), Hint: "open an RxSocket for the group"}
	}
	if wrong != nil {
		wrong.Op, wrong.Group = "join", group
		return wrong
	}
	processWatch.joining.RLock()
	defer processWatch.joining.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return &OpError{Op: "join", Group: group, Err: net.ErrClosed}
	}
	if g := s.group(group); g != nil {
		return s.addSources(g, sources)
	}
	g := s.addGroup(group, sources)
	err = s.joinGroup(g)
	if err == nil && len(g.pairs) == 0 && s.cfg.Static {
		err = noUsableInterface("join", group) // no interface will come
	}
	if err != nil {
		s.removeGroup(g)
		return err
	}
	if s.retry != nil && slices.ContainsFunc(g.pairs, func(p *pair) bool { return p.err != nil }) {
		s.retry()
	}
	return nil
}

func (s *RxSocket) group(addr netip.Addr) *rxGroup {
	for _, g := range s.groups {
		if g.addr == addr {
			return g
		}
	}
	return nil
}

// addSources adds sources to a group that is joined: it stages OS sockets for the new ones on each interface, then commits or
// discards all of them. s.mu is held.
func (s *RxSocket) addSources(g *rxGroup, sources []netip.Addr) error {
	sources, err := s.newSources(g, sources)
	if err != nil || len(sources) == 0 {
		return err
	}
	staged, failed := make([][]*conn, len(g.pairs)), make([]error, len(g.pairs))
	var first error
	joined := 0
	for i, p := range g.pairs {
		if p.err != nil {
			continue // it joins for all sources when it can
		}
		staged[i], failed[i] = s.stage(p, sources)
		switch {
		case failed[i] == nil:
			joined++
		case first == nil || isExhausted(failed[i]):
			first = failed[i]
		}
	}
	if first != nil && (!s.all || joined == 0 || isExhausted(first)) {
		for _, c := range slices.Concat(staged...) {
			s.m.remove(c)
		}
		return first
	}
	g.sources = append(g.sources, sources...)
	for i, p := range g.pairs {
		p.conns = append(p.conns, staged[i]...)
		if failed[i] != nil { // a pair without some of the sources is not joined
			s.retire(p)
			p.err = failed[i]
		}
	}
	if first != nil && s.retry != nil {
		s.retry()
	}
	return nil
}

// newSources returns those of the sources that a group does not have.
func (s *RxSocket) newSources(g *rxGroup, sources []netip.Addr) ([]netip.Addr, error) {
	if len(sources) == 0 {
		sources = ofFamily(s.cfg.Sources, g.addr)
	}
	if (len(sources) == 0) != (len(g.sources) == 0) {
		now := "all sources"
		if len(g.sources) > 0 {
			now = fmt.Sprint(g.sources)
		}
		return nil, &OpError{Op: "join", Group: g.addr, Err: fmt.Errorf("it is joined for %s already", now), Hint: "Leave it first"}
	}
	return slices.DeleteFunc(slices.Clone(sources), func(a netip.Addr) bool { return slices.Contains(g.sources, a) }), nil
}

// Leave leaves a group on all interfaces of the socket. Datagrams of it that were received and not yet read are
// dropped. On Windows those that wait in the system's buffer are dropped when they are taken from it, unless the group is
// joined again by then. A group that is not joined is ErrNotJoined.
func (s *RxSocket) Leave(group netip.Addr) error {
	if !s.opened() {
		return errNotOpen("leave")
	}
	group = group.Unmap()
	processWatch.joining.RLock()
	defer processWatch.joining.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return &OpError{Op: "leave", Group: group, Err: net.ErrClosed}
	}
	g := s.group(group)
	if g == nil {
		return &OpError{Op: "leave", Group: group, Err: ErrNotJoined}
	}
	if err := s.removeGroup(g); err != nil {
		return &OpError{Op: "leave", Group: group, Err: err}
	}
	return nil
}

// Membership is a group on an interface: whether it is joined, and what came in by it.
type Membership struct {
	Group     netip.Addr
	Interface string       // its name; empty if the group waits for an interface
	IfIndex   int          // 0 if the group waits for an interface
	Sources   []netip.Addr // the only ones wanted; empty: all
	Blocked   []netip.Addr

	// Joined says that the group is joined. On Linux a kernel can lose a membership without an error, for example when an
	// interface or IPv6 on it goes down and up. After each change of the network, and once a minute, the socket compares
	// its memberships with /proc/net/igmp, igmp6, mcfilter and mcfilter6, and joins again what is missing there, unless
	// Static is set. It needs no privileges. Without /proc it joins again what a change may have taken.
	Joined bool
	Err    error // why it is not joined; nil if it is

	Packets uint64 // datagrams read
	Bytes   uint64 // of their payload that was read

	// Dropped counts what the kernel dropped because the receive buffer was full, or because the checksum was wrong, which
	// Linux may see as late as a read. Only Linux counts it per OS socket, from 4.12 on (SO_MEMINFO). On macOS Dropped is 0:
	// the kernel counts for all sockets together. Windows counts nothing. There Dropped counts the datagrams that arrived
	// without packet information (IP_PKTINFO), as they do when memory is short. Their group is unknown, so they are
	// discarded. They are counted only while one group of the family is joined on the interface.
	//
	// Each datagram counts, except with RxConfig.Coalesce: there the kernel counts a run that it drops as one, and reports
	// nowhere how many datagrams were in it (__udp_enqueue_schedule_skb in net/ipv4/udp.c). Dropped is then how many runs and
	// single datagrams were lost. The datagrams may be up to 128 times as many (UDP_MAX_SEGMENTS).
	//
	// The kernel's counter returns to 0 after 2^32. Dropped does not, if Memberships is called at least once in that many.
	Dropped uint64

	Truncated uint64 // datagrams that were larger than the buffer they were read into

	// Own is the number of datagrams of this host that were discarded because RxConfig.Loopback is off. It counts those
	// that the system delivered: where TxConfig.Loopback is off as well, Linux and macOS deliver none. On Windows it is
	// 0, because the system discards them itself.
	Own uint64

	// ReadBuffer is the size of the receive buffer that the system granted, in bytes and in the unit of
	// RxConfig.ReadBuffer: set to this value it grants the same. Linux adds as much for its own bookkeeping, which is not
	// counted here (socket(7), SO_RCVBUF). On Windows the groups of a family share the buffer on each interface.
	ReadBuffer int
}

// Memberships returns, for each group on each interface, whether it is joined now and what was received since it was first
// joined, groups in the order in which they were joined. Without named interfaces, an interface that is gone is left out
// with its counters, and a group that waits for one has an entry without an interface. It returns nil after Close.
func (s *RxSocket) Memberships() (all []Membership) {
	if !s.opened() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	for _, g := range s.groups {
		if len(g.pairs) == 0 { // without named interfaces
			all = append(all, Membership{Group: g.addr, Sources: slices.Clone(g.sources), Blocked: slices.Clone(g.blocked),
				Err: s.waitError(g.addr)})
		}
		for _, p := range g.pairs {
			var m Membership
			s.m.update(func() { // for one pair: readers need not wait for all of them to be counted
				m = p.past
				for _, c := range slices.Concat(p.retired, p.conns) {
					if s.m.holds(c) { // else it has told its past
						c.addCounters(&m)
					}
				}
			})
			m.Group, m.Interface, m.IfIndex = g.addr, p.link.ifc.Name, p.link.ifc.Index
			m.Sources, m.Blocked = slices.Clone(g.sources), slices.Clone(g.blocked)
			m.Joined, m.Err = p.err == nil, p.err
			all = append(all, m)
		}
	}
	return all
}
