// This file is about hosts: separate network stacks, in which a test runs some of its functions.

package mcasttest

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
)

// Host is a computer on the network of a test: a network namespace with its own interfaces, addresses, routes, sysctls,
// limits and ports. It has the file system and the processes of the test. It is gone when the test has ended and
// everything opened on it is closed.
type Host struct {
	Name                  string
	IPv4, IPv6, LinkLocal netip.Addr // of its first interface, without zone; the zero Addr if there is none

	t          testing.TB
	ns         *netns
	interfaces []*Interface
}

// NewHost makes a host that has only lo, up and with multicast routes as in the namespace of [Main]. It is for tests
// that change sysctls or exhaust limits. It calls [Require]. On systems other than Linux it skips the test.
func NewHost(t testing.TB) *Host {
	t.Helper()
	requireNamespace(t)
	return newHost(t, "host")
}

func newHost(t testing.TB, name string) *Host {
	t.Helper()
	ns, err := newNetns()
	check(t, err)
	t.Cleanup(func() {
		if err := ns.close(); err != nil {
			t.Errorf("mcasttest: close %s: %v", name, err)
		}
	})
	return &Host{Name: name, t: t, ns: ns}
}

// add adds the interface to the host. The addresses of the first interface become the host's.
func (h *Host) add(i *Interface) {
	if h.interfaces = append(h.interfaces, i); len(h.interfaces) == 1 {
		h.IPv4, h.IPv6, h.LinkLocal = i.IPv4, i.IPv6, i.LinkLocal
	}
}

// NewVeth adds an interface to the host, as the function [NewVeth] does to the namespace of the test.
func (h *Host) NewVeth(name string, addresses ...netip.Prefix) *Interface {
	h.t.Helper()
	i := newVeth(h.t, h.ns, name, addresses)
	i.host = h
	check(h.t, i.create())
	h.add(i)
	return i
}

// Interface returns the host's interface with the name. If there is none, the test ends. lo does not count.
func (h *Host) Interface(name string) *Interface {
	h.t.Helper()
	for _, i := range h.interfaces {
		if i.Name() == name {
			return i
		}
	}
	h.t.Fatalf("mcasttest: %s has no interface %s", h.Name, name)
	return nil
}

// first returns the interface that the host's own methods are about: eth0 of a host on a LAN.
func (h *Host) first() *Interface {
	h.t.Helper()
	if len(h.interfaces) == 0 {
		h.t.Fatalf("mcasttest: %s has only lo", h.Name)
	}
	return h.interfaces[0]
}

// Unplug pulls the cable of eth0, or of the first interface if that is another one: see [Interface.Unplug].
func (h *Host) Unplug() { h.t.Helper(); h.first().Unplug() }

// Plug plugs the cable of eth0 in again: see [Interface.Plug].
func (h *Host) Plug() { h.t.Helper(); h.first().Plug() }

// DeleteInterface removes eth0 from the host: see [Interface.Delete].
func (h *Host) DeleteInterface() { h.t.Helper(); h.first().Delete() }

// CreateInterface brings eth0 back, with a new index: see [Interface.Create].
func (h *Host) CreateInterface() { h.t.Helper(); h.first().Create() }

// Do calls fn on the host and waits for it. fn runs on its own goroutine. But a panic continues in the caller, and so
// does t.FailNow (and Fatal, Skip, runtime.Goexit).
//
// Sockets opened in fn stay on the host: use them anywhere. Processes started in fn are on the host (see also
// [Host.Start]). But goroutines started in fn are not: call Do in them. And /proc/net and /proc/self/net show the
// test's own network; in fn, read /proc/thread-self/net. /proc/sys/net is the host's, /sys the machine's.
//
// The net package caches for up to a minute which IPv6 zone has which index, for all hosts together. If interfaces are
// deleted and created, write the index as the zone in addresses, as in fe80::1%2.
func (h *Host) Do(fn func()) {
	h.t.Helper()
	returned := false
	var panicked any
	err := h.ns.run(func() {
		defer func() {
			if panicked = recover(); panicked != nil {
				h.t.Logf("panic on %s: %v\n%s", h.Name, panicked, debug.Stack())
			}
		}()
		fn()
		returned = true
	})
	check(h.t, err)
	switch {
	case panicked != nil:
		panic(panicked)
	case !returned:
		runtime.Goexit()
	}
}

// Start starts a command on the host. Wait for it in the goroutine of the test. If it runs longer than the test, it is
// killed. Do not set Pdeathsig: the thread that starts the command ends at once.
func (h *Host) Start(cmd *exec.Cmd) error {
	h.t.Helper()
	err := errors.New("not started")
	h.Do(func() { err = cmd.Start() })
	if err == nil {
		h.t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	return err
}

// Sysctl sets a kernel parameter of the host. The name is a path below /proc/sys, such as
// "net/ipv4/igmp_max_memberships".
func (h *Host) Sysctl(name, value string) {
	h.t.Helper()
	var err error
	h.Do(func() { err = os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0) })
	check(h.t, err)
}
