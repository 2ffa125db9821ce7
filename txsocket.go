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

	"github.com/go-multicast/mcast/internal/cure"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// TxConfig says what a TxSocket sends to, and how. Groups is required; the zero value of every other field is a
// sensible default.
type TxConfig struct {
	// Groups that may be sent to; IPv4 and IPv6 may be mixed. Duplicates are harmless.
	Groups []netip.Addr

	// Interfaces to send by, as FindInterfaces or Interfaces returned them: every datagram leaves by each of them.
	// Each needs an address of every family of Groups. nil stands for the interface that leads to the default
	// gateway of each group's family, as DefaultInterface tells. It must be able to multicast, which a VPN's as a rule is
	// not. Unless Static is set, it is another one when the default route moves to one that is.
	Interfaces []Interface

	// TTL is the TTL (IPv6: hop limit) of multicast datagrams, 1 to 255: how many links they may cross. 0 means 1:
	// they stay on the link. TTLHost keeps them on this machine, where only Loopback, or the loopback interface, brings
	// them to anybody. With Loopback on a network interface Linux sees to that only while somebody on this machine has
	// joined the group there; otherwise it puts them on the link, with a TTL of 0 (__mkroute_output in net/ipv4/route.c,
	// ip6_finish_output2 in net/ipv6/ip6_output.c). What nobody else may see belongs on the loopback interface.
	TTL int

	// Loopback lets receivers on this host have datagrams that leave by a non-loopback interface. It must be set on
	// both ends: Linux and macOS decide at the sender, Windows at the receiver.
	Loopback bool

	// Port is the source port. 0 lets the system choose one for each interface and family. A port that is set is
	// shared with other programs that allow it, and with receivers: answers of mDNS must come from 5353. What is sent to
	// a shared port by unicast reaches one of those who share it, and the system chooses. On Windows it may choose an
	// RxSocket of the same port, which discards it: there, read replies from a port that the system chose.
	Port uint16

	// TrafficClass is the DSCP, shifted left by two, and the ECN bits: 0 to 255 (RFC 2474, RFC 3168). Windows
	// ignores it for IPv4 unless a policy allows it; for IPv6 it has no such option, and OpenTx fails there with an
	// error that wraps errors.ErrUnsupported.
	TrafficClass int

	// WriteBuffer is the size in bytes of the send buffer of every OS socket; 0 leaves the system's default. On macOS,
	// whose default of 9216 bytes bounds a datagram as well, 0 makes room for the largest. A datagram that has no room in
	// it at all is refused.
	WriteBuffer int

	// Static keeps the socket from following the network: after an interface was deleted and created again, writes
	// by it fail, and a default route that moves is not followed.
	Static bool

	// Logger is told what the socket does by itself while it follows the network, and if it cannot follow, as on
	// Android; nil: nobody is. Its handler may use the socket, but must not close it: Close waits for what is being told.
	Logger *slog.Logger
}

// TxSocket sends multicast to the groups it was opened for, and receives the unicast replies. It implements
// net.PacketConn. All methods may be called from many goroutines.
//
// Errors of its methods are *OpError, or, where more than one interface failed, several of them joined: errors.As
// finds the first, also as a net.Error. After Close they wrap net.ErrClosed, also those of calls that were blocked.
//
// On every system each interface has one OS socket for each family of the groups. On macOS and Windows each of them
// also has a goroutine, which receives ahead of the reads as that of an RxSocket does.
type TxSocket struct {
	cfg    TxConfig // checked, and not changed after
	groups map[netip.Addr]struct{}
	*reader
	unfollow func() // nil if Static

	links     atomic.Pointer[[]*txLink] // replaced, under mu, never changed
	listening atomic.Bool               // replies are received
	closed    atomic.Bool               // written under mu
	keeps     atomic.Bool               // nothing leaves by a network interface: TTLHost without Loopback; written under mu

	mu      sync.Mutex // guards what is below and the settings of the OS sockets; never held while a read or write waits
	unheard []*conn    // whose replies nobody has asked for yet
}

