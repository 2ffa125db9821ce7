// The sending socket: one OS socket for each interface and family, directed to the interface once and for all, so
// that no write has to choose one.

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

// TxConfig says what a TxSocket sends to, and how. Groups is required; the zero value of every other field is a
// sensible default.
type TxConfig struct {
	// Groups that may be sent to; IPv4 and IPv6 may be mixed. Duplicates are harmless.
	Groups []netip.Addr

	// Interfaces to send on, as FindInterfaces or Interfaces returned them: every datagram leaves on each of them. Each
	// needs an address of every family of Groups. A port of a bridge, bond or team sends on its own wire only, and replies
	// arrive on its master: unless you mean that wire, name the master.
	//
	// nil stands for the interface of the default route of each group's family, as DefaultInterface returns it. It must
	// support multicast, which that of a VPN usually does not. Unless Static is set, the socket follows the default route.
	// A family without such an interface waits for one if the other family has one. Until then a write to its groups returns
	// ErrNoInterface, and Interfaces does not list it.
	Interfaces []Interface

	// TTL is the TTL (IPv6: hop limit) of multicast datagrams, 1 to 255: how many links they may cross. 0 means 1:
	// they stay on the link. TTLHost keeps them on this machine, where only Loopback, or the loopback interface, brings
	// them to anybody. With Loopback on a network interface, this holds on Linux only while a program on this machine
	// has joined the group there. Otherwise Linux puts them on the link, with a TTL of 0 (__mkroute_output in
	// net/ipv4/route.c, ip6_finish_output2 in net/ipv6/ip6_output.c). Send on the loopback interface what nobody else may see.
	TTL int

	// Loopback lets receivers on this host have datagrams that leave by a non-loopback interface. It must be set on
	// both ends: Linux and macOS decide at the sender, Windows at the receiver.
	Loopback bool

	// Port is the source port. 0 lets the system choose one for each interface and family. A port that is set is
	// shared with other programs that allow it, and with receivers: answers of mDNS must come from 5353. What is sent to
	// a shared port by unicast reaches one of those who share it, and the system chooses. On Windows an RxSocket of the
	// same port takes and discards what is sent to the IPv4 address of its interface: there, read replies from a port that
	// the system chose.
	Port uint16

	// TrafficClass is the DSCP, shifted left by two, and the ECN bits: 0 to 255 (RFC 2474, RFC 3168). Windows
	// ignores it for IPv4 unless a policy allows it; for IPv6 it has no such option, and OpenTx fails there with an
	// error that wraps errors.ErrUnsupported.
	TrafficClass int

	// WriteBuffer is the size in bytes of the send buffer of every OS socket; 0 leaves the system's default. On macOS,
	// whose default of 9216 bytes bounds a datagram as well, 0 makes room for the largest. A datagram that has no room in
	// it at all is refused. On Linux net.core.wmem_max limits the size, except for a process with CAP_NET_ADMIN. Logger
	// reports a buffer that is smaller.
	WriteBuffer int

	// Static keeps the socket from following the network: after an interface was deleted and created again, writes
	// by it fail, and a default route that moves is not followed.
	Static bool

	// Logger receives what the socket does by itself while it follows the network, and why it cannot follow, as on
	// Android. nil: nothing is logged. Its handler is called for one entry at a time, in order, by a goroutine that serves
	// this socket only. A handler that is slow delays nothing else. Up to 256 entries wait for it; then the oldest are
	// dropped, and their number is logged.
	//
	// The handler may use the socket but must not close it: Close waits until the handler has returned from every entry.
	Logger *slog.Logger
}

// TxSocket sends multicast to the groups it was opened for, and receives the unicast replies. It implements
// net.PacketConn. All methods may be called from many goroutines.
//
// Errors of its methods are *OpError, or, where more than one interface failed, several of them joined: errors.As
// finds the first, also as a net.Error. After Close they wrap net.ErrClosed, also those of calls that were blocked.
// A read that fails returns zero values with its error.
//
// On every system each interface has one OS socket for each family of the groups. On macOS and Windows each of them
// also has a goroutine, which receives ahead of the reads as that of an RxSocket does.
type TxSocket struct {
	cfg    TxConfig // checked, and not changed after
	groups map[netip.Addr]struct{}
	*reader
	logger   logger
	unfollow func() // nil if Static

	links     atomic.Pointer[[]*txLink] // replaced, under mu, never changed
	listening atomic.Bool               // replies are received
	closed    atomic.Bool               // written under mu
	hostOnly  atomic.Bool               // nothing leaves by a network interface: TTLHost without Loopback; written under mu

	mu                sync.Mutex // guards what is below and the settings of the OS sockets; never held while a read or write waits
	pendingReplyConns []*conn    // whose replies nobody has asked for yet
	retired           []*sender  // of links that were opened anew, for writes that have begun
	ttl               int        // as TxConfig has it, of the links to come as well
	writeDeadline     time.Time
	clamped           bool             // the logger knows that the send buffers are smaller than WriteBuffer
	opening           map[bool]txRetry // of families that wait for an interface, by whether they are IPv4
	unrouted          backoff          // the system did not say which routes are the default ones
}

