// The receiving socket: its configuration, the table of what is to be joined and what is, and the net.PacketConn
// over it. How datagrams come out of many OS sockets is in merge_<os>.go, how these are made in sockopt_<os>.go, and
// what happens when the network changes in follow.go.

package mcast

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/go-multicast/mcast/internal/hint"
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
	retry    func() // schedules another attempt to join what failed; nil if Static

	mu     sync.Mutex // guards what is below; held while sockets are opened and closed, never while a read or write waits
	closed bool
	groups []*rxGroup
	links  []*rxLink
	silent backoff // replies to a family that came later cannot be sent

	replies replies
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
		if s.unfollow, s.retry, err = tryFollow(&s.logger, &watchFollower{prepare: s.prepare, holds: s.holds, f: s.follow}); err != nil {
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
					slog.Int("granted", granted), slog.String("cure", hint.ReceiveBuffer(strconv.Itoa(s.cfg.ReadBuffer))))
			}
			return
		}
	}
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
