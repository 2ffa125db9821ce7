// What iface.go asks of the operating system, asked of Linux over rtnetlink(7). Package net fetches the addresses of all
// interfaces once for every interface; one dump of the links and one of the addresses tells the same, and the watcher in
// watch_linux.go needs it from a socket that stays in the network namespace it was opened in.
//
// The parsers are pure functions over bytes. They take what they understand and step over the rest; bytes that are no
// netlink end a parse but never make it panic.

package mcast

import (
	"cmp"
	"encoding/binary"
	"errors"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ifaceScan lists the interfaces of the calling thread's network namespace, sorted by index.
func ifaceScan() ([]Interface, error) {
	c, err := ifaceDial()
	var list []Interface
	if err != nil {
		err = ifaceError("scan", err)
	} else {
		defer c.close()
		list, err = c.scan()
	}
	if isRefused(err) {
		if list, err2 := ioctlScan(); err2 == nil {
			return list, nil
		}
	}
	return list, err
}

// defaultIndex returns the index of the interface of the default route, as DefaultInterface describes.
func defaultIndex(network string) (int, error) {
	if err := ifaceCheckNetwork(network); err != nil {
		return 0, err
	}
	family := byte(unix.AF_INET)
	if network == "ip6" {
		family = unix.AF_INET6
	}
	index, err := ifaceAsk(func(c *ifaceNetlink) (int, error) { return c.mainDefault(family) })
	if err == nil && index == 0 {
		index, err = ifaceAsk(func(c *ifaceNetlink) (int, error) { return c.farIndex(family) })
	}
	if isRefused(err) {
		index, err = ioctlDefault(ifaceFar(family))
	}
	if err != nil {
		return 0, ifaceError("default interface", err)
	}
	if index == 0 {
		return 0, ifaceNoDefault(network)
	}
	return index, nil
}

// ifaceAsk asks one question on a socket of its own.
func ifaceAsk(question func(c *ifaceNetlink) (index int, err error)) (index int, err error) {
	c, err := ifaceDial()
	if err != nil {
		return 0, err
	}
	defer c.close()
	return question(c)
}

// mainDefault returns the interface of the best default route of the main table, and 0 if there is none. It is the last
// question on its socket: the kernel may not have finished the answer.
//
// A question for one destination (RTM_F_FIB_MATCH) is no substitute. It obeys policy rules, a more specific route can cover
// any destination, and it returns one default route of several, without regard to carrier and preference.
func (c *ifaceNetlink) mainDefault(family byte) (index int, err error) {
	// With these filters the kernel sends the unicast routes of the main table only (since 4.20; an older one sends all).
	// It has no filter for the prefix length.
	body := []byte{0: family, 4: unix.RT_TABLE_MAIN, 7: unix.RTN_UNICAST, unix.SizeofRtMsg - 1: 0}
	// The IPv4 table is a trie, and a dump walks it in the order of the addresses (fib_table_dump in net/ipv4/fib_trie.c).
	// So the default routes come before the first route to an address that is not 0.0.0.0. In a dump of IPv6 they come last.
	sorted := family == unix.AF_INET && c.strict
	routes, err := c.dump(unix.RTM_GETROUTE, body, func(route []byte) (keep, last bool) {
		return ifaceIsDefault(route), sorted && ifaceHasDestination(route)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: there is no main table
		return 0, err
	}
	return ifaceBestDefault(routes), nil
}

// farIndex returns the interface by which the kernel would send something far away, and 0 if there is none.
func (c *ifaceNetlink) farIndex(family byte) (index int, err error) {
	far := ifaceFar(family)
	body := []byte{0: family, 1: byte(far.BitLen()), unix.SizeofRtMsg - 1: 0}
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofRtAttr+far.BitLen()/8))
	body = binary.NativeEndian.AppendUint16(body, unix.RTA_DST)
	body = append(body, far.AsSlice()...)
	answer, err := c.request(unix.RTM_GETROUTE, unix.NLM_F_REQUEST, body, nil)
	if err != nil { // ENETUNREACH in most cases, but each type of reject route has its own errno
		return 0, nil
	}
	for h, b := range ifaceMessages(answer) {
		if r, ok := ifaceParseRoute(b); ok && h.Type == unix.RTM_NEWROUTE && r.kind == unix.RTN_UNICAST && r.index > 0 {
			return r.index, nil
		}
	}
	return 0, nil
}

