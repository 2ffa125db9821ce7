// Every errno for which there is a hint is provoked for real, and the hint's cure is carried out, and cures. A firewall's
// is in internal/interop.

package mcast_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// hinted fails unless the error has that cause, by errors.Is, and a hint with that word. It returns the hint.
func hinted(t *testing.T, err, cause error, word string) string {
	t.Helper()
	var op *mcast.OpError
	if !errors.Is(err, cause) || !errors.As(err, &op) || !strings.Contains(op.Hint, word) {
		t.Fatalf("%v: want %v, with a hint that has %q", err, cause, word)
	}
	return op.Hint
}

// run runs a program on the host; nil: on that of the tests. Where there is no such program the test is skipped, or fails
// if it is strict.
func run(t *testing.T, host *mcasttest.Host, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		unavailable(t, cmd.Err.Error())
	}
	on(host, func() {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	})
}

// hintHost is a host with an interface v0, by which there is no other host.
func hintHost(t *testing.T) (*mcasttest.Host, *mcasttest.Interface) {
	t.Helper()
	noLeaks(t)
	host := mcasttest.NewHost(t)
	return host, host.NewVeth("v0", netip.MustParsePrefix("10.76.0.1/24"), netip.MustParsePrefix("fd76::1/64"))
}

// tryRx opens a receiver on the host's interface and closes it.
func tryRx(t *testing.T, host *mcasttest.Host, group netip.Addr, port uint16, sources ...netip.Addr) (err error) {
	t.Helper()
	host.Do(func() {
		var rx *mcast.RxSocket
		rx, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, Sources: sources,
			Interfaces: mustFind(t, "v0"), Static: true})
		if err == nil {
			rx.Close()
		}
	})
	return err
}

// tryTx sends a datagram by the host's interface.
func tryTx(t *testing.T, host *mcasttest.Host, name string, group netip.Addr) (err error) {
	t.Helper()
	host.Do(func() {
		var tx *mcast.TxSocket
		tx, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: mustFind(t, name), Static: true})
		if err == nil {
			defer tx.Close()
			_, err = tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(group, 9))
		}
	})
	return err
}

var limitInHint = regexp.MustCompile("the limit ([a-z0-9_.]+) is ([0-9]+): raise it with `sysctl -w ([a-z0-9_.]+)=…`")

// ENOBUFS and ENOMEM of joins have several causes, which the kernel does not tell apart. The hint names the one it is.
func TestHintLimits(t *testing.T) {
	v4, v6 := contractFamilies[0].group, contractFamilies[1].group
	sources4, sources6 := []netip.Addr{addr("10.76.0.2")}, []netip.Addr{addr("fd76::2")}
	for _, test := range []struct {
		limit   string
		group   netip.Addr
		sources []netip.Addr
	}{
		{"net.ipv4.igmp_max_memberships", v4, nil},
		{"net.ipv4.igmp_max_memberships", v4, sources4},
		{"net.core.optmem_max", v4, nil},
		{"net.core.optmem_max", v6, nil},
		{"net.core.optmem_max", v4, sources4},
		{"net.core.optmem_max", v6, sources6},
	} {
		t.Run(fmt.Sprintf("%s %s %d", test.limit, test.group, len(test.sources)), func(t *testing.T) {
			host, _ := hintHost(t)
			path := strings.ReplaceAll(test.limit, ".", "/")
			var before []byte
			host.Do(func() { before, _ = os.ReadFile("/proc/sys/" + path) })
			if before == nil {
				// That of net.core is one for all networks before Linux 6.8, and none of ordinary users'.
				if text, _ := os.ReadFile("/proc/self/uid_map"); !strings.Contains(string(text), "4294967295") {
					t.Skip(test.limit + " cannot be set by ordinary users")
				}
				testrun.Since(t, 6, 8, test.limit+" is one for all namespaces")
				unavailable(t, test.limit+" is not a parameter of the namespace")
			}
			if err := tryRx(t, host, test.group, newPort(), test.sources...); err != nil {
				t.Fatalf("before: %v", err)
			}
			host.Sysctl(path, "0")
			err := tryRx(t, host, test.group, newPort(), test.sources...)
			cause := error(unix.ENOBUFS)
			if errors.Is(err, unix.ENOMEM) {
				cause = unix.ENOMEM
			}
			found := limitInHint.FindStringSubmatch(hinted(t, err, cause, test.limit))
			if len(found) != 4 || found[1] != test.limit || found[2] != "0" || found[3] != test.limit {
				t.Fatalf("%v: %q", err, found)
			}
			host.Sysctl(strings.ReplaceAll(found[3], ".", "/"), strings.TrimSpace(string(before)))
			if err := tryRx(t, host, test.group, newPort(), test.sources...); err != nil {
				t.Errorf("cured: %v", err)
			}
		})
	}
}

