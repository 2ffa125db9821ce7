//go:build !linux && !windows

// macOS, and systems on which the module does no more than compile: what the portable findings need of them.

package doctor

import "github.com/go-multicast/mcast"

// failure tells what a failure to join comes from.
func failure(err error) int {
	if isPortTaken(err) {
		return failedPort
	}
	return failedOtherwise
}

// hasCarrier: the flag "running" of the BSDs says that the driver has its resources, not that there is a carrier.
func hasCarrier(mcast.Interface) bool { return true }

// cure is the command, or the advice, for a finding that portable code makes.
func cure(code, arg string) string {
	switch code {
	case InterfaceDown:
		return "sudo ifconfig " + arg + " up"
	case NoMulticastFlag:
		return "take another interface: this one has no multicast"
	case NoAddress + "IPv4":
		return "sudo ipconfig set " + arg + " DHCP"
	case NoAddress + "IPv6":
		return "give " + arg + " an IPv6 address: networksetup -setv6automatic, with the name of the service"
	case NoDefaultRoute + "IPv4":
		return "name the interface in senders and receivers; for programs that cannot: sudo route -n add -net " +
			"224.0.0.0/4 -interface " + arg
	case NoDefaultRoute + "IPv6":
		return "name the interface in senders and receivers"
	case SelfTest:
		return "look at the application firewall, and at System Settings, Privacy & Security, Local Network"
	case BufferClamped:
		return "sudo sysctl -w kern.ipc.maxsockbuf=" + arg
	}
	return ""
}
