// Windows: what the portable findings need of it. Its tables are not looked at yet.

package doctor

import (
	"errors"
	"net"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/windows"
)

// failure tells what a failure to join comes from. WSAEACCES is what a program that demanded SO_EXCLUSIVEADDRUSE leaves.
func failure(err error) int {
	if errors.Is(err, windows.WSAEADDRINUSE) || errors.Is(err, windows.WSAEACCES) {
		return failedPort
	}
	return failedOtherwise
}

// hasCarrier: an interface without a carrier is not up either, so there is none to tell.
func hasCarrier(i mcast.Interface) bool {
	return i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning != 0
}

// cure is the command, or the advice, for a finding that portable code makes.
func cure(code, arg string) string {
	switch code {
	case InterfaceDown:
		return `plug the cable in; or, in an elevated PowerShell: Enable-NetAdapter -Name "` + arg + `"`
	case NoMulticastFlag:
		return "take another interface: the driver of this one has no multicast"
	case NoAddress + "IPv4":
		return "give " + arg + " an IPv4 address, by DHCP or by hand"
	case NoAddress + "IPv6":
		return `in an elevated PowerShell: Enable-NetAdapterBinding -ComponentID ms_tcpip6 -Name "` + arg + `"`
	case NoDefaultRoute + "IPv4", NoDefaultRoute + "IPv6":
		return "name the interface in senders and receivers, or give " + arg + " a default gateway"
	case SelfTest:
		return "look at the firewall: Get-NetFirewallProfile, Get-NetConnectionProfile (the profile Public blocks most)"
	case BufferClamped:
		return "ask for a smaller buffer, and read faster"
	}
	return ""
}
