// Package mcasttest is for tests of programs that use multicast, on a network made for the test. It needs no root, no
// second machine, and no packet on the machine's real network. This module's own tests use it, and yours can.
//
// # The private namespace
//
// One line in a package's tests runs them all on a network of their own:
//
//	func TestMain(m *testing.M) { mcasttest.Main(m) }
//
// On Linux they then run in a network namespace, with this in it:
//
//	lo   127.0.0.1/8   ::1/128                            the flag MULTICAST, multicast routes of both families
//	mc0  10.88.0.1/24  fd88::1/64        fe80::88:0:1/64  default routes: 10.88.0.254, fd88::fe, metric 100
//	mc1  10.88.1.1/24  fd88:0:0:1::1/64  fe80::88:1:1/64  default routes: 10.88.1.254, fd88:0:0:1::fe, metric 200
//
// mc0 and mc1 are Ethernet-like (veth) and have a carrier. All addresses are usable at once: there is no duplicate
// address detection. A program that names no interface sends through mc0; lo is for programs that name it. For IPv4
// this takes three routes for 224.0.0.0/4, of rising metric, through mc0, mc1 and lo: Linux does not need the last one
// when lo is named. For IPv6 it takes one route of type local for ff00::/8 through lo; Linux itself makes the others.
// All other settings are the kernel's for new namespaces, rp_filter and the IGMP and MLD versions for example.
//
// Only the network is private. Files are the machine's, and so is /sys: /sys/class/net lists the machine's interfaces,
// while /proc/net and /proc/sys/net are the namespace's.
//
// On other systems tests run on the interfaces of the machine.
//
// # Networks made for a test
//
// [NewVeth] adds an interface to the namespace of the test, with a [Host] at the other end of the cable. The interface
// can lose its carrier, be renamed, be deleted and come back. [NewLAN] makes a network of hosts on a switch that snoops
// IGMP and MLD. [NewRouter] connects two such networks, and [NewHost] makes a host without a network. Each host is a
// network namespace with its own interfaces, routes and sysctls. [Host.Do] runs a function of the test on it. All this
// is Linux only: elsewhere a test that uses it is skipped.
//
// Everything made for a test is gone when it ends. A failure to make something fails the test. If the kernel was built
// without it, the test is skipped. On a slow machine, set MCAST_TEST_SLOW=10 in the environment: it multiplies the
// limits of this package's own waits, 10 seconds each, by ten.
package mcasttest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
)

// strictVariable is the environment variable that turns skipped tests into failed ones.
const strictVariable = "MCAST_TEST_STRICT"

// patience limits the waits for operations that take milliseconds.
var patience = slow.Limit(10 * time.Second)

// The metrics of the routes that the package makes. Smaller wins.
const (
	firstMetric    = 100 // mc0, a host's eth0
	secondMetric   = 200 // mc1, eth1, …
	loopbackMetric = 4096
)

var (
	multicast4 = netip.MustParsePrefix("224.0.0.0/4")
	anywhere4  = netip.MustParsePrefix("0.0.0.0/0")
	anywhere6  = netip.MustParsePrefix("::/0")
)

// route is an entry of a routing table. A route without a gateway is on-link. A local route, in the table "local",
// delivers to the host itself.
type route struct {
	dst     netip.Prefix
	gateway netip.Addr
	metric  int
	local   bool
}

// Main runs the tests and exits. On Linux it starts the test binary once more, in a private network namespace, which
// the package documentation describes. The second process has the same arguments, environment, working directory and
// standard files. Main passes signals on to it, ends it when Main's process ends, and exits with its code. Privileges
// are not needed: an ordinary user gets a user namespace, too, and is root in it. What TestMain does before Main
// happens twice. Processes that a test starts share its namespace: a test binary that executes itself just runs there.
//
// The namespace is not available in most containers, nor where the system reserves namespaces to root. There, and on
// other systems, Main runs the tests where they are. [Require] then distinguishes the two cases.
func Main(m *testing.M) {
	os.Exit(run(m))
}

// Require skips the test, with the reason, unless it runs in the private namespace of [Main]. Call it first in each
// test that sends. With MCAST_TEST_STRICT=1 in the environment, as fits CI, the test fails instead.
//
// On systems other than Linux Require does nothing. They have no such namespaces, and tests there run on the machine's
// own interfaces. The test must find out whether those can multicast.
func Require(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "linux" {
		requireNamespace(t)
	}
}

// requireNamespace is Require for features that exist only in namespaces, on every system.
func requireNamespace(t testing.TB) {
	t.Helper()
	if err := namespaceError(); err != nil {
		unavailable(t, err)
	}
}

func unavailable(t testing.TB, reason error) {
	t.Helper()
	if strict := os.Getenv(strictVariable); strict != "" && strict != "0" {
		t.Fatalf("mcasttest: %v (and %s is set)", reason, strictVariable)
	}
	t.Skipf("mcasttest: %v", reason)
}

// need is check for features that some kernels are built without. If the feature is missing, the test is skipped.
func need(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, errors.ErrUnsupported) {
		unavailable(t, err)
	}
	check(t, err)
}

// check ends the test if there is an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		// Joined errors come one to a line.
		t.Fatalf("mcasttest: %s", strings.ReplaceAll(fmt.Sprint(err), "\n", "; "))
	}
}
