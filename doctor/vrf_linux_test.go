// Sockets of other programs in a VRF.

package doctor_test

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// foreign is a socket as a program without this module has it: bound to the port on all addresses, and to a device only if
// that is not 0.
func foreign(t *testing.T, host *mcasttest.Host, group netip.Addr, index, device int) (fd int) {
	t.Helper()
	host.Do(func() {
		domain, at := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port})
		if group.Is6() {
			domain, at = unix.AF_INET6, &unix.SockaddrInet6{Port: port}
		}
		var err error
		if fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil && device != 0 {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, device)
		}
		if err == nil {
			err = unix.Bind(fd, at)
		}
		if err == nil && group.Is4() {
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
		} else if err == nil {
			err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return fd
}

// waiting reports whether a datagram is there within a time.
func waiting(fd int, limit time.Duration) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	return n == 1
}

// TestVRF has a program join a group on a member of a VRF with a socket that is bound to no device. It receives nothing, and the
// doctor says why. The cure is carried out, and the program receives. A socket that is bound to the member, or to the VRF,
// receives at once.
func TestVRF(t *testing.T) {
	mcasttest.NewHost(t).Do(func() {
		if err := exec.Command("ip", "link", "add", "v7", "type", "vrf", "table", "7").Run(); err != nil {
			if os.Getenv("MCAST_TEST_KINDS") == "all" {
				t.Fatal(err)
			}
			t.Skip("not on this machine: a kernel with VRFs")
		}
	})
	for _, group := range both {
		t.Run(group.String(), func(t *testing.T) {
			lan := mcasttest.NewLAN(t, 2)
			host, sender := lan.Hosts[0], lan.Hosts[1]
			var made error
			host.Do(func() {
				made = exec.Command("sh", "-ec", "ip link add v7 type vrf table 7; ip link set v7 up; ip link set eth0 master v7").Run()
			})
			if made != nil {
				t.Fatal(made)
			}
			var eth0, v7 int
			host.Do(func() {
				for name, index := range map[string]*int{"eth0": &eth0, "v7": &v7} {
					found, err := mcast.FindInterfaces(name)
					if err != nil {
						t.Fatal(err)
					}
					*index = found[0].Index
				}
			})
			send(t, sender, "eth0", port, 10, group)

			unbound := foreign(t, host, group, eth0, 0)
			cfg := asks(group)
			cfg.Watch = 1100 * time.Millisecond
			report := examine(t, host, cfg, "eth0")
			f := want(t, report, doctor.VRF, doctor.Warning, "eth0", group)
			if !strings.Contains(f.Summary, "not bound to the VRF v7") || !strings.Contains(f.Fix, "SO_BINDTODEVICE") || !strings.Contains(f.Fix, "ip vrf exec v7") {
				t.Errorf("the finding is %+v", f)
			}
			never(t, report, doctor.WrongPort)
			if group.Is6() { // IPv6 has lost its addresses when the interface became a member
				command(t, host, "ip address add fd70:7::1/64 dev eth0 nodad")
			}
			report = examine(t, host, cfg, "eth0")
			want(t, report, doctor.VRF, doctor.Warning, "eth0", group)
			never(t, report, doctor.WrongPort)
			if waiting(unbound, 0) { // while the doctor received datagrams
				t.Error("the unbound socket has received a datagram")
			}
			if in := report.Facts.Traffic; len(in) != 1 || in[0].Datagrams == 0 {
				t.Errorf("the doctor received nothing:\n%s", report)
			}

			command(t, host, f.Fix[strings.Index(f.Fix, "sudo sysctl"):])
			if !waiting(unbound, slow.Limit(20*time.Second)) {
				t.Error("cured: the unbound socket has received nothing")
			}
			never(t, examine(t, host, asks(group), "eth0"), doctor.VRF)
			host.Sysctl("net/ipv4/udp_l3mdev_accept", "0")
			unix.Close(unbound)

			for _, device := range []int{eth0, v7} {
				bound := foreign(t, host, group, eth0, device)
				if !waiting(bound, slow.Limit(20*time.Second)) {
					t.Errorf("the socket that is bound to %d has received nothing", device)
				}
				never(t, examine(t, host, asks(group), "eth0"), doctor.VRF)
				unix.Close(bound)
			}
		})
	}
}
