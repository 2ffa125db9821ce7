// The receiving socket: its configuration, the table of what is to be joined and what is, and the net.PacketConn
// over it. How datagrams come out of many OS sockets is in merge_<os>.go, how these are made in sockopt_<os>.go, and
// what happens when the network changes in follow.go.

package mcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-multicast/mcast/internal/cure"
)

// RxConfig says what an RxSocket receives. Groups and Port are required; the zero value of every other field is a
// sensible default.
type RxConfig struct {
	// Groups to join; IPv4 and IPv6 may be mixed. Duplicates are harmless. More may come and go with Join and Leave.
	Groups []netip.Addr

	// Port that the groups are received on. It is shared with other programs that allow it. On Linux and macOS a port
	// below 1024 takes privileges.
	Port uint16

	// Interfaces to join the groups on, as FindInterfaces or Interfaces returned them. If a group cannot be joined on one
	// of them, opening fails. Each needs an address of the family of each group, except that Linux and macOS join IPv4
	// groups on an interface without an IPv4 address.
	//
	// A port of a bridge, bond or team is refused, since its master receives in its place: name that. When an interface
	// becomes a port later, its memberships have that as their Err until it is released.
	//
	// nil stands for every non-loopback interface that is up, supports multicast, is no such port and no VRF, and has an
	// address of the group's family. The members of a VRF are joined like other interfaces.
	// Each group must then be joined on at least one interface. Memberships has the others with their Err. A group of a
	// family that no interface has waits: it is joined when an interface has an address, unless Static is set. If all groups
	// would have to wait, opening fails with ErrNoInterface.
	//
	// If two of the interfaces are on one LAN, each datagram arrives on both and is returned twice, once per interface.
	// To receive it once, name one of them, bond them, or discard the copies by a sequence number in the payload.
	Interfaces []Interface

	// Sources, if there are any, are the only hosts whose datagrams are received: source-specific multicast
	// (RFC 4607), which 232.0.0.0/8 and ff3x::/32 are set aside for. It applies per family: sources of IPv4 alone leave
	// the IPv6 groups open to all. On Windows the library filters as well as the system, and alone where that refuses to.
	Sources []netip.Addr

	// Blocked are hosts whose datagrams are not received. Sources and Blocked cannot both be set. The library discards their
	// datagrams, and asks the system to keep them out. Linux keeps out as many as net.ipv4.igmp_max_msf and net.ipv6.mld_max_msf allow,
	// macOS none.
	Blocked []netip.Addr

	// Loopback lets datagrams in that this host itself sends out of a non-loopback interface. It must be set on
	// both ends: Linux and macOS decide at the sender, Windows at the receiver. Without it, a datagram whose source is
	// an address of the interface it came in by is not delivered. Traffic over the loopback interface is always delivered. On macOS
	// and Windows, what this host sent from an address that it has lost since is delivered if it waited behind 64 others. On
	// Linux it is delivered if the interface lost addresses more than 64 times before the socket was read.
	Loopback bool

	// ReadBuffer is the size in bytes of the receive buffer of every OS socket, of which there is one for each
	// interface and group, on Windows one for each interface and family; 0 leaves the system's default. The system may
	// grant less. Memberships reports the size it granted, and Logger the parameter that limits it. On Linux that is
	// net.core.rmem_max, which does not limit a process with CAP_NET_ADMIN.
	ReadBuffer int

	// Coalesce allows the kernel to hand over runs of datagrams of one source and size at once, which costs a
	// fraction for each (UDP_GRO, Linux 5.0). Every datagram is still delivered by itself, whole and in order; the
	// Time and HopLimit of a run are those of its first. The socket takes 0.6 MB for it. It is a permission, not an
	// order: what does not come as a run comes as ever, and on macOS, Windows and older kernels it changes nothing. A run
	// for which there is no room in the receive buffer is dropped as a whole. Membership.Dropped counts it as one, and
	// the number of its datagrams stays unknown: to count losses exactly, leave Coalesce off.
	Coalesce bool

	// Timestamps fills Message.Time with the time at which the kernel received the datagram: to the nanosecond on
	// Linux, to the microsecond on macOS. It stays zero on Windows, which would first have to be set up for it by an
	// administrator.
	Timestamps bool

	// HopLimits fills Message.HopLimit.
	HopLimits bool

	// Static keeps the socket from following the network: an interface that is deleted and created again is not
	// joined again, and none is joined that appears later. Addresses are then those at the time of opening.
	//
	// On Linux, close such a socket when its interface goes. If that comes back with the same index, the kernel counts the
	// lost memberships as if they were there, and when the socket is closed later, it takes them from other sockets that
	// have joined since (__ip_mc_dec_group in net/ipv4/igmp.c).
	Static bool

	// Logger receives what the socket does by itself while it follows the network, and why it cannot follow, as on
	// Android. nil: nothing is logged. Its handler is called for one entry at a time, in order, by a goroutine that serves
	// this socket only. A handler that is slow delays nothing else. Up to 256 entries wait for it; then the oldest are
	// dropped, and their number is logged.
	//
	// The handler may use the socket but must not close it: Close waits until the handler has returned from every entry.
	Logger *slog.Logger
}

