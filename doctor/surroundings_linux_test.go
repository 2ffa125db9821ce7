// Bridges that snoop, made for the test, and containers: the marks of one in a directory, and real interfaces.

package doctor_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(slow.Limit(20 * time.Second)); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// has reports whether there is a finding with the code.
func has(report *doctor.Report, code string) bool {
	return slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool { return f.Code == code })
}

// newBridge gives the host a bridge br7 with an address, which does not snoop, and ports p0, p1, … to hosts of their
// own. All of it forwards.
func newBridge(t *testing.T, host *mcasttest.Host, ports int) (peers []*mcasttest.Host) {
	t.Helper()
	command(t, host, "ip link add br7 type bridge forward_delay 0 mcast_snooping 0 mcast_query_response_interval 0")
	command(t, host, "ip address add 10.71.0.1/24 dev br7; ip -6 address add fe80::7/64 dev br7 nodad; "+
		"ip link set dev br7 up")
	for n := range ports {
		name := fmt.Sprintf("p%d", n)
		peers = append(peers, host.NewVeth(name, netip.MustParsePrefix(fmt.Sprintf("10.7%d.0.1/24", n+2))).Peer())
		command(t, host, "ip link set dev "+name+" master br7")
	}
	eventually(t, "the bridge has a carrier", func() bool {
		return !has(examine(t, host, asks(both...), "br7"), doctor.NoCarrier)
	})
	eventually(t, "all ports forward", func() bool {
		var out []byte
		var err error
		host.Do(func() { out, err = exec.Command("bridge", "link", "show").CombinedOutput() })
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Count(string(out), "state forwarding") == ports
	})
	return peers
}

