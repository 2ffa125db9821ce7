// RxConfig and RxSocket: opening, reading, closing. Memberships are in membership.go, unicast replies in reply.go, the check of
// the configuration in config.go, and changes of the network in follow.go.

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

// RxConfig configures an RxSocket. Groups and Port are required. The zero value of every other field is a sensible
// default.
type RxConfig struct {
	// Groups to join; IPv4 and IPv6 may be mixed. Duplicates are harmless. Join and Leave change them later.
	Groups []netip.Addr

	// Port that the groups are sent to. It is shared with other programs that allow it. On Linux and macOS a port below
	// 1024 requires privileges.
	Port uint16

	// Interfaces to join the groups on, as FindInterfaces or Interfaces returned them. If a group cannot be joined on
	// one of them, opening fails. Each interface needs an address of the family of each group. On Linux and macOS, IPv4
	// groups can also be joined on an interface without an IPv4 address.
	//
	// A port of a bridge, bond or team is refused, because its master receives the datagrams: name the master. When an
	// interface becomes a port later, its memberships report that as their Err until it is released.
	//
	// nil selects every non-loopback interface that is up, supports multicast, is neither such a port nor a VRF, and
	// has an address of the group's family. The members of a VRF are joined like other interfaces. Each group must then
	// be joined on at least one interface. Memberships reports the failures on the others. A group of a family that no
	// interface has waits: it is joined when an interface gets an address, unless Static is set. If all groups would
	// have to wait, opening fails with ErrNoInterface.
	//
	// If two of the interfaces are on one LAN, each datagram arrives on both and is returned twice, once per interface.
	// To receive it once, name one of them, bond them, or discard copies by a sequence number in the payload.
	Interfaces []Interface

	// Sources, if not empty, are the only hosts whose datagrams are received: source-specific multicast (RFC 4607), for
	// which 232.0.0.0/8 and ff3x::/32 are reserved. It applies per family: IPv4 sources do not restrict IPv6 groups. On
	// Windows the library also filters by itself, and works where Windows refuses the filter.
	Sources []netip.Addr

	// Blocked are hosts whose datagrams are not received. Sources and Blocked cannot both be set. The library discards
	// their datagrams, and asks the system to block them. Linux blocks as many as net.ipv4.igmp_max_msf and
	// net.ipv6.mld_max_msf allow, macOS none.
	Blocked []netip.Addr

	// Loopback receives datagrams that this host sends on a non-loopback interface. Set it on both ends: Linux and
	// macOS decide at the sender, Windows at the receiver. Without Loopback, a datagram is discarded if its source is
	// an address of the interface it arrived on. Traffic on the loopback interface is always delivered.
	//
	// The source may be an address that this host has lost since it sent the datagram. Such a datagram is delivered, on
	// macOS and Windows, if it waited behind 64 others. On Linux it is delivered if the interface lost addresses more
	// than 64 times before the socket was read.
	Loopback bool

	// ReadBuffer is the size in bytes of the receive buffer of each OS socket. There is one OS socket for each
	// interface and group, on Windows one for each interface and family. 0 means the system's default. The system may
	// grant less. Memberships reports the size it granted, and Logger the parameter that limits it. On Linux that is
	// net.core.rmem_max, which does not limit a process with CAP_NET_ADMIN.
	ReadBuffer int

	// Coalesce permits the kernel to deliver a run of datagrams of one source and size at once (UDP_GRO, Linux 5.0),
	// which makes each datagram cheaper. Every datagram is still returned by itself, complete and in order. The Time
	// and HopLimit of a run are those of its first datagram. The socket needs 0.6 MB more memory. On macOS, Windows and
	// older kernels Coalesce has no effect.
	//
	// If the receive buffer has no room for a run, the kernel drops the whole run. Membership.Dropped counts it as one.
	// To count losses exactly, leave Coalesce off.
	Coalesce bool

	// Timestamps fills Message.Time with the time at which the kernel received the datagram: in nanoseconds on Linux,
	// in microseconds on macOS. On Windows it stays zero, because an administrator would have to enable timestamps
	// first.
	Timestamps bool

	// HopLimits fills Message.HopLimit.
	HopLimits bool

	// Static stops the socket from following the network. An interface that is deleted and created again is not joined
	// again, and interfaces that appear later are not joined. Addresses are those at the time of opening.
	//
	// On Linux, close such a socket when its interface is deleted. If an interface with the same index appears later,
	// the kernel still counts the lost memberships. When the socket is closed then, the kernel takes them from other
	// sockets that have joined since (__ip_mc_dec_group in net/ipv4/igmp.c).
	Static bool

	// Logger receives what the socket does by itself when the network changes, and why it cannot follow the network, as
	// on Android. nil: nothing is logged. One goroutine per socket calls its handler for one entry at a time, in order.
	// A slow handler delays nothing else. Up to 256 entries wait for it. Then the oldest are dropped, and their number
	// is logged.
	//
	// The handler may use the socket but must not close it: Close waits until the handler has returned from every
	// entry.
	Logger *slog.Logger
}