// RxSocket receives multicast: each datagram sent to a joined group and the port, that arrived on a joined
// interface from an allowed source, exactly once, and nothing else. It implements net.PacketConn. All methods may
// be called from many goroutines.
//
// Errors of its methods are *OpError. After Close they wrap net.ErrClosed, also those of a read that was blocked.
// A read that fails returns zero values with its error.
//
// # OS sockets
//
// On Linux and macOS every pair of interface and group has an OS socket, and so a file descriptor and a receive buffer,
// of its own. A read takes from all OS sockets in turn, so that a flooded one does not silence a quiet one.
//
// Windows does not let a socket be bound to a group. There every interface has one OS socket for each family, which its
// groups share; it is bound to the interface's IPv4 address, for IPv6 to the wildcard. So a flooded group can push
// others out of the receive buffer. And the system may give this socket unicast that was sent to another program which
// shares the port; it is discarded. Other projects report that a socket which is bound to an IPv4 address takes all
// unicast to that address and port from sockets that are bound to the wildcard: from the DNS client of Windows and
// browsers (5353), and from a TxSocket with the same TxConfig.Port.
//
// On macOS and Windows a goroutine for every OS socket receives ahead of the reads: up to 64 datagrams, in a buffer of
// 128 KiB, of which only what datagrams have needed takes memory. The rest waits in the receive buffer.
type RxSocket struct {
	cfg RxConfig // checked, and not changed after
	all bool     // it joins on whatever interfaces there are
	*reader
	logger   logger
	unfollow func() // nil if Static
	again    func() // has what could not be joined tried again in a while; nil if Static

	mu     sync.Mutex // guards what is below; held while sockets are opened and closed, never while a read or write waits
	closed bool
	groups []*rxGroup
	links  []*rxLink
	silent backoff // replies to a family that came later cannot be sent

	replies replies
}

