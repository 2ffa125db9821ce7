// The words for Windows. Commands for PowerShell need one that was started as an administrator.

package cure

// Hints.
const (
	PortTaken = "another user's program holds the port without SO_REUSEADDR, or any program with SO_EXCLUSIVEADDRUSE " +
		"(`netstat -abno -p UDP` names it), or Windows has reserved the port (`netsh int ipv4 show excludedportrange " +
		"protocol=udp`)"
	AddressChecked = "Windows still checks that no other host has the interface's address, which takes some seconds: try " +
		"again"
	NoAddressNow       = "the interface does not have its address now, or is down: scan again"
	RefusedOrBroadcast = "a firewall of this machine refuses it, or it is a broadcast address"
	Refused            = "a firewall of this machine refuses it"
	NoRoute            = "there is no route to it: `Find-NetRoute -RemoteIPAddress` with the address shows it"
)

// What portable findings need on each system.

func InterfaceDown(name string) string {
	return `plug the cable in; or, in an elevated PowerShell: Enable-NetAdapter -Name "` + name + `"`
}

func NoCarrier(string) string { return "plug the cable in, at both ends, or join the Wi-Fi network" }

func NoMulticastFlag(string) string {
	return "take another interface: the driver of this one has no multicast"
}

func NoAddress(name string, v4 bool) string {
	if v4 {
		return "give " + name + " an IPv4 address, by DHCP or by hand"
	}
	return `in an elevated PowerShell: Enable-NetAdapterBinding -ComponentID ms_tcpip6 -Name "` + name + `"`
}

func NoDefaultRoute(name string, _ bool) string {
	return NameInterface + ", or give " + name + " a default gateway"
}

func SendBuffer(string) string { return "ask for a smaller buffer, and send slower" }

func ReceiveBuffer(string) string { return "ask for a smaller buffer, and read faster" }

func SelfTest() string {
	return "look at the firewall: Get-NetFirewallProfile, Get-NetConnectionProfile (the profile Public blocks most)"
}

func SharePort() string {
	return "netstat -abno -p UDP names the program: end it, or have it set SO_REUSEADDR before it binds. netsh int ipv4 " +
		"show excludedportrange protocol=udp (and ipv6) lists the reserved ports. Otherwise take another port"
}
