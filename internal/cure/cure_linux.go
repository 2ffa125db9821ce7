// The words for Linux, whose commands are those of iproute2, sysctl and nftables.

package cure

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Hints.
const (
	PortPrivileged = "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
	Refused        = "a firewall of this machine refuses it: look at the OUTPUT rules"
	UnboundInVRF   = "use Linux 5.7 or later, give the program CAP_NET_RAW, or set net.ipv4.udp_l3mdev_accept to 1"
	NotAllowed     = "the system does not allow it: look at the limits of the sandbox or container"
)

// PortTaken is the hint for a port that its holders do not share. others says whether one of them is another user's.
func PortTaken(holders string, others bool) string {
	switch {
	case holders == "":
		return "the socket that holds the port does not share it: `ss -ulnp` names it"
	case others:
		return "the port is held by " + holders + ": a program of another user shares it if it sets SO_REUSEADDR before bind; " +
			"SO_REUSEPORT alone shares with the same user"
	}
	return "the port is held by " + holders + ", which must set SO_REUSEADDR or SO_REUSEPORT before bind to share it"
}

// Names of limits.
const (
	Memberships  = "net.ipv4.igmp_max_memberships"
	OptionMemory = "net.core.optmem_max"
	Watches      = "fs.epoll.max_user_watches"
)

// Value is that of a kernel parameter, which is named with dots or slashes, or empty.
func Value(name string) string {
	text, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.TrimSpace(string(text))
}

// Limit is the hint to raise a limit.
func Limit(name string) string {
	value := Value(name)
	if value == "" {
		return "the limit is " + name
	}
	return fmt.Sprintf("the limit %s is %s: raise it with `sysctl -w %s=…`", name, value, name)
}

// MTU is the hint for an interface that IPv6 is not given.
func MTU(bytes int) string {
	return fmt.Sprintf("IPv6 needs an MTU of 1280 or more, and the interface has %d", bytes)
}

// NoRoute is the hint for a unicast destination.
func NoRoute(dst netip.Addr) string {
	return fmt.Sprintf("there is no route to it, or one that refuses it: `ip route get %s` shows it", dst)
}

const loRoute = "ip -6 route add local ff00::/8 dev "

// NoLoRoute is the hint for IPv6 multicast over the loopback interface.
func NoLoRoute(lo string) string {
	return "the loopback interface has no route for IPv6 multicast: `" + loRoute + lo + "`"
}

// LoRoute gives the loopback interface the route that IPv6 multicast needs.
func LoRoute(lo string) string { return "sudo " + loRoute + lo }

// ReplaceLoRoute does so after the route that is in its way.
func ReplaceLoRoute(lo string, wrong netip.Prefix) string {
	return fmt.Sprintf("sudo ip -6 route del %s dev %s; sudo %s%[2]s", wrong, lo, loRoute)
}

// Sysctl sets kernel parameters, given as path and value in turn. The command wants names with slashes where an
// interface's name has dots.
func Sysctl(pathsAndValues ...string) string {
	command := "sudo sysctl -w"
	for i := 0; i+1 < len(pathsAndValues); i += 2 {
		path := pathsAndValues[i]
		if !strings.Contains(path, ".") {
			path = strings.ReplaceAll(path, "/", ".")
		}
		command += " " + path + "=" + pathsAndValues[i+1]
	}
	return command
}

func conf4(name, parameter string) string { return "net/ipv4/conf/" + name + "/" + parameter }
func conf6(name, parameter string) string { return "net/ipv6/conf/" + name + "/" + parameter }

// LoosePathFilter has an interface take what comes from wherever there is a route to.
func LoosePathFilter(name string) string { return Sysctl(conf4(name, "rp_filter"), "2") }

// RoutesToSources is for when that is not enough.
const RoutesToSources = "add routes to the networks of the sources: in loose mode, only what has no route at all is " +
	"dropped"

// RouteTo makes a source one that an interface leads to.
func RouteTo(source netip.Addr, name string) string {
	return fmt.Sprintf("sudo ip route add %s/32 dev %s", source, name)
}

// AcceptLocal has an interface take what this machine itself sends by another.
func AcceptLocal(name string) string {
	return Sysctl(conf4(name, "accept_local"), "1", conf4(name, "rp_filter"), "2")
}

// IGMPVersion and MLDVersion have an interface speak the newest version again.
func IGMPVersion(name string) string {
	return "set the querier (a router or switch) to IGMPv3; and: " + Sysctl(conf4(name, "force_igmp_version"), "0")
}

