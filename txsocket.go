// TxConfig and TxSocket: opening, options, reading replies, closing. The socket has one OS socket for each interface and family,
// which sends on that interface. Writes are in txwrite.go, the check of the configuration is in config.go.

package mcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// TxConfig configures a TxSocket. Groups is required. The zero value of every other field is a sensible default.
type TxConfig struct {
	// Groups that may be sent to; IPv4 and IPv6 may be mixed. Duplicates are harmless.
	Groups []netip.Addr

	// Interfaces to send on, as FindInterfaces or Interfaces returned them: every datagram is sent on each of them.
	// Each needs an address of every family of Groups. A port of a bridge, bond or team sends only on its own link, and
	// replies arrive on its master: name the master, unless you mean that link.
	//
	// nil selects the interface of the default route of each group's family, as DefaultInterface returns it. It must
	// support multicast; most VPN interfaces do not. Unless Static is set, the socket follows the default route. A
	// family without such an interface waits for one if the other family has one. Until then a write to its groups
	// returns ErrNoInterface, and Interfaces does not list it.
	Interfaces []Interface

	// TTL is the TTL (IPv6: hop limit) of multicast datagrams, 1 to 255: the number of links they may cross. 0 means 1:
	// they stay on the link. TTLHost keeps them on this machine, where they are received only with Loopback or on the
	// loopback interface.
	//
	// TTLHost with Loopback on a network interface holds on Linux only while a program on this machine has joined the
	// group there. Otherwise Linux sends the datagrams on the link, with a TTL of 0 (__mkroute_output in
	// net/ipv4/route.c, ip6_finish_output2 in net/ipv6/ip6_output.c). Use the loopback interface for datagrams that no
	// other host may see.
	TTL int

	// Loopback delivers the datagrams that are sent on a non-loopback interface also to receivers on this host. Set it
	// on both ends: Linux and macOS decide at the sender, Windows at the receiver.
	Loopback bool

	// Port is the source port. With 0 the system chooses one for each interface and family. A port that is set is
	// shared with receivers and with other programs that allow it; mDNS responses, for example, must come from 5353.
	// Unicast to a shared port reaches one of the programs, and the system chooses which. On Windows an RxSocket of the
	// same port takes and discards unicast to the IPv4 address of its interface: there, read replies on a port that the
	// system chose.
	Port uint16

	// TrafficClass is the DSCP, shifted left by two, and the ECN bits: 0 to 255 (RFC 2474, RFC 3168). Windows ignores
	// it for IPv4 unless a policy allows it. Windows has no such option for IPv6: OpenTx returns an error that wraps
	// errors.ErrUnsupported.
	TrafficClass int

	// WriteBuffer is the size in bytes of the send buffer of each OS socket. 0 means the system's default. On macOS,
	// whose default of 9216 bytes also limits the size of a datagram, 0 makes room for the largest datagram. A datagram
	// that is larger than the buffer is refused. On Linux net.core.wmem_max limits the size, except for a process with
	// CAP_NET_ADMIN. Logger reports a buffer that is smaller.
	WriteBuffer int

	// Static stops the socket from following the network. After an interface was deleted and created again, writes on
	// it fail. The socket does not follow the default route.
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

// TxSocket sends multicast to the groups it was opened for, and receives the unicast replies. It implements
// net.PacketConn. All methods may be called from many goroutines.
//
// Errors of its methods are *OpError. If several interfaces fail, it is several of them joined: errors.As finds the
// first, also as a net.Error. After Close they wrap net.ErrClosed, also those of blocked calls. A read that fails
// returns zero values with its error.
//
// Each interface has one OS socket for each family of the groups. On macOS and Windows each OS socket also has a
// goroutine that receives ahead of the reads, as in an RxSocket.
type TxSocket struct {
	cfg    TxConfig // checked, and not changed after
	groups map[netip.Addr]struct{}
	*reader
	logger   logger
	unfollow func() // nil if Static

	links     atomic.Pointer[[]*txLink] // replaced under mu, never changed
	listening atomic.Bool               // replies are received
	closed    atomic.Bool               // written under mu
	hostOnly  atomic.Bool               // TTLHost without Loopback: nothing is sent on a network interface; written under mu

	mu                sync.Mutex // guards the fields below and the options of the OS sockets; never held while a read or write waits
	pendingReplyConns []*conn    // not in the merge until the first read; see listen
	retired           []*sender  // replaced by direct; kept for writes in progress
	ttl               int        // in the form of TxConfig.TTL; also for later links
	writeDeadline     time.Time
	clamped           bool                 // it was logged that the send buffers are smaller than WriteBuffer
	opening           map[bool]lastFailure // of families that wait for an interface; the key is true for IPv4
	unrouted          lastFailure          // the default routes could not be read
}

// txLink is an interface and a family to send on.
type txLink struct {
	trackedInterface
	zone   string // its index, as a zone
	v4     bool
	to     *sender
	source *atomic.Pointer[netip.Addr] // the address that receivers see; the zero Addr if there is none

	// The fields below are guarded by TxSocket.mu. The others do not change.
	bound     int         // index of the interface that the OS socket is bound to; 0: none
	replies   *conn       // of the OS socket
	retry     lastFailure // of its interface, which came back
	moving    lastFailure // of the interface of the default route
	unsourced backoff     // its address cannot be used yet
}

func newTxLink(ifc Interface, v4 bool) *txLink {
	l := &txLink{v4: v4, source: new(atomic.Pointer[netip.Addr])}
	l.source.Store(new(netip.Addr))
	return l.as(trackedInterface{name: ifc.Name, ifc: ifc})
}

// as returns a copy of the link with its interface as it is now.
func (l *txLink) as(k trackedInterface) *txLink {
	if l.to != nil && (k.ifc.Index != l.ifc.Index || k.ifc.MTU != l.ifc.MTU) {
		l.to.reroute()
	}
	return &txLink{trackedInterface: k, zone: strconv.Itoa(k.ifc.Index), v4: l.v4, to: l.to, source: l.source,
		bound: l.bound, replies: l.replies, retry: l.retry, moving: l.moving, unsourced: l.unsourced}
}

// groupLike returns a group of a family of the socket.
func (t *TxSocket) groupLike(v4 bool) netip.Addr {
	return t.cfg.Groups[slices.IndexFunc(t.cfg.Groups, func(g netip.Addr) bool { return g.Is4() == v4 })]
}

var _ net.PacketConn = (*TxSocket)(nil)

// OpenTx opens a socket to send with.
//
// A mistake in the configuration is refused before any OS socket is opened. While the system checks that no other host
// has the interface's new address, nothing can be sent from that address; OpenTx waits for five seconds at most. Linux
// checks IPv6 addresses (RFC 4862, section 5.4), Windows those of both families (RFC 5227). macOS sends at once
// (Optimistic DAD, RFC 4429). On systems other than Linux, macOS and Windows the error wraps errors.ErrUnsupported.
func OpenTx(cfg TxConfig) (*TxSocket, error) {
	if errSystem != nil {
		return nil, &OpError{Op: "open", Err: errSystem}
	}
	cfg, links, err := cfg.check()
	if err != nil {
		return nil, err
	}
	r, err := newReader()
	if err != nil {
		return nil, &OpError{Op: "open", Err: err, Hint: openHint(err)}
	}
	t := &TxSocket{cfg: cfg, groups: make(map[netip.Addr]struct{}), reader: r, ttl: cfg.TTL, logger: logger{to: cfg.Logger}}
	for _, g := range cfg.Groups {
		t.groups[g] = struct{}{}
	}
	t.links.Store(new([]*txLink))
	if err := t.openAll(links); err != nil {
		t.Close()
		return nil, err
	}
	t.awaitAddresses()
	return t, nil
}

// opened reports whether t comes from OpenTx.
func (t *TxSocket) opened() bool { return t != nil && t.reader != nil }

// openAll opens the links. It starts to follow the network first, and releases t.mu last, so that it misses no change.
func (t *TxSocket) openAll(links []*txLink) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hostOnly.Store(t.cfg.TTL == TTLHost && !t.cfg.Loopback)
	if !t.cfg.Static {
		var err error
		if t.unfollow, _, err = tryFollow(&t.logger, &watchFollower{follow: t.follow, routes: t.cfg.Interfaces == nil}); err != nil {
			return err
		}
	}
	for i, l := range links {
		if err := t.open(l); err != nil {
			return l.ifc.withGone(&OpError{Op: "open", Interface: l.ifc.Name, Err: err, Hint: openHint(err)})
		}
		opened := links[:i+1]
		t.links.Store(&opened)
	}
	for _, v4 := range familiesOf(t.cfg.Groups).list() {
		if !slices.ContainsFunc(links, func(l *txLink) bool { return l.v4 == v4 }) {
			t.logger.log(slog.LevelWarn, "a family waits for a default route", Interface{}, nil, slog.String("network", network(v4)))
		}
	}
	return nil
}

