// The finding about firewalls: the rules of nftables are read over netlink, which takes CAP_NET_ADMIN in the network's
// user namespace, and followed for a datagram to each group that did not come, and for the messages of IGMP and MLD.

package doctor

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cure"
	"golang.org/x/sys/unix"
)

// readRules reads the rules of the network namespace of the calling thread.
func readRules() (*rules, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return newRules(), nil // a kernel without
	} else if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for range 5 {
		r := newRules()
		if err = r.dumpAll(fd); err == nil {
			return r, nil
		}
		if !errors.Is(err, unix.EINTR) { // else they changed meanwhile
			break
		}
	}
	return nil, err
}

func (r *rules) dumpAll(fd int) error {
	for _, typ := range []uint16{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET} {
		err := r.dump(fd, typ, unix.NFPROTO_UNSPEC)
		if errors.Is(err, unix.EINVAL) && typ == unix.NFT_MSG_GETTABLE {
			return nil // a kernel without nftables (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c)
		}
		if err != nil {
			return err
		}
	}
	for key := range r.sets {
		if !r.asked(key) {
			continue
		}
		table, name := text(unix.NFTA_SET_ELEM_LIST_TABLE, key.table.name), text(unix.NFTA_SET_ELEM_LIST_SET, key.name)
		if err := r.dump(fd, unix.NFT_MSG_GETSETELEM, key.table.family, table, name); err != nil {
			return err
		}
	}
	return nil
}

// asked reports whether a rule looks something up in the set.
func (r *rules) asked(set chainKey) bool {
	for key, c := range r.chains {
		for _, rule := range c.rules {
			for _, x := range rule.expressions {
				if x.name == "lookup" && key.table == set.table && string(x.all[unix.NFTA_LOOKUP_SET]) == set.name+"\x00" {
					return true
				}
			}
		}
	}
	return false
}

// text is an attribute that is a string.
func text(typ uint16, value string) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)+1))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	return append(b, make([]byte, 4-len(value)%4)...) // a NUL, and to a multiple of 4
}

// dump asks for all objects of a kind, and takes them in.
func (r *rules) dump(fd int, typ uint16, family byte, attributes ...[]byte) error {
	request := make([]byte, unix.SizeofNlMsghdr)
	binary.NativeEndian.PutUint16(request[4:], unix.NFNL_SUBSYS_NFTABLES<<8|typ)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = append(request, family, unix.NFNETLINK_V0, 0, 0)
	request = append(request, slices.Concat(attributes...)...)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 1<<16)
	interrupted := false
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return os.NewSyscallError("netlink", err)
		}
		for _, m := range messages {
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				if interrupted {
					return os.NewSyscallError("netlink", unix.EINTR)
				}
				return nil
			case unix.NLMSG_ERROR:
				return os.NewSyscallError("netlink", syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
			}
			r.read(m.Header.Type&0xff, slices.Clone(m.Data))
		}
	}
}

// seeRules adds the rules to a look at the system.
func (c *checkup) seeRules(s *system) {
	var err error
	switch s.rules, err = readRules(); {
	case errors.Is(err, unix.EPERM):
		c.notVisible("the rules of the firewall: that takes CAP_NET_ADMIN, as root has it")
	case err != nil:
		c.notVisible(fmt.Sprintf("the rules of the firewall (%v)", err))
	}
}

// datagramTo is one to a group. The source is the zero Addr if it is not known.
func datagramTo(group, source netip.Addr, port uint16, i mcast.Interface) packet {
	p := packetOn(i, group.Is4(), unix.IPPROTO_UDP, group)
	if source.IsValid() {
		p.network.set(addrAt(p.v4), source.AsSlice()...)
	}
	p.transport.set(2, byte(port>>8), byte(port))
	return p
}

// addrAt is where the source address is in a header; the destination is behind it.
func addrAt(v4 bool) int {
	if v4 {
		return 12
	}
	return 8
}

