// How soon a membership is back after the interface is, with the kernel's duplicate-address detection, which mcasttest
// otherwise does without.

package mcast

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// TestFollowDAD creates an interface again and again whose only IPv6 address the kernel checks first, for a second or two
// (RFC 4862, section 5.4), under a receiver with named interfaces and one on all, and tells how long after the address is
// usable they were joined; negative: before that. MCAST_DAD_ROUNDS is how often.
func TestFollowDAD(t *testing.T) {
	rounds := 2
	if text := os.Getenv("MCAST_DAD_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	host := mcasttest.NewHost(t)
	create := []string{"link add there type veth peer name other", "link set other up", "link set there up"}
	ifaceIP(t, host, create...)
	scan := func() (there Interface, tentative bool) {
		host.Do(func() {
			all, err := Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.IndexFunc(all, func(i Interface) bool { return i.Name == "there" }); i >= 0 {
				there = all[i]
			}
			tentative = isTentative(t, "there")
		})
		return there, tentative || len(there.IPv6) == 0
	}
	await := func(what string, condition func() bool) {
		t.Helper()
		for end := time.Now().Add(slow.Limit(30 * time.Second)); !condition(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("in vain: %s", what)
			}
		}
	}
	usable := func() bool { _, tentative := scan(); return !tentative }
	await("the address is usable", usable)
	all := groups("ff02::1234", "ff15::1234")
	var sockets []*RxSocket
	var tx *TxSocket
	host.Do(func() {
		there, err := FindInterfaces("there")
		if err != nil {
			t.Fatal(err)
		}
		for _, ifaces := range [][]Interface{there, nil} {
			rx, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: ifaces, Loopback: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { rx.Close() })
			sockets = append(sockets, rx)
		}
		if tx, err = OpenTx(TxConfig{Groups: all, Interfaces: there, Loopback: true}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tx.Close() })
	})
	var delays, afterUp []time.Duration
	for range rounds {
		ifaceIP(t, host, append([]string{"link del there"}, create...)...)
		now, _ := scan()
		joined := func() bool {
			for _, rx := range sockets {
				n := 0
				for _, m := range rx.Memberships() {
					if m.IfIndex == now.Index && m.Joined {
						n++
					}
				}
				if n != len(all) {
					return false
				}
			}
			return tx.Interfaces()[0].Index == now.Index
		}
		var usableAt, joinedAt time.Time
		start := time.Now()
		await("the address is usable and everything is joined", func() bool {
			if joinedAt.IsZero() && joined() {
				joinedAt = time.Now()
			}
			if usableAt.IsZero() && usable() {
				usableAt = time.Now()
			}
			return !joinedAt.IsZero() && !usableAt.IsZero()
		})
		delays, afterUp = append(delays, joinedAt.Sub(usableAt)), append(afterUp, joinedAt.Sub(start))
		for _, g := range all {
			if _, err := tx.WriteToUDPAddrPort([]byte(g.String()), netip.AddrPortFrom(g, 5000)); err != nil {
				t.Fatal(err)
			}
		}
		for _, rx := range sockets {
			rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
			for range all {
				if _, _, err := rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for what, all := range map[string][]time.Duration{"the address was usable": delays, "the interface was up": afterUp} {
		slices.Sort(all)
		t.Logf("joined after %s: first %v, median %v, last %v, of %d", what, all[0], all[len(all)/2], all[len(all)-1], len(all))
	}
}

// isTentative reports whether the kernel still checks an IPv6 address of the interface, in the network of the calling
// thread: the flag IFA_F_TENTATIVE in /proc/net/if_inet6.
func isTentative(t *testing.T, name string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		// address, index, prefix length, scope, flags, name
		if f := strings.Fields(line); len(f) == 6 && f[5] == name {
			flags, err := strconv.ParseUint(f[4], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			if flags&0x40 != 0 {
				return true
			}
		}
	}
	return false
}