// rxGroup is a group that is to be received wherever that is possible.
type rxGroup struct {
	addr             netip.Addr
	sources, blocked []netip.Addr
	screened         *addrSet // blocked, for the screens
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

var _ net.PacketConn = (*RxSocket)(nil)

// OpenRx joins every group on every interface of the configuration.
//
// A mistake in the configuration is refused before any OS socket is opened. Otherwise the error says which group could not
// be joined on which interface, why, and, where that is known, the cure; nothing is left open then. A lack of file
// descriptors or memory is an error whatever Interfaces is. On systems other than Linux, macOS and Windows the error wraps
// errors.ErrUnsupported.
//
// It does not block, except on Windows. While Windows checks that no other host has the IPv4 address of an interface (RFC
// 5227), as after boot, wake or a new DHCP lease, no socket can be bound to it. OpenRx waits for an interface that was
// named, or if no interface has another address, for five seconds at most. Other interfaces are joined when their
// addresses have been checked, unless Static is set.
func OpenRx(cfg RxConfig) (*RxSocket, error) {
	if errSystem != nil {
		return nil, &OpError{Op: "open", Err: errSystem}
	}
	all := cfg.Interfaces == nil
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	cfg.Interfaces = awaitUsable(cfg.Interfaces, cfg.Groups, all, Interfaces)
	r, err := newReader()
	if err != nil {
		return nil, &OpError{Op: "open", Err: err, Hint: openHint(err)}
	}
	s := &RxSocket{cfg: cfg, all: all, reader: r, logger: logger{to: cfg.Logger}}
	s.replies.port = cfg.Port
	for _, ifc := range cfg.Interfaces {
		s.links = append(s.links, s.newLink(ifc))
	}
	if err := s.joinAll(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// opened reports whether s comes from OpenRx.
func (s *RxSocket) opened() bool { return s != nil && s.reader != nil }

// joinAll joins the groups of the configuration. It follows the network first, and lets go of s.mu last, so that
// no change is missed in between.
func (s *RxSocket) joinAll() error {
	processWatch.joining.RLock()
	defer processWatch.joining.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cfg.Static {
		var err error
		if s.unfollow, s.again, err = tryFollow(&s.logger, &watchFollower{prepare: s.prepare, holds: s.holds, f: s.follow}); err != nil {
			return err
		}
	}
	for _, group := range s.cfg.Groups {
		s.addGroup(group, nil)
	}
	for _, g := range s.groups {
		if err := s.joinGroup(g); err != nil {
			s.groups, s.links = nil, nil // or follow would try again, and log, before the socket is closed
			return err
		}
	}
	for _, link := range s.links {
		if link.ifc.Flags&net.FlagUp == 0 {
			s.logger.log(slog.LevelWarn, "interface is down", link.ifc, nil)
		}
	}
	s.logBuffer()
	return nil
}

// logBuffer logs that the receive buffers are smaller than the configuration has them. They are all alike.
func (s *RxSocket) logBuffer() {
	for _, g := range s.groups {
		for _, p := range g.pairs {
			if len(p.conns) == 0 {
				continue
			}
			var granted int
			s.m.update(func() { granted = p.conns[0].stats() })
			if granted < s.cfg.ReadBuffer {
				s.logger.log(slog.LevelWarn, "the receive buffer is smaller than ReadBuffer", Interface{}, nil, slog.Int("asked", s.cfg.ReadBuffer),
					slog.Int("granted", granted), slog.String("cure", cure.ReceiveBuffer(strconv.Itoa(s.cfg.ReadBuffer))))
			}
			return
		}
	}
}

// check returns the configuration in its plain form: with copies of its slices, and with the interfaces found.
func (cfg RxConfig) check() (_ RxConfig, err error) {
	if cfg.Groups, err = checkGroups(cfg.Groups); err != nil {
		return cfg, err
	}
	if cfg.Port == 0 {
		return cfg, mistake("Port 0: want the port that the groups are sent to")
	}
	if len(cfg.Sources) > 0 && len(cfg.Blocked) > 0 {
		return cfg, mistake("Sources %v with Blocked %v: want one of them", cfg.Sources, cfg.Blocked)
	}
	f := familiesOf(cfg.Groups)
	for _, field := range []struct {
		name    string
		sources *[]netip.Addr
	}{{"Sources", &cfg.Sources}, {"Blocked", &cfg.Blocked}} {
		plain, wrong := checkSources(*field.sources, f)
		if wrong != nil {
			wrong.Op, wrong.Err = "open", fmt.Errorf("%s: %w", field.name, wrong.Err)
			return cfg, wrong
		}
		*field.sources = plain
	}
	if err := checkSize("ReadBuffer", cfg.ReadBuffer); err != nil {
		return cfg, err
	}
	if cfg.Interfaces != nil {
		for i := range cfg.Interfaces {
			if ifc := &cfg.Interfaces[i]; ifc.isPort() {
				return cfg, ifc.portError("open")
			}
		}
		cfg.Interfaces, err = checkInterfaces(cfg.Interfaces, families{v4: f.v4 && !joinsWithoutIPv4, v6: f.v6}, f.v4 && f.v6)
		return cfg, err
	}
	if cfg.Interfaces, err = Interfaces(); err != nil {
		return cfg, err
	}
	cfg.Interfaces = slices.DeleteFunc(cfg.Interfaces, func(ifc Interface) bool { return !joinsByItself(&ifc) })
	for _, g := range cfg.Groups {
		if slices.ContainsFunc(cfg.Interfaces, func(ifc Interface) bool { return ifc.hasFamily(g) }) {
			return cfg, nil // groups of the other family wait for an address
		}
	}
	return cfg, noUsable("open", cfg.Groups...)
}

// joinsByItself reports whether a socket without a list of interfaces joins its groups on ifc.
func joinsByItself(ifc *Interface) bool {
	const want = net.FlagUp | net.FlagMulticast
	return ifc.Flags&want == want && !ifc.IsLoopback() && !ifc.isPort() && ifc.kind != kindVRF
}

// noUsable is the error of groups that no interface can be joined on without being named.
func noUsable(op string, groups ...netip.Addr) *OpError {
	e := &OpError{Op: op, Hint: `WatchInterfaces waits for one; to use the loopback interface, name it in Interfaces: FindInterfaces("127.0.0.1")`}
	family := familyName(groups[0])
	if len(groups) == 1 {
		e.Group = groups[0]
	}
	if f := familiesOf(groups); f.v4 && f.v6 {
		family = "IPv4 or IPv6"
	}
	e.Err = noInterface("no usable interface: none is up, supports multicast and has an " + family + " address")
	return e
}

// waits is the error of a group that no interface has the family of.
func (s *RxSocket) waits(group netip.Addr) error {
	e := noUsable("join", group)
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
		g.screened = newAddrSet(g.blocked)
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
		s.logger.log(slog.LevelWarn, "a group waits for an interface", Interface{}, s.waits(g.addr))
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

// vrf returns the VRF that all interfaces of the socket belong to, or 0. While none is there it is the one of before.
func (s *RxSocket) vrf() (vrf int) {
	known := false
	for _, link := range s.links {
		if link.gone {
			continue
		}
		if known && link.ifc.vrf() != vrf {
			return 0
		}
		known, vrf = true, link.ifc.vrf()
	}
	if !known {
		return s.replies.vrf
	}
	return vrf
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
	p.err = s.open(p, p.sources)
}

func (p *pair) goneError() error {
	return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: ErrNoInterface, Hint: cure.Gone}
}

func (p *pair) portError() error {
	e := p.link.ifc.portError("join")
	e.Group = p.addr
	return e
}

// open adds sockets for the given sources to a pair: all of them, or none.
func (s *RxSocket) open(p *pair, sources []netip.Addr) error {
	conns, err := openPair(s.m, &s.cfg, p, sources)
	if err != nil {
		if op := (*OpError)(nil); isExhausted(err) && errors.As(err, &op) {
			needs := fmt.Sprintf("the socket needs %d memberships", s.needed())
			if op.Hint != "" {
				needs += "; " + op.Hint
			}
			op.Hint = needs
		}
		return err
	}
	for i, c := range conns {
		c.screen.own = p.link.own
		if err := s.m.add(c); err != nil {
			for _, c := range conns[:i] {
				s.m.remove(c)
			}
			for _, c := range conns[i:] {
				c.release()
			}
			return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: openHint(err)}
		}
	}
	p.conns = append(p.conns, conns...)
	return nil
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
		err = noUsable("join", group) // no interface will come
	}
	if err != nil {
		s.removeGroup(g)
		return err
	}
	if s.again != nil && slices.ContainsFunc(g.pairs, func(p *pair) bool { return p.err != nil }) {
		s.again()
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

// addSources adds those of the sources that are new to a group that is joined. s.mu is held.
func (s *RxSocket) addSources(g *rxGroup, sources []netip.Addr) error {
	if len(sources) == 0 {
		sources = ofFamily(s.cfg.Sources, g.addr)
	}
	if (len(sources) == 0) != (len(g.sources) == 0) {
		now := "all sources"
		if len(g.sources) > 0 {
			now = fmt.Sprint(g.sources)
		}
		return &OpError{Op: "join", Group: g.addr, Err: fmt.Errorf("it is joined for %s already", now), Hint: "Leave it first"}
	}
	sources = slices.DeleteFunc(slices.Clone(sources), func(a netip.Addr) bool { return slices.Contains(g.sources, a) })
	if len(sources) == 0 {
		return nil
	}
	had := make([]int, len(g.pairs))
	failed := make(map[*pair]error)
	var first error
	joined := 0
	for i, p := range g.pairs {
		had[i] = len(p.conns)
		if p.err != nil {
			continue // joins for all sources when it can
		}
		if err := s.open(p, sources); err == nil {
			joined++
		} else {
			failed[p] = err
			if first == nil || isExhausted(err) {
				first = err
			}
		}
	}
	if first != nil && (!s.all || joined == 0 || isExhausted(first)) {
		for i, p := range g.pairs {
			for _, c := range p.conns[had[i]:] {
				s.m.remove(c)
			}
			p.conns = slices.Delete(p.conns, had[i], len(p.conns))
		}
		return first
	}
	g.sources = append(g.sources, sources...)
	for p, err := range failed { // which is not half a member
		s.retire(p)
		p.err = err
	}
	if first != nil && s.again != nil {
		s.again()
	}
	return nil
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
				Err: s.waits(g.addr)})
		}
		for _, p := range g.pairs {
			var m Membership
			s.m.update(func() { // for one pair: readers need not wait for all of them to be counted
				m = p.past
				for _, c := range slices.Concat(p.retired, p.conns) {
					if s.m.holds(c) { // else it has told its past
						c.tell(&m)
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

// ReadFrom waits for a datagram and copies it into p; a datagram that is larger is cut, and ReadBatch tells of it.
// The address is a *net.UDPAddr of the sender, whose zone, if it has one, is an interface index. ReadFromUDPAddrPort
// does the same without allocating.
func (s *RxSocket) ReadFrom(p []byte) (n int, addr net.Addr, err error) {
	if !s.opened() {
		return 0, nil, errNotOpen("read")
	}
	return s.readFrom(p)
}

// ReadFromUDPAddrPort waits for a datagram and copies it into p; a datagram that is larger is cut, and ReadBatch
// tells of it. The zone of a link-local source is the index of the interface as a number, because names can change
// hands. It does not allocate.
func (s *RxSocket) ReadFromUDPAddrPort(p []byte) (n int, src netip.AddrPort, err error) {
	if !s.opened() {
		return 0, src, errNotOpen("read")
	}
	return s.readFromUDPAddrPort(p)
}

// ReadBatch waits for a datagram, takes what else has arrived already as far as ms has room, and returns how many
// elements it has filled. Each datagram goes into the Buf of its element; elements may exchange their Bufs. Apart
// from the first call it does not allocate.
//
// If the deadline passes, or the socket is closed, after it has taken a datagram, it returns what it has taken and a nil
// error. The next read returns the error.
//
// On Linux a system call moves up to 64 datagrams. On macOS and Windows each datagram takes one of its own, and ReadBatch
// returns at most 1024 datagrams.
func (s *RxSocket) ReadBatch(ms []Message) (n int, err error) {
	if !s.opened() {
		return 0, errNotOpen("read")
	}
	return s.readBatch(ms, nil)
}

// Messages returns the datagrams as they come, for a range statement:
//
//	for m, err := range rx.Messages(ctx) {
//
// It ends when ctx does or the socket is closed. Other errors, such as a read deadline that has passed, are given
// to the loop body, which may go on; after a deadline with another one, or it gets that error again at once. The message
// and its buffer, which holds any datagram, are used again for the next one. Other reads may go on at the same time; each
// datagram is received by one of them.
func (s *RxSocket) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	if ctx == nil {
		ctx = context.Background()
	}
	return func(yield func(*Message, error) bool) {
		if !s.opened() {
			yield(nil, errNotOpen("read"))
			return
		}
		series, stop := s.until(ctx)
		defer stop()
		buf := make([]byte, maxDatagram)
		ms := make([]Message, 1)
		for ctx.Err() == nil && s.begin(series) { // AfterFunc takes a moment to tell
			ms[0] = Message{Buf: buf}
			_, err := s.readBatch(ms, series)
			s.end(series)
			m := &ms[0]
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return
				}
				m = nil
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// maxDatagram is as large as a UDP datagram can be without jumbograms.
const maxDatagram = 65535

// WriteTo is WriteToUDPAddrPort for net.PacketConn; addr is a *net.UDPAddr.
func (s *RxSocket) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	dst, err := udpAddrPort(addr)
	if err != nil {
		return 0, err
	}
	return s.WriteToUDPAddrPort(p, dst)
}

// WriteToUDPAddrPort sends a unicast datagram, such as a reply, from the socket's port. The source address is the
// one that the system's routes choose: on Linux those of a VRF if all interfaces of the socket belong to it, else those of
// the main table. So a socket for each VRF can reply in all of them. The zone of a link-local destination may be an interface's index or name.
// It blocks while the send buffer is full.
//
// It does not allocate, unless the zone is a name. A name is looked up in each call, because it can pass to another
// interface: that allocates, asks the system for its interfaces, and on Linux is about the network namespace of the calling
// thread. A zone that came from a read is an index.
//
// What comes back is for whoever has bound the port for unicast: this socket receives multicast alone. Sending to a
// group is refused with ErrNotDeclared: that is what a TxSocket is for. So is sending to 255.255.255.255, and to the
// unspecified address, which a datagram may claim to come from and systems take for the loopback one. To the broadcast
// address of a network the system refuses to send (EACCES).
//
// It takes a second OS socket. On Linux that is opened with the first, and takes nothing from anybody. On macOS and
// Windows the first write of a family opens it, and from then on the system may give it unicast that arrives on the
// port, which nobody reads: a program that also waits for unicast there should reply from its own socket.
func (s *RxSocket) WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (n int, err error) {
	if !s.opened() {
		return 0, errNotOpen("write")
	}
	ip, err := unmap(addr.Addr())
	if err != nil {
		return 0, &OpError{Op: "write", Err: err}
	}
	addr = netip.AddrPortFrom(ip, addr.Port())
	fail := func(err error, hint string) error {
		e := &OpError{Op: "write", Err: fmt.Errorf("to %s: %w", addr, err), Hint: hint}
		if ip.IsMulticast() {
			e.Group = ip
		}
		return e
	}
	switch {
	case ip.IsMulticast():
		return 0, fail(notDeclared("a multicast group"), "a TxSocket sends to groups")
	case !ip.IsValid(), ip.IsUnspecified(), ip == broadcast:
		return 0, fail(notDeclared("not the address of a single host"), "an RxSocket sends to single hosts only")
	case addr.Port() == 0:
		return 0, fail(errPortZero, "")
	}
	to, err := s.replies.sender(ip)
	if err != nil {
		return 0, fail(err, openHint(err))
	}
	scope, err := zoneIndex(ip.Zone())
	for err == nil {
		err = to.send(p, addr, scope)
		anew := s.replies.of(ip).to.Load()
		if !errors.Is(err, net.ErrClosed) || anew == to {
			break
		}
		to, err = anew, nil // moveTo has taken its place, and closed it
	}
	if err != nil {
		return 0, fail(err, sendHint(err, &Interface{}, ip))
	}
	return len(p), nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// zoneIndex is the interface that a zone stands for: a number as it is, a name as the system has it now.
func zoneIndex(zone string) (int, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil && n > 0 {
		return int(n), nil
	}
	all, err := Interfaces() // net.InterfaceByName does not know alternative names
	if err != nil {
		return 0, fmt.Errorf("zone %s: %w", zone, err)
	}
	i := slices.IndexFunc(all, func(ifc Interface) bool { return ifc.hasName(zone) })
	if i < 0 {
		return 0, fmt.Errorf("zone %s: %w", zone, ErrNoInterface)
	}
	return all[i].Index, nil
}

// replies are the OS sockets that an RxSocket writes with, one for each family that it has, or had, groups of.
type replies struct {
	port   uint16
	v4, v6 reply

	mu       sync.Mutex // guards what is below, the groups of v4 and v6, and the settings of their sockets
	vrf      int        // that all interfaces of the RxSocket belong to; 0: there is no such one
	retired  []*sender  // of another VRF, for writes that have begun
	deadline time.Time
	closed   bool
}

type reply struct {
	to    atomic.Pointer[sender] // nil if it is not open
	group netip.Addr             // one of its family; zero if there was none
}

func (r *replies) of(a netip.Addr) *reply {
	if a.Is4() {
		return &r.v4
	}
	return &r.v6
}

// allow makes replies to the family of group possible.
func (r *replies) allow(group netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	family := r.of(group)
	if family.group.IsValid() {
		return nil
	}
	if replyEarly {
		if err := r.open(family, group); err != nil {
			return err
		}
	}
	family.group = group
	return nil
}

// open opens the socket of a family. r.mu is held.
func (r *replies) open(family *reply, group netip.Addr) error {
	conn, err := listenReply(group, r.port)
	if err != nil {
		return err
	}
	to, err := newSender(conn, nil)
	if err == nil {
		err = conn.SetWriteDeadline(r.deadline)
	}
	if err == nil && r.vrf != 0 {
		_, err = bindSender(to.raw, r.vrf)
	}
	if err != nil {
		conn.Close()
		return err
	}
	family.to.Store(to)
	return nil
}

// moveTo has replies leave through a VRF, 0: by the main table. Sockets that are open are opened anew.
func (r *replies) moveTo(vrf int) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.vrf == vrf {
		return nil
	}
	before := r.vrf
	r.vrf = vrf
	for _, old := range r.retired {
		old.conn.Close()
	}
	r.retired = nil
	for _, family := range []*reply{&r.v4, &r.v6} {
		old := family.to.Load()
		if old == nil {
			continue
		}
		if err := r.open(family, family.group); err != nil {
			r.vrf = before
			return err
		}
		r.retired = append(r.retired, old)
	}
	return nil
}

// sender returns what to write to dst with.
func (r *replies) sender(dst netip.Addr) (*sender, error) {
	family := r.of(dst)
	if to := family.to.Load(); to != nil {
		return to, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, net.ErrClosed
	case !family.group.IsValid():
		return nil, fmt.Errorf("no group of the socket is %s", familyName(dst))
	}
	if family.to.Load() == nil {
		if err := r.open(family, family.group); err != nil {
			return nil, err
		}
	}
	return family.to.Load(), nil
}

func (r *replies) setDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.deadline = t
	return r.each(func(conn *net.UDPConn) error { return conn.SetWriteDeadline(t) })
}

func (r *replies) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.each((*net.UDPConn).Close)
}

// each calls f for every socket that is open, also for those that writes of before may be in, and returns the first error.
func (r *replies) each(f func(*net.UDPConn) error) (err error) {
	for _, old := range r.retired {
		err = cmp.Or(err, f(old.conn))
	}
	for _, family := range []*reply{&r.v4, &r.v6} {
		if to := family.to.Load(); to != nil {
			err = cmp.Or(err, f(to.conn))
		}
	}
	return err
}

// SetDeadline sets both deadlines.
func (s *RxSocket) SetDeadline(t time.Time) error {
	if !s.opened() {
		return errNotOpen("set deadline")
	}
	return cmp.Or(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline sets the time after which reads fail with os.ErrDeadlineExceeded, also one that is blocked; the
// zero time means never.
func (s *RxSocket) SetReadDeadline(t time.Time) error {
	if !s.opened() {
		return errNotOpen("set deadline")
	}
	return opError("set deadline", s.setReadDeadline(t))
}

// SetWriteDeadline is to writes what SetReadDeadline is to reads. On Windows it does not concern those to link-local IPv6
// hosts, which hardly ever wait.
func (s *RxSocket) SetWriteDeadline(t time.Time) error {
	if !s.opened() {
		return errNotOpen("set deadline")
	}
	return opError("set deadline", s.replies.setDeadline(t))
}

// LocalAddr returns the first group of the configuration with the port, as a *net.UDPAddr.
func (s *RxSocket) LocalAddr() net.Addr {
	if !s.opened() {
		return nil
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.cfg.Groups[0], s.cfg.Port))
}

// Close leaves all groups and closes the socket. It interrupts reads and writes that are blocked and waits until
// no read is inside the kernel, no goroutine of the socket is left, and Logger has what was logged. Closing again is
// harmless and returns nil.
func (s *RxSocket) Close() error {
	if !s.opened() {
		return errNotOpen("close")
	}
	closed, err := s.leaveAll()
	if closed {
		return nil
	}
	err = cmp.Or(err, s.replies.close())
	if s.unfollow != nil {
		s.unfollow()
	}
	s.logger.close() // last: it waits for the handler, which may be in a read or write
	return opError("close", err)
}

// leaveAll closes the OS sockets that hold memberships, or reports that they were closed already. The socket follows the
// network still, and nobody prepares meanwhile: a membership that was lost must not be dropped later. See prepare.
func (s *RxSocket) leaveAll() (already bool, err error) {
	processWatch.joining.RLock()
	defer processWatch.joining.RUnlock()
	s.mu.Lock()
	already = s.closed
	s.closed = true
	s.mu.Unlock()
	if !already {
		err = s.m.close()
	}
	return already, err
}
