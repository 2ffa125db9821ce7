// This file tests Main: what the private namespace is like, and that the second process is as good as the first.

package mcasttest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/mcasttest"
)

func TestLoopback(t *testing.T) {
	mcasttest.Require(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if want := net.FlagUp | net.FlagLoopback | net.FlagMulticast; lo.Flags&want != want {
		t.Errorf("lo is %v, want %v", lo.Flags, want)
	}
	source := map[netip.Addr]string{group4: "127.0.0.1", group6: "::1"}
	for _, g := range groups {
		conn := join(t, nil, "lo", g)
		send(t, nil, "lo", g, 0, "over lo")
		if from := expect(t, conn, "over lo").Addr(); from != netip.MustParseAddr(source[g]) {
			t.Errorf("%v over lo is from %v, want %v", g, from, source[g])
		}
	}
}

func TestInterfaces(t *testing.T) {
	mcasttest.Require(t)
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, ifi := range ifs {
		if ifi.Flags&net.FlagUp != 0 {
			names = append(names, ifi.Name)
		}
	}
	if want := []string{"lo", "mc0", "mc1"}; !slices.Equal(names, want) {
		t.Errorf("interfaces that are up: %v, want %v", names, want)
	}
	for name, want := range map[string]string{
		"mc0": "[10.88.0.1/24 fd88::1/64 fe80::88:0:1/64]",
		"mc1": "[10.88.1.1/24 fd88:0:0:1::1/64 fe80::88:1:1/64]",
	} {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := net.FlagUp | net.FlagRunning | net.FlagMulticast; ifi.Flags&want != want {
			t.Errorf("%s is %v, want %v", name, ifi.Flags, want)
		}
		if addrs, err := ifi.Addrs(); fmt.Sprint(addrs) != want {
			t.Errorf("%s has %v (%v), want %v", name, addrs, err, want)
		}
		for _, g := range append(groups, netip.MustParseAddr("ff02::1234%"+name)) {
			// The copy to the host itself shows that the address can be used and the packet was sent.
			conn := join(t, nil, name, g.WithZone(""))
			send(t, nil, name, g, 1, "by "+name)
			expect(t, conn, "by "+name)
		}
	}
}

func TestDefaultRoute(t *testing.T) {
	mcasttest.Require(t)
	for _, c := range []struct{ network, to, from string }{
		{"udp4", "192.0.2.1:9", "10.88.0.1"},
		{"udp4", "239.1.2.3:9", "10.88.0.1"},
		{"udp4", "224.0.0.1:9", "10.88.0.1"},
		{"udp6", "[2001:db8::1]:9", "fd88::1"},
		{"udp6", "[ff15::1]:9", "fd88::1"},
		{"udp6", "[fd88:0:0:1::fe]:9", "fd88:0:0:1::1"},
	} {
		conn, err := net.Dial(c.network, c.to)
		if err != nil {
			t.Errorf("dial %s: %v", c.to, err)
			continue
		}
		defer conn.Close()
		if from := conn.LocalAddr().(*net.UDPAddr).IP.String(); from != c.from {
			t.Errorf("packets to %s leave from %s, want %s", c.to, from, c.from)
		}
	}
}

// What TestHelper does is told by this environment variable.
const helperVariable = "MCASTTEST_HELPER"

// TestHelper is what this test binary does when the tests below start it. Otherwise it does nothing.
func TestHelper(t *testing.T) {
	switch what := os.Getenv(helperVariable); what {
	case "", "pass":
	case "fail":
		t.Fail()
	case "panic":
		panic("on purpose")
	case "exit":
		os.Exit(7)
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "wait":
		fmt.Println("ready")
		time.Sleep(time.Hour) // with select {} Go may find that it is a deadlock
	case "echo":
		io.Copy(os.Stdout, os.Stdin)
	case "skip on a host":
		mcasttest.NewHost(t).Do(func() { t.Skip("as it should") })
		t.Error("Skip ended only the function")
	case "require":
		mcasttest.Require(t)
		fmt.Println("namespace", namespace(), "uid", os.Getuid())
	case "network":
		TestLoopback(t)
		TestInterfaces(t)
		TestDefaultRoute(t)
	case "lan":
		TestSnooping(t)
	case "refuse clone":
		refuse(t, unix.SYS_CLONE, unix.CLONE_NEWNET|unix.CLONE_NEWUSER)
	case "refuse unshare":
		refuse(t, unix.SYS_UNSHARE, 0)
	default:
		t.Fatalf("what is %q?", what)
	}
}

func namespace() string {
	name, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err.Error()
	}
	return name
}

// helper is a command that runs this test binary as if no private namespace existed yet.
func helper(what string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelper$", "-test.v")
	cmd.Env = append(outsideEnv(), helperVariable+"="+what, "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func outsideEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "MCASTTEST_") || strings.HasPrefix(s, "MCAST_TEST_")
	})
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// TestAtOnce checks that the network is ready when the first test runs: that nothing has to settle.
func TestAtOnce(t *testing.T) {
	mcasttest.Require(t)
	for range 5 {
		if out, err := helper("network", "MCAST_TEST_STRICT=1").CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
	}
}

