// The words for macOS.

package cure

import "fmt"

// Hints.
const (
	PortTaken = "another program has bound the port without SO_REUSEPORT and does not share it: `lsof -nP -iUDP` " +
		"names it"
	GroupTaken = "another program has bound this group and port without SO_REUSEADDR and SO_REUSEPORT and does not share " +
		"them: `lsof -nP -iUDP` names it"
	PortPrivileged = "for a group, a port below 1024 needs root"
	SourceLimits   = "the host has a limit of sources for each group and interface: net.inet.ip.mcast.maxgrpsrc, or " +
		"net.inet6.ip6.mcast.maxgrpsrc"
	NoMulticast            = "the interface does not support multicast"
	ScanAgainOrNoMulticast = "there is no such interface now, or it does not support multicast: scan again"
	Down                   = "the interface is down"
	NoRoute                = "there is no route to it: `route -n get` with the address shows it"
	NoRouteOrFirewall      = "there is no route, or a rule of the firewall pf refuses it: `sudo pfctl -sr` lists the rules"
	TooLongHere            = TooLong + ", and no more than TxConfig.WriteBuffer"
	Refused                = "a firewall of this machine, or the sandbox of the program, refuses it"
	PrivacyOrRoute         = "there is no route, a rule of the firewall pf refuses it (`sudo pfctl -sr`), or local network " +
		"privacy does: macOS 15 and later keep a program from the local network until the user allows it in System " +
		"Settings, Privacy & Security, Local Network"
)

// NoMembership is the hint for an interface on which no group can be joined.
func NoMembership(index int) string {
	return fmt.Sprintf("there is no interface with index %d now, or it does not support multicast: scan again", index)
}
