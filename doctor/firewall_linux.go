// The finding about Linux's firewall. It rests on the rules of nftables: which of them a datagram passes, which can
// drop it, and whose counters rose during the watch. Reading them needs CAP_NET_ADMIN in the user namespace of the
// network.

package doctor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// Bounds of one reading of the rules. A node of Kubernetes has 100,000 of them.
const (
	rulesTime = 3 * time.Second
	rulesRoom = 8 << 20 // bytes
)

// seeFirewall reads the rules before the watch.
func (c *checkup) seeFirewall(ctx context.Context, s *system) { s.rules = c.seeRules(ctx) }

// seeRules reads the rules of the network namespace of the calling thread. It returns nil if they are not visible.
func (c *checkup) seeRules(ctx context.Context) *ruleset {
	ctx, cancel := context.WithTimeout(ctx, rulesTime)
	defer cancel()
	var devices []string
	for _, i := range c.ifaces {
		devices = append(devices, i.Name)
	}
	r := newRuleset(devices, rulesRoom)
	switch err := r.readAll(ctx); {
	case errors.Is(err, unix.EPERM):
		c.notVisible("the rules of the firewall: that takes CAP_NET_ADMIN, as root has it")
		return nil
	case err != nil:
		c.notVisible(fmt.Sprintf("the rules of the firewall (%v)", err))
		return nil
	}
	return r
}

// readAll reads the rules of the chains that a datagram passes. r.partial says why the rules are incomplete, if a bound
// or a change left some out.
func (r *ruleset) readAll(ctx context.Context) error {
	err := r.dump(ctx, unix.NFT_MSG_GETTABLE, nil, r.readTable)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil // a kernel without netfilter, or without nftables (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c)
	} else if err == nil {
		err = r.dump(ctx, unix.NFT_MSG_GETCHAIN, nil, r.readBase)
	}
	opened := make(map[tableKey]bool)
	for i := 0; err == nil && i < len(r.way); i++ {
		c := r.way[i]
		err = r.dump(ctx, unix.NFT_MSG_GETRULE, c, func(_ byte, body []byte) { r.readRule(c, body) })
		if err == nil && c.anywhere && !opened[c.table] {
			opened[c.table] = true
			err = r.dump(ctx, unix.NFT_MSG_GETCHAIN, nil, func(family byte, body []byte) {
				r.readOther(c, family, body)
			})
		}
	}
	if errors.Is(err, errBounds) {
		r.partial, err = fmt.Sprintf("it was not read to its end within %v and %d MB", rulesTime, rulesRoom>>20), nil
	}
	return err
}

var errBounds = errors.New("out of time or room")

// dump calls take for all objects of a kind, or of the chain, with the family and the attributes of each. An aborted
// dump spoils its socket, so each dump has its own.
func (r *ruleset) dump(ctx context.Context, typ uint16, of *chain, take func(family byte, body []byte)) error {
	const header = 4 // struct nfgenmsg
	const changed = "it changed while it was read"
	body := []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0}
	if of != nil {
		body[0] = of.table.family
		body = append(body, rtnl.Attr(unix.NFTA_RULE_TABLE, []byte(of.table.name+"\x00"))...)
		body = append(body, rtnl.Attr(unix.NFTA_RULE_CHAIN, []byte(of.name+"\x00"))...)
	}
	conn, err := rtnl.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer conn.Close()
	stopped := false
	err = conn.Request(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_DUMP, body, func(m rtnl.Message) (more bool) {
		if stopped = ctx.Err() != nil || r.room < 0; stopped {
			return false
		} else if len(m.Body) < header {
			return true
		}
		// These are the low bits of the generation of the rules. A change raises it.
		version := binary.BigEndian.Uint16(m.Body[2:])
		if r.version != 0 && r.version != version {
			r.partial = changed
		}
		r.version = version
		take(m.Body[0], m.Body[header:])
		return true
	})
	switch {
	case stopped:
		return errBounds
	case errors.Is(err, rtnl.ErrChanged):
		r.partial, err = changed, nil
	}
	return err
}

// checkFirewall runs after the watch. It is about groups that were joined and did not arrive: the firewall lets in what
// arrives. A counter counts packets of any kind. So it proves nothing about a group, and no finding is an error.
func (c *checkup) checkFirewall(ctx context.Context, before *system, watched time.Duration) {
	silent := map[bool][]netip.Addr{true: c.joinedSilent(true), false: c.joinedSilent(false)}
	if before.rules == nil || watched < silence || len(silent[true])+len(silent[false]) == 0 {
		return
	}
	older := c.olderFirewall()
	now := c.seeRules(context.WithoutCancel(ctx))
	if now == nil {
		return
	}
	partial := cmp.Or(before.rules.partial, now.partial)
	if partial != "" {
		c.notVisible("a part of the firewall's rule set: " + partial)
	}
	for _, v4 := range []bool{true, false} {
		groups := silent[v4]
		if len(groups) == 0 {
			continue
		}
		rose, unknown := now.since(before.rules, v4)
		if len(unknown) > 0 {
			c.notVisible(fmt.Sprintf("whether %d rules and policies of the firewall dropped anything: they have no counter",
				len(unknown)))
		}
		if len(rose)+len(unknown) > 0 {
			c.add(mayHaveDropped(rose, unknown, packet{Groups: groups, Port: c.Port}))
		} else if !older && partial == "" {
			c.letIn = append(c.letIn, groups...)
		}
	}
}

// joinedSilent returns the groups of the family that were joined and did not arrive.
func (c *checkup) joinedSilent(v4 bool) (silent []netip.Addr) {
	for _, g := range c.Groups {
		joined := func(t Traffic) bool { return t.Group == g }
		if g.Is4() == v4 && c.silent(g) && slices.ContainsFunc(c.Report.Facts.Traffic, joined) {
			silent = append(silent, g)
		}
	}
	return silent
}

// mayHaveDropped makes the finding about what is lost: by drops whose counters rose, or else by drops without a
// counter.
func mayHaveDropped(rose, unknown []place, lost packet) Finding {
	f := Finding{Code: Firewall, Severity: Info,
		Summary: "the firewall has rules that may drop the group",
		Detail: fmt.Sprintf("The rules were read over netlink. Datagrams of the group may pass these, which can drop and "+
			"have no counter: %s. What they compare was not looked at. The trace shows what becomes of a datagram.",
			list(unknown)),
		Fix: "while the receiver runs and somebody sends: " + fixTraceDrops(lost)}
	if len(lost.Groups) == 1 {
		f.Group = lost.Groups[0]
	}
	if len(rose) == 0 {
		return f
	}
	packets, fixes := uint64(0), []string(nil)
	for _, p := range rose {
		packets += p.by
		base := p.chain.base
		fix := fixLetIn(families[base.table.family], base.table.name, base.name, lost)
		if !slices.Contains(fixes, fix) {
			fixes = append(fixes, fix)
		}
	}
	f.Severity = Warning
	f.Summary = fmt.Sprintf("the firewall dropped %d packets while nothing of the group arrived", packets)
	f.Detail = fmt.Sprintf("The rules were read over netlink before and after the watch. These counters rose: %s. "+
		"They count packets of any kind: only a trace shows whether the group was among them. If another program such as "+
		"ufw, firewalld or docker made the rules, give that program the fix in its own words, or the fix will not last.",
		list(rose))
	f.Fix = strings.Join(fixes, "; ") + "; if that does not help, trace it: " + fixTraceDrops(lost)
	return f
}

// olderFirewall reports whether there are tables of the older iptables, whose rules are not examined.
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
