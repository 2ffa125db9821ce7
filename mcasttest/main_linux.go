// This file runs the tests a second time, in a namespace. It needs a new process: only a process with one thread can
// enter a user namespace, and Go's processes have more.

package mcasttest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// insideVariable is set for everything that runs in the private namespace.
	insideVariable = "MCASTTEST_INSIDE"
	// setupVariable is set for the one process that must first lay out the namespace. That process writes the result to
	// setupFD.
	setupVariable = "MCASTTEST_SETUP"
	setupFD       = 3
	setupDone     = "ok"
)

// errOutside says why the tests do not run in a private namespace. It is nil if they do.
var errOutside = errors.New("TestMain does not call mcasttest.Main")

func namespaceError() error { return errOutside }

func run(m *testing.M) int {
	switch {
	case os.Getenv(setupVariable) != "":
		if !setUp() {
			return 1
		}
		errOutside = nil
	case os.Getenv(insideVariable) != "":
		errOutside = nil
	default:
		var code int
		if code, errOutside = runInside(); errOutside == nil {
			return code
		}
	}
	return m.Run()
}

// runInside runs this program again in a private namespace and returns its exit code, or the reason why there is no
// such namespace. It tries a user namespace second: root without one is free of its restrictions.
func runInside() (code int, reason error) {
	for _, flags := range []uintptr{unix.CLONE_NEWNET, unix.CLONE_NEWUSER | unix.CLONE_NEWNET} {
		if code, reason = runCloned(flags); reason == nil {
			return code, nil
		}
	}
	return 0, fmt.Errorf("no private network namespace: %w%s", reason, hint())
}

func runCloned(flags uintptr) (code int, reason error) {
	report, reportTo, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer report.Close()

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), insideVariable+"=1", setupVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{reportTo} // becomes setupFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}

	signals := make(chan os.Signal, 8) // before the start, so that a signal does not end this process and spare the other
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if !signal.Ignored(s) { // as nohup does
			signal.Notify(signals, s)
		}
	}
	defer close(signals)
	defer signal.Stop(signals)

	runtime.LockOSThread() // Pdeathsig is about the thread, not the process
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	reportTo.Close()
	if err != nil {
		return 0, err
	}
	go func() {
		for s := range signals { // a signal from a terminal reaches the other process too; twice does no harm
			cmd.Process.Signal(s)
		}
	}()
	said, _ := io.ReadAll(report)
	err = cmd.Wait()
	switch {
	case len(said) == 0:
		return 0, fmt.Errorf("the process in it ended before it was set up: %w", err)
	case string(said) != setupDone:
		return 0, errors.New(string(said))
	}
	return exitCode(cmd.ProcessState, err), nil
}

// exitCode returns the code to exit with after a process has ended with state and err. For a signal it is the code of a
// shell.
func exitCode(state *os.ProcessState, err error) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		fmt.Fprintf(os.Stderr, "mcasttest: the process that ran the tests: %v\n", err)
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// hint returns the known fix for a refused namespace.
func hint() string {
	for _, sysctl := range []struct{ name, forbids, permits string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "0"},
		{"kernel/unprivileged_userns_clone", "0", "1"},
		{"user/max_user_namespaces", "0", "1000"},
		{"user/max_net_namespaces", "0", "1000"},
	} {
		value, err := os.ReadFile("/proc/sys/" + sysctl.name)
		if err == nil && strings.TrimSpace(string(value)) == sysctl.forbids {
			return fmt.Sprintf(" (sysctl -w %s=%s might permit it)", sysctl.name, sysctl.permits)
		}
	}
	if _, err := os.Stat("/.dockerenv"); err == nil {
		return " (in Docker it takes --privileged)"
	}
	return ""
}

// setUp lays out the private namespace, reports the result to the parent process, and returns whether it succeeded.
func setUp() bool {
	report := os.NewFile(setupFD, "report")
	syscall.CloseOnExec(setupFD)
	defer report.Close()
	os.Unsetenv(setupVariable) // for the processes that tests start
	if err := layOut(); err != nil {
		io.WriteString(report, strings.ReplaceAll(err.Error(), "\n", "; "))
		return false
	}
	io.WriteString(report, setupDone)
	return true
}

// layOut makes mc0 and mc1. The other ends of their cables are in a second namespace. It lives as long as this process,
// since nothing closes it.
func layOut() error {
	here, err := hereNetns()
	if err != nil {
		return err
	}
	defer here.close()
	if err := here.setLoopback(); err != nil {
		return err
	}
	hidden, err := newNetns()
	if err != nil {
		return err
	}
	for n := range 2 {
		if err := newMC(here, hidden, uint8(n)).create(); err != nil {
			return err
		}
	}
	return nil
}

// newMC returns the description of mc0 or mc1 and of the other end.
func newMC(here, hidden *netns, n uint8) *Interface {
	mc := &Interface{ns: here, name: fmt.Sprintf("mc%d", n), unique: true}
	mc.setAddresses(mcAddresses(n, 1)...)
	mc.setLinkLocal(linkLocal(mcLinks, uint16(n), 1))
	mc.addDefaultRoutes(firstMetric + int(n)*(secondMetric-firstMetric))

	far := &Interface{ns: hidden, name: mc.name}
	far.setAddresses(mcAddresses(n, gatewayID)...)
	far.setLinkLocal(linkLocal(mcLinks, uint16(n), gatewayID))
	return mc.connect(far)
}

func mcAddresses(n, id uint8) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, n, id}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x88, 7: n, 15: id}), 64),
	}
}
