// The words for macOS.

package cure

import "fmt"

// Hints.
const (
	PortTaken = "another program holds the port without SO_REUSEPORT, so nobody can share it: `lsof -nP -iUDP` " +
		"names it"
	PortPrivileged = "ports below 1024 need root, unless they are bound to the wildcard address"
	SourceLimits   = "the limits are net.inet.ip.mcast.maxsocksrc and maxgrpsrc, or net.inet6.ip6.mcast.*: see " +
		"`sysctl net.inet.ip.mcast`"
	GroupLimit     = "a socket has room for 4095 groups"
	NoLinkAtAll    = "the interface is down, cannot multicast or has no address of this family"
	NoRoute        = "there is no route to it: `route -n get` with the address shows it"
	TooLongHere    = TooLong + ", and no more than TxConfig.WriteBuffer"
	Refused        = "a firewall of this machine, or the sandbox of the program, refuses it"
	PrivacyOrRoute = "there is no route, or local network privacy is in the way: macOS 15 and later keep a program from " +
		"the local network until the user allows it in System Settings, Privacy & Security, Local Network"
)

// NoMembership is the hint for an interface on which no group can be joined.
func NoMembership(index int) string {
	return fmt.Sprintf("there is no interface with index %d now, or it cannot multicast: scan again", index)
}
