// Interfaces and their addresses.

package rtnl

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Link is the content of a message about an interface. Its slices of bytes are parts of the message.
type Link struct {
	Family     byte   // AF_UNSPEC: the interface; AF_INET6: IPv6 on it; AF_BRIDGE: the interface as a port of a bridge
	Type       uint16 // ARPHRD_ETHER, …
	Flags      uint32 // IFF_UP, …
	Index      int    // above 0
	Name       string
	AltNames   []string
	MTU        int
	Addr       []byte // the link-layer address
	Master     int    // index of the bridge, bond, team or VRF it belongs to, or 0
	Kind       string // such as "bridge" or "veth"; empty for a network card
	Data       []byte // the attributes of this kind (IFLA_INFO_DATA)
	MasterKind string
	PortData   []byte // the attributes of a port of such a master (IFLA_INFO_SLAVE_DATA)
	PeerAway   bool   // it has a peer, as a veth has, in another network namespace

	// Since6 is when IPv6 on the interface was set up, taken down or configured by a router, in hundredths of a second
	// (the field tstamp of struct inet6_dev). An interface that leaves the namespace loses all memberships, those of
	// IPv4 too. One whose MTU gets too small loses those of IPv6. Either makes a new inet6_dev, with a later Since6.
	// Since6 wraps after 497 days. On a 32-bit kernel, where the product of ticks and 100 overflows, it wraps after a
	// few days (cstamp_delta in net/ipv6/addrconf.c). 0 means unknown.
	Since6 uint32
}

// ParseLink parses the body of RTM_NEWLINK or RTM_DELLINK.
func ParseLink(b []byte) (l Link, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return l, false
	}
	l.Family, l.Type = b[0], binary.NativeEndian.Uint16(b[2:])
	l.Index, l.Flags = int(int32(binary.NativeEndian.Uint32(b[4:]))), binary.NativeEndian.Uint32(b[8:])
	for typ, v := range Attrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(v)
		case unix.IFLA_MTU:
			l.MTU = int(Uint32(v))
		case unix.IFLA_MASTER:
			l.Master = int(Uint32(v))
		case unix.IFLA_ADDRESS:
			l.Addr = v
		case unix.IFLA_LINK_NETNSID:
			l.PeerAway = true
		case unix.IFLA_LINKINFO:
			l.parseInfo(v)
		case unix.IFLA_PROP_LIST:
			l.parseProperties(v)
		case unix.IFLA_AF_SPEC:
			l.parseIPv6(Find(v, unix.AF_INET6))
		}
	}
	return l, l.Index > 0
}

// parseInfo parses IFLA_LINKINFO.
func (l *Link) parseInfo(b []byte) {
	for typ, v := range Attrs(b) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.Kind = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_DATA:
			l.Data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			l.MasterKind = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			l.PortData = v
		}
	}
}

// parseProperties parses IFLA_PROP_LIST.
func (l *Link) parseProperties(b []byte) {
	for typ, v := range Attrs(b) {
		if typ == unix.IFLA_ALT_IFNAME {
			l.AltNames = append(l.AltNames, unix.ByteSliceToString(v))
		}
	}
}

// parseIPv6 parses the part of IFLA_AF_SPEC that is about IPv6.
func (l *Link) parseIPv6(b []byte) {
	if v := Find(b, unix.IFLA_INET6_CACHEINFO); len(v) >= 8 { // struct ifla_cacheinfo
		l.Since6 = binary.NativeEndian.Uint32(v[4:])
	}
}

// Links lists the interfaces. Their slices of bytes are valid until the next request.
func (c *Conn) Links() (links []Link, err error) {
	// Without RTEXT_FILTER_SKIP_STATS the kernel adds the counters of every interface. They are the larger part of the
	// answer, and the kernel has to ask every driver for them. With any IFLA_EXT_MASK, the kernel also makes room for
	// the largest message (rtnl_calcit in net/core/rtnetlink.c). Otherwise a dump ends, as if complete, before an
	// interface whose message is larger than the usual datagram, for example one with many alternative names.
	const rtextFilterSkipStats = 1 << 3 // include/uapi/linux/rtnetlink.h
	body := append(make([]byte, unix.SizeofIfInfomsg), Attr(unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, rtextFilterSkipStats))...)
	messages, err := c.Dump(unix.RTM_GETLINK, body, nil)
	if err != nil {
		return nil, err
	}
	for m := range Messages(messages) {
		if l, ok := ParseLink(m.Body); ok && m.Type == unix.RTM_NEWLINK && l.Family == unix.AF_UNSPEC {
			links = append(links, l)
		}
	}
	return links, nil
}

// Addr is an address of an interface.
type Addr struct {
	Index  int // of the interface; above 0
	Prefix netip.Prefix
}

// ParseAddr parses the body of RTM_NEWADDR or RTM_DELADDR.
func ParseAddr(b []byte) (a Addr, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return a, false
	}
	family, bits := b[0], int(b[1])
	a.Index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	var size int
	switch family {
	case unix.AF_INET:
		size = 4
	case unix.AF_INET6:
		size = 16
	default:
		return a, false
	}
	var local, addr netip.Addr
	for typ, v := range Attrs(b[unix.SizeofIfAddrmsg:]) {
		switch {
		case len(v) != size:
		case typ == unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case typ == unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(v)
		}
	}
	// IFA_LOCAL is the interface's own address if it differs from IFA_ADDRESS. It differs on a point-to-point link,
	// where IFA_ADDRESS is the peer's, and the prefix length belongs to it (include/uapi/linux/if_addr.h). For IPv4
	// both are always present.
	if !local.IsValid() {
		local = addr
	}
	if addr.IsValid() && !netip.PrefixFrom(addr, bits).Contains(local) {
		bits = local.BitLen()
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, a.Index > 0 && a.Prefix.IsValid()
}

// Addrs lists the addresses of all interfaces.
func (c *Conn) Addrs() (addrs []Addr, err error) {
	messages, err := c.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), nil)
	if err != nil {
		return nil, err
	}
	for m := range Messages(messages) {
		if a, ok := ParseAddr(m.Body); ok && m.Type == unix.RTM_NEWADDR {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}