// ifaceFar is a host far away. No packet is sent to it. It is a root server of the DNS rather than an address for documentation,
// since careful administrators have routes that reject the latter.
func ifaceFar(family byte) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.MustParseAddr("2001:503:ba3e::2:30")
	}
	return netip.MustParseAddr("198.41.0.4")
}

// ifaceNetlink is a socket for questions to rtnetlink. It is for one goroutine at a time, and asks about the network
// namespace of the thread that opened it, whichever thread uses it later.
type ifaceNetlink struct {
	fd     int
	strict bool // the kernel obeys the filters in requests for dumps
	seq    uint32
	buf    []byte // one datagram of an answer
	reply  []byte // the messages of an answer
}

// ifaceDial opens a socket. It is not bound, since the kernel does that by itself, and Android refuses it.
func ifaceDial() (*ifaceNetlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Have the filters in requests for dumps obeyed. If that is refused (before Linux 4.20), more comes than was asked
	// for, and the parsers drop it.
	strict := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	// The kernel fills datagrams of up to 32 KiB if it sees that much room (netlink_recvmsg in net/netlink/af_netlink.c).
	return &ifaceNetlink{fd: fd, strict: strict, buf: make([]byte, 32<<10)}, nil
}

func (c *ifaceNetlink) close() { unix.Close(c.fd) }

// scan lists the interfaces, sorted by index.
func (c *ifaceNetlink) scan() ([]Interface, error) {
	// Without RTEXT_FILTER_SKIP_STATS the kernel adds the counters of every interface, which are the larger part of
	// the answer and for which it has to ask every driver. And with any IFLA_EXT_MASK it makes room for the largest message
	// (rtnl_calcit in net/core/rtnetlink.c); else a dump ends, as if complete, before an interface whose message is
	// larger than its usual datagram, one with many alternative names for example.
	const rtextFilterSkipStats = 1 << 3 // include/uapi/linux/rtnetlink.h
	link := make([]byte, unix.SizeofIfInfomsg)
	link = binary.NativeEndian.AppendUint16(link, unix.SizeofRtAttr+4)
	link = binary.NativeEndian.AppendUint16(link, unix.IFLA_EXT_MASK)
	link = binary.NativeEndian.AppendUint32(link, rtextFilterSkipStats)

	links, err := c.dump(unix.RTM_GETLINK, link, nil)
	if err != nil {
		return nil, ifaceError("scan", err)
	}
	list := ifaceParseLinks(links)
	addrs, err := c.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), nil)
	if err != nil {
		return nil, ifaceError("scan", err)
	}
	ifaceParseAddrs(list, addrs)
	return list, nil
}

// ifaceError is the error of asking the kernel.
func ifaceError(op string, err error) error {
	e := &OpError{Op: op, Err: err}
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		e.Hint = filesHint()
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		e.Hint = "Android and some sandboxes do not let a program list the interfaces; build the list from what the system's own API tells"
	}
	return e
}

// errIfaceInconsistent says that what a dump tells changed while it was under way.
var errIfaceInconsistent = errors.New("the kernel's list kept changing while it was read")

