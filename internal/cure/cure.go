// Package cure has the words for what to do about what goes wrong: the hints of mcast's errors and the cures of
// package doctor's findings are the same knowledge, and come from here. What differs between systems is in
// cure_<os>.go; nothing here decides what is wrong.
//
// Hints are written to stand in parentheses after an error. Cures are commands, or advice in the imperative.
package cure

import "fmt"

// Hints that are the same on every system.
const (
	Gone         = "the interface is gone"
	ScanAgain    = "there is no such interface now: scan again"
	TooLong      = "a datagram carries at most 65507 bytes over IPv4 and 65527 over IPv6"
	NoAddressYet = "the interface has no usable address of this family yet: IPv6 takes a second or two to check a " +
		"new one"
	NoAddressOrYet = "the interface has no usable address of this family (yet)"
	NoLink         = "the interface is down or has no address of this family"
	Broadcast      = "it is a broadcast address, or a route prohibits it"
	ShortOfMemory  = "the system is short of memory for sockets"
	QueueFull      = "the queue of the interface is full, or the system is short of memory: send slower; or WriteBuffer is " +
		"smaller than the datagram"
)

// Cures that are the same on every system.
const (
	NameInterface  = "name the interface in senders and receivers"
	NameForSenders = "name the interface in senders"
	AnyInterface   = "plug one in; a container or network namespace has to be given one. To use the loopback, " +
		"name it"
	OtherInterface = "plug it in, or name another one"

	LocalNetwork = "allow the program, or the terminal that starts it, in System Settings, Privacy & Security, Local " +
		"Network; root is exempt"
)

// OwnHost is for a group that only this machine sends to.
const OwnHost = "to receive what this machine sends, " + setLoopback + "; to receive from another host, run this " +
	"while it sends"

const setLoopback = "set Loopback at both ends (mcast.RxConfig and mcast.TxConfig)"

// Silence is for a group of which nothing comes. ask is whether the firewall may be the reason.
func Silence(ask bool) string {
	firewall := ""
	if ask {
		firewall = "does this machine's firewall let the port in? "
	}
	return "in this order: is the sender on this machine? then " + setLoopback + ". Does the sender send to this group " +
		"and port, by the right interface, with a TTL above 1 if a router is in between? " + firewall +
		"does the switch list this port as a member of the group (on most: show ip igmp snooping groups, or show ipv6 mld " +
		"snooping), and does the VLAN have a querier?"
}

// FirewallProfile is for a profile of Windows' firewall that lets nothing in.
func FirewallProfile(names string) string {
	return "in an elevated PowerShell, end the blocking and open the port: Set-NetFirewallProfile -Name " + names +
		" -AllowInboundRules True; New-NetFirewallRule -DisplayName mcast -Direction Inbound -Protocol UDP -LocalPort …"
}

// Unblock is for a program that Windows' firewall blocks. The rules are removed, and Windows asks anew.
func Unblock(program string) string {
	return "in an elevated PowerShell: Get-NetFirewallApplicationFilter -Program '" + program +
		"' | Get-NetFirewallRule | Where-Object Action -eq Block | Remove-NetFirewallRule"
}

// NoIndex is the hint for an interface whose index is nobody's.
func NoIndex(index int) string {
	return fmt.Sprintf("there is no interface with index %d now: scan again", index)
}