// txLink is an interface and a family to send by.
type txLink struct {
	known
	zone string // its index, as a zone
	v4   bool
	to   *sender
}

func newTxLink(k known, v4 bool, to *sender) *txLink {
	return &txLink{known: k, zone: strconv.Itoa(k.ifc.Index), v4: v4, to: to}
}

var _ net.PacketConn = (*TxSocket)(nil)

// OpenTx opens the sockets to send with.
//
// A mistake in the configuration is refused before any OS socket is opened. Where IPv6 has still to check that
// nobody else has the interface's new address, OpenTx waits for it, for three seconds at most (RFC 4862, section
// 5.4; Linux refuses to send until then). On systems other than Linux, macOS and Windows the error wraps
// errors.ErrUnsupported.
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
	t := &TxSocket{cfg: cfg, groups: make(map[netip.Addr]struct{}), reader: r}
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

// openAll opens the links. It follows the network first, and lets go of t.mu last, so that no change is missed in
// between.
func (t *TxSocket) openAll(links []*txLink) error {
	tell := func() {}
	defer func() { tell() }() // when the lock is open again
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keeps.Store(t.cfg.TTL == TTLHost && !t.cfg.Loopback)
	if !t.cfg.Static {
		t.unfollow, _, tell = tryFollow(t.cfg.Logger, &watchFollower{f: t.follow})
	}
	for _, l := range links {
		if err := t.open(l); err != nil {
			return &OpError{Op: "open", Interface: l.ifc.Name, Err: err, Hint: openHint(err)}
		}
	}
	return nil
}

// check returns the configuration in its plain form, with copies of its slices, and the interfaces and families to
// send by.
func (cfg TxConfig) check() (_ TxConfig, links []*txLink, err error) {
	if cfg.Groups, err = checkGroups(cfg.Groups); err != nil {
		return cfg, nil, err
	}
	if _, err := checkTTL("open", cfg.TTL); err != nil {
		return cfg, nil, err
	}
	if cfg.TrafficClass < 0 || cfg.TrafficClass > 255 {
		return cfg, nil, mistake("TrafficClass %d: want 0 to 255, a DSCP shifted left by two", cfg.TrafficClass)
	}
	if err := checkSize("WriteBuffer", cfg.WriteBuffer); err != nil {
		return cfg, nil, err
	}
	f := familiesOf(cfg.Groups)
	if cfg.Interfaces != nil {
		if cfg.Interfaces, err = checkInterfaces(cfg.Interfaces, f); err != nil {
			return cfg, nil, err
		}
	}
	for _, family := range []struct {
		wanted, v4 bool
		network    string
	}{{f.v4, true, "ip4"}, {f.v6, false, "ip6"}} {
		if !family.wanted {
			continue
		}
		ifaces := cfg.Interfaces
		if ifaces == nil {
			ifc, err := DefaultInterface(family.network)
			if err == nil && ifc.Flags&net.FlagMulticast == 0 && !ifc.IsLoopback() { // such as a tunnel, which would lose all
				err = &OpError{Op: "open", Interface: ifc.Name, Hint: "name one in TxConfig.Interfaces",
					Err: fmt.Errorf("the interface of the default route cannot multicast: %w", ErrNoInterface)}
			}
			if err != nil {
				return cfg, nil, err
			}
			ifaces = []Interface{ifc}
		}
		for _, ifc := range ifaces {
			links = append(links, newTxLink(known{name: ifc.Name, ifc: ifc}, family.v4, nil))
		}
	}
	return cfg, links, nil
}

// open opens the OS socket of a link. t.mu is held.
func (t *TxSocket) open(l *txLink) error {
	udp, err := listenUDP(anyAddr(l.v4, t.cfg.Port), t.cfg.Port != 0)
	if err != nil {
		return err
	}
	if err := t.use(l, udp); err != nil {
		udp.Close()
		return err
	}
	return nil
}