// dump asks for everything of one kind and returns the messages. They are valid until the next question. A dump of
// many datagrams reads a list that lives on meanwhile; where the kernel says that it changed, the question is repeated,
// and after a while given up: what has come so far might lack an interface that was there all the time.
func (c *ifaceNetlink) dump(typ uint16, body []byte, sift ifaceSift) ([]byte, error) {
	for try := range 20 {
		messages, err := c.request(typ, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, body, sift)
		if err != errIfaceInconsistent {
			return messages, err
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
	}
	return nil, errIfaceInconsistent
}

// request asks a question and returns the messages of the answer that sift keeps, without the one that ends it.
func (c *ifaceNetlink) request(typ, flags uint16, body []byte, sift ifaceSift) ([]byte, error) {
	if err := c.ask(typ, flags, body); err != nil {
		return nil, err
	}
	answer := ifaceAnswer{seq: c.seq, sift: sift, messages: c.reply[:0]}
	for {
		n, err := c.receive()
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		ended, err := answer.add(c.buf[:n])
		c.reply = answer.messages
		if ended || err != nil {
			return answer.messages, err
		}
	}
}

// ask sends a question.
func (c *ifaceNetlink) ask(typ, flags uint16, body []byte) error {
	c.seq++
	h := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: typ, Flags: flags, Seq: c.seq}
	question := ifaceAppendMessage(nil, h, body)
	return os.NewSyscallError("sendto", ifaceRetry(func() error {
		return unix.Sendto(c.fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}))
}

// ifaceSift says which messages of an answer matter, as they come. The answer ends before the message for which last is
// true; what is left of it stays in the socket, which can then only be closed. nil keeps all.
type ifaceSift func(payload []byte) (keep, last bool)

// ifaceAnswer puts the datagrams of an answer together.
type ifaceAnswer struct {
	seq          uint32 // of the question
	sift         ifaceSift
	messages     []byte
	inconsistent bool
}

// add takes the next datagram. The answer is complete when it has ended; an error ends it, too.
func (a *ifaceAnswer) add(datagram []byte) (ended bool, err error) {
	for h, b := range ifaceMessages(datagram) {
		if h.Seq != a.seq {
			continue
		}
		if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
			a.inconsistent = true
		}
		switch h.Type {
		case unix.NLMSG_NOOP:
			continue
		case unix.NLMSG_ERROR, unix.NLMSG_DONE: // both may carry an errno, negated
			if errno := -int32(ifaceUint32(b[:min(4, len(b))])); errno > 0 {
				return true, os.NewSyscallError("netlink", unix.Errno(errno))
			}
			if a.inconsistent {
				return true, errIfaceInconsistent
			}
			return true, nil
		}
		keep := true
		if a.sift != nil {
			var last bool
			if keep, last = a.sift(b); last && !a.inconsistent {
				return true, nil
			}
		}
		if keep {
			a.messages = ifaceAppendMessage(a.messages, h, b)
		}
		if h.Flags&unix.NLM_F_MULTI == 0 {
			return true, nil
		}
	}
	return false, nil
}

// receive reads one datagram from the kernel into c.buf. Interfaces exist that are so rich that 32 KiB do not hold their
// message, so it looks at the length first: a truncated datagram may have held the end of the answer.
func (c *ifaceNetlink) receive() (n int, err error) {
	for {
		if err := ifaceRetry(func() (err error) {
			n, _, err = unix.Recvfrom(c.fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			return err
		}); err != nil {
			return 0, err
		}
		if n > len(c.buf) {
			c.buf = make([]byte, n)
		}
		var from unix.Sockaddr
		if err := ifaceRetry(func() (err error) {
			n, from, err = unix.Recvfrom(c.fd, c.buf, 0)
			return err
		}); err != nil {
			return 0, err
		}
		if ifaceFromKernel(from) {
			return n, nil
		}
	}
}

// ifaceFromKernel reports whether a netlink message comes from the kernel. Any process with CAP_NET_ADMIN can send one too.
func ifaceFromKernel(from unix.Sockaddr) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	return ok && sender.Pid == 0
}

// ifaceRetry repeats a system call that a signal interrupted.
func ifaceRetry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// ifaceMessages iterates over netlink messages and their payload. It ends at what is none.
func ifaceMessages(b []byte) iter.Seq2[unix.NlMsghdr, []byte] {
	return func(yield func(unix.NlMsghdr, []byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			h := unix.NlMsghdr{
				Len:   binary.NativeEndian.Uint32(b),
				Type:  binary.NativeEndian.Uint16(b[4:]),
				Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq:   binary.NativeEndian.Uint32(b[8:]),
				Pid:   binary.NativeEndian.Uint32(b[12:]),
			}
			if h.Len < unix.SizeofNlMsghdr || uint64(h.Len) > uint64(len(b)) {
				return
			}
			if !yield(h, b[unix.SizeofNlMsghdr:h.Len]) {
				return
			}
			b = b[ifaceAlign(int(h.Len), len(b)):]
		}
	}
}

