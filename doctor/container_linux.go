// The finding about containers and Windows' subsystem for Linux, whose usual network is behind a router of their host
// that does not route multicast. What marks a container is in the file system; that the interface leads to such a
// network is shown by its being an end of a veth whose other end is elsewhere. With the host's network, a macvlan or an
// ipvlan it is not, and there is nothing to say.

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

// container tells by what the processes of this one are known to be in a container of Docker, Podman or Kubernetes, or
// is empty. Others, such as LXC's, are left out: their veths are most often ports of a bridge with the machine's cable.
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
	// Kubernetes mounts the hosts of a pod: mount ID, parent ID, device, root, mount point, …
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] == "/etc/hosts" && strings.Contains(fields[3], "/pods/") {
			return "/proc/self/mountinfo"
		}
	}
	return ""
}

// checkContainer comes after the watch: what comes in comes from other containers, or else there is another way.
func (c *checkup) checkContainer(s *system) {
	by := container(c.root)
	// Programs in a container may make other networks, as mcasttest does: then the first process has another. Files of
	// /proc/net are the same ones only in the same network; the link to the namespace itself is not for everybody.
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

// behindWindows reports whether the interface is that of the usual network of WSL 2, which translates addresses: it has
// one of 172.16.0.0/12, with a prefix of 20 bits.
func (c *checkup) behindWindows(i mcast.Interface) bool {
	text, _ := os.ReadFile(filepath.Join("/", c.root, "/proc/sys/kernel/osrelease"))
	mirrored := slices.ContainsFunc(c.all, func(i mcast.Interface) bool { return i.Name == "loopback0" })
	return strings.Contains(strings.ToLower(string(text)), "microsoft") && !mirrored && i.Name == "eth0" &&
		slices.ContainsFunc(i.IPv4, func(p netip.Prefix) bool { return p.Bits() == 20 && in(p.Addr(), "172.16.0.0/12") })
}
