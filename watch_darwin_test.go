package mcast

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
)

// TestWatchOpenClose checks that closing ends a wait, and that nothing is left behind.
func TestWatchOpenClose(t *testing.T) {
	files := func() int {
		list, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	once := func() {
		src, err := watchOpen()
		if err != nil {
			t.Fatal(err)
		}
		if flags, err := unix.FcntlInt(src.(*watchRoute).file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("a child process inherits the socket: %#x, %v", flags, err)
		}
		ended := make(chan error)
		go func() {
			for {
				if _, err := src.wait(); err != nil {
					ended <- err
					return
				}
			}
		}()
		time.Sleep(time.Millisecond) // mostly for it to wait
		src.close()
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("the wait ended with %v", err)
			}
		case <-time.After(watchAnyway / 2):
			t.Fatal("closing does not end the wait")
		}
	}
	once()
	goroutines, open := runtime.NumGoroutine(), files()
	for range 100 {
		once()
	}
	for range WatchInterfaces(t.Context()) {
		break
	}
	for try := 0; runtime.NumGoroutine() > goroutines && try < 100; try++ { // one that has sent may not have ended
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, before %d", n, goroutines)
	}
	if n := files(); n > open {
		t.Errorf("%d open files, before %d", n, open)
	}
}

// watchTestIfconfig runs ifconfig(8).
func watchTestIfconfig(args ...string) ([]byte, error) {
	return exec.Command("/sbin/ifconfig", args...).CombinedOutput()
}

// watchTestRoot skips a test that changes the network.
func watchTestRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can change the network")
	}
}

// TestWatchNotice checks that the kernel's notices are understood, by an address that comes and goes: within a time in which
// there is no look without one.
func TestWatchNotice(t *testing.T) {
	watchTestRoot(t)
	addr := netip.MustParseAddr("127.83.84.1")
	src, err := watchOpen()
	if err != nil {
		t.Fatal(err)
	}
	notices := make(chan watchNotice, 1)
	go func() {
		for {
			n, err := src.wait()
			if err != nil {
				return
			}
			select {
			case notices <- n:
			default: // there is one already
			}
		}
	}()
	defer src.close()
	t.Cleanup(func() { watchTestIfconfig("lo0", "-alias", addr.String()) })
	for _, step := range []struct {
		args []string
		has  bool
	}{
		{[]string{"lo0", "alias", addr.String(), "255.255.255.255"}, true},
		{[]string{"lo0", "-alias", addr.String()}, false},
	} {
		if said, err := watchTestIfconfig(step.args...); err != nil {
			t.Fatalf("ifconfig %v: %v: %s", step.args, err, said)
		}
		timeout := time.After(watchAnyway / 2)
		for told := false; !told; {
			select {
			case <-notices:
			case <-timeout:
				t.Fatalf("ifconfig %v goes unnoticed", step.args)
			}
			list, err := src.scan()
			if err != nil {
				t.Fatal(err)
			}
			has := func(i Interface) bool { return i.hasAddr(func(a netip.Addr) bool { return a == addr }) }
			told = slices.ContainsFunc(list, has) == step.has
		}
	}
}

// TestWatchInterface has an interface come, go and come back.
func TestWatchInterface(t *testing.T) {
	watchTestRoot(t)
	const name = "feth8384" // a pair of these is what macOS has for a veth
	if said, err := watchTestIfconfig(name, "create"); err != nil {
		t.Skipf("this macOS makes no such interface: %v: %s", err, said)
	}
	t.Cleanup(func() { watchTestIfconfig(name, "destroy") })
	ctx, cancel := context.WithTimeout(t.Context(), slow.Limit(time.Minute))
	defer cancel()
	step, index := 0, 0
	for list, err := range WatchInterfaces(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(list, func(i Interface) bool { return i.Name == name })
		switch {
		case at >= 0 && step == 0:
			index = list[at].Index
			if said, err := watchTestIfconfig(name, "destroy"); err != nil {
				t.Fatalf("ifconfig destroy: %v: %s", err, said)
			}
			step++
		case at < 0 && step == 1:
			// The kernel may still be busy with its end.
			for try := 0; ; try++ {
				said, err := watchTestIfconfig(name, "create")
				if err == nil {
					break
				}
				if try == 100 {
					t.Fatalf("ifconfig create: %v: %s", err, said)
				}
				time.Sleep(50 * time.Millisecond)
			}
			if said, err := watchTestIfconfig(name, "up"); err != nil {
				t.Fatalf("ifconfig up: %v: %s", err, said)
			}
			step++
		case at >= 0 && step == 2:
			t.Logf("its index was %d and is %d", index, list[at].Index)
			return
		}
	}
	t.Errorf("the watch ended at step %d", step)
}