// txLink is an interface and a family to send on.
type txLink struct {
	known
	zone   string // its index, as a zone
	v4     bool
	to     *sender
	source *atomic.Pointer[netip.Addr] // what receivers see; the zero Addr if the interface has no address to send from

	// What follows is guarded by TxSocket.mu. All else stays as it is.
	bound     int     // the interface that the OS socket is bound to; 0: none
	replies   *conn   // of the OS socket
	retry     txRetry // to direct it to its interface, which came back
	moving    txRetry // to direct it to the interface of the default route
	unsourced backoff // its address cannot be used yet
}

func newTxLink(ifc Interface, v4 bool) *txLink {
	l := &txLink{v4: v4, source: new(atomic.Pointer[netip.Addr])}
	l.source.Store(new(netip.Addr))
	return l.as(known{name: ifc.Name, ifc: ifc})
}

// as returns the link with its interface as it is now.
func (l *txLink) as(k known) *txLink {
	if l.to != nil && (k.ifc.Index != l.ifc.Index || k.ifc.MTU != l.ifc.MTU) {
		l.to.reroute()
	}
	return &txLink{known: k, zone: strconv.Itoa(k.ifc.Index), v4: l.v4, to: l.to, source: l.source,
		bound: l.bound, replies: l.replies, retry: l.retry, moving: l.moving, unsourced: l.unsourced}
}

// groupLike returns a group of a family of the socket.
func (t *TxSocket) groupLike(v4 bool) netip.Addr {
	return t.cfg.Groups[slices.IndexFunc(t.cfg.Groups, func(g netip.Addr) bool { return g.Is4() == v4 })]
}

var _ net.PacketConn = (*TxSocket)(nil)

// OpenTx opens the sockets to send with.
//
// A mistake in the configuration is refused before any OS socket is opened. While the system checks that no other host
// has the interface's new address, nothing can be sent from it, and OpenTx waits for five seconds at most. Linux does
// that for IPv6 (RFC 4862, section 5.4), Windows for both families (RFC 5227); macOS sends at once (Optimistic DAD, RFC
// 4429). On systems other than Linux, macOS and Windows the error wraps errors.ErrUnsupported.
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