func packetOn(i mcast.Interface, v4 bool, protocol byte, dst netip.Addr) packet {
	p := packet{v4: v4, ifName: i.Name, ifIndex: i.Index, ethernet: len(i.HardwareAddr) == 6, protocol: protocol,
		transport: unknown(8)}
	if v4 {
		p.network = unknown(20)
		p.network.set(9, protocol)
		p.network.set(16, dst.AsSlice()...)
	} else {
		p.network = unknown(40)
		p.network.set(6, protocol)
		p.network.set(24, dst.AsSlice()...)
	}
	return p
}

// query is what a querier asks, and report what this machine says to it (RFC 3376 and RFC 3810).
func query(v4 bool, i mcast.Interface) packet {
	if v4 {
		p := packetOn(i, v4, unix.IPPROTO_IGMP, netip.AddrFrom4([4]byte{224, 0, 0, 1}))
		p.transport.set(0, 0x11)
		return p
	}
	return mld(i, netip.IPv6LinkLocalAllNodes(), 130)
}

func report(v4 bool, i mcast.Interface) (p packet) {
	if v4 {
		p = packetOn(i, v4, unix.IPPROTO_IGMP, netip.AddrFrom4([4]byte{224, 0, 0, 22}))
		p.transport.set(0, 0x22)
	} else {
		p = mld(i, netip.MustParseAddr("ff02::16"), 143)
	}
	p.out = true
	return p
}

// mld is a message of MLD: from a link-local address, and with a hop-by-hop option, which is the next header.
func mld(i mcast.Interface, dst netip.Addr, typ byte) packet {
	p := packetOn(i, false, unix.IPPROTO_ICMPV6, dst)
	p.network.set(6, unix.IPPROTO_HOPOPTS)
	p.network.set(addrAt(false), 0xfe, 0x80)
	p.transport.set(0, typ)
	p.untracked = true // noct_valid_new in net/netfilter/nf_conntrack_proto_icmpv6.c
	return p
}

// through tells whether the firewall drops the packet for sure, where, and in which base chain; or else the first rule
// that may keep it from getting through.
func (r *rules) through(p packet) (dropped, doubt place, base *chain) {
	for _, c := range r.onWay(p) {
		all, at, unsure := r.fate(p, c)
		if all == drops {
			return at, place{}, c
		}
		if all&drops != 0 {
			doubt = cmp.Or(doubt, unsure, place{chain: c.key})
		}
	}
	return place{}, doubt, nil
}

// checkFirewall comes after the watch: what came in was let in.
func (c *checkup) checkFirewall(start, end *system) {
	r := end.rules
	if r == nil {
		return
	}
	older := c.olderFirewall()
	for _, g := range c.Groups {
		if c.silent(g) && c.checkLetIn(g, start, end) && !older {
			c.letIn = append(c.letIn, g)
		}
	}
	for _, i := range c.ifaces {
		for _, v4 := range []bool{true, false} {
			reported := func(g netip.Addr) bool { return g.Is4() == v4 && isReported(g) }
			if i.Flags&net.FlagUp != 0 && !i.IsLoopback() && hasFamily(i, v4) && !end.inVRF(i.Index) &&
				slices.ContainsFunc(c.Groups, reported) {
				c.checkReports(i, v4, r)
			}
		}
	}
}

// isReported reports whether switches learn from reports who wants the group: not those that go everywhere.
func isReported(g netip.Addr) bool {
	return !in(g, "224.0.0.0/24") && g != netip.IPv6LinkLocalAllNodes() && !g.IsInterfaceLocalMulticast()
}

