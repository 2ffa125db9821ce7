package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/go-multicast/mcast/internal/hint"
)

// fixLoRoute adds the route for IPv6 multicast to the loopback interface.
func fixLoRoute(lo string) string { return "sudo " + hint.LoRoute(lo) }

// fixReplaceLoRoute also deletes a route of the wrong type.
func fixReplaceLoRoute(lo string, wrong netip.Prefix) string {
	return fmt.Sprintf("sudo ip -6 route del %s dev %s; sudo %s", wrong, lo, hint.LoRoute(lo))
}

func conf4(name, parameter string) string { return "net/ipv4/conf/" + name + "/" + parameter }
func conf6(name, parameter string) string { return "net/ipv6/conf/" + name + "/" + parameter }

// fixLoosePathFilter makes an interface accept every source that has a route.
func fixLoosePathFilter(name string) string { return hint.Sysctl(conf4(name, "rp_filter"), "2") }

// fixRoutesToSources is for sources without a route.
const fixRoutesToSources = "add routes to the networks of the sources: in loose mode, only what has no route at all is " +
	"dropped"

// fixRouteTo adds a route to a source on an interface.
func fixRouteTo(source netip.Addr, name string) string {
	return fmt.Sprintf("sudo ip route add %s/32 dev %s", source, name)
}

// fixAcceptLocal makes an interface accept datagrams that this machine sends on another one.
func fixAcceptLocal(name string) string {
	return hint.Sysctl(conf4(name, "accept_local"), "1", conf4(name, "rp_filter"), "2")
}

// fixIGMPVersion and fixMLDVersion make an interface use the newest version again.
func fixIGMPVersion(name string) string {
	return "set the querier (a router or switch) to IGMPv3; and: " + hint.Sysctl(conf4(name, "force_igmp_version"), "0")
}

func fixMLDVersion(name string) string {
	return hint.Sysctl(conf6("all", "force_mld_version"), "0", conf6(name, "force_mld_version"), "0")
}

// fixJoinMaster is for ports of bridges and bonds.
func fixJoinMaster(master, name string) string { return "join on " + master + " instead of " + name }

// fixQuerier makes a bridge the querier.
func fixQuerier(bridge string) string {
	return "sudo ip link set dev " + bridge + " type bridge mcast_querier 1"
}

// fixLetIn makes a chain of nftables accept the packets before any other rule. For a chain that iptables made it is a command
// of iptables.
func fixLetIn(family, table, chain string, fit packet) string {
	if strings.HasPrefix(family, "ip") && table == "filter" && strings.ToUpper(chain) == chain {
		return fmt.Sprintf("sudo %stables -I %s -d %s -p udp --dport %d -j ACCEPT", family, chain, fit.list(","), fit.Port)
	}
	return fmt.Sprintf("sudo nft insert rule %s %s %s '%s accept'", family, table, chain, fit.nft())
}

// fixTraceDrops shows for ten seconds what the rules of nftables do with the packets.
func fixTraceDrops(fit packet) string {
	return "sudo nft 'add table inet mcast_trace; " +
		"add chain inet mcast_trace in { type filter hook prerouting priority -400; }; " +
		"add rule inet mcast_trace in " + fit.nft() + " meta nftrace set 1'; " +
		"sudo timeout 10 nft monitor trace; sudo nft delete table inet mcast_trace"
}

// packet describes datagrams to groups of one family, and to a port.
type packet struct {
	Groups []netip.Addr
	Port   uint16
}

func (p packet) list(separator string) string {
	var texts []string
	for _, g := range p.Groups {
		texts = append(texts, g.String())
	}
	return strings.Join(texts, separator)
}

func (p packet) nft() string {
	family := "ip"
	if p.Groups[0].Is6() {
		family = "ip6"
	}
	groups := p.list(", ")
	if len(p.Groups) > 1 {
		groups = "{ " + groups + " }"
	}
	return fmt.Sprintf("%s daddr %s udp dport %d", family, groups, p.Port)
}

// fixContainerNetwork is for containers behind a bridge that is a router.
const fixContainerNetwork = "give the container the machine's network (--network=host; in Kubernetes hostNetwork: true)" +
	", or a macvlan or ipvlan network"

// fixWSLNetwork is for Windows' subsystem for Linux.
const fixWSLNetwork = "run the program on Windows itself, or set networkingMode=mirrored under [wsl2] in the file " +
	".wslconfig of the Windows user (Windows 11 22H2 or newer), and restart it: wsl --shutdown"

// fixRestart is for an interface that does not list a membership.
func fixRestart(name string) string {
	return fmt.Sprintf("examine once more; if it stays so: sudo ip link set dev %s down; sudo ip link set dev %[1]s up",
		name)
}

// fixCapture shows the ports that multicast is sent to.
const fixCapture = "compare the sender's port; this shows it: sudo tcpdump -ni any udp and multicast"

// fixLargerBuffer is for a program that loses datagrams.
func fixLargerBuffer() string {
	return "have the program read faster, or ask for a larger buffer (mcast.RxConfig.ReadBuffer), which this " +
		"may have to allow: " + hint.ReceiveBuffer("16777216")
}

func fixInterfaceDown(name string) string { return "sudo ip link set dev " + name + " up" }

func fixNoCarrier(name string) string {
	return "plug the cable in, at both ends, or join the Wi-Fi network; then look at: ip link show dev " + name
}

func fixNoMulticastFlag(name string) string { return "sudo ip link set dev " + name + " multicast on" }

func fixNoAddress(name string, v4 bool) string {
	if v4 {
		return "with an address of your network instead of 192.0.2.1/24: sudo ip address add 192.0.2.1/24 dev " + name
	}
	return hint.Sysctl(conf6(name, "disable_ipv6"), "0") + "; and see that the MTU is 1280 or more"
}

func fixNoDefaultRoute(name string, v4 bool) string {
	if v4 {
		return fixNameInterface + "; for programs that cannot: sudo ip route add 224.0.0.0/4 dev " + name
	}
	return fixNameInterface
}

func fixSelfTest() string {
	return "look at the firewall (sudo nft list ruleset, sudo iptables -L -nv) and at IPsec policies (sudo ip xfrm policy)"
}

func fixSharePort() string {
	return "end that program, take another port, or have it set SO_REUSEADDR before it binds"
}

// fixBindToVRF is for a program whose socket is bound to no device.
func fixBindToVRF(vrf, member string) string {
	return fmt.Sprintf("have the program bind its socket to %s or %s before it binds the port (SO_BINDTODEVICE), start it with `ip vrf exec %s`, "+
		"or let unbound sockets receive in VRFs: %s", member, vrf, vrf, hint.Sysctl("net/ipv4/udp_l3mdev_accept", "1"))
}
