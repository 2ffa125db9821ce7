//go:build amd64 || arm64

// Android is a Linux that lets no application use netlink (golang.org/issue/40569), and some sandboxes do not either. Here a
// process has seccomp(2) refuse it the same.

package mcast_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

const androidChild = "MCAST_TEST_ANDROID"

func TestAndroid(t *testing.T) {
	testRefused(t, "TestAndroid", nil, refusal{unix.SYS_SOCKET, domainArgument, unix.AF_NETLINK})
}

// TestContainer has a process that may do what one may in a container without privileges: /proc and /sys are read-only, and
// bpf(2) and the diagnosis of sockets are refused. Nothing is missing there.
func TestContainer(t *testing.T) {
	readOnly := []string{"unshare", "--mount", "sh", "-ec",
		`for at in /proc /sys; do mount --rbind $at $at; mount -o remount,ro,bind $at; done; ! touch /proc/sys/net/ipv4/ip_forward 2>/dev/null; exec "$0" "$@"`}
	testRefused(t, "TestContainer", readOnly, refusal{unix.SYS_BPF, 0, 0}, refusal{unix.SYS_SOCKET, protocolArgument, unix.NETLINK_SOCK_DIAG})
}

// testRefused runs a test as a process of its own, which is refused some system calls: it sends and receives on all
// interfaces, also on one that comes later.
func testRefused(t *testing.T, name string, prefix []string, refused ...refusal) {
	mcasttest.Require(t)
	if os.Getenv(androidChild) == "" {
		args := append(prefix, os.Args[0], "-test.run=^"+name+"$", "-test.v", "-test.count=1", "-test.timeout="+(2*patience).String())
		child := exec.Command(args[0], args[1:]...)
		if child.Err != nil {
			unavailable(t, child.Err.Error())
		}
		child.Env = append(os.Environ(), androidChild+"=1")
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		for lines := bufio.NewScanner(io.TeeReader(out, &said)); lines.Scan(); {
			if lines.Text() == androidReady { // the child may not change the network
				mcasttest.NewVeth(t, "late", netip.MustParsePrefix("10.79.5.1/24"))
			}
		}
		if err := child.Wait(); err != nil || !bytes.Contains(said.Bytes(), []byte("--- PASS: "+name)) {
			t.Errorf("the child: %v\n%s", err, &said)
		}
		return
	}
	want, err := mcast.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	refuse(t, refused...)
	netlink := len(refused) > 1

	got, err := mcast.Interfaces()
	if err != nil || len(got) != len(want) {
		t.Fatalf("Interfaces: %+v, %v", got, err)
	}
	for i, g := range got {
		w := want[i]
		order := func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }
		for _, list := range [][]netip.Prefix{g.IPv4, g.IPv6, w.IPv4, w.IPv6} {
			slices.SortFunc(list, order)
		}
		if g.Name != w.Name || g.Index != w.Index || g.MTU != w.MTU || g.Flags != w.Flags || !slices.Equal(g.IPv4, w.IPv4) || !slices.Equal(g.IPv6, w.IPv6) ||
			netlink && !slices.Equal(g.HardwareAddr, w.HardwareAddr) {
			t.Errorf("without netlink\n%+v, with it\n%+v", g, w)
		}
	}

	var told bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&told, nil))
	groups := groupsOf("239.77.1.1", "ff15::77:1")
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: 5000, Loopback: true, Logger: logger})
	tx := openTx(t, mcast.TxConfig{Groups: groups, Loopback: true, Logger: logger})
	mc0 := mustFind(t, "mc0")[0].Index
	for _, g := range groups {
		write(t, tx, g, 5000, "hello")
		wantArrivals(t, rx, arrival{"hello", g, mc0})
	}
	fmt.Println(androidReady)
	eventually(t, "the new interface is joined", func() bool {
		return slices.ContainsFunc(rx.Memberships(), func(m mcast.Membership) bool { return m.Interface == "late" && m.Joined })
	})
	rx.Close()
	tx.Close() // nothing is logged after that
	if polls := strings.Count(told.String(), "follows the network by looking every few seconds"); polls != 2 && !netlink || polls != 0 && netlink {
		t.Errorf("the log is\n%s", &told)
	}
}

const androidReady = "ready for a new interface"

// refusal is a system call that is refused if an argument has a value. argument is its place in struct seccomp_data; 0: always.
type refusal struct{ call, argument, value uint32 }

const domainArgument, protocolArgument = 16, 32

// refuse has the kernel say EACCES to this process, from now on, when it makes one of the calls.
func refuse(t *testing.T, refused ...refusal) {
	t.Helper()
	const load, equal, end = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	var filter []unix.SockFilter
	for _, r := range refused {
		test := unix.SockFilter{Code: equal, K: r.value, Jf: 1}
		if r.argument == 0 {
			test = unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA}
		}
		filter = append(filter, unix.SockFilter{Code: load}, unix.SockFilter{Code: equal, K: r.call, Jf: 3},
			unix.SockFilter{Code: load, K: r.argument}, test, unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)})
	}
	filter = append(filter, unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, err := unix.PrctlRetInt(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatalf("seccomp: %v", errno)
	}
}