// openAll opens the links. It follows the network first, and lets go of t.mu last, so that no change is missed in
// between.
func (t *TxSocket) openAll(links []*txLink) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hostOnly.Store(t.cfg.TTL == TTLHost && !t.cfg.Loopback)
	if !t.cfg.Static {
		var err error
		if t.unfollow, _, err = tryFollow(&t.logger, &watchFollower{f: t.follow, routes: t.cfg.Interfaces == nil}); err != nil {
			return err
		}
	}
	for i, l := range links {
		if err := t.open(l); err != nil {
			return &OpError{Op: "open", Interface: l.ifc.Name, Err: err, Hint: openHint(err)}
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

// defaultSender returns the interface to send on when none is named: that of the family's default route.
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

// openOn opens the OS socket of a link on a port. It is bound to the device, if that is not 0.
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

// bind binds the OS socket of a link to a device, 0: to none. Where the kernel does not allow it, the link sends but gets no
// replies.
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

// direct returns l with its OS socket sending on an interface. One that is bound to another interface is opened anew, since
// to bind it again takes CAP_NET_RAW. It keeps its port: the kernel keeps the sockets of two devices apart. A socket that is
// bound stays bound when the interface leaves its VRF, which changes nothing. t.mu is held.
func (t *TxSocket) direct(l *txLink, ifc *Interface) (*txLink, error) {
	if l.bound == 0 || l.bound == ifc.Index {
		err := syscallErr("setsockopt IP_MULTICAST_IF", func() error { return setMulticastInterface(l.to, l.v4, ifc) })
		if err == nil && ifc.vrf() != 0 {
			err = t.bind(l, ifc.Index)
		}
		return l, err
	}
	anew := l.as(known{name: l.name, ifc: *ifc})
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

// unbound reports whether the OS socket of a link must be bound to its interface and is not: it is in a VRF now.
func (l *txLink) unbound(now *Interface) bool {
	return now.vrf() != 0 && l.ifc.vrf() == 0 && l.bound == 0
}

// closeRetired closes the OS sockets that direct replaced before.
func (t *TxSocket) closeRetired() {
	for _, to := range t.retired {
		to.conn.Close()
	}
	t.retired = nil
}

// anyAddr is the unspecified address of a family, with a port.
func anyAddr(v4 bool, port uint16) netip.AddrPort {
	if v4 {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
}

// listenUDP opens an OS socket that is bound to a unicast address, or to any, and if device is not 0 to that interface.
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
		bindSender(rc, device) // that it is not bound is found out later, by TxSocket.bind
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

// use makes an OS socket that of l. On error it is not used.
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

// listen has replies received, not before somebody reads them: who watches a socket is told of every datagram that
// has left it, too, and that takes its time.
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
	loop := t.cfg.Loopback || l.ifc.IsLoopback() // Linux loops there in any case, others do not
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

// setTTL takes a TTL as TxConfig has it, which was checked.
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

// How long opening a socket waits for addresses that are being checked, and how often it asks. For IPv6 the check takes
// two seconds at most. For IPv4 Windows sends three probes, a second apart.
const addressPatience, addressPause = 5 * time.Second, 20 * time.Millisecond

// awaitAddresses finds the addresses that the links send from. It waits, for a bounded time, for those that cannot be used
// yet.
func (t *TxSocket) awaitAddresses() {
	end := time.Now().Add(addressPatience)
	for i := range *t.links.Load() {
		for t.checking(i) && time.Now().Before(end) {
			time.Sleep(addressPause)
		}
	}
}

// checking finds the address that a link sends from, and reports whether it cannot be used yet. The socket follows the
// network by now, so the link may have another interface than a moment ago.
func (t *TxSocket) checking(link int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := (*t.links.Load())[link]
	return !l.gone && isTransient(t.setSource(l))
}

// setSource asks which address l sends from, and returns why there is none. t.mu is held.
func (t *TxSocket) setSource(l *txLink) error {
	source, err := probeSource(&l.ifc, t.groupLike(l.v4))
	l.source.Store(&source)
	return err
}

// ReadFrom waits for a unicast datagram, such as a reply to what was sent, and copies it into p; a datagram that is
// larger is cut. The address is a *net.UDPAddr of the sender, whose zone, if it has one, is an interface index.
// Multicast is never read; a broadcast to the port is.
//
// The firewall of Windows lets replies to a datagram of the socket in for four seconds after it. Later ones need a rule
// that allows the program or the port.
func (t *TxSocket) ReadFrom(p []byte) (n int, addr net.Addr, err error) {
	if !t.opened() {
		return 0, nil, errNotOpen("read")
	}
	if err := t.listen(); err != nil {
		return 0, nil, err
	}
	return t.readFrom(p)
}

// ReadFromUDPAddrPort is ReadFrom without allocating.
func (t *TxSocket) ReadFromUDPAddrPort(p []byte) (n int, src netip.AddrPort, err error) {
	if !t.opened() {
		return 0, src, errNotOpen("read")
	}
	if err := t.listen(); err != nil {
		return 0, src, err
	}
	return t.readFromUDPAddrPort(p)
}

// Interfaces returns the interfaces that the socket sends by, each once.
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

// SetTTL sets what TxConfig.TTL set, for the datagrams to come.
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

// SetReadDeadline sets the time after which reads fail with os.ErrDeadlineExceeded, also one that is blocked; the
// zero time means never.
func (t *TxSocket) SetReadDeadline(at time.Time) error {
	if !t.opened() {
		return errNotOpen("set deadline")
	}
	return opError("set deadline", t.setReadDeadline(at))
}

// SetWriteDeadline is to writes what SetReadDeadline is to reads.
func (t *TxSocket) SetWriteDeadline(at time.Time) error {
	if !t.opened() {
		return errNotOpen("set deadline")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writeDeadline = at
	return opError("set deadline", t.each(func(to *sender) error { return to.conn.SetWriteDeadline(at) }))
}

// each calls f for every OS socket, also for those that writes of before may be in, and returns the first error.
func (t *TxSocket) each(f func(*sender) error) (err error) {
	for _, l := range *t.links.Load() {
		err = cmp.Or(err, f(l.to))
	}
	for _, to := range t.retired {
		err = cmp.Or(err, f(to))
	}
	return err
}

// LocalAddr returns the address and port that receivers see as the source of what the first interface sends, as a
// *net.UDPAddr. The zone of a link-local address is the index of the interface. It is the unspecified address while the
// interface has no address to send from. If there is more than one interface or family, the others have their own, also
// their own port if TxConfig.Port is 0.
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

// Close closes the socket. It interrupts reads and writes that are blocked, and waits until Logger has what was logged.
// Closing again is harmless and returns nil.
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
	t.logger.close() // last: it waits for the handler, which may be in a read or write
	return opError("close", err)
}