// ifaceAppendMessage puts a message back behind others.
func ifaceAppendMessage(to []byte, h unix.NlMsghdr, payload []byte) []byte {
	to = binary.NativeEndian.AppendUint32(to, h.Len)
	to = binary.NativeEndian.AppendUint16(to, h.Type)
	to = binary.NativeEndian.AppendUint16(to, h.Flags)
	to = binary.NativeEndian.AppendUint32(to, h.Seq)
	to = binary.NativeEndian.AppendUint32(to, h.Pid)
	to = append(to, payload...)
	return append(to, make([]byte, -len(to)&3)...)
}

// ifaceAttrs iterates over attributes and their values. It ends at what is none.
func ifaceAttrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			if !yield(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[ifaceAlign(length, len(b)):]
		}
	}
}

// ifaceAlign is where the next message or attribute begins: at a multiple of four, or at the end.
func ifaceAlign(n, end int) int { return min((n+3)&^3, end) }

// ifaceUint32 is the value of an attribute that holds a number, and 0 for one that does not.
func ifaceUint32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// ifaceParseLinks makes interfaces, without addresses, of the messages of an RTM_GETLINK dump, sorted by index.
func ifaceParseLinks(b []byte) []Interface {
	var list []Interface
	for h, b := range ifaceMessages(b) {
		if h.Type != unix.RTM_NEWLINK {
			continue
		}
		if i, ok := ifaceParseLink(b); ok {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	for n := range list {
		if at, ok := ifaceAt(list, list[n].Master); ok {
			list[n].masterName = list[at].Name
		}
	}
	return list
}

// ifaceAt finds an index in a list that is sorted by it.
func ifaceAt(list []Interface, index int) (at int, ok bool) {
	return slices.BinarySearchFunc(list, index, func(i Interface, index int) int { return cmp.Compare(i.Index, index) })
}

// ifaceParseLink parses the payload of RTM_NEWLINK or RTM_DELLINK. It is not ok for what is not about an interface as
// such: a bridge tells its ports' comings and goings in messages of the same types, with its own address family.
func ifaceParseLink(b []byte) (i Interface, ok bool) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return i, false
	}
	hardware := binary.NativeEndian.Uint16(b[2:])
	i.Index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	i.Flags = ifaceFlags(binary.NativeEndian.Uint32(b[8:]))
	for typ, v := range ifaceAttrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(v)
		case unix.IFLA_MTU:
			i.MTU = int(ifaceUint32(v))
		case unix.IFLA_MASTER:
			i.Master = int(ifaceUint32(v))
		case unix.IFLA_LINKINFO:
			i.kind, i.masterKind = ifaceKinds(v)
		case unix.IFLA_PROP_LIST:
			i.AltNames = ifaceAltNames(v)
		case unix.IFLA_AF_SPEC:
			i.since6 = ifaceSince6(v)
		case unix.IFLA_ADDRESS:
			if !ifaceIsTunnelEnd(hardware, v) && slices.ContainsFunc(v, func(x byte) bool { return x != 0 }) {
				i.HardwareAddr = net.HardwareAddr(slices.Clone(v))
			}
		}
	}
	return i, i.Index > 0
}

// ifaceParseLink6 parses the payload of RTM_NEWLINK that is about IPv6 on an interface. The kernel sends one when it has
// started IPv6 there, be it for disable_ipv6, and when a router sets other flags (inet6_ifinfo_notify in net/ipv6/addrconf.c).
func ifaceParseLink6(b []byte) (index int, ok bool) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_INET6 {
		return 0, false
	}
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	return index, index > 0
}

// ifaceKinds takes the kinds of an interface and of its master from IFLA_LINKINFO.
func ifaceKinds(b []byte) (own, master string) {
	for typ, v := range ifaceAttrs(b) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			own = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_SLAVE_KIND:
			master = unix.ByteSliceToString(v)
		}
	}
	return own, master
}

// ifaceAltNames takes the alternative names from IFLA_PROP_LIST.
func ifaceAltNames(b []byte) (names []string) {
	for typ, v := range ifaceAttrs(b) {
		if typ == unix.IFLA_ALT_IFNAME {
			names = append(names, unix.ByteSliceToString(v))
		}
	}
	return names
}

