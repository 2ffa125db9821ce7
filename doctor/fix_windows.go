package doctor

func fixInterfaceDown(name string) string {
	return `plug the cable in; or, in an elevated PowerShell: Enable-NetAdapter -Name "` + name + `"`
}

func fixNoCarrier(string) string { return "plug the cable in, at both ends, or join the Wi-Fi network" }

func fixNoMulticastFlag(string) string {
	return "take another interface: the driver of this one has no multicast"
}

func fixNoAddress(name string, v4 bool) string {
	if v4 {
		return "give " + name + " an IPv4 address, by DHCP or by hand"
	}
	return `in an elevated PowerShell: Enable-NetAdapterBinding -ComponentID ms_tcpip6 -Name "` + name + `"`
}

func fixNoDefaultRoute(name string, _ bool) string {
	return fixNameInterface + ", or give " + name + " a default gateway"
}

func fixSelfTest() string {
	return "look at the firewall: Get-NetFirewallProfile, Get-NetConnectionProfile (the profile Public blocks most)"
}

func fixSharePort() string {
	return "netstat -abno -p UDP names the program: end it, or have it set SO_REUSEADDR before it binds. netsh int ipv4 " +
		"show excludedportrange protocol=udp (and ipv6) lists the reserved ports. Otherwise take another port"
}
