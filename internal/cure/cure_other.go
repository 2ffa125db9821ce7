//go:build !linux && !windows

// The words of package doctor for macOS, and for systems on which the module does no more than compile.

package cure

func InterfaceDown(name string) string { return "sudo ifconfig " + name + " up" }

func NoCarrier(string) string { return "plug the cable in, at both ends, or join the Wi-Fi network" }

func NoMulticastFlag(string) string { return "take another interface: this one has no multicast" }

func NoAddress(name string, v4 bool) string {
	if v4 {
		return "sudo ipconfig set " + name + " DHCP"
	}
	return "give " + name + " an IPv6 address: networksetup -setv6automatic, with the name of the service"
}

func NoDefaultRoute(name string, v4 bool) string {
	if v4 {
		return NameInterface + "; for programs that cannot: sudo route -n add -net 224.0.0.0/4 -interface " + name
	}
	return NameInterface
}

func ReceiveBuffer(bytes string) string { return "sudo sysctl -w kern.ipc.maxsockbuf=" + bytes }

func SendBuffer(bytes string) string { return ReceiveBuffer(bytes) }

func SelfTest() string {
	return "look at the application firewall, and at System Settings, Privacy & Security, Local Network"
}

func SharePort() string {
	return "end that program, take another port, or have it set SO_REUSEADDR and SO_REUSEPORT before it binds"
}