// ifaceSince6 takes from IFLA_AF_SPEC when IPv6 was set up, taken down or told otherwise by a router on an interface, in
// hundredths of a second (the field tstamp of struct inet6_dev). All memberships, those of IPv4 too, go with an interface
// that leaves the namespace, and those of IPv6 when the MTU gets too small; either takes the inet6_dev as well, and the
// next one begins later. What else changes the number does no harm.
//
// It wraps after 497 days. On a 32-bit kernel, whose product of ticks and 100 overflows, it does after a few days
// (cstamp_delta in net/ipv6/addrconf.c).
func ifaceSince6(b []byte) (since uint32) {
	for family, b := range ifaceAttrs(b) {
		if family != unix.AF_INET6 {
			continue
		}
		for typ, v := range ifaceAttrs(b) {
			if typ == unix.IFLA_INET6_CACHEINFO && len(v) >= 8 { // struct ifla_cacheinfo
				since = binary.NativeEndian.Uint32(v[4:])
			}
		}
	}
	return since
}

// ifaceIsTunnelEnd reports whether a link-layer address is the IP address of a tunnel's end, which is what tunnels give
// the kernel for one. Package net makes the same exception.
func ifaceIsTunnelEnd(hardware uint16, addr []byte) bool {
	switch hardware {
	case unix.ARPHRD_TUNNEL, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE:
		return len(addr) == 4
	case unix.ARPHRD_TUNNEL6, unix.ARPHRD_IP6GRE:
		return len(addr) == 16
	}
	return false
}

// ifaceFlags are the kernel's flags in package net's numbers.
func ifaceFlags(kernel uint32) (f net.Flags) {
	for _, x := range [...]struct {
		kernel uint32
		net    net.Flags
	}{
		{unix.IFF_UP, net.FlagUp},
		{unix.IFF_RUNNING, net.FlagRunning},
		{unix.IFF_BROADCAST, net.FlagBroadcast},
		{unix.IFF_LOOPBACK, net.FlagLoopback},
		{unix.IFF_POINTOPOINT, net.FlagPointToPoint},
		{unix.IFF_MULTICAST, net.FlagMulticast},
	} {
		if kernel&x.kernel != 0 {
			f |= x.net
		}
	}
	return f
}

// ifaceParseAddrs adds the addresses in the messages of an RTM_GETADDR dump to a list that is sorted by index. An
// interface that is not in the list was made since.
func ifaceParseAddrs(list []Interface, b []byte) {
	for h, b := range ifaceMessages(b) {
		if h.Type != unix.RTM_NEWADDR {
			continue
		}
		index, prefix, ok := ifaceParseAddr(b)
		if !ok {
			continue
		}
		at, ok := ifaceAt(list, index)
		switch {
		case !ok:
		case prefix.Addr().Is4():
			list[at].IPv4 = append(list[at].IPv4, prefix)
		default:
			list[at].IPv6 = append(list[at].IPv6, prefix)
		}
	}
}

// ifaceParseAddr parses the payload of RTM_NEWADDR.
func ifaceParseAddr(b []byte) (index int, prefix netip.Prefix, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, prefix, false
	}
	family, bits := b[0], int(b[1])
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	var local, addr netip.Addr
	for typ, v := range ifaceAttrs(b[unix.SizeofIfAddrmsg:]) {
		if family == unix.AF_INET && len(v) != 4 || family == unix.AF_INET6 && len(v) != 16 {
			continue
		}
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(v)
		}
	}
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return 0, prefix, false
	}
	// IFA_LOCAL is the interface's own address where that is not the same as IFA_ADDRESS: on a point-to-point link,
	// where IFA_ADDRESS is the peer's and the prefix length belongs to it (include/uapi/linux/if_addr.h). For IPv4 both
	// are always there.
	if !local.IsValid() {
		local = addr
	}
	if addr.IsValid() && !netip.PrefixFrom(addr, bits).Contains(local) {
		bits = local.BitLen()
	}
	prefix = netip.PrefixFrom(local, bits)
	return index, prefix, index > 0 && prefix.IsValid()
}

// ifaceRoute is what matters about a route.
type ifaceRoute struct {
	dstBits  byte
	srcBits  byte // of those that it is for
	tos      byte
	kind     byte // RTN_UNICAST, …
	table    uint32
	cloned   bool // not from the table but from the cache
	expired  bool // the kernel does not use it any more, and has yet to remove it
	index    int  // of the interface it leads to; 0 if none or none that is alive
	linkDown bool // that interface has no carrier
	metric   uint32
	rank     int // by RFC 4191 preference: 0 high, 1 medium, 2 low
}