// anyAddr is the unspecified address of a family, with a port.
func anyAddr(v4 bool, port uint16) netip.AddrPort {
	if v4 {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
}

// listenUDP opens an OS socket that is bound to a unicast address, or to any.
func listenUDP(at netip.AddrPort, share bool) (udp *net.UDPConn, err error) {
	v4, network := at.Addr().Is4(), "udp6"
	if v4 {
		network = "udp4"
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		return call("setsockopt", func() error { return setShared(rc, v4, share) })
	}}
	err = call("bind", func() error {
		pc, err := lc.ListenPacket(context.Background(), network, at.String())
		if err == nil {
			udp = pc.(*net.UDPConn)
		}
		return err
	})
	return udp, err
}

// use makes an OS socket that of l.
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
	t.unheard = append(t.unheard, c)
	l.to = to
	links := append(slices.Clone(*t.links.Load()), l)
	t.links.Store(&links)
	return nil
}

// listen has replies received, not before somebody reads them: who watches a socket is told of every datagram that
// has left it, too, and that takes its time.
func (t *TxSocket) listen() error {
	if t.listening.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.unheard) > 0 && !t.closed.Load() {
		if err := t.m.add(t.unheard[0]); err != nil {
			return &OpError{Op: "read", Err: err}
		}
		t.unheard = t.unheard[1:]
	}
	t.listening.Store(true)
	return nil
}

// configure sets the options of a new OS socket.
func (t *TxSocket) configure(l *txLink, to *sender) error {
	if err := call("setsockopt IP_MULTICAST_IF", func() error { return setMulticastInterface(to, l.v4, &l.ifc) }); err != nil {
		return err
	}
	loop := t.cfg.Loopback || l.ifc.IsLoopback() // Linux loops there in any case, others do not
	if err := call("setsockopt IP_MULTICAST_LOOP", func() error {
		if l.v4 {
			return ipv4.NewPacketConn(to.conn).SetMulticastLoopback(loop)
		}
		return ipv6.NewPacketConn(to.conn).SetMulticastLoopback(loop)
	}); err != nil {
		return err
	}
	if err := setTTL(l, to, t.cfg.TTL); err != nil {
		return err
	}
	if t.cfg.TrafficClass != 0 && !l.v4 && !hasTrafficClass6 {
		return fmt.Errorf("TrafficClass %d for IPv6: %w", t.cfg.TrafficClass, errors.ErrUnsupported)
	}
	if t.cfg.TrafficClass != 0 {
		if err := call("setsockopt IP_TOS", func() error {
			if l.v4 {
				return ipv4.NewPacketConn(to.conn).SetTOS(t.cfg.TrafficClass)
			}
			return ipv6.NewPacketConn(to.conn).SetTrafficClass(t.cfg.TrafficClass)
		}); err != nil {
			return err
		}
	}
	if size := cmp.Or(t.cfg.WriteBuffer, leastWriteBuffer); size > 0 {
		return call("setsockopt SO_SNDBUF", func() error { return to.conn.SetWriteBuffer(size) })
	}
	return nil
}

// setTTL takes a TTL as TxConfig has it, which was checked.
func setTTL(l *txLink, to *sender, ttl int) error {
	value, err := checkTTL("set TTL", ttl)
	if err != nil {
		return err
	}
	return call("setsockopt IP_MULTICAST_TTL", func() error {
		if l.v4 {
			return ipv4.NewPacketConn(to.conn).SetMulticastTTL(value)
		}
		return ipv6.NewPacketConn(to.conn).SetMulticastHopLimit(value)
	})
}

// awaitAddresses waits, for a bounded time, until the interfaces can be sent from.
func (t *TxSocket) awaitAddresses() {
	const patience, pause = 3 * time.Second, 20 * time.Millisecond
	end := time.Now().Add(patience)
	for _, l := range *t.links.Load() {
		if l.v4 {
			continue
		}
		group := t.cfg.Groups[slices.IndexFunc(t.cfg.Groups, netip.Addr.Is6)]
		for isTransient(probeSource(&l.ifc, group)) && time.Now().Before(end) {
			time.Sleep(pause)
		}
	}
}

