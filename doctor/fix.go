// What to do about findings: commands, or advice in the imperative. What differs between systems is in fix_<os>.go.

package doctor

// Fixes that are the same on every system.
const (
	fixNameInterface  = "name the interface in senders and receivers"
	fixNameForSenders = "name the interface in senders"
	fixAnyInterface   = "plug one in; a container or network namespace has to be given one. To use the loopback, " +
		"name it"
	fixOtherInterface = "plug it in, or name another one"

	fixLocalNetwork = "allow the program, or the terminal that starts it, in System Settings, Privacy & Security, Local " +
		"Network; root is exempt"
)

// fixOwnHost is for a group that only this machine sends to.
const fixOwnHost = "to receive what this machine sends, " + setLoopback + "; to receive from another host, run this " +
	"while it sends"

const setLoopback = "set Loopback at both ends (mcast.RxConfig and mcast.TxConfig)"

// fixSilence is for a group without datagrams. With ask, the firewall may be the reason.
func fixSilence(ask bool) string {
	firewall := ""
	if ask {
		firewall = "does this machine's firewall let the port in? "
	}
	return "in this order: is the sender on this machine? then " + setLoopback + ". Does the sender send to this group " +
		"and port, by the right interface, with a TTL above 1 if a router is in between? " + firewall +
		"does the switch list this port as a member of the group (on most: show ip igmp snooping groups, or show ipv6 mld " +
		"snooping), and does the VLAN have a querier?"
}

// fixFirewallProfile is for a profile of Windows' firewall that blocks everything.
func fixFirewallProfile(names string) string {
	return "in an elevated PowerShell, end the blocking and open the port: Set-NetFirewallProfile -Name " + names +
		" -AllowInboundRules True; New-NetFirewallRule -DisplayName mcast -Direction Inbound -Protocol UDP -LocalPort …"
}

// fixUnblock is for a program that Windows' firewall blocks. It removes the rules, so that Windows asks the user again.
func fixUnblock(program string) string {
	return "in an elevated PowerShell: Get-NetFirewallApplicationFilter -Program '" + program +
		"' | Get-NetFirewallRule | Where-Object Action -eq Block | Remove-NetFirewallRule"
}
