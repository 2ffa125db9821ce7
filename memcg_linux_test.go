// A memory cgroup that is at its limit (cgroups(7), memory.max), as in a container.

package mcast_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/unix"
)

// memoryCgroup makes a cgroup that limits memory, and returns its directory and that of the cgroup that this process is in.
func memoryCgroup(t *testing.T) (dir, home string) {
	t.Helper()
	const missing = "a memory cgroup (v2) that may be made"
	root := t.TempDir()
	if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
		notHere(t, fmt.Sprintf("%s: mount: %v", missing, err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil || !bytes.Contains(controllers, []byte("memory")) {
		notHere(t, fmt.Sprintf("%s: the controllers are %q, %v", missing, controllers, err))
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		notHere(t, fmt.Sprintf("%s: %v", missing, err))
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok { // of version 2 (cgroups(7))
			home = filepath.Join(root, strings.TrimSpace(path))
		}
	}
	dir = filepath.Join(root, "mcast-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the kernel may still be about to give back what sockets had
		eventually(t, "the cgroup is removed", func() bool { return os.Remove(dir) == nil })
	})
	return dir, home
}

// TestMemoryCgroupFull fills the receive buffers of sockets whose memory cgroup is at its limit. Some kernels drop there
// what arrives, others let sockets exceed the limit (gfp_memcg_charge in include/net/sock.h). What is not delivered counts
// as dropped in either case, and afterwards the sockets work as before.
//
// A socket's memory is charged to the cgroup that opened it. So this process is in there for as long as it opens the
// receiver, and need not fear to be killed for its own memory.
func TestMemoryCgroupFull(t *testing.T) {
	noLeaks(t)
	dir, home := memoryCgroup(t)
	set := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	number := func(file, key string) (n int) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, key); ok {
				if n, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return n
	}
	const each = 80 // all of which a receive buffer has room for
	port := newPort()
	var groups []netip.Addr
	for n := range 20 {
		for _, r := range contractFamilies {
			groups = append(groups, groupLike(r.group, n))
		}
	}
	w := newWires(t, 1)[0]
	s := map[bool]*station{true: w.station(t, contractFamilies[0].group, 0), false: w.station(t, contractFamilies[1].group, 0)}
	set("cgroup.procs", "0")
	rx, err := mcast.OpenRx(onWire(w, port, groups...))
	if err := os.WriteFile(filepath.Join(home, "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rx.Close() })
	arrived := make(map[netip.Addr]func() uint64)
	for _, g := range groups {
		arrived[g] = w.CountUDP(g)
	}

	sent := 0
	flood := func(payload string, n int) {
		for range n {
			for _, g := range groups {
				s[g.Is4()].send(g, port, payload)
				sent++
			}
		}
		eventually(t, "it has arrived", func() bool {
			var all uint64
			for _, count := range arrived {
				all += count()
			}
			return all == uint64(sent)
		})
	}
	limit := number("memory.current", "") + 64<<10
	set("memory.max", strconv.Itoa(limit))
	flood(strings.Repeat("x", 1000), each)
	t.Logf("limit %d, now %d, over it %d times", limit, number("memory.current", ""), number("memory.events", "max "))
	if number("memory.events", "max ") == 0 {
		t.Errorf("the limit of %d was never met", limit)
	}
	set("memory.max", "max")
	delivered := 0
	ms := make([]mcast.Message, 64)
	for i := range ms {
		ms[i].Buf = make([]byte, 2000)
	}
	readAll := func() {
		rx.SetReadDeadline(time.Now().Add(patience))
		eventually(t, "each is delivered or counted", func() bool {
			dropped := 0
			for _, m := range rx.Memberships() {
				dropped += int(m.Dropped)
			}
			if delivered+dropped == sent {
				t.Logf("%d sent, %d delivered, %d dropped", sent, delivered, dropped)
				return true
			}
			n, err := rx.ReadBatch(ms)
			if err != nil {
				t.Fatalf("%v: %d sent, %d delivered, %d dropped", err, sent, delivered, dropped)
			}
			delivered += n
			return false
		})
	}
	readAll()
	before := delivered
	flood("after", 1)
	readAll()
	if delivered-before != len(groups) {
		t.Errorf("with room again %d of %d were delivered", delivered-before, len(groups))
	}
}