// defaultSender returns the interface of the family's default route, to send on when none is named.
func defaultSender(v4 bool) (Interface, error) {
	ifc, err := DefaultInterface(network(v4))
	if none := (*OpError)(nil); errors.Is(err, ErrNoInterface) && errors.As(err, &none) {
		err = none.Err
	} else if err != nil {
		return ifc, err
	} else {
		err = senderMistake(&ifc, v4)
	}
	if err != nil {
		err = &OpError{Op: "open", Interface: ifc.Name, Err: err, Hint: "name interfaces in TxConfig.Interfaces"}
	}
	return ifc, err
}

// senderMistake says why the interface of the default route cannot send multicast of a family. Without the multicast flag,
// as a tunnel, it would lose all datagrams.
func senderMistake(ifc *Interface, v4 bool) error {
	any := anyAddr(v4, 0).Addr()
	switch {
	case !ifc.hasFamily(any):
		return noInterface("the interface of the default route has no " + familyName(any) + " address")
	case ifc.Flags&net.FlagMulticast == 0 && !ifc.IsLoopback():
		return noInterface("the interface of the default route does not support multicast")
	}
	return nil
}

// network is the name of a family for DefaultInterface.
func network(v4 bool) string {
	if v4 {
		return "ip4"
	}
	return "ip6"
}