// WriteTo is WriteToUDPAddrPort for net.PacketConn; addr is a *net.UDPAddr.
func (t *TxSocket) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	dst, err := udpAddrPort(addr)
	if err != nil {
		return 0, err
	}
	return t.WriteToUDPAddrPort(p, dst)
}

// WriteToUDPAddrPort sends p to a group that the socket was opened for, and any port, by every interface of the
// socket. A zone in an IPv6 address, an interface's index or name, picks one of them, and is ErrNoInterface if it is none
// of them. IPv4 has no zones, and one is refused: by one of several interfaces it is sent by a TxSocket of its own. Any
// other destination is ErrNotDeclared. It blocks while a send buffer is full, and does not allocate.
//
// If the datagram could not be sent by some of the interfaces, the error tells which, and n is len(p) if it left by
// others. That it was sent does not mean that anybody received it. Up to 65507 bytes fit into a datagram of IPv4 and
// 65527 into one of IPv6; what exceeds the MTU of a link is sent in fragments, and lost if one of them is.
//
// Windows refuses what is sent by the loopback interface while nobody on the host has joined there: here that is no
// error. From macOS 15 on, EHOSTUNREACH is what a program gets that the user has not allowed to use the local network.
func (t *TxSocket) WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (n int, err error) {
	if t.closed.Load() {
		return 0, &OpError{Op: "write", Err: net.ErrClosed}
	}
	dst, err := t.destination(addr)
	if err != nil {
		return 0, err
	}
	matched := false
	var failed failures
	for _, l := range *t.links.Load() {
		if !l.serves(dst) {
			continue
		}
		matched = true
		if l.gone {
			failed.add(l, dst, ErrNoInterface)
		} else if t.keeps.Load() && !l.ifc.IsLoopback() {
			n = len(p)
		} else if err := l.to.send(p, netip.AddrPortFrom(dst, addr.Port()), l.ifc.Index); err != nil {
			failed.add(l, dst, err)
		} else {
			n = len(p)
		}
	}
	if !matched {
		failed.add(nil, dst, ErrNoInterface)
	}
	return n, failed.error()
}

// WriteBatch sends the Buf of each message to its Addr, with as few system calls as the system allows, and sets its N.
// It does what a call of WriteToUDPAddrPort for each of them would do, up to the first that leaves by no interface: n is
// how many there are before that one. The error tells which interfaces failed, each with its latest failure; if n is less
// than len(ms) it is not nil, and to go on is to write ms[n:] or, without that message, ms[n+1:]. Apart from the first
// call it does not allocate.
//
// On Linux, messages of one size and destination that follow each other, of which the last may be shorter, cost a
// fraction of what they do one by one: the kernel takes up to 64 of them as one, and takes them apart on the way out
// (UDP_SEGMENT, Linux 4.18). Receivers see ordinary datagrams. On macOS and Windows each datagram takes a system call of its own.
func (t *TxSocket) WriteBatch(ms []Message) (n int, err error) {
	if t.closed.Load() {
		return 0, &OpError{Op: "write", Err: net.ErrClosed}
	}
	links := *t.links.Load()
	var failed failures
	for n < len(ms) {
		run, dst, err := t.run(ms[n:])
		if err != nil {
			return n, joinErrors(failed.error(), err)
		}
		for end := n + run; n < end; {
			sent, more := t.writeRun(links, dst, ms[n:end], &failed)
			for i := range ms[n : n+sent] {
				ms[n+i].N = len(ms[n+i].Buf)
			}
			n += sent
			if !more {
				return n, failed.error()
			}
		}
	}
	return n, failed.error()
}