func TestNoQuerier(t *testing.T) {
	testrun.Since(t, 5, 15, "a bridge does not tell whether it hears a querier")
	host := mcasttest.NewHost(t)
	peers := newBridge(t, host, 2)
	never(t, examine(t, host, asks(both...), "br7"), doctor.NoQuerier) // it does not snoop

	command(t, host, "ip link set dev br7 type bridge mcast_snooping 1")
	f := want(t, examine(t, host, asks(both...), "br7"), doctor.NoQuerier, doctor.Info, "br7", noGroup)
	want(t, examine(t, host, asks(both...), "p0"), doctor.NoQuerier, doctor.Info, "br7", noGroup)
	everywhere := asks(netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::1"))
	never(t, examine(t, host, everywhere, "br7"), doctor.NoQuerier)
	if !strings.Contains(f.Summary, "IPv4 and IPv6") {
		t.Errorf("both families are without: %+v", f)
	}

	// It is no reason for anything to be lost, by itself.
	received := func(want bool) {
		t.Helper()
		rx := open(t, peers[1], mcast.RxConfig{Groups: []netip.Addr{group4}}, "eth0")
		defer rx.Close()
		tx := openTx(t, peers[0], group4)
		defer tx.Close()
		if _, err := tx.WriteToUDPAddrPort([]byte("datagram"), netip.AddrPortFrom(group4, port)); err != nil {
			t.Fatal(err)
		}
		command(t, host, "bridge link set dev p1 mcast_flood on; ip link set dev br7 type bridge mcast_snooping 0")
		if _, err := tx.WriteToUDPAddrPort([]byte("after it"), netip.AddrPortFrom(group4, port)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		rx.SetReadDeadline(time.Now().Add(slow.Limit(10 * time.Second)))
		n, _, err := rx.ReadFromUDPAddrPort(buf)
		if got := string(buf[:n]) == "datagram"; err != nil || got != want {
			t.Errorf("the datagram came: %v, want %v: %v", got, want, err)
		}
	}
	received(true)

	// Unless a port does not flood.
	command(t, host, "bridge link set dev p1 mcast_flood off; ip link set dev br7 type bridge mcast_snooping 1")
	f = want(t, examine(t, host, asks(both...), "br7"), doctor.NoQuerier, doctor.Warning, "br7", noGroup)
	if !strings.Contains(f.Summary, "p1") || strings.Contains(f.Summary, "p0") {
		t.Errorf("which port? %+v", f)
	}
	received(false)

	// The cure cures it: there is a querier, and it goes by what it has heard.
	command(t, host, "bridge link set dev p1 mcast_flood off; ip link set dev br7 type bridge mcast_snooping 1")
	command(t, host, f.Fix)
	eventually(t, "the bridge has asked", func() bool { // from when on it shows the address that it asks from
		return !has(examine(t, host, asks(both...), "br7"), doctor.NoQuerier)
	})
	rx := open(t, peers[1], mcast.RxConfig{Groups: []netip.Addr{group4}}, "eth0")
	send(t, peers[0], "eth0", port, 10, group4)
	rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	if _, _, err := rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
		t.Error(err)
	}
}

// A bridge that was told to query does not, for IPv6, if it has no address of its own.
func TestNoQuerierWithoutAddress(t *testing.T) {
	testrun.Since(t, 5, 15, "a bridge does not tell whether it hears a querier")
	host := mcasttest.NewHost(t)
	newBridge(t, host, 1)
	command(t, host, "ip -6 address flush dev br7; ip link set dev br7 type bridge mcast_snooping 1; "+
		"ip link set dev br7 type bridge mcast_querier 1")
	f := want(t, examine(t, host, asks(both...), "br7"), doctor.NoQuerier, doctor.Info, "br7", noGroup)
	if strings.Contains(f.Summary, "IPv4") || !strings.Contains(f.Fix, "disable_ipv6=0") {
		t.Errorf("%+v", f)
	}
}

// A querier that the bridge hears is one.
func TestNoQuerierHeard(t *testing.T) {
	testrun.Since(t, 5, 15, "a bridge does not tell whether it hears a querier")
	host := mcasttest.NewHost(t)
	peer := newBridge(t, host, 1)[0]
	command(t, host, "ip link set dev br7 type bridge mcast_snooping 1")
	want(t, examine(t, host, asks(group4), "br7"), doctor.NoQuerier, doctor.Info, "br7", noGroup)
	generalQuery(t, peer)
	eventually(t, "the query is heard", func() bool {
		return !has(examine(t, host, asks(group4), "br7"), doctor.NoQuerier)
	})
	want(t, examine(t, host, asks(both...), "br7"), doctor.NoQuerier, doctor.Info, "br7", noGroup) // for IPv6
}

// generalQuery has the host ask who has joined what, as a querier of IGMPv2 does, by eth0.
func generalQuery(t *testing.T, host *mcasttest.Host) {
	t.Helper()
	host.Do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IGMP)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		mreq := &unix.IPMreqn{Address: host.IPv4.As4()}
		tenSeconds := []byte{0x11, 100, 0xee, 0x9b, 0, 0, 0, 0}
		err = errors.Join(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq),
			unix.Sendto(fd, tenSeconds, 0, &unix.SockaddrInet4{Addr: [4]byte{224, 0, 0, 1}}))
		if err != nil {
			t.Fatal(err)
		}
	})
}

