package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"golang.org/x/sys/windows"
)

// openWindows opens a receiver on the first interface of the tests.
func openWindows(t *testing.T, cfg RxConfig) *RxSocket {
	t.Helper()
	cfg.Port, cfg.Interfaces, cfg.Static = faultPort, faultInterfaces(t)[:1], true
	if cfg.Groups = groupsOn(cfg.Interfaces, texts(cfg.Groups)...); len(cfg.Groups) == 0 {
		t.Skip("the interface lacks the family")
	}
	s, err := OpenRx(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func texts(addrs []netip.Addr) (all []string) {
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

// TestWindowsAddressLost has an interface lose the address that its OS socket is bound to, and get it back.
func TestWindowsAddressLost(t *testing.T) {
	s := openWindows(t, RxConfig{Groups: groups("239.79.5.1", "239.79.5.2"), Loopback: true})
	ifc := s.cfg.Interfaces[0]
	tx, err := OpenTx(TxConfig{Groups: s.cfg.Groups, Interfaces: s.cfg.Interfaces, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	without := ifc
	without.IPv4 = nil
	for range 2 {
		for range 2 {
			if s.follow(networkChange{Interfaces: []Interface{without}}) == 0 {
				t.Error("not to be tried again")
			}
			for _, m := range s.Memberships() {
				var e *OpError
				if m.Joined || !errors.Is(m.Err, windows.WSAEADDRNOTAVAIL) || !errors.As(m.Err, &e) || e.Hint == "" {
					t.Errorf("without an address: %+v", m)
				}
			}
		}
		awaitInboxes(t, s, 0)
		if s.follow(networkChange{Interfaces: []Interface{ifc}}) != 0 {
			t.Errorf("to be tried again: %+v", s.Memberships())
		}
		wantEachOnce(t, tx, s)
	}
}

func inboxesOf(s *RxSocket) (n int) {
	s.m.update(func() { n = len(s.m.inboxes) })
	return n
}

// TestWindowsRetireLeaves checks that an OS socket which is to receive nothing more has left its groups.
func TestWindowsRetireLeaves(t *testing.T) {
	for _, group := range []string{"239.79.5.1", "ff02::79:5"} {
		t.Run(group, func(t *testing.T) {
			s := openWindows(t, RxConfig{Groups: groups(group), Loopback: true})
			s.mu.Lock()
			defer s.mu.Unlock()
			p := s.groups[0].pairs[0]
			c := p.conns[0]
			s.retire(p)
			if err := p.joinOn(c); err != nil { // as it is refused to a member
				t.Errorf("it had not left: joining again gives %v", err)
			}
			c.leave()
		})
	}
}

// TestWindowsSockets checks that the groups of an interface and family share an OS socket, and that more sources of a
// group have one of their own.
func TestWindowsSockets(t *testing.T) {
	s := openWindows(t, RxConfig{Groups: groups("239.79.5.1", "239.79.5.2", "ff02::79:5", "ff05::79:5")})
	families := 1
	if len(s.cfg.Groups) > 2 {
		families = 2
	}
	want := func(n int) {
		t.Helper()
		if got := inboxesOf(s); got != n {
			t.Errorf("%d OS sockets, want %d", got, n)
		}
	}
	want(families)
	one, two := groups("232.79.5.1")[0], groups("10.99.9.1", "10.99.9.2")
	if err := s.Join(one, two[0]); err != nil {
		t.Fatal(err)
	}
	want(families)
	if err := s.Join(one, two[1]); err != nil {
		t.Fatal(err)
	}
	want(families + 1)
	if err := s.Leave(one); err != nil {
		t.Fatal(err)
	}
	want(families)
	for _, g := range s.cfg.Groups {
		if err := s.Leave(g); err != nil {
			t.Fatal(err)
		}
	}
	want(0)
}

// TestWindowsSocketsOfTwo checks that no OS socket has groups of two interfaces: IP_IFLIST would keep the second's out.
func TestWindowsSocketsOfTwo(t *testing.T) {
	ifaces := faultInterfaces(t)[:1]
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, Interface.IsLoopback)
	if i < 0 || all[i].Index == ifaces[0].Index || !all[i].hasFamily(netip.IPv6Unspecified()) {
		t.Skip("there is no loopback interface beside the one of the tests, or no IPv6")
	}
	ifaces = append(ifaces, all[i])
	s, err := OpenRx(RxConfig{Groups: groupsOn(ifaces, "ff02::79:5", "ff02::79:6", "ff02::79:7", "ff02::79:8", "ff02::79:9"),
		Port: faultPort, Interfaces: ifaces, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.m.update(func() {
		for in := range s.m.inboxes {
			indexes := make(map[int]bool)
			for _, c := range in.conns {
				indexes[c.ifIndex] = true
			}
			if len(indexes) != 1 {
				t.Errorf("an OS socket has groups of the interfaces %v", indexes)
			}
		}
	})
}

// TestWindowsScreen checks that sources which the system does not refuse are refused here.
func TestWindowsScreen(t *testing.T) {
	for _, group := range []string{"239.79.5.1", "ff02::79:5"} {
		t.Run(group, func(t *testing.T) {
			control := openWindows(t, RxConfig{Groups: groups(group), Loopback: true})
			ifc := control.cfg.Interfaces[0]
			own := ofFamily(slices.Concat(addrsOf(ifc.IPv4), addrsOf(ifc.IPv6)), control.cfg.Groups[0])
			rx := openWindows(t, RxConfig{Groups: groups(group), Loopback: true, Blocked: own})
			tx, err := OpenTx(TxConfig{Groups: control.cfg.Groups, Interfaces: control.cfg.Interfaces, Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			wantEachOnce(t, tx, control)
			rx.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			buf := make([]byte, 100)
			if n, src, err := rx.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %q from %v, %v", buf[:n], src, err)
			}
		})
	}
}

func addrsOf(prefixes []netip.Prefix) (addrs []netip.Addr) {
	for _, p := range prefixes {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// TestWindowsStale covers when an OS socket is of no use anymore.
func TestWindowsStale(t *testing.T) {
	s := openWindows(t, RxConfig{Groups: groups("239.79.5.1", "ff02::79:5")})
	now := s.cfg.Interfaces[0]
	other := now
	other.IPv4 = []netip.Prefix{netip.MustParsePrefix("192.0.2.77/24")}
	more := now
	more.IPv4 = append(other.IPv4, now.IPv4...)
	again := now
	again.tentative = addrsOf(slices.Concat(now.IPv4, now.IPv6))
	lost := func(index int, prefixes []netip.Prefix) map[watchAddr]bool {
		all := make(map[watchAddr]bool)
		for _, p := range prefixes {
			all[watchAddr{index, p.Addr()}] = true
		}
		return all
	}
	for _, g := range s.groups {
		c := g.pairs[0].conns[0]
		for name, is := range map[string]struct {
			ifc   Interface
			lost  map[watchAddr]bool
			stale bool
		}{
			"as it was":                         {now, nil, false},
			"with another address":              {other, nil, g.addr.Is4()},
			"with one more":                     {more, nil, false},
			"while its address is checked anew": {again, nil, g.addr.Is4()},
			"when its address was away":         {now, lost(now.Index, slices.Concat(now.IPv4, now.IPv6)), g.addr.Is4()},
			"when another one was away":         {more, lost(now.Index, other.IPv4), false},
			"when another interface's was away": {now, lost(now.Index+1, now.IPv4), false},
		} {
			if c.stale(&is.ifc, is.lost) != is.stale {
				t.Errorf("%s: %s: stale is not %v", g.addr, name, is.stale)
			}
		}
	}
}

// TestWindowsAddressReturns has the address that the OS socket is bound to go and return within one burst of notices: the
// lists of interfaces are equal. All groups of the interface move to one new OS socket.
func TestWindowsAddressReturns(t *testing.T) {
	s := openWindows(t, RxConfig{Groups: groups("239.79.5.1", "239.79.5.2"), Loopback: true})
	ifc := s.cfg.Interfaces[0]
	tx, err := OpenTx(TxConfig{Groups: s.cfg.Groups, Interfaces: s.cfg.Interfaces, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	before := s.groups[0].pairs[0].conns[0].in
	same := networkChange{Interfaces: []Interface{ifc}}
	s.follow(same)
	if s.groups[0].pairs[0].conns[0].in != before {
		t.Fatal("the OS socket was replaced for nothing")
	}
	same.Lost = map[watchAddr]bool{{ifc.Index, before.localAddr().Addr()}: true}
	if s.follow(same) != 0 {
		t.Errorf("to be tried again: %+v", s.Memberships())
	}
	now := s.groups[0].pairs[0].conns[0].in
	if now == before || s.groups[1].pairs[0].conns[0].in != now {
		t.Error("the groups are not on one new OS socket")
	}
	awaitInboxes(t, s, 1)
	wantEachOnce(t, tx, s)
}

// awaitInboxes waits until the OS sockets of before are gone. They receive nothing more; but under Wine they may, as long
// as another has joined.
func awaitInboxes(t *testing.T, s *RxSocket, want int) {
	t.Helper()
	for end := time.Now().Add(slow.Limit(10 * time.Second)); inboxesOf(s) > want && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if n := inboxesOf(s); n != want {
		t.Errorf("there are %d OS sockets, want %d", n, want)
	}
}

// TestWindowsUpRenews has an interface go down and up: every membership is dropped and joined again.
func TestWindowsUpRenews(t *testing.T) {
	s := openWindows(t, RxConfig{Groups: groups("239.79.5.1", "ff02::79:5"), Loopback: true})
	ifc := s.cfg.Interfaces[0]
	var calls []string
	hook := func(name string) error { calls = append(calls, name); return nil }
	follow := func(change networkChange) []string {
		calls = nil
		testHookCall.Store(&hook)
		defer testHookCall.Store(nil)
		s.prepare(change)
		s.follow(change)
		return calls
	}
	if got := follow(networkChange{Interfaces: []Interface{ifc}}); got != nil {
		t.Errorf("though nothing happened: %q", got)
	}
	got := follow(networkChange{Interfaces: []Interface{ifc}, Events: watchSeen(eventDown, ifc.Index)})
	for _, g := range s.groups {
		want := []string{"setsockopt IP_DROP_MEMBERSHIP", "setsockopt IP_ADD_MEMBERSHIP"}
		if g.addr.Is6() { // which leaves by golang.org/x/net
			want = []string{"setsockopt IPV6_JOIN_GROUP"}
		}
		for _, call := range want {
			if !slices.Contains(got, call) {
				t.Errorf("%s: no %s in %q", g.addr, call, got)
			}
		}
		if p := g.pairs[0]; p.err != nil {
			t.Error(p.err)
		}
	}
}

// TestWindowsNextAddress has the system refuse the first address of an interface, as one that has been found to be another
// host's since the interfaces were listed. (Wine binds to any.)
func TestWindowsNextAddress(t *testing.T) {
	ifc := faultInterfaces(t)[0]
	if len(ifc.IPv4) == 0 {
		t.Skip("the interface has no IPv4 address")
	}
	real := ifc.IPv4[0].Addr()
	ifc.IPv4 = append([]netip.Prefix{netip.MustParsePrefix("192.0.2.77/24")}, ifc.IPv4...)
	open := func(refused int) (*RxSocket, error) {
		hook := func(name string) error {
			if name == "bind" {
				if refused--; refused >= 0 {
					return windows.WSAEADDRNOTAVAIL
				}
			}
			return nil
		}
		testHookCall.Store(&hook)
		defer testHookCall.Store(nil)
		return OpenRx(RxConfig{Groups: groups("239.79.5.1", "239.79.5.2"), Port: faultPort, Interfaces: []Interface{ifc}, Static: true})
	}
	rx, err := open(1)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	for _, g := range rx.groups {
		if at := g.pairs[0].conns[0].in.localAddr().Addr(); at != real {
			t.Errorf("%s: the OS socket is bound to %s", g.addr, at)
		}
	}
	if n := inboxesOf(rx); n != 1 {
		t.Errorf("there are %d OS sockets", n)
	}
	var e *OpError
	if rx, err := open(len(ifc.IPv4)); !errors.Is(err, windows.WSAEADDRNOTAVAIL) || !errors.As(err, &e) || e.Hint != hintNoAddressNow {
		t.Errorf("all addresses are refused: %v, %v", rx, err)
	}
}

// TestWindowsTentative has the address of an interface checked for duplicates: it is joined as soon as that is over.
func TestWindowsTentative(t *testing.T) {
	s := openWindows(t, RxConfig{Groups: groups("239.79.5.1"), Loopback: true})
	ifc := s.cfg.Interfaces[0]
	tx, err := OpenTx(TxConfig{Groups: s.cfg.Groups, Interfaces: s.cfg.Interfaces, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	checking := ifc
	checking.tentative = addrsOf(ifc.IPv4)
	if s.follow(networkChange{Interfaces: []Interface{checking}}) == 0 {
		t.Error("not to be tried again")
	}
	var e *OpError
	if m := s.Memberships()[0]; m.Joined || !errors.As(m.Err, &e) || e.Hint != hintAddressChecked {
		t.Errorf("while its address is checked: %+v", m)
	}
	awaitInboxes(t, s, 0)
	if s.follow(networkChange{Interfaces: []Interface{ifc}}) != 0 {
		t.Errorf("to be tried again: %+v", s.Memberships())
	}
	wantEachOnce(t, tx, s)

	// Opening waits for an address that is no more checked by now.
	rx, err := OpenRx(RxConfig{Groups: groups("239.79.5.1"), Port: faultPort, Interfaces: []Interface{checking}, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	rx.Close()
}

// TestWindowsOptions asks the system what was set.
func TestWindowsOptions(t *testing.T) {
	for _, cfg := range []RxConfig{{}, {Loopback: true, HopLimits: true, ReadBuffer: 100000}} {
		cfg.Groups = groups("239.79.5.1", "ff02::79:5")
		s := openWindows(t, cfg)
		for _, g := range s.groups {
			c := g.pairs[0].conns[0]
			want := func(name string, level, option, value int) {
				t.Helper()
				raw, err := c.in.udp.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				var got int
				err = control(raw, func(h windows.Handle) (err error) { got, err = windows.GetsockoptInt(h, level, option); return err })
				if err != nil || got != value {
					t.Errorf("%s: %s is %d, %v; want %d", g.addr, name, got, err, value)
				}
			}
			flag := func(b bool) int {
				if b {
					return 1
				}
				return 0
			}
			level := windows.IPPROTO_IPV6
			if g.addr.Is4() {
				level = windows.IPPROTO_IP
			}
			want("SO_REUSEADDR", windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
			want("IP_PKTINFO", level, ipPktinfo, 1)
			want("IP_RECVTTL", level, ipRecvTTL, flag(cfg.HopLimits))
			want("IP_MULTICAST_LOOP", level, windows.IP_MULTICAST_LOOP, flag(cfg.Loopback || s.cfg.Interfaces[0].IsLoopback()))
			if size := c.stats(); cfg.ReadBuffer > 0 && size != cfg.ReadBuffer {
				t.Errorf("%s: the buffer is %d", g.addr, size)
			}
		}
		s.Close()
	}
}

// TestWindowsSender asks the system what was set of a sender: its port is shared if it was named, and packet information
// keeps multicast out of the replies.
func TestWindowsSender(t *testing.T) {
	ifaces := faultInterfaces(t)[:1]
	for _, port := range []uint16{0, faultPort} {
		tx, err := OpenTx(TxConfig{Groups: groupsOn(ifaces, "239.79.5.1", "ff02::79:5"), Interfaces: ifaces, Port: port, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		for _, l := range *tx.links.Load() {
			level := windows.IPPROTO_IPV6
			if l.v4 {
				level = windows.IPPROTO_IP
			}
			var shared, info int
			if err := control(l.to.raw, func(h windows.Handle) (err error) {
				shared, err = windows.GetsockoptInt(h, windows.SOL_SOCKET, windows.SO_REUSEADDR)
				if err == nil {
					info, err = windows.GetsockoptInt(h, level, ipPktinfo)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if (shared != 0) != (port != 0) || info != 1 {
				t.Errorf("IPv4 %v, port %d: SO_REUSEADDR %d, IP_PKTINFO %d", l.v4, port, shared, info)
			}
		}
	}
}

// TestWindowsErrors covers what is made of the system's numbers.
func TestWindowsErrors(t *testing.T) {
	wrap := func(errno error) error { return &net.OpError{Op: "read", Err: &syscallError{errno}} }
	group := groups("239.1.1.1")[0]
	type verdict struct{ refused, transient, truncation, harmless, unheard bool }
	for errno, want := range map[syscall.Errno]verdict{
		windows.WSAEINVAL:        {refused: true},
		windows.WSAENOPROTOOPT:   {refused: true},
		windows.WSAEADDRNOTAVAIL: {transient: true},
		windows.WSAEMSGSIZE:      {truncation: true},
		windows.WSAECONNRESET:    {harmless: true},
		windows.WSAENETRESET:     {harmless: true},
		windows.WSAENETUNREACH:   {unheard: true, harmless: true},
		windows.WSAEHOSTUNREACH:  {harmless: true},
		windows.WSAENOBUFS:       {},
	} {
		err := wrap(errno)
		got := verdict{refused(err), isTransient(err), isTruncation(err), isHarmless(err), isNoReceiver(err, true, group)}
		if got != want {
			t.Errorf("%v: %+v, want %+v", errno, got, want)
		}
		for dst, local := range map[string]bool{"ff01::1": true, "ff11::1": true, "ff31::1": true, "ff02::1": false, "ff12::1": false,
			"ff05::1": false, "ff0e::1": false, "239.1.1.1": false, "224.0.0.1": false, "127.0.0.1": false, "::1": false} {
			if isNoReceiver(err, false, netip.MustParseAddr(dst)) != (local && want.unheard) {
				t.Errorf("%v, to %s by a network interface: unheard is not %v", errno, dst, local)
			}
		}
	}
	if refused(nil) || isTransient(nil) || isTruncation(nil) || isHarmless(nil) || isNoReceiver(nil, true, group) {
		t.Error("no error is one")
	}
	for _, errno := range []error{windows.WSAEACCES, windows.WSAEADDRNOTAVAIL, windows.WSAEMFILE,
		windows.WSAENOBUFS, windows.WSAENETDOWN, windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH} {
		if openHint(wrap(errno)) == "" {
			t.Errorf("%v: no hint for who opens", errno)
		}
	}
	// A refused bind has two causes, and each its command.
	if hint := openHint(wrap(windows.WSAEACCES)); !strings.Contains(hint, "netstat") || !strings.Contains(hint, "excludedportrange") {
		t.Errorf("a refused bind: %q", hint)
	}
	if hint := openHint(wrap(windows.WSAEADDRINUSE)); hint != "" { // which is not what a bind with SO_REUSEADDR gives
		t.Errorf("WSAEADDRINUSE: %q", hint)
	}
	for dst, want := range map[string]string{"239.1.1.1": hintRefused, "192.0.2.255": hintRefusedOrBroadcast} {
		if hint := sendHint(wrap(windows.WSAEACCES), nil, netip.MustParseAddr(dst)); hint != want {
			t.Errorf("WSAEACCES, to %s: %q", dst, hint)
		}
	}
	for _, errno := range []error{windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH, windows.WSAENETDOWN, windows.WSAENOBUFS,
		windows.WSAEADDRNOTAVAIL, windows.WSAEACCES, windows.WSAEMSGSIZE} {
		if sendHint(wrap(errno), nil, group) == "" {
			t.Errorf("%v: no hint for who sends", errno)
		}
	}
	if openHint(wrap(windows.WSAEINVAL))+sendHint(wrap(windows.WSAEINVAL), nil, group) != "" {
		t.Error("a hint for what nobody knows")
	}
}

type syscallError struct{ errno error }

func (e *syscallError) Error() string { return e.errno.Error() }
func (e *syscallError) Unwrap() error { return e.errno }

// TestWindowsByInterface covers what stands for an interface: its index, or its address where that is refused.
func TestWindowsByInterface(t *testing.T) {
	address := netip.MustParsePrefix("192.0.2.1/24")
	with, without := Interface{Index: 12, IPv4: []netip.Prefix{address}}, Interface{Index: 12}
	second, unchecked := netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("192.0.2.3/24")
	more := Interface{Index: 12, IPv4: []netip.Prefix{address, unchecked, second}, tentative: []netip.Addr{unchecked.Addr()}}
	index := netip.AddrFrom4([4]byte{0, 0, 0, 12})
	for _, c := range []struct {
		ifc     Interface
		refuses map[netip.Addr]error
		want    netip.Addr
		err     error
	}{
		{with, nil, index, nil},
		{with, map[netip.Addr]error{index: windows.WSAEINVAL}, address.Addr(), nil},
		{more, map[netip.Addr]error{index: windows.WSAEINVAL, address.Addr(): windows.WSAEINVAL}, second.Addr(), nil},
		{with, map[netip.Addr]error{index: windows.WSAEADDRNOTAVAIL}, index, windows.WSAEADDRNOTAVAIL},
		{with, map[netip.Addr]error{index: windows.WSAEINVAL, address.Addr(): windows.WSAEINVAL}, address.Addr(), windows.WSAEINVAL},
		{without, map[netip.Addr]error{index: windows.WSAEINVAL}, index, windows.WSAEINVAL},
	} {
		got, err := byInterface(&c.ifc, func(a netip.Addr) error { return c.refuses[a] })
		if got != c.want || err != c.err {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

// TestWindowsProbe checks what is said of addresses that are, or were, being checked, and that asking leaves no handle.
func TestWindowsProbe(t *testing.T) {
	ifc := faultInterfaces(t)[0]
	was := ifc // and is not any more
	was.tentative = addrsOf(slices.Concat(ifc.IPv4, ifc.IPv6))
	nowhere := was
	nowhere.Index = 0x7ffff0
	probe := func() {
		for _, group := range groupsOn([]Interface{ifc}, "239.79.5.1", "ff02::79:5") {
			for name, i := range map[string]*Interface{"as it is": &ifc, "as it was": &was, "gone": &nowhere, "without addresses": {Index: ifc.Index}} {
				source, err := probeSource(i, group)
				if there := i == &ifc || i == &was; there != (err == nil) || there != slices.Contains(was.tentative, source) || isTransient(err) {
					t.Errorf("%s, the interface %s: %v, %v", group, name, source, err)
				}
			}
		}
	}
	probe()
	withoutGC(t)
	before := count(t)
	for range 5 * descriptorSlack {
		probe()
	}
	wantResources(t, before)
}