// RxSocket receives multicast: each datagram that was sent to a joined group and the port, arrived on a joined
// interface and came from an allowed source, exactly once, and nothing else. It implements net.PacketConn. All methods
// may be called from many goroutines.
//
// Errors of its methods are *OpError. After Close they wrap net.ErrClosed, also those of a read that was blocked. A
// read that fails returns zero values with its error.
//
// # OS sockets
//
// On Linux and macOS every group on every interface has an OS socket of its own, with a file descriptor and a receive
// buffer. A read takes from all OS sockets in turn, so a flooded group does not delay the others.
//
// Windows cannot bind a socket to a group. There, the groups of a family share one OS socket on each interface. It is
// bound to the interface's IPv4 address, for IPv6 to the wildcard. A flooded group can therefore push others out of the
// receive buffer. Windows may also deliver unicast to this socket that was sent to another program on the same port; it
// is discarded. Other projects report that a socket bound to an IPv4 address takes all unicast to that address and port
// from sockets bound to the wildcard. This affects the DNS client of Windows and browsers (5353), and a TxSocket with
// the same TxConfig.Port.
//
// On macOS and Windows a goroutine for every OS socket receives ahead of the reads: up to 64 datagrams, in a buffer of
// 128 KiB. Other datagrams wait in the receive buffer.
type RxSocket struct {
	cfg RxConfig // checked, and not changed after
	all bool     // Interfaces is nil
	*reader
	logger   logger
	unfollow func() // nil if Static
	retry    func() // schedules another attempt to join what failed; nil if Static

	mu      sync.Mutex // guards the fields below; held while OS sockets are opened and closed, never while a read or write waits
	closed  bool
	groups  []*rxGroup
	links   []*rxLink
	silent  lastFailure // replies to a family that appeared later cannot be sent
	unmoved lastFailure // replies cannot leave through another VRF

	replies replies
}

var _ net.PacketConn = (*RxSocket)(nil)

// OpenRx opens a socket and joins every group on every interface of the configuration.
//
// A mistake in the configuration is refused before any OS socket is opened. If a group cannot be joined, OpenRx closes
// what it opened, and the error names the group, the interface, the cause and, where it is known, what to do. A lack of
// file descriptors or memory is always an error. On systems other than Linux, macOS and Windows the error wraps
// errors.ErrUnsupported.
//
// OpenRx does not block, except on Windows. While Windows checks that no other host has the IPv4 address of an
// interface (RFC 5227), as after boot, wake or a new DHCP lease, no socket can be bound to it. OpenRx then waits for
// each named interface, or, without named interfaces, until one has a usable address, for five seconds at most. Other
// interfaces are joined when their addresses have been checked, unless Static is set.
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