// open opens the OS socket of a link. t.mu is held.
func (t *TxSocket) open(l *txLink) error {
	if l.ifc.vrf() != 0 {
		return t.openOn(l, t.cfg.Port, l.ifc.Index)
	}
	return t.openOn(l, t.cfg.Port, 0)
}

// openOn opens the OS socket of a link on a port, bound to an interface if device is not 0.
func (t *TxSocket) openOn(l *txLink, port uint16, device int) error {
	udp, err := listenUDP(anyAddr(l.v4, port), t.cfg.Port != 0, device)
	if err != nil {
		return err
	}
	if err := t.use(l, udp); err != nil {
		udp.Close()
		return err
	}
	return t.bind(l, device)
}

// bind binds the OS socket of a link to an interface if device is not 0. If the kernel does not allow it, the link
// sends but receives no replies.
func (t *TxSocket) bind(l *txLink, device int) error {
	if device == 0 || l.bound == device {
		return nil
	}
	bound, err := bindSender(l.to.raw, device)
	if bound {
		l.bound = device
		t.m.update(func() { l.replies.ifIndex = device })
	} else if err != nil {
		t.logger.log(slog.LevelWarn, "replies cannot be received in the VRF", l.ifc, &OpError{Op: "bind", Interface: l.ifc.Name, Err: err, Hint: openHint(err)})
	}
	return nil
}

// direct returns l with its OS socket sending on an interface. An OS socket that is bound to another interface is
// replaced, since binding it again requires CAP_NET_RAW. The new one keeps the port: the kernel keeps the ports of two
// devices apart. A bound OS socket stays bound when the interface leaves its VRF, which changes nothing. t.mu is held.
func (t *TxSocket) direct(l *txLink, ifc *Interface) (*txLink, error) {
	if l.bound == 0 || l.bound == ifc.Index {
		err := syscallErr("setsockopt IP_MULTICAST_IF", func() error { return setMulticastInterface(l.to, l.v4, ifc) })
		if err == nil && ifc.vrf() != 0 {
			err = t.bind(l, ifc.Index)
		}
		return l, err
	}
	anew := l.as(trackedInterface{name: l.name, ifc: *ifc})
	anew.bound, anew.replies = 0, nil
	port := l.to.conn.LocalAddr().(*net.UDPAddr).Port
	if err := t.openOn(anew, uint16(port), ifc.Index); err != nil {
		return l, err
	}
	t.pendingReplyConns = slices.DeleteFunc(t.pendingReplyConns, func(c *conn) bool { return c == l.replies })
	if t.listening.Load() {
		t.m.remove(l.replies)
	}
	t.retired = append(t.retired, l.to)
	return anew, nil
}