func MLDVersion(name string) string {
	return Sysctl(conf6("all", "force_mld_version"), "0", conf6(name, "force_mld_version"), "0")
}

// JoinMaster is for ports of bridges and bonds.
func JoinMaster(master, name string) string { return "join on " + master + " instead of " + name }

// Querier has a bridge ask for members.
func Querier(bridge string) string {
	return "sudo ip link set dev " + bridge + " type bridge mcast_querier 1"
}

// LetIn has a chain of nftables accept what fits, before anything else. Its words are those of nft; where iptables has
// made the chain it is in its words.
func LetIn(family, table, chain string, fit Packet) string {
	if strings.HasPrefix(family, "ip") && table == "filter" && strings.ToUpper(chain) == chain {
		return fmt.Sprintf("sudo %stables -I %s -d %s -p udp --dport %d -j ACCEPT", family, chain, fit.list(","), fit.Port)
	}
	return fmt.Sprintf("sudo nft insert rule %s %s %s '%s accept'", family, table, chain, fit.nft())
}

// TraceDrops shows for ten seconds what the rules of nftables do with what fits.
func TraceDrops(fit Packet) string {
	return "sudo nft 'add table inet mcast_trace; " +
		"add chain inet mcast_trace in { type filter hook prerouting priority -400; }; " +
		"add rule inet mcast_trace in " + fit.nft() + " meta nftrace set 1'; " +
		"sudo timeout 10 nft monitor trace; sudo nft delete table inet mcast_trace"
}

// Packet is what a firewall looks at: datagrams to groups of one family, and to a port.
type Packet struct {
	Groups []netip.Addr
	Port   uint16
}

func (p Packet) list(separator string) string {
	var texts []string
	for _, g := range p.Groups {
		texts = append(texts, g.String())
	}
	return strings.Join(texts, separator)
}

func (p Packet) nft() string {
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

// ContainerNetwork is for containers behind a bridge that is a router.
const ContainerNetwork = "give the container the machine's network (--network=host; in Kubernetes hostNetwork: true)" +
	", or a macvlan or ipvlan network"

// WSLNetwork is for Windows' subsystem for Linux.
const WSLNetwork = "run the program on Windows itself, or set networkingMode=mirrored under [wsl2] in the file " +
	".wslconfig of the Windows user (Windows 11 22H2 or newer), and restart it: wsl --shutdown"

// Restart is for an interface on which a membership does not show.
func Restart(name string) string {
	return fmt.Sprintf("examine once more; if it stays so: sudo ip link set dev %s down; sudo ip link set dev %[1]s up",
		name)
}

// Capture shows which ports multicast comes for.
const Capture = "compare the sender's port; this shows it: sudo tcpdump -ni any udp and multicast"

// LargerBuffer is for a program that loses datagrams.
var LargerBuffer = "have the program read faster, or ask for a larger buffer (mcast.RxConfig.ReadBuffer), which this " +
	"may have to allow: " + ReceiveBuffer("16777216")

// What portable findings need on each system.

func InterfaceDown(name string) string { return "sudo ip link set dev " + name + " up" }

func NoCarrier(name string) string {
	return "plug the cable in, at both ends, or join the Wi-Fi network; then look at: ip link show dev " + name
}

func NoMulticastFlag(name string) string { return "sudo ip link set dev " + name + " multicast on" }

func NoAddress(name string, v4 bool) string {
	if v4 {
		return "with an address of your network instead of 192.0.2.1/24: sudo ip address add 192.0.2.1/24 dev " + name
	}
	return Sysctl(conf6(name, "disable_ipv6"), "0") + "; and see that the MTU is 1280 or more"
}

func NoDefaultRoute(name string, v4 bool) string {
	if v4 {
		return NameInterface + "; for programs that cannot: sudo ip route add 224.0.0.0/4 dev " + name
	}
	return NameInterface
}

func ReceiveBuffer(bytes string) string { return Sysctl("net/core/rmem_max", bytes) }

func SendBuffer(bytes string) string { return Sysctl("net/core/wmem_max", bytes) }

func SelfTest() string {
	return "look at the firewall (sudo nft list ruleset, sudo iptables -L -nv) and at IPsec policies (sudo ip xfrm policy)"
}

func SharePort() string {
	return "end that program, take another port, or have it set SO_REUSEADDR before it binds"
}