// rootWith makes a directory with these files: their paths and what is in them.
func rootWith(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(root, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestContainer(t *testing.T) {
	host := mcasttest.NewHost(t)
	peer := host.NewVeth("eth0", netip.MustParsePrefix("10.70.0.1/24")).Peer()
	const wsl2 = "5.15.167.4-microsoft-standard-WSL2\n"
	for _, test := range []struct {
		name      string
		files     []string
		container bool
	}{
		{"none", nil, false},
		{"Docker", []string{".dockerenv", ""}, true},
		{"Podman", []string{"run/.containerenv", ""}, true},
		{"systemd in it", []string{"run/systemd/container", "podman\n"}, true},
		{"LXC, whose bridge may have the cable", []string{"run/systemd/container", "lxc\n"}, false},
		{"Docker, by its control group", []string{"proc/1/cgroup", "12:pids:/docker/1234\n"}, true},
		{"Kubernetes, by its control group", []string{"proc/1/cgroup", "0::/kubepods.slice/kubepods-pod1.slice\n"}, true},
		{"a machine, by its control group", []string{"proc/1/cgroup", "0::/init.scope\n"}, false},
		{"Kubernetes, by its mounts", []string{"proc/self/mountinfo", "36 28 0:32 / / rw - overlay overlay rw\n" +
			"43 36 8:1 /var/lib/kubelet/pods/1234/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"}, true},
		{"the machine that has it", []string{"proc/self/mountinfo",
			"36 28 8:1 /pods/1 /var/lib/kubelet/pods/1 rw - ext4 /dev/sda1 rw\n"}, false},
		{"Windows' subsystem, in a network of the user's own", []string{"proc/sys/kernel/osrelease", wsl2}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			report := examine(t, host, asks(group4).WithRoot(rootWith(t, test.files...)), "eth0")
			if !test.container {
				never(t, report, doctor.Container)
				return
			}
			want(t, report, doctor.Container, doctor.Warning, "eth0", noGroup)
		})
	}

	// What is made in a container is not its network, which its first process is in.
	root := rootWith(t, ".dockerenv", "", "proc/1/net/dev", "")
	cfg := asks(group4).WithRoot(root)
	never(t, examine(t, host, cfg, "eth0"), doctor.Container)
	first := filepath.Join(root, "proc/1/net/dev")
	if err := errors.Join(os.Remove(first), os.Symlink("/proc/thread-self/net/dev", first)); err != nil {
		t.Fatal(err)
	}
	want(t, examine(t, host, cfg, "eth0"), doctor.Container, doctor.Warning, "eth0", noGroup)

	// Where something comes in, there is a way, at least from other containers.
	cfg = asks(group4).WithRoot(rootWith(t, ".dockerenv", ""))
	want(t, examine(t, host, cfg, "eth0"), doctor.Container, doctor.Warning, "eth0", noGroup)
	never(t, examine(t, host, cfg, "lo"), doctor.Container)
	send(t, peer, "eth0", port, 10, group4)
	cfg.Watch = 300 * time.Millisecond
	never(t, examine(t, host, cfg, "eth0"), doctor.Container)

	// A macvlan is part of the machine's network, though what it is linked to is elsewhere, too.
	other := mcasttest.NewHost(t)
	there := exec.Command("sleep", "100")
	if err := other.Start(there); err != nil {
		t.Fatal(err)
	}
	command(t, peer, fmt.Sprintf("ip link add link eth0 name mv0 netns %d type macvlan mode bridge", there.Process.Pid))
	command(t, other, "ip address add 10.70.0.9/24 dev mv0; ip link set dev mv0 up")
	cfg = asks(group4).WithRoot(rootWith(t, ".dockerenv", ""))
	report := examine(t, other, cfg, "mv0")
	never(t, report, doctor.Container)
	if len(report.Facts.Traffic) != 1 {
		t.Errorf("it was not joined on:\n%s", report)
	}
}

// The usual network of Windows' subsystem for Linux has an interface eth0 that is no veth, and is known by its address.
func TestContainerOnWindows(t *testing.T) {
	root := rootWith(t, "proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")
	for _, test := range []struct {
		prefix, mirror string
		root           string
		behind         bool
	}{
		{"172.20.3.4/20", "", root, true},
		{"172.20.3.4/20", "", rootWith(t, "proc/sys/kernel/osrelease", "6.18.0-generic\n"), false},
		{"172.20.3.4/24", "", root, false},
		{"192.168.3.4/20", "", root, false},
		{"172.20.3.4/20", "loopback0", root, false},
	} {
		host := mcasttest.NewHost(t)
		host.NewVeth("eth0", netip.MustParsePrefix(test.prefix))
		if test.mirror != "" {
			host.NewVeth(test.mirror)
		}
		report := examine(t, host, asks(group4).WithRoot(test.root), "eth0")
		if !test.behind {
			never(t, report, doctor.Container)
			continue
		}
		want(t, report, doctor.Container, doctor.Warning, "eth0", noGroup)
	}
}