// notHere skips a test that needs what not every machine can have: a kernel with an optional part, or a clock
// that may be set. MCAST_TEST_STRICT does not ask for these; machines that have them run the test. .ci/run knows the words.
func notHere(t testing.TB, what string) {
	t.Helper()
	t.Skip("not on this machine: " + what)
}

// unavailable skips the test, or fails it if it is strict.
func unavailable(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("MCAST_TEST_STRICT") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// ENODEV comes of an interface that was there when it was looked for; looking again finds it.
func TestHintGone(t *testing.T) {
	host, veth := hintHost(t)
	for _, r := range contractFamilies {
		host.Do(func() {
			old := mustFind(t, "v0")
			veth.Delete()
			veth.Create()
			_, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: newPort(), Interfaces: old, Static: true})
			hinted(t, err, unix.ENODEV, "scan again")
			_, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: old, Static: true})
			hinted(t, err, err, "scan again") // EADDRNOTAVAIL for IPv4, ENODEV for IPv6
			if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Errorf("%s: %v", r.group, err)
			}
		})
		if err := errors.Join(tryRx(t, host, r.group, newPort()), tryTx(t, host, "v0", r.group)); err != nil {
			t.Errorf("%s, cured: %v", r.group, err)
		}
	}
}

// ENETUNREACH comes of a loopback interface without a route for IPv6, and of interfaces that are down.
func TestHintUnreachable(t *testing.T) {
	host, veth := hintHost(t)
	v6 := contractFamilies[1].group
	run(t, host, "", "ip", "-6", "route", "del", "local", "ff00::/8", "dev", "lo", "table", "local")
	hint := hinted(t, tryTx(t, host, "lo", v6), unix.ENETUNREACH, "`")
	run(t, host, "", strings.Fields(strings.Split(hint, "`")[1])...)
	if err := tryTx(t, host, "lo", v6); err != nil {
		t.Errorf("cured: %v", err)
	}

	for _, r := range contractFamilies {
		host.Do(func() {
			tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "v0"), Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			to := netip.AddrPortFrom(r.group, 9)
			veth.Down()
			_, err = tx.WriteToUDPAddrPort([]byte("x"), to)
			hinted(t, err, unix.ENETUNREACH, "is down")
			veth.Up()
			if _, err := tx.WriteToUDPAddrPort([]byte("x"), to); err != nil {
				t.Errorf("%s, cured: %v", r.group, err)
			}
		})
	}
}

// EHOSTUNREACH and, where there is no route at all, ENETUNREACH come of replies.
func TestHintReply(t *testing.T) {
	host, _ := hintHost(t)
	rx := openOn(t, host)
	for _, test := range []struct {
		to, route, cured string
		cause            error
	}{
		{"10.99.0.9", "", "", unix.ENETUNREACH},
		{"10.99.1.9", "unreachable 10.99.1.9/32", "route replace 10.99.1.9/32 dev v0", unix.EHOSTUNREACH},
		{"fd99::9", "unreachable fd99::9/128", "-6 route replace fd99::9/128 dev v0", unix.EHOSTUNREACH},
	} {
		if test.route != "" {
			run(t, host, "", append([]string{"ip", "route", "add"}, strings.Fields(test.route)...)...)
		}
		_, err := rx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addr(test.to), 9))
		hint := hinted(t, err, test.cause, test.to)
		show := exec.Command("ip", strings.Fields(strings.Split(hint, "`")[1])[1:]...) // which fails as sending did
		host.Do(func() {
			if out, err := show.CombinedOutput(); err == nil {
				t.Errorf("%s: %s", hint, out)
			}
		})
		if test.cured != "" {
			run(t, host, "", append([]string{"ip", "route", "del"}, strings.Fields(test.route)...)...)
			run(t, host, "", append([]string{"ip"}, strings.Fields(test.cured)...)...)
			if _, err := rx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addr(test.to), 9)); err != nil {
				t.Errorf("%s, cured: %v", test.to, err)
			}
		}
	}
}