// run counts the messages that have the same interfaces to go by as the first, up to one that is not fit to be sent. The
// error is about the first.
func (t *TxSocket) run(ms []Message) (n int, first netip.Addr, err error) {
	if first, err = t.destination(ms[0].Addr); err != nil {
		return 0, first, err
	}
	for n = 1; n < len(ms); n++ {
		dst, err := t.destination(ms[n].Addr)
		if err != nil || dst.Is4() != first.Is4() || dst.Zone() != first.Zone() {
			break
		}
	}
	return n, first, nil
}

// writeRun sends the first messages of a run by each of its interfaces: all, or up to one that the first of them refuses.
// n is how many of these have left by some interface; more tells that it is all, so that the rest of the run may follow.
func (t *TxSocket) writeRun(links []*txLink, dst netip.Addr, ms []Message, failed *failures) (n int, more bool) {
	end := len(ms)
	matched := false
	for _, l := range links {
		if !l.serves(dst) {
			continue
		}
		matched = true
		if l.gone {
			failed.add(l, dst, ErrNoInterface)
			continue
		}
		if t.keeps.Load() && !l.ifc.IsLoopback() {
			n = end
			continue
		}
		for at := 0; at < end; at++ {
			sent, err := l.to.sendBatch(ms[at:end], l.ifc.Index)
			at += sent
			if err == nil {
				n = end
				break
			}
			failed.add(l, ms[at].Addr.Addr().Unmap(), err)
			if at >= n { // nobody has sent this one, so that it is the last that the others try
				n, end = at, at+1
				break
			}
		}
	}
	if !matched {
		failed.add(nil, dst, ErrNoInterface)
	}
	return n, n == end
}

// failures are the latest of each interface that a write was to leave by, so that those of the message which left by none
// are among them.
type failures []failure

type failure struct {
	link *txLink // nil if the destination's zone is none of the socket's interfaces
	dst  netip.Addr
	err  error
}

func (f *failures) add(l *txLink, dst netip.Addr, err error) {
	one := failure{l, dst, err}
	if i := slices.IndexFunc(*f, func(old failure) bool { return old.link == l }); i >= 0 {
		(*f)[i] = one
	} else {
		*f = append(*f, one)
	}
}

// error is nil if there are none. That the socket is closed is told once.
func (f failures) error() (all error) {
	for _, one := range f {
		err := one.error()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		all = joinErrors(all, err)
	}
	return all
}

func (f *failure) error() error {
	group := f.dst.WithZone("")
	e := &OpError{Op: "write", Group: group, Err: f.err}
	switch {
	case f.link == nil:
		e.Interface, e.Hint = f.dst.Zone(), "the zone is none of the socket's interfaces"
	case f.link.gone: // its index may be another's now, so that nothing was tried
		e.Interface, e.Hint = f.link.ifc.Name, cure.Gone
	default:
		e.Interface, e.Hint = f.link.ifc.Name, sendHint(f.err, &f.link.ifc, group)
	}
	return e
}

// destination returns the address to send to in its plain form, if it is one of the groups.
func (t *TxSocket) destination(addr netip.AddrPort) (netip.Addr, error) {
	dst, err := unmap(addr.Addr())
	if err != nil {
		return dst, &OpError{Op: "write", Err: err, Hint: "open a TxSocket for the interface"}
	}
	group := dst.WithZone("")
	switch _, declared := t.groups[group]; {
	case declared && addr.Port() != 0:
		return dst, nil
	case declared:
		err = &OpError{Op: "write", Group: group, Err: errPortZero}
	case group.IsMulticast():
		err = &OpError{Op: "write", Group: group, Err: ErrNotDeclared, Hint: "name it in TxConfig.Groups"}
	default:
		err = &OpError{Op: "write", Err: fmt.Errorf("to %s: %w", dst, ErrNotDeclared), Hint: "a TxSocket sends to groups only"}
	}
	return dst, err
}

// serves reports whether a datagram to dst leaves by l.
func (l *txLink) serves(dst netip.Addr) bool {
	if l.v4 != dst.Is4() {
		return false
	}
	zone := dst.Zone()
	return zone == "" || zone == l.ifc.Name || zone == l.zone
}

