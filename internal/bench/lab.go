//go:build linux

// The networks that are measured on. They are in network namespaces of this program's own: it runs itself again in
// one, and refuses to measure where there is anything else than what it has made.

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast"
)

const insideVariable = "MCAST_BENCH_INSIDE"

// enter runs this program again in a private network namespace, and returns its exit code. In there it reports that
// this is the place.
func enter() (code int, inside bool, err error) {
	if os.Getenv(insideVariable) != "" {
		return 0, true, nil
	}
	for _, flags := range []uintptr{unix.CLONE_NEWNET, unix.CLONE_NEWUSER | unix.CLONE_NEWNET} {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Args[0] = os.Args[0]
		cmd.Env = append(os.Environ(), insideVariable+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		runtime.LockOSThread() // Pdeathsig is about the thread
		if err = cmd.Start(); err == nil {
			err = cmd.Wait()
			runtime.UnlockOSThread()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				return 1, false, err
			}
			return cmd.ProcessState.ExitCode(), false, nil
		}
		runtime.UnlockOSThread()
	}
	return 1, false, fmt.Errorf("no private network namespace, and nothing is measured on the machine's own network: %w", err)
}

// lab is where things are measured.
type lab struct {
	networks map[string]*network
	ports    uint16
}

// network connects a sender to a receiver.
type network struct{ tx, rx place }

// place is an end of a network: an interface in a namespace.
type place struct {
	ns  int // descriptor of its namespace; -1: the process's
	ifc mcast.Interface
}

// do runs f in the place's namespace. What it opens stays there.
func (p place) do(f func() error) error {
	if p.ns < 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(p.ns, unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// newLab lays out the networks of the namespace that the process is in.
func newLab() (*lab, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	if len(all) != 1 || all[0].Flags&net.FlagLoopback == 0 {
		return nil, fmt.Errorf("this namespace is not new: it has %d interfaces", len(all))
	}
	raiseLimits()
	here := place{ns: -1}
	there := place{}
	if err := here.do(func() error { return ip("link set lo up multicast on", "route add 224.0.0.0/4 dev lo metric 100") }); err != nil {
		return nil, err
	}
	if there.ns, err = newNamespace(); err != nil {
		return nil, err
	}
	target := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), there.ns)
	if err := ip(
		"link add near type veth peer name far netns "+target,
		"address add 10.77.0.1/24 dev near",
		"link set near up",
	); err != nil {
		return nil, err
	}
	if err := there.do(func() error { return ip("address add 10.77.0.2/24 dev far", "link set far up", "link set lo up") }); err != nil {
		return nil, err
	}
	lo, err := find(here, "lo")
	if err != nil {
		return nil, err
	}
	near, err := await(here, "near")
	if err != nil {
		return nil, err
	}
	far, err := await(there, "far")
	if err != nil {
		return nil, err
	}
	return &lab{ports: 20000, networks: map[string]*network{
		"lo":   {lo, lo},
		"veth": {near, far},
	}}, nil
}

// raiseLimits allows as many descriptors as may be had.
func raiseLimits() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}

// descriptors is how many there may be.
func descriptors() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<30))
}

// newNamespace makes a network namespace, which lives as long as the descriptor.
func newNamespace() (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)); err != nil {
			return
		}
		fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		err = os.NewSyscallError("open", err)
	}()
	<-done
	return fd, err
}

// ip runs the program of that name, in the namespace of the calling goroutine's thread.
func ip(commands ...string) error {
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func find(p place, name string) (place, error) {
	err := p.do(func() error {
		found, err := mcast.FindInterfaces(name)
		if err == nil {
			p.ifc = found[0]
		}
		return err
	})
	return p, err
}

// await finds an interface and waits until the kernel has noticed its carrier: what is sent before is lost.
func await(p place, name string) (place, error) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		found, err := find(p, name)
		if err != nil || found.ifc.Flags&net.FlagRunning != 0 {
			return found, err
		}
		if time.Since(start) > patience {
			return p, fmt.Errorf("%s has no carrier", name)
		}
	}
}

// port returns one that no other socket of the lab has. What one contender is sent, the other never sees.
func (l *lab) port() uint16 {
	l.ports++
	return l.ports
}

// destinations returns n groups with a port.
func (l *lab) destinations(n int) []netip.AddrPort {
	port := l.port()
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 7, byte(i >> 8), byte(i)}), port)
	}
	return all
}

func groupsOf(dsts []netip.AddrPort) []netip.Addr {
	all := make([]netip.Addr, len(dsts))
	for i := range all {
		all[i] = dsts[i].Addr()
	}
	return all
}

// machine tells what this was measured on.
func machine() string {
	var u unix.Utsname
	unix.Uname(&u)
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		lines := strings.Split(string(text), "\n")
		if i := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, "model name") }); i >= 0 {
			_, model, _ = strings.Cut(lines[i], ": ")
		}
	}
	return fmt.Sprintf("Linux %s, %s, %d processors, %s", release, model, runtime.NumCPU(), runtime.Version())
}
