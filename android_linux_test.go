//go:build amd64 || arm64

// Android is a Linux that lets no application use netlink (golang.org/issue/40569). Here a process has seccomp(2) refuse
// it the same, and does what an application can do: name interfaces that it has made up from what the Java side tells.

package mcast_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

const androidChild = "MCAST_TEST_ANDROID"

func TestAndroid(t *testing.T) {
	mcasttest.Require(t)
	if os.Getenv(androidChild) == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestAndroid$", "-test.v", "-test.count=1", "-test.timeout="+patience.String())
		child.Env = append(os.Environ(), androidChild+"=1")
		out, err := child.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestAndroid")) {
			t.Errorf("the child: %v\n%s", err, out)
		}
		return
	}
	refuseNetlink(t)

	if _, err := mcast.Interfaces(); !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "Android") {
		t.Errorf("Interfaces: %v, want EACCES with a hint", err)
	}
	group := []netip.Addr{addr("239.77.1.1")}
	if _, err := mcast.OpenRx(mcast.RxConfig{Groups: group, Port: 5000}); !errors.Is(err, unix.EACCES) {
		t.Errorf("without interfaces: %v, want EACCES", err)
	}

	own := []mcast.Interface{{Name: "lo", Index: 1, MTU: 65536, Flags: net.FlagUp | net.FlagLoopback,
		IPv4: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}}
	var told bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&told, nil))
	rx := openRx(t, mcast.RxConfig{Groups: group, Port: 5000, Interfaces: own, Logger: logger})
	tx := openTx(t, mcast.TxConfig{Groups: group, Interfaces: own, Logger: logger})
	if _, err := tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group[0], 5000)); err != nil {
		t.Fatal(err)
	}
	rx.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 10)
	n, src, err := rx.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if _, err := rx.WriteToUDPAddrPort([]byte("reply"), src); err != nil {
		t.Error(err)
	}
	rx.Close()
	tx.Close() // nothing is logged after that
	if strings.Count(told.String(), "cannot follow the network") != 2 {
		t.Errorf("the log is\n%s", &told)
	}
}

// refuseNetlink has the kernel say EACCES to this process, from now on, when it wants a netlink socket.
func refuseNetlink(t *testing.T) {
	t.Helper()
	statement := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	jump := func(k uint32, otherwise uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: otherwise, K: k}
	}
	const number, firstArgument = 0, 16 // in struct seccomp_data
	filter := []unix.SockFilter{
		statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, number),
		jump(unix.SYS_SOCKET, 3),
		statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, firstArgument),
		jump(unix.AF_NETLINK, 1),
		statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.EACCES)),
		statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, err := unix.PrctlRetInt(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatalf("seccomp: %v", errno)
	}
}
