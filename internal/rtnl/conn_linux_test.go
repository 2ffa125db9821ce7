// Tests of requests and notices with a real kernel, on hosts made for the test.

package rtnl_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/go-multicast/mcast/internal/rtnl"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

// on opens something in the network namespace of a host.
func on[T any](t *testing.T, h *mcasttest.Host, open func() (T, error)) (v T) {
	t.Helper()
	var err error
	h.Do(func() { v, err = open() })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func dial(t *testing.T, h *mcasttest.Host) *rtnl.Conn {
	t.Helper()
	c := on(t, h, func() (*rtnl.Conn, error) { return rtnl.Dial(unix.NETLINK_ROUTE) })
	t.Cleanup(func() { c.Close() })
	return c
}

func index(c *rtnl.Conn, name string) (index int, err error) {
	body := append(make([]byte, unix.SizeofIfInfomsg), rtnl.Attr(unix.IFLA_IFNAME, []byte(name), []byte{0})...)
	err = c.Request(unix.RTM_GETLINK, 0, body, func(m rtnl.Message) bool {
		l, _ := rtnl.ParseLink(m.Body)
		index = l.Index
		return true
	})
	return index, err
}

// TestConnAfterError checks that an error leaves the connection usable, and that answers that nobody read do no harm.
func TestConnAfterError(t *testing.T) {
	c := dial(t, mcasttest.NewHost(t))
	_, err := index(c, "nosuch0")
	if e := (*rtnl.Error)(nil); !errors.As(err, &e) || !errors.Is(err, unix.ENODEV) {
		t.Errorf("index of no interface: %v", err)
	}
	stop := func(rtnl.Message) bool { return false }
	if err := c.Request(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), stop); err != nil {
		t.Fatal(err)
	}
	if i, err := index(c, "lo"); err != nil || i != 1 {
		t.Errorf("index of lo: %d, %v", i, err)
	}
}

// TestConnNamespace checks that a connection keeps asking about the network namespace it was opened in, and that links and
// addresses belong together.
func TestConnNamespace(t *testing.T) {
	h := mcasttest.NewHost(t)
	h.NewVeth("only", netip.MustParsePrefix("192.0.2.1/24"))
	c := dial(t, h)
	for range 3 { // more than one request of the same socket
		links, err := c.Links()
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == "only" })
		if at < 0 || links[at].Kind != "veth" || !links[at].PeerAway || len(links[at].Addr) != 6 {
			t.Fatalf("the links are %+v", links)
		}
		want := rtnl.Addr{Index: links[at].Index, Prefix: netip.MustParsePrefix("192.0.2.1/24")}
		if addrs, err := c.Addrs(); err != nil || !slices.Contains(addrs, want) {
			t.Errorf("the addresses are %v, %v", addrs, err)
		}
	}
}

// TestRequestReportsChange changes the list between two datagrams of a dump: the kernel says so, and that must be reported.
func TestRequestReportsChange(t *testing.T) {
	h := mcasttest.NewHost(t)
	var last *mcasttest.Interface
	for n := range 150 {
		last = h.NewVeth(fmt.Sprintf("a%d", n))
	}
	c := dial(t, h)
	for _, change := range []bool{false, true} {
		messages := 0
		err := c.Request(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), func(rtnl.Message) bool {
			if messages == 0 && change {
				last.Delete()
			}
			messages++
			return true
		})
		if errors.Is(err, rtnl.ErrChanged) != change || !change && err != nil {
			t.Errorf("changed %v: %v", change, err)
		}
		if messages < 150 {
			t.Errorf("the dump has only %d interfaces", messages)
		}
	}
	// Dump repeats it.
	deleted := false
	last.Create()
	dump, err := c.Dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func([]byte) (keep, end bool) {
		if !deleted {
			deleted = true
			last.Delete()
		}
		return true, false
	})
	if err != nil {
		t.Fatal(err)
	}
	for m := range rtnl.Messages(dump) {
		if l, ok := rtnl.ParseLink(m.Body); ok && l.Name == "a149" {
			t.Error("the dump has an interface that was deleted meanwhile")
		}
	}
}

// TestDumpEndsEarly keeps some messages, and ends at the last one.
func TestDumpEndsEarly(t *testing.T) {
	h := mcasttest.NewHost(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		h.NewVeth(name)
	}
	var names []string
	dump, err := dial(t, h).Dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(body []byte) (keep, last bool) {
		l, _ := rtnl.ParseLink(body)
		return l.Name == "a" || l.Name == "b" || l.Name == "d", l.Name == "c"
	})
	for m := range rtnl.Messages(dump) {
		l, _ := rtnl.ParseLink(m.Body)
		names = append(names, l.Name)
	}
	if got := strings.Join(names, " "); got != "a b" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func listen(t *testing.T, h *mcasttest.Host) *rtnl.Listener {
	t.Helper()
	all := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}}
	l := on(t, h, func() (*rtnl.Listener, error) {
		return rtnl.Listen(unix.RTMGRP_LINK, unix.RTMGRP_IPV4_IFADDR, all)
	})
	t.Cleanup(func() { l.Close() })
	return l
}

// TestListenerReportsLoss makes the kernel lose notices, by not reading them.
func TestListenerReportsLoss(t *testing.T) {
	h := mcasttest.NewHost(t)
	eth, other := h.NewVeth("eth"), h.NewVeth("other")
	l := listen(t, h)
	if err := l.SyscallConn().Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	receive := func() (notices []byte, lost bool) {
		t.Helper()
		notices, lost, err := l.Receive()
		if err != nil {
			t.Fatal(err)
		}
		return notices, lost
	}
	for n := range 100 {
		eth.AddAddress(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 6, byte(n), 1}), 24))
	}
	if _, lost := receive(); !lost {
		t.Error("the first notice does not report a loss")
	}
	// The kernel drops these silently, although there is room again. Only a loss that is reported later shows it.
	eth.Down()
	eth.Up()
	for {
		notices, lost := receive()
		if !lost {
			t.Fatal("there may be more missing, and no loss is reported")
		}
		if notices == nil {
			break // the buffer is empty
		}
	}
	// From now on it receives again.
	other.Delete()
	for {
		notices, lost := receive()
		if lost {
			t.Fatal("a loss is reported twice")
		}
		for m := range rtnl.Messages(notices) {
			if m.Type == unix.RTM_DELLINK {
				return
			}
		}
	}
}

// TestListenerClose ends a Receive.
func TestListenerClose(t *testing.T) {
	h := mcasttest.NewHost(t)
	for range 50 {
		l := listen(t, h)
		ended := make(chan error)
		go func() {
			_, _, err := l.Receive()
			ended <- err
		}()
		l.Close()
		if <-ended == nil {
			t.Error("it returned without an error")
		}
	}
}
