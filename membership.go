// The memberships of an RxSocket: its groups, and a pair for each group on an interface. They are joined and left here, and
// joined again in follow.go when the network changes.

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

// rxGroup is a group to receive on every interface that can join it.
type rxGroup struct {
	addr             netip.Addr
	sources, blocked []netip.Addr
	blockedSet       *addrSet // blocked, for the source filters
	pairs            []*pair
	orphans          []*conn // of pairs that were removed; they may have datagrams to deliver
}

// rxLink is an interface to receive the groups on.
type rxLink struct {
	trackedInterface
	own *addrSet // see RxSocket.own; the OS sockets of the interface share it
}

// pair is a group on an interface.
type pair struct {
	*rxGroup
	link    *rxLink
	conns   []*conn // the OS sockets that hold the membership; empty if it is not joined
	err     error   // why it is not joined
	retry   backoff // when to join again
	left    bool    // the membership was dropped and is to be renewed
	retired []*conn // former OS sockets, which may have datagrams to deliver

	past Membership // counters of closed OS sockets; guarded by the merge's lock
}

// waitError is the error of a group whose family no interface has.
func (s *RxSocket) waitError(group netip.Addr) error {
	e := noUsableInterface("join", group)
	e.Hint = "the group is joined when there is one"
	if s.cfg.Static {
		e.Hint = "RxConfig.Static keeps the socket from following the network"
	}
	return e
}

// addGroup adds a group, which joinGroup then joins. s.mu is held.
func (s *RxSocket) addGroup(group netip.Addr, sources []netip.Addr) *rxGroup {
	g := &rxGroup{addr: group, sources: sources}
	if len(sources) == 0 {
		g.sources, g.blocked = ofFamily(s.cfg.Sources, group), ofFamily(s.cfg.Blocked, group)
		g.blockedSet = newAddrSet(g.blocked)
	}
	s.groups = append(s.groups, g)
	return g
}