// checkLetIn makes the findings for a group that did not come, and reports whether it is let in for sure.
func (c *checkup) checkLetIn(g netip.Addr, start, end *system) (sure bool) {
	sources := c.sources(g)
	if len(sources) == 0 {
		sources = []netip.Addr{{}}
	}
	var found []Finding
	open := false // some interface lets it in, or may
	sure = true
	for _, i := range c.ifaces {
		if !usable(i, g) || end.inVRF(i.Index) {
			continue
		}
		var kept []netip.Addr
		var at place
		var base *chain
		for _, s := range sources {
			dropped, doubt, chain := end.rules.through(datagramTo(g, s, c.Port, i))
			if chain != nil {
				kept, at, base = append(kept, s), dropped, chain
			} else if doubt != (place{}) {
				sure = false
				c.notVisible(fmt.Sprintf("whether the firewall lets %s in by %s: that hangs on %s (sudo nft -a list ruleset)",
					g, i.Name, doubt))
			}
		}
		if len(kept) == 0 {
			open = true
			continue
		}
		sure = false
		f := Finding{Code: Firewall, Severity: Error, Group: g, Interface: i.Name,
			Summary: fmt.Sprintf("the firewall drops datagrams to the group, port %d", c.Port),
			Detail: fmt.Sprintf("Its rules were read over netlink and followed for such a datagram: %s drops it.%s %s",
				at, rose(start, end, at), byOthers),
			Fix: cure.LetIn(families[base.key.table.family], base.key.table.name, base.key.name, g.Is4(),
				cure.Packet{Group: g, Port: c.Port})}
		if len(c.Sources) > 0 {
			f.Summary += " from " + list(kept)
		} else {
			c.explain(SelfTest, g, i) // whose datagram met the same rule
		}
		if len(kept) < len(sources) {
			f.Severity = Warning
		}
		found = append(found, f)
	}
	for _, f := range found {
		if open && !c.named {
			f.Severity = min(f.Severity, Warning)
		}
		c.add(f)
	}
	return sure
}

// explain takes back a finding that another one explains.
func (c *checkup) explain(code string, g netip.Addr, i mcast.Interface) {
	c.Report.Findings = slices.DeleteFunc(c.Report.Findings, func(f Finding) bool {
		return f.Code == code && f.Group == g && f.Interface == i.Name
	})
}

const byOthers = "If another program such as ufw, firewalld or docker has made the rules, tell it the cure in its " +
	"own words, or it will not last."

// rose is a sentence about a rule whose counter moved while it was watched.
func rose(start, end *system, at place) string {
	if start.rules == nil {
		return ""
	}
	was, known := start.rules.counted[at]
	if is := end.rules.counted[at]; known && is > was {
		return fmt.Sprintf(" Its counter rose by %d while it was watched.", is-was)
	}
	return ""
}

// checkReports looks whether switches can learn that this machine wants the groups.
func (c *checkup) checkReports(i mcast.Interface, v4 bool, r *rules) {
	protocol := map[bool]string{true: "IGMP", false: "MLD"}[v4]
	for _, p := range []packet{query(v4, i), report(v4, i)} {
		at, _, base := r.through(p)
		if base == nil {
			continue
		}
		what, consequence := "queries", "the querier's questions go unanswered"
		if p.out {
			what, consequence = "reports", "nobody hears that this machine has joined"
		}
		f := Finding{Code: Firewall, Severity: Info, Interface: i.Name,
			Summary: fmt.Sprintf("the firewall drops the %s of %s", what, protocol),
			Detail: fmt.Sprintf("Its rules were read over netlink and followed for such a message: %s drops it. Where "+
				"switches snoop, %s, and the groups stop after some minutes at most. %s", at, consequence, byOthers),
			Fix: cure.LetIn(families[base.key.table.family], base.key.table.name, base.key.name, v4, cure.Packet{})}
		if c.someSilent(v4) {
			f.Severity = Warning
		}
		c.add(f)
	}
}

// olderFirewall reports whether there are tables of the older iptables, whose rules are not looked into.
func (c *checkup) olderFirewall() (there bool) {
	for file, name := range map[string]string{"ip_tables_names": "iptables", "ip6_tables_names": "ip6tables"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		if tables := strings.Fields(string(text)); err == nil && len(tables) > 0 {
			there = true
			c.notVisible(fmt.Sprintf("the rules of the older %s (tables: %s), which are not looked into: sudo %[1]s-legacy "+
				"-L -nv", name, list(tables)))
		}
	}
	return there
}