// openOn opens a receiver of both families on the host's v0.
func openOn(t *testing.T, host *mcasttest.Host) (rx *mcast.RxSocket) {
	t.Helper()
	host.Do(func() {
		both := []netip.Addr{contractFamilies[0].group, contractFamilies[1].group}
		rx = openRx(t, mcast.RxConfig{Groups: both, Port: newPort(), Interfaces: mustFind(t, "v0"), Static: true})
	})
	return rx
}

// EADDRNOTAVAIL comes of an interface whose IPv6 addresses are all being checked, or gone.
func TestHintNoAddress(t *testing.T) {
	host, _ := hintHost(t)
	v6 := contractFamilies[1].group
	host.Do(func() {
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{v6}, Interfaces: mustFind(t, "v0"), Static: true})
		to := netip.AddrPortFrom(v6, 9)
		run(t, host, "", "ip", "-6", "address", "flush", "dev", "v0")
		run(t, host, "", "ip", "-6", "address", "flush", "dev", "lo")
		_, err := tx.WriteToUDPAddrPort([]byte("x"), to)
		hinted(t, err, unix.EADDRNOTAVAIL, "address")
		run(t, host, "", "ip", "address", "add", "fe80::5/64", "dev", "v0", "nodad")
		if _, err := tx.WriteToUDPAddrPort([]byte("x"), to); err != nil {
			t.Errorf("cured: %v", err)
		}
	})
}

// An interface that lacks a family cannot be used for its groups. A socket for each family cures that only if there are
// groups of both.
func TestHintNoFamily(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("v0", netip.MustParsePrefix("10.76.0.1/24"))
	v4, v6 := contractFamilies[0].group, contractFamilies[1].group
	for _, test := range []struct{ disabled, hint string }{
		{"0", "give the interface an address"},
		{"1", "IPv6 is disabled: `sysctl -w net.ipv6.conf.v0.disable_ipv6=0`"},
	} {
		run(t, host, "", "ip", "-6", "address", "flush", "dev", "v0")
		host.Sysctl("net/ipv6/conf/v0/disable_ipv6", test.disabled)
		host.Do(func() {
			v0 := mustFind(t, "v0")
			for _, groups := range [][]netip.Addr{{v6}, {v4, v6}} {
				_, rxErr := mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: newPort(), Interfaces: v0})
				_, txErr := mcast.OpenTx(mcast.TxConfig{Groups: groups, Interfaces: v0})
				for _, err := range []error{rxErr, txErr} {
					hint := hinted(t, err, mcast.ErrNoInterface, test.hint)
					if strings.Contains(hint, "each family") != (len(groups) == 2) {
						t.Errorf("%v: %v", groups, err)
					}
				}
			}
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{v4}, Port: newPort(), Interfaces: v0, Static: true})
			hinted(t, rx.Join(v6), mcast.ErrNoInterface, test.hint)
		})
	}
}

// TestHintIPv6Disabled disables IPv6 under a sender, and on a host. The hint names the parameter, and setting it cures.
func TestHintIPv6Disabled(t *testing.T) {
	host, _ := hintHost(t)
	v6 := contractFamilies[1].group
	cure := func(hint string) {
		t.Helper()
		name, value, _ := strings.Cut(strings.Fields(strings.Split(hint, "`")[1])[2], "=")
		host.Sysctl(strings.ReplaceAll(name, ".", "/"), value)
		run(t, host, "", "ip", "address", "add", "fe80::5/64", "dev", "v0", "nodad")
	}
	host.Do(func() {
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{v6}, Interfaces: mustFind(t, "v0"), Static: true})
		send := func() error {
			_, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(v6, 9))
			return err
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		host.Sysctl("net/ipv6/conf/v0/disable_ipv6", "1")
		err := send()
		cure(hinted(t, err, err, "net.ipv6.conf.v0.disable_ipv6=0"))
		if err := send(); err != nil {
			t.Errorf("cured: %v", err)
		}

		host.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
		_, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{v6}, Port: newPort()})
		hint := hinted(t, err, mcast.ErrNoInterface, "net.ipv6.conf.all.disable_ipv6=0")
		_, err = mcast.DefaultInterface("ip6")
		hinted(t, err, mcast.ErrNoInterface, "net.ipv6.conf.all.disable_ipv6=0")
		cure(hint)
		openRx(t, mcast.RxConfig{Groups: []netip.Addr{v6}, Port: newPort()})
		_, err = mcast.DefaultInterface("ip6")
		hinted(t, err, mcast.ErrNoInterface, "name the interface")
	})
}