// joinAll joins the groups of the configuration. It starts to follow the network first, and releases s.mu last, so that
// it misses no change.
func (s *RxSocket) joinAll() error {
	processWatch.joining.RLock()
	defer processWatch.joining.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cfg.Static {
		var err error
		if s.unfollow, s.retry, err = tryFollow(&s.logger, &watchFollower{prepare: s.prepare, holds: s.holds, follow: s.follow}); err != nil {
			return err
		}
	}
	for _, group := range s.cfg.Groups {
		s.addGroup(group, nil)
	}
	for _, g := range s.groups {
		if err := s.joinGroup(g); err != nil {
			s.groups, s.links = nil, nil // otherwise follow retries before the socket is closed
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

// logBuffer logs a receive buffer that is smaller than ReadBuffer. All have the same size.
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

// ReadFrom waits for a datagram and copies it into p. The rest of a larger datagram is lost; ReadBatch reports that.
// The address is the *net.UDPAddr of the sender. Its zone, if any, is an interface index. ReadFromUDPAddrPort does the
// same without allocating.
func (s *RxSocket) ReadFrom(p []byte) (n int, addr net.Addr, err error) {
	if !s.opened() {
		return 0, nil, errNotOpen("read")
	}
	return s.readFrom(p)
}

// ReadFromUDPAddrPort waits for a datagram and copies it into p. The rest of a larger datagram is lost; ReadBatch
// reports that. The zone of a link-local source is the interface's index as a number, because a name can pass to
// another interface. It does not allocate.
func (s *RxSocket) ReadFromUDPAddrPort(p []byte) (n int, src netip.AddrPort, err error) {
	if !s.opened() {
		return 0, src, errNotOpen("read")
	}
	return s.readFromUDPAddrPort(p)
}

// ReadBatch waits for a datagram, then also takes those that have arrived already, as far as ms has room. It returns
// the number of elements it filled. Each datagram is copied into the Buf of its element; elements may exchange their
// Bufs. Only the first call allocates.
//
// If the deadline passes, or the socket is closed, after it has taken a datagram, it returns what it has taken and a
// nil error. The next read returns the error.
//
// On Linux one system call receives up to 64 datagrams. On macOS and Windows each datagram takes one system call, and
// ReadBatch returns at most 1024 datagrams.
func (s *RxSocket) ReadBatch(ms []Message) (n int, err error) {
	if !s.opened() {
		return 0, errNotOpen("read")
	}
	return s.readBatch(ms, nil)
}

// Messages returns the datagrams as they arrive, for a range statement:
//
//	for m, err := range rx.Messages(ctx) {
//
// The iteration ends when ctx is done or the socket is closed. Other errors, such as a read deadline that has passed,
// are passed to the loop body, which may continue. After a deadline, set another one before you continue, or the next
// iteration returns the same error.
//
// The message and its buffer, which has room for any datagram, are used again for the next one. Other reads may run at
// the same time; each datagram is received by one of them.
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
		for ctx.Err() == nil {
			ms[0] = Message{Buf: buf}
			_, err := s.readBatch(ms, series)
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

// maxDatagram is the size limit of a UDP datagram without jumbograms.
const maxDatagram = 65535

// SetDeadline sets both deadlines.
func (s *RxSocket) SetDeadline(t time.Time) error {
	if !s.opened() {
		return errNotOpen("set deadline")
	}
	return cmp.Or(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline sets the time after which reads fail with os.ErrDeadlineExceeded, also a read that is blocked. The
// zero time means never.
func (s *RxSocket) SetReadDeadline(t time.Time) error {
	if !s.opened() {
		return errNotOpen("set deadline")
	}
	return opError("set deadline", s.setReadDeadline(t))
}

// SetWriteDeadline sets the time after which writes fail with os.ErrDeadlineExceeded. On Windows it does not apply to
// writes to link-local IPv6 hosts, which rarely block.
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

// Close leaves all groups and closes the socket. It interrupts blocked reads and writes. It waits until no read is in
// the kernel, the goroutines of the socket have ended, and Logger has received every entry. A second Close returns nil.
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
	s.logger.close() // last: it waits for the handler, which may be reading or writing
	return opError("close", err)
}

// leaveAll closes the OS sockets that hold memberships, or reports that they were closed already. The socket still
// follows the network, and no prepare runs meanwhile: a membership that was lost must not be dropped later. See
// prepare.
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