func TestExitCode(t *testing.T) {
	mcasttest.Require(t)
	for what, want := range map[string]int{"pass": 0, "fail": 1, "panic": 2, "exit": 7, "kill": 128 + 9} {
		out, err := helper(what).CombinedOutput()
		if code := exitCode(err); code != want {
			t.Errorf("%s: exit code %d, want %d:\n%s", what, code, want, out)
		}
	}
}

func TestStandardFiles(t *testing.T) {
	mcasttest.Require(t)
	cmd := helper("echo")
	cmd.Stdin = strings.NewReader("through both processes\n")
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "through both processes\n") {
		t.Errorf("output %q, %v", out, err)
	}
}

// TestNamespace checks that a process outside gets a namespace and that one inside stays in it.
func TestNamespace(t *testing.T) {
	mcasttest.Require(t)
	out, err := helper("require").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "namespace net:") || strings.Contains(string(out), namespace()) {
		t.Errorf("from outside: %v, should have a namespace other than %s:\n%s", err, namespace(), out)
	}
	inside := helper("require", "MCASTTEST_INSIDE="+os.Getenv("MCASTTEST_INSIDE"))
	out, err = inside.CombinedOutput()
	if err != nil || !strings.Contains(string(out), namespace()) {
		t.Errorf("from inside: %v, should have namespace %s:\n%s", err, namespace(), out)
	}
}

// TestSignals checks that signals to the first process end the second.
func TestSignals(t *testing.T) {
	mcasttest.Require(t)
	for signal, want := range map[syscall.Signal]int{
		syscall.SIGTERM: 128 + 15,
		syscall.SIGINT:  128 + 2,
		syscall.SIGQUIT: 2,  // Go's own handling, with the stacks, which is why go test sends it
		syscall.SIGKILL: -1, // cannot be forwarded, but the second process ends all the same
	} {
		cmd := helper("wait")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for lines.Scan() && !strings.Contains(lines.Text(), "ready") {
		}
		cmd.Process.Signal(signal)
		for lines.Scan() { // the end of the output is the end of both processes
		}
		if code := exitCode(cmd.Wait()); code != want {
			t.Errorf("%v: exit code %d, want %d", signal, code, want)
		}
		if signal == syscall.SIGQUIT && !strings.Contains(stderr.String(), "TestHelper") {
			t.Errorf("no stacks after SIGQUIT:\n%s", &stderr)
		}
	}
}

// TestRefused checks what happens where namespaces are refused: at the start, as in Docker, or later, as by Ubuntu's
// AppArmor profile, which permits a user namespace but nothing in it.
func TestRefused(t *testing.T) {
	mcasttest.Require(t)
	for what, reason := range map[string]string{"refuse clone": "operation not permitted", "refuse unshare": "unshare"} {
		for strict, want := range map[string]string{"0": "--- SKIP", "1": "--- FAIL"} {
			cmd := helper(what, "MCAST_TEST_STRICT="+strict, "MCASTTEST_INSIDE=1") // not yet: refuse takes it away
			out, err := cmd.CombinedOutput()
			for _, s := range []string{want, reason} {
				if !strings.Contains(string(out), s) {
					t.Errorf("%s, strict %s: no %q in the output (%v):\n%s", what, strict, s, err, out)
				}
			}
		}
	}
}

// refuse becomes a process that is refused a system call if its first argument has one of the bits (or always) and is
// not in the private namespace.
func refuse(t *testing.T, call, bits uint32) {
	const load, jump = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_K
	always := unix.SockFilter{Code: jump | unix.BPF_JA}
	test := unix.SockFilter{Code: jump | unix.BPF_JSET, K: bits, Jf: 1}
	if bits == 0 {
		test = always
	}
	first := uint32(16) // the place of the first argument, of 64 bits, in struct seccomp_data, which begins with the number
	if runtime.GOARCH == "s390x" {
		first += 4 // the low half
		if call == unix.SYS_CLONE {
			first += 8 // clone(2) has the flags second there
		}
	}
	filter := []unix.SockFilter{
		{Code: load, K: 0},
		{Code: jump | unix.BPF_JEQ, K: call, Jf: 3},
		{Code: load, K: first},
		test,
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if errno == unix.ENOSYS {
		t.Skip("no seccomp")
	} else if errno != 0 {
		t.Fatal(errno)
	}
	env := append(outsideEnv(), helperVariable+"=require", "MCAST_TEST_STRICT="+os.Getenv("MCAST_TEST_STRICT"))
	t.Fatal(syscall.Exec("/proc/self/exe", os.Args, env))
}

// TestOrdinaryUser runs tests as nobody, or as the user that this is, if it may not change that.
func TestOrdinaryUser(t *testing.T) {
	mcasttest.Require(t)
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	var as *syscall.SysProcAttr
	if strings.Fields(string(users))[2] != "1" { // of how many users the namespace is
		as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	exe, err := os.Open("/proc/self/exe") // its folder may be closed to nobody
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	for _, what := range []string{"require", "network", "lan"} {
		cmd := helper(what, "MCAST_TEST_STRICT=1")
		cmd.Path, cmd.Dir, cmd.ExtraFiles = "/proc/self/fd/3", "/", []*os.File{exe}
		cmd.SysProcAttr = as
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
}