// unbound reports whether the OS socket of a link must be bound, because its interface is in a VRF now.
func (l *txLink) unbound(now *Interface) bool {
	return now.vrf() != 0 && l.ifc.vrf() == 0 && l.bound == 0
}

// closeRetired closes the OS sockets that direct replaced.
func (t *TxSocket) closeRetired() {
	for _, to := range t.retired {
		to.conn.Close()
	}
	t.retired = nil
}

// anyAddr returns the unspecified address of a family, with a port.
func anyAddr(v4 bool, port uint16) netip.AddrPort {
	if v4 {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
}

// listenUDP opens an OS socket that is bound to a unicast or unspecified address, and to an interface if device is not
// 0.
func listenUDP(at netip.AddrPort, share bool, device int) (udp *net.UDPConn, err error) {
	udp, err = tryListenUDP(at, share, false, device)
	if share && isPortTaken(err) {
		udp, err = tryListenUDP(at, share, true, device)
	}
	return udp, err
}

func tryListenUDP(at netip.AddrPort, share, retry bool, device int) (udp *net.UDPConn, err error) {
	v4, network := at.Addr().Is4(), "udp6"
	if v4 {
		network = "udp4"
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		if err := syscallErr("setsockopt", func() error { return setShared(rc, v4, share, retry) }); err != nil || device == 0 || retry {
			return err
		}
		bindSender(rc, device) // TxSocket.bind handles a failure
		return nil
	}}
	err = bindCall(at, func() error {
		pc, err := lc.ListenPacket(context.Background(), network, at.String())
		if err == nil {
			udp = pc.(*net.UDPConn)
		}
		return err
	})
	if err == nil && retry {
		if err = leaveReusePortGroup(udp, device); err != nil {
			udp.Close()
			return nil, err
		}
	}
	return udp, err
}

// use makes udp the OS socket of l, unless it fails.
func (t *TxSocket) use(l *txLink, udp *net.UDPConn) error {
	to, err := newSender(udp, &l.ifc)
	if err != nil {
		return err
	}
	if err := t.configure(l, to); err != nil {
		return err
	}
	c, err := replyConn(to, l.v4)
	if err != nil {
		return err
	}
	c.ifName = l.ifc.Name
	if !t.writeDeadline.IsZero() {
		if err := udp.SetWriteDeadline(t.writeDeadline); err != nil {
			return err
		}
	}
	if t.listening.Load() {
		err = t.m.add(c)
	} else {
		t.pendingReplyConns = append(t.pendingReplyConns, c)
	}
	l.to, l.replies = to, c
	return err
}

// listen adds the OS sockets to the merge at the first read. A polled socket also wakes the poller for every datagram
// sent, which is slow.
func (t *TxSocket) listen() error {
	if t.listening.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.pendingReplyConns) > 0 && !t.closed.Load() {
		c := t.pendingReplyConns[0]
		if err := t.m.add(c); err != nil {
			return &OpError{Op: "read", Interface: c.ifName, Err: err, Hint: openHint(err)}
		}
		t.pendingReplyConns = t.pendingReplyConns[1:]
	}
	t.listening.Store(true)
	return nil
}