// joinGroup joins a new group on every link that can join it. Without named interfaces, one membership is enough, and
// without any such link the group waits for one. s.mu is held.
func (s *RxSocket) joinGroup(g *rxGroup) (err error) {
	joined := false
	for _, link := range s.links {
		if !s.canHave(link, g.addr) {
			if !s.all {
				return s.noFamily(g.addr, &link.ifc)
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
		if p.err != nil { // not an error, since others are joined
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

// canHave reports whether to join a group on link.
func (s *RxSocket) canHave(link *rxLink, group netip.Addr) bool {
	return link.ifc.hasFamily(group) || !s.all && group.Is4() && joinsWithoutIPv4
}

func (s *RxSocket) noFamily(group netip.Addr, ifc *Interface) error {
	return &OpError{Op: "join", Group: group, Interface: ifc.Name, Err: noInterface("the interface has no " + familyName(group) + " address"),
		Hint: noAddress(ifc, group.Is6())}
}

// needed returns the number of memberships of the socket, joined or not.
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

// removeGroup leaves and removes a group. s.mu is held.
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

// join opens the OS sockets of a pair without any, or sets p.err. s.mu is held.
func (s *RxSocket) join(p *pair) {
	if p.link.gone { // another interface may have its index
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
		return nil, p.link.ifc.withGone(err)
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

// leave closes the OS sockets of a pair. s.mu is held.
func (s *RxSocket) leave(p *pair) (err error) {
	for _, c := range slices.Concat(p.conns, p.retired) {
		err = errors.Join(err, s.m.remove(c))
	}
	p.conns, p.retired = nil, nil
	return err
}

func (s *RxSocket) newLink(ifc Interface) *rxLink {
	return &rxLink{trackedInterface{name: ifc.Name, ifc: ifc}, newAddrSet(s.own(&ifc))}
}

// own returns the addresses on ifc whose datagrams are discarded as those of this host.
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

// Join joins a group, IPv4 or IPv6, on all interfaces of the socket. With sources, only their datagrams are received;
// none may be in RxConfig.Blocked. Without, RxConfig.Sources and Blocked apply. A blocked read receives the group as
// well.
//
// Joining a group again is harmless, and adds the sources that are new. A group that is joined for some sources cannot
// be opened to all, or the reverse: leave it first.
//
// As with OpenRx, all named interfaces must be able to join. Without named interfaces one of them must, and a group
// whose family no interface has waits. After an error nothing has changed. On Linux, Join opens its sockets in the
// network namespace of the calling thread, as OpenRx does.
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
		err = noUsableInterface("join", group) // no interface will be joined later
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

// Leave leaves a group on all interfaces of the socket. Its datagrams that were received and not yet read are dropped.
// On Windows, those in the system's buffer are dropped when they are taken from it, unless the group is joined again by
// then. If the group is not joined, the error wraps ErrNotJoined.
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

// Membership is the state of one group on one interface, with counters.
type Membership struct {
	Group     netip.Addr
	Interface string       // its name; empty if the group waits for an interface
	IfIndex   int          // 0 if the group waits for an interface
	Sources   []netip.Addr // only these are received; empty: all
	Blocked   []netip.Addr

	// Joined reports whether the group is joined. On Linux a kernel can lose a membership without an error, for example
	// when an interface or IPv6 on it goes down and up. After each change of the network, and once a minute, the socket
	// compares its memberships with /proc/net/igmp, igmp6, mcfilter and mcfilter6, and joins again what is missing
	// there, unless Static is set. It needs no privileges. Without /proc it joins again what a change may have removed.
	Joined bool
	Err    error // why it is not joined; nil if it is

	Packets uint64 // datagrams read
	Bytes   uint64 // of their payload that was read

	// Dropped is the number of datagrams that the kernel dropped because the receive buffer was full or the checksum
	// was wrong. Linux may find a wrong checksum as late as a read. Only Linux counts drops per OS socket, from 4.12 on
	// (SO_MEMINFO). On macOS Dropped is 0. Windows counts no drops; there, Dropped is the number of datagrams that
	// arrived without packet information (IP_PKTINFO), as they do when memory is short. Their group is unknown, so they
	// are discarded. They are counted only while one group of the family is joined on the interface.
	//
	// With RxConfig.Coalesce the kernel counts a run that it drops as one, and does not report how many datagrams were
	// in it (__udp_enqueue_schedule_skb in net/ipv4/udp.c): up to 128 (UDP_MAX_SEGMENTS).
	//
	// The kernel's counter wraps after 2^32. Dropped does not, if Memberships is called at least once per 2^32 drops.
	Dropped uint64

	Truncated uint64 // datagrams that were larger than the buffer of their read

	// Own is the number of this host's datagrams that were discarded because RxConfig.Loopback is off. Where
	// TxConfig.Loopback is off as well, Linux and macOS do not deliver them, and Own does not count them. On Windows it
	// is 0, because the system discards them.
	Own uint64

	// ReadBuffer is the size of the receive buffer that the system granted, in bytes and in the unit of
	// RxConfig.ReadBuffer. Linux adds as much for its own bookkeeping, which is not included (socket(7), SO_RCVBUF). On
	// Windows the groups of a family share the buffer on each interface.
	ReadBuffer int
}

// Memberships returns the state of each group on each interface, with the counters since it was first joined. Groups
// are in the order in which they were joined. Without named interfaces, an interface that is gone is left out with its
// counters, and a group that waits for an interface has an entry without one. After Close, Memberships returns nil.
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
		if len(g.pairs) == 0 { // only without named interfaces
			all = append(all, Membership{Group: g.addr, Sources: slices.Clone(g.sources), Blocked: slices.Clone(g.blocked),
				Err: s.waitError(g.addr)})
		}
		for _, p := range g.pairs {
			var m Membership
			s.m.update(func() { // pair by pair, so that reads do not wait for all
				m = p.past
				for _, c := range slices.Concat(p.retired, p.conns) {
					if s.m.holds(c) { // otherwise p.past includes its counters
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
