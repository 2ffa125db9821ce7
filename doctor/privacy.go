// Local network privacy keeps a program on macOS 15 and later from the local network until the user allows it (Apple's
// technical note TN3179). It shows only as EHOSTUNREACH when something is sent.

package doctor

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/go-multicast/mcast"
)

// refusal is a failure to send to a group through an interface.
type refusal struct {
	unreachable bool   // EHOSTUNREACH
	macOS       string // its version; empty elsewhere
	root        bool   // root is exempt
	ifc         mcast.Interface
	group       netip.Addr
}

// private makes the finding if nothing else explains the failure. An interface that is up and has an address reaches
// every group.
func (r refusal) private() (f Finding, found bool) {
	major, _, _ := strings.Cut(r.macOS, ".")
	version, _ := strconv.Atoi(major)
	if !r.unreachable || version < 15 || r.root || r.ifc.IsLoopback() || r.ifc.Flags&net.FlagMulticast == 0 ||
		!usable(r.ifc, r.group) {
		return f, false
	}
	return Finding{Code: LocalNetworkPrivacy, Severity: Error, Group: r.group, Interface: r.ifc.Name,
		Summary: "macOS keeps this program from the local network, as long as the user has not allowed it",
		Detail: "A datagram to the group failed with \"no route to host\", although the interface is up and has an " +
			"address. This is macOS " + r.macOS + ", which does so since version 15 (technical note TN3179), and then " +
			"nothing comes in either. Each program, and each terminal for what it starts, is allowed by itself. A rule of " +
			"the firewall pf has the same effect: sudo pfctl -sr lists the rules.",
		Fix: fixLocalNetwork}, true
}