// configure sets the options of a new OS socket.
func (t *TxSocket) configure(l *txLink, to *sender) error {
	if err := syscallErr("setsockopt IP_MULTICAST_IF", func() error { return setMulticastInterface(to, l.v4, &l.ifc) }); err != nil {
		return err
	}
	loop := t.cfg.Loopback || l.ifc.IsLoopback() // Linux always loops on lo, others do not
	if err := syscallErr("setsockopt IP_MULTICAST_LOOP", func() error {
		if l.v4 {
			return ipv4.NewPacketConn(to.conn).SetMulticastLoopback(loop)
		}
		return ipv6.NewPacketConn(to.conn).SetMulticastLoopback(loop)
	}); err != nil {
		return err
	}
	if err := setTTL(l, to, t.ttl); err != nil {
		return err
	}
	if t.cfg.TrafficClass != 0 && !l.v4 && !hasTrafficClass6 {
		return fmt.Errorf("TrafficClass %d for IPv6: %w", t.cfg.TrafficClass, errors.ErrUnsupported)
	}
	if t.cfg.TrafficClass != 0 {
		if err := syscallErr("setsockopt IP_TOS", func() error {
			if l.v4 {
				return ipv4.NewPacketConn(to.conn).SetTOS(t.cfg.TrafficClass)
			}
			return ipv6.NewPacketConn(to.conn).SetTrafficClass(t.cfg.TrafficClass)
		}); err != nil {
			return err
		}
	}
	size := cmp.Or(t.cfg.WriteBuffer, leastWriteBuffer)
	if size == 0 {
		return nil
	}
	return syscallErr("setsockopt SO_SNDBUF", func() error {
		granted, err := setWriteBuffer(to, size)
		if err == nil && granted < size && !t.clamped {
			t.clamped = true
			t.logger.log(slog.LevelWarn, "the send buffer is smaller than WriteBuffer", l.ifc, nil, slog.Int("asked", size),
				slog.Int("granted", granted), slog.String("cure", sendBufferHint(size)))
		}
		return err
	})
}

// setTTL sets a TTL in the form of TxConfig.TTL.
func setTTL(l *txLink, to *sender, ttl int) error {
	value, err := checkTTL("set TTL", ttl)
	if err != nil {
		return err
	}
	return syscallErr("setsockopt IP_MULTICAST_TTL", func() error {
		if l.v4 {
			return ipv4.NewPacketConn(to.conn).SetMulticastTTL(value)
		}
		return ipv6.NewPacketConn(to.conn).SetMulticastHopLimit(value)
	})
}

// addressPatience is how long opening a socket waits for addresses that are being checked, and addressPause how often
// it asks. For IPv6 the check takes two seconds at most. For IPv4 Windows sends three probes, a second apart.
const addressPatience, addressPause = 5 * time.Second, 20 * time.Millisecond

// awaitAddresses sets the addresses that the links send from. It waits for a bounded time for those that cannot be used
// yet.
func (t *TxSocket) awaitAddresses() {
	end := time.Now().Add(addressPatience)
	for i := range *t.links.Load() {
		for t.checking(i) && time.Now().Before(end) {
			time.Sleep(addressPause)
		}
	}
}

// checking sets the address that a link sends from, and reports whether it cannot be used yet. The socket follows the
// network already, so the link may have another interface than before.
func (t *TxSocket) checking(link int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := (*t.links.Load())[link]
	return !l.gone && isTransient(t.setSource(l))
}

// setSource sets the address that l sends from, and returns why there is none. t.mu is held.
func (t *TxSocket) setSource(l *txLink) error {
	source, err := probeSource(&l.ifc, t.groupLike(l.v4))
	l.source.Store(&source)
	return err
}

// ReadFrom waits for a unicast datagram, such as a reply, and copies it into p. The rest of a larger datagram is lost.
// The address is the *net.UDPAddr of the sender. Its zone, if any, is an interface index. ReadFrom never returns
// multicast; it returns a broadcast to the port.
//
// The firewall of Windows accepts replies for four seconds after the socket has sent. Later replies require a rule that
// allows the program or the port.
func (t *TxSocket) ReadFrom(p []byte) (n int, addr net.Addr, err error) {
	if !t.opened() {
		return 0, nil, errNotOpen("read")
	}
	if err := t.listen(); err != nil {
		return 0, nil, err
	}
	return t.readFrom(p)
}

// ReadFromUDPAddrPort is like ReadFrom, but does not allocate.
func (t *TxSocket) ReadFromUDPAddrPort(p []byte) (n int, src netip.AddrPort, err error) {
	if !t.opened() {
		return 0, src, errNotOpen("read")
	}
	if err := t.listen(); err != nil {
		return 0, src, err
	}
	return t.readFromUDPAddrPort(p)
}