// joinErrors keeps a single error as it is.
func joinErrors(a, b error) error {
	if a == nil {
		return b
	}
	return errors.Join(a, b)
}

// ReadFrom waits for a unicast datagram, such as a reply to what was sent, and copies it into p; a datagram that is
// larger is cut. The address is a *net.UDPAddr of the sender, whose zone, if it has one, is an interface index.
// Multicast is never read; a broadcast to the port is.
func (t *TxSocket) ReadFrom(p []byte) (n int, addr net.Addr, err error) {
	if err := t.listen(); err != nil {
		return 0, nil, err
	}
	return t.readFrom(p)
}

// ReadFromUDPAddrPort is ReadFrom without allocating.
func (t *TxSocket) ReadFromUDPAddrPort(p []byte) (n int, src netip.AddrPort, err error) {
	if err := t.listen(); err != nil {
		return 0, src, err
	}
	return t.readFromUDPAddrPort(p)
}

// Interfaces returns the interfaces that the socket sends by, each once.
func (t *TxSocket) Interfaces() (all []Interface) {
	for _, l := range *t.links.Load() {
		if !slices.ContainsFunc(all, func(ifc Interface) bool { return ifc.Index == l.ifc.Index }) {
			all = append(all, l.ifc)
		}
	}
	return all
}

// SetTTL sets what TxConfig.TTL set, for the datagrams to come.
func (t *TxSocket) SetTTL(ttl int) error {
	if _, err := checkTTL("set TTL", ttl); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return &OpError{Op: "set TTL", Err: net.ErrClosed}
	}
	keeps := ttl == TTLHost && !t.cfg.Loopback
	if keeps {
		t.keeps.Store(true)
	}
	var failed error
	for _, l := range *t.links.Load() {
		if err := setTTL(l, l.to, ttl); err != nil {
			failed = joinErrors(failed, &OpError{Op: "set TTL", Interface: l.ifc.Name, Err: systemError("setsockopt", err)})
		}
	}
	if failed == nil && !keeps {
		t.keeps.Store(false)
	}
	return failed
}

// SetDeadline sets both deadlines.
func (t *TxSocket) SetDeadline(at time.Time) error {
	return cmp.Or(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// SetReadDeadline sets the time after which reads fail with os.ErrDeadlineExceeded, also one that is blocked; the
// zero time means never.
func (t *TxSocket) SetReadDeadline(at time.Time) error {
	return opError("set deadline", t.setReadDeadline(at))
}

// SetWriteDeadline is to writes what SetReadDeadline is to reads.
func (t *TxSocket) SetWriteDeadline(at time.Time) error {
	return opError("set deadline", t.each(func(to *sender) error { return to.conn.SetWriteDeadline(at) }))
}

// each calls f for every OS socket, and returns the first error.
func (t *TxSocket) each(f func(*sender) error) (err error) {
	for _, l := range *t.links.Load() {
		err = cmp.Or(err, f(l.to))
	}
	return err
}

// LocalAddr returns the local address of the first OS socket, as a *net.UDPAddr: the unspecified address, and the
// source port. If TxConfig.Port is 0 and there is more than one interface or family, the others have their own.
func (t *TxSocket) LocalAddr() net.Addr { return (*t.links.Load())[0].to.conn.LocalAddr() }

// Close closes the socket. It interrupts reads and writes that are blocked. Closing again is harmless and returns
// nil.
func (t *TxSocket) Close() error {
	t.mu.Lock()
	closed := t.closed.Swap(true)
	t.mu.Unlock()
	if closed {
		return nil
	}
	err := cmp.Or(t.m.close(), t.each(func(to *sender) error { return to.conn.Close() }))
	if t.unfollow != nil {
		t.unfollow() // last: it waits for the logger's handler, which may be in a read or write
	}
	return opError("close", err)
}
