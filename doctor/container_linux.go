// The finding about containers and the Windows Subsystem for Linux. Their usual network is behind a router of their
// host, which does not route multicast. Files mark a container. Its interface leads to such a network if it is one end
// of a veth whose other end is elsewhere. With the host's network, a macvlan or an ipvlan it is not, and there is
// nothing to report.

package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-multicast/mcast"
)

// container returns the file that shows that the processes here are in a container of Docker, Podman or Kubernetes, or
// an empty string. It ignores others, such as LXC's: their veths are most often ports of a bridge with the machine's
// cable.
func container(root string) (by string) {
	read := func(path string) string {
		text, _ := os.ReadFile(filepath.Join("/", root, path))
		return string(text)
	}
	for _, path := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(filepath.Join("/", root, path)); err == nil {
			return path
		}
	}
	kind := strings.TrimSpace(read("/run/systemd/container"))
	if slices.Contains([]string{"docker", "podman", "oci"}, kind) {
		return "/run/systemd/container"
	}
	for _, word := range []string{"docker", "kubepods", "libpod"} {
		if strings.Contains(read("/proc/1/cgroup"), word) {
			return "/proc/1/cgroup"
		}
	}
	// Kubernetes mounts the pod's /etc/hosts. The fields are mount ID, parent ID, device, root, mount point, …
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] == "/etc/hosts" && strings.Contains(fields[3], "/pods/") {
			return "/proc/self/mountinfo"
		}
	}
	return ""
}

// checkContainer runs after the watch. What arrives comes from other containers, or there is another way in.
func (c *checkup) checkContainer(s *system) {
	by := container(c.root)
	// Programs in a container may make other networks, as mcasttest does. The first process then has another network.
	// Files of /proc/net are the same only in the same network. Not every user may read the link to the namespace
	// itself.
	own, err := os.Stat("/proc/thread-self/net/dev")
	first, err2 := os.Stat(filepath.Join("/", c.root, "/proc/1/net/dev"))
	if err == nil && err2 == nil && !os.SameFile(own, first) {
		by = ""
	}
	for _, i := range c.ifaces {
		came := func(t Traffic) bool { return t.Interface == i.Name && t.Datagrams > 0 }
		if i.Flags&net.FlagUp == 0 || slices.ContainsFunc(c.Report.Facts.Traffic, came) {
			continue
		}
		f := Finding{Code: Container, Severity: Warning, Interface: i.Name}
		switch l := s.links[i.Index]; {
		case by != "" && l.kind == "veth" && l.elsewhere:
			f.Summary = "this is a container, and its network is behind a bridge that routes no multicast"
			f.Detail = fmt.Sprintf("%s shows that it is one, and rtnetlink that the interface is an end of a veth whose "+
				"other end is in another network namespace. Datagrams to groups come in from containers on the same "+
				"bridge, and from nowhere else.", by)
			f.Fix = fixContainerNetwork
		case c.behindWindows(i):
			f.Summary = "this is Windows' subsystem for Linux, and its network is behind a router that routes no multicast"
			f.Detail = "/proc/sys/kernel/osrelease names Microsoft, the address of the interface is one that Windows gives " +
				"to such networks, and there is no loopback0, as there is when networking is mirrored."
			f.Fix = fixWSLNetwork
		default:
			continue
		}
		c.add(f)
	}
}

// behindWindows reports whether the interface is on the usual network of WSL 2, which translates addresses. Its address
// is then in 172.16.0.0/12, with a prefix of 20 bits.
func (c *checkup) behindWindows(i mcast.Interface) bool {
	text, _ := os.ReadFile(filepath.Join("/", c.root, "/proc/sys/kernel/osrelease"))
	mirrored := slices.ContainsFunc(c.all, func(i mcast.Interface) bool { return i.Name == "loopback0" })
	return strings.Contains(strings.ToLower(string(text)), "microsoft") && !mirrored && i.Name == "eth0" &&
		slices.ContainsFunc(i.IPv4, func(p netip.Prefix) bool { return p.Bits() == 20 && in(p.Addr(), "172.16.0.0/12") })
}