// Interfaces returns the interfaces that the socket sends on, each once.
func (t *TxSocket) Interfaces() (all []Interface) {
	if !t.opened() {
		return nil
	}
	for _, l := range *t.links.Load() {
		if !slices.ContainsFunc(all, func(ifc Interface) bool { return ifc.Index == l.ifc.Index }) {
			all = append(all, l.ifc.clone())
		}
	}
	return all
}

// SetTTL changes TxConfig.TTL for later datagrams.
func (t *TxSocket) SetTTL(ttl int) error {
	if !t.opened() {
		return errNotOpen("set TTL")
	}
	if _, err := checkTTL("set TTL", ttl); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return &OpError{Op: "set TTL", Err: net.ErrClosed}
	}
	t.ttl = ttl
	hostOnly := ttl == TTLHost && !t.cfg.Loopback
	if hostOnly {
		t.hostOnly.Store(true)
	}
	var failed error
	for _, l := range *t.links.Load() {
		if err := setTTL(l, l.to, ttl); err != nil {
			failed = joinErrors(failed, &OpError{Op: "set TTL", Interface: l.ifc.Name, Err: systemError("setsockopt", err)})
		}
	}
	if failed == nil && !hostOnly {
		t.hostOnly.Store(false)
	}
	return failed
}

// SetDeadline sets both deadlines.
func (t *TxSocket) SetDeadline(at time.Time) error {
	if !t.opened() {
		return errNotOpen("set deadline")
	}
	return cmp.Or(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// SetReadDeadline sets the time after which reads fail with os.ErrDeadlineExceeded, also a read that is blocked. The
// zero time means never.
func (t *TxSocket) SetReadDeadline(at time.Time) error {
	if !t.opened() {
		return errNotOpen("set deadline")
	}
	return opError("set deadline", t.setReadDeadline(at))
}

// SetWriteDeadline sets the time after which writes fail with os.ErrDeadlineExceeded, also a write that is blocked. The
// zero time means never.
func (t *TxSocket) SetWriteDeadline(at time.Time) error {
	if !t.opened() {
		return errNotOpen("set deadline")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writeDeadline = at
	return opError("set deadline", t.each(func(to *sender) error { return to.conn.SetWriteDeadline(at) }))
}

// each calls f for every OS socket, including retired ones, and returns the first error.
func (t *TxSocket) each(f func(*sender) error) (err error) {
	for _, l := range *t.links.Load() {
		err = cmp.Or(err, f(l.to))
	}
	for _, to := range t.retired {
		err = cmp.Or(err, f(to))
	}
	return err
}

// LocalAddr returns the address and port that receivers see as the source of datagrams on the first interface, as a
// *net.UDPAddr. The zone of a link-local address is the index of the interface. While the interface has no address to
// send from, LocalAddr returns the unspecified address. Other interfaces and families have addresses of their own, and
// ports of their own if TxConfig.Port is 0.
func (t *TxSocket) LocalAddr() net.Addr {
	if !t.opened() {
		return nil
	}
	l := (*t.links.Load())[0]
	at := *l.to.conn.LocalAddr().(*net.UDPAddr)
	if source := *l.source.Load(); source.IsValid() {
		at.IP = source.AsSlice()
		if source.IsLinkLocalUnicast() && source.Is6() {
			at.Zone = l.zone
		}
	}
	return &at
}

// Close closes the socket. It interrupts blocked reads and writes, and waits until Logger has received every entry. A
// second Close returns nil.
func (t *TxSocket) Close() error {
	if !t.opened() {
		return errNotOpen("close")
	}
	t.mu.Lock()
	closed := t.closed.Swap(true)
	t.mu.Unlock()
	if closed {
		return nil
	}
	err := cmp.Or(t.m.close(), t.each(func(to *sender) error { return to.conn.Close() }))
	if t.unfollow != nil {
		t.unfollow()
	}
	t.logger.close() // last: it waits for the handler, which may be reading or writing
	return opError("close", err)
}
