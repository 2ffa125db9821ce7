// Programs whose sockets receive nothing in a VRF.

package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/go-multicast/mcast/internal/procudp"
	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// checkVRF finds programs that have joined a group on a member of a VRF, with a socket that is bound to no device. The
// kernel delivers nothing from the VRF to it, unless udp_l3mdev_accept is set (inet_bound_dev_eq in
// include/net/inet_sock.h).
func (c *checkup) checkVRF(s *system) {
	if accept, ok := parameter("net/ipv4/udp_l3mdev_accept"); !ok || accept != 0 {
		return
	}
	devices := sync.OnceValue(boundDevices)
	for _, i := range c.ifaces {
		vrf := s.vrf(i.Index)
		for _, g := range c.Groups {
			users := s.onPort(g, c.Port)
			if vrf == 0 || len(users) == 0 || !slices.Contains(s.joined, membership{i.Name, g}) {
				continue
			}
			if len(devices()) == 0 {
				c.notVisible("to which interfaces the sockets of other programs are bound (sock_diag)")
				return
			}
			unbound := unbound(users, devices(), i.Index, vrf)
			if len(unbound) == 0 {
				continue
			}
			name := s.links[vrf].name
			c.add(Finding{Code: VRF, Severity: Warning, Group: g, Interface: i.Name,
				Summary: fmt.Sprintf("the socket is not bound to the VRF %s, and receives nothing in it", name),
				Detail: fmt.Sprintf("%s belongs to the VRF (rtnetlink). The group is joined on it, and port %d has the socket %s. sock_diag shows "+
					"that it is bound to no device, and net.ipv4.udp_l3mdev_accept is 0: the kernel then delivers nothing to it that "+
					"arrives in a VRF.", i.Name, c.Port, procudp.Describe(unbound)),
				Fix: fixBindToVRF(name, i.Name)})
		}
	}
}

// unbound returns the sockets that are bound to no device. It returns none if one of them is bound to the member or the VRF.
func unbound(users []procudp.Socket, devices map[uint64]int, member, vrf int) (unbound []procudp.Socket) {
	for _, u := range users {
		switch device, known := devices[u.Inode]; {
		case !known:
		case device == member, device == vrf:
			return nil
		case device == 0:
			unbound = append(unbound, u)
		}
	}
	return unbound
}

// boundDevices returns for each UDP socket, by inode, the index of the interface that it is bound to, or 0 for none.
// The map is empty if sock_diag(7) is not available.
func boundDevices() map[uint64]int {
	devices := make(map[uint64]int)
	conn, err := rtnl.Dial(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return devices
	}
	defer conn.Close()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, 56) // struct inet_diag_req_v2
		request[0], request[1] = family, unix.IPPROTO_UDP
		binary.NativeEndian.PutUint32(request[4:], ^uint32(0)) // sockets in all states
		_ = conn.Request(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, request, func(m rtnl.Message) (more bool) {
			const device, inode, size = 40, 68, 72 // in struct inet_diag_msg
			if m.Type == unix.SOCK_DIAG_BY_FAMILY && len(m.Body) >= size {
				devices[uint64(binary.NativeEndian.Uint32(m.Body[inode:]))] = int(binary.NativeEndian.Uint32(m.Body[device:]))
			}
			return true
		})
	}
	return devices
}