// ifaceIsDefault reports whether the payload of RTM_NEWROUTE is about a route to everywhere.
func ifaceIsDefault(b []byte) bool { return len(b) >= unix.SizeofRtMsg && b[1] == 0 }

// ifaceHasDestination reports whether the payload of RTM_NEWROUTE is about a route to addresses that do not begin with
// 0.0.0.0 (or ::), as those of 0.0.0.0/0 and 0.0.0.0/1 do.
func ifaceHasDestination(b []byte) bool {
	if len(b) < unix.SizeofRtMsg {
		return false
	}
	for typ, v := range ifaceAttrs(b[unix.SizeofRtMsg:]) {
		if typ == unix.RTA_DST {
			return slices.ContainsFunc(v, func(x byte) bool { return x != 0 })
		}
	}
	return false
}

// ifaceBestDefault returns the interface of the best default route in the messages of an RTM_GETROUTE dump, and 0 if
// there is none.
func ifaceBestDefault(b []byte) int {
	var best ifaceRoute
	for h, b := range ifaceMessages(b) {
		r, ok := ifaceParseRoute(b)
		if !ok || h.Type != unix.RTM_NEWROUTE || r.dstBits != 0 || r.srcBits != 0 || r.tos != 0 ||
			r.kind != unix.RTN_UNICAST || r.table != unix.RT_TABLE_MAIN || r.cloned || r.expired || r.index <= 0 {
			continue
		}
		if best.index == 0 || r.before(best) {
			best = r
		}
	}
	return best.index
}

// before reports whether r is to be preferred to s. The kernel goes by metric first, unless the sysctl
// ignore_routes_with_linkdown is set; a link without carrier is no use to anyone who asks here.
func (r ifaceRoute) before(s ifaceRoute) bool {
	if r.linkDown != s.linkDown {
		return s.linkDown
	}
	return cmp.Or(cmp.Compare(r.metric, s.metric), cmp.Compare(r.rank, s.rank)) < 0
}

// ifaceParseRoute parses the payload of RTM_NEWROUTE.
func ifaceParseRoute(b []byte) (r ifaceRoute, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	r = ifaceRoute{dstBits: b[1], srcBits: b[2], tos: b[3], table: uint32(b[4]), kind: b[7], cloned: flags&unix.RTM_F_CLONED != 0, rank: 1}
	for typ, v := range ifaceAttrs(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_TABLE:
			r.table = ifaceUint32(v)
		case unix.RTA_PRIORITY:
			r.metric = ifaceUint32(v)
		case unix.RTA_PREF:
			switch { // a number of two bits with a sign
			case len(v) != 1:
			case v[0] == 1:
				r.rank = 0
			case v[0] == 3:
				r.rank = 2
			}
		case unix.RTA_OIF:
			// With the nexthops of a multipath route come their own flags; those of the message are about this one.
			if flags&unix.RTNH_F_DEAD == 0 {
				r.index, r.linkDown = int(int32(ifaceUint32(v))), flags&unix.RTNH_F_LINKDOWN != 0
			}
		case unix.RTA_CACHEINFO: // struct rta_cacheinfo
			r.expired = len(v) >= 12 && int32(binary.NativeEndian.Uint32(v[8:])) < 0
		case unix.RTA_MULTIPATH:
			r.index, r.linkDown = ifaceFirstNexthop(v)
		}
	}
	return r, true
}

// ifaceFirstNexthop returns the first nexthop of RTA_MULTIPATH that is alive, one with carrier if there is one.
func ifaceFirstNexthop(b []byte) (index int, linkDown bool) {
	for len(b) >= unix.SizeofRtNexthop {
		length, flags := int(binary.NativeEndian.Uint16(b)), b[2]
		if length < unix.SizeofRtNexthop || length > len(b) {
			break
		}
		i := int(int32(binary.NativeEndian.Uint32(b[4:])))
		b = b[ifaceAlign(length, len(b)):]
		if i <= 0 || flags&unix.RTNH_F_DEAD != 0 {
			continue
		}
		if flags&unix.RTNH_F_LINKDOWN == 0 {
			return i, false
		}
		if index == 0 {
			index, linkDown = i, true
		}
	}
	return index, linkDown
}
