//go:build !linux && !windows

package doctor

func fixInterfaceDown(name string) string { return "sudo ifconfig " + name + " up" }

func fixNoCarrier(string) string { return "plug the cable in, at both ends, or join the Wi-Fi network" }

func fixNoMulticastFlag(string) string { return "take another interface: this one has no multicast" }

func fixNoAddress(name string, v4 bool) string {
	if v4 {
		return "sudo ipconfig set " + name + " DHCP"
	}
	return "give " + name + " an IPv6 address: networksetup -setv6automatic, with the name of the service"
}

func fixNoDefaultRoute(name string, v4 bool) string {
	if v4 {
		return fixNameInterface + "; for programs that cannot: sudo route -n add -net 224.0.0.0/4 -interface " + name
	}
	return fixNameInterface
}

func fixSelfTest() string {
	return "look at the application firewall, and at System Settings, Privacy & Security, Local Network"
}

func fixSharePort() string {
	return "end that program, take another port, or have it set SO_REUSEADDR and SO_REUSEPORT before it binds"
}
