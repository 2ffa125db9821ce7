package mcast

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Two interfaces that exist nowhere: mistakes must be found before anything asks the system for them.
var (
	paper4 = Interface{Name: "paper4", Index: 4444, Flags: net.FlagUp | net.FlagMulticast,
		IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	paper = Interface{Name: "paper", Index: 5555, Flags: net.FlagUp | net.FlagMulticast,
		IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, IPv6: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}}
)

// refuse makes every call of opening fail the test: mistakes are found before.
func refuseCalls(t *testing.T) {
	hook := func(name string) error {
		t.Errorf("system call made: %s", name)
		return errors.New("refused by the test")
	}
	testHookCall.Store(&hook)
	t.Cleanup(func() { testHookCall.Store(nil) })
}

type mistakeCase struct {
	name string
	open func() error
	is   error    // found by errors.Is, if not nil
	text []string // parts of the text: the value, and what would be right
}

func checkMistakes(t *testing.T, cases []mistakeCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			refuseCalls(t)
			err := c.open()
			var op *OpError
			if !errors.As(err, &op) {
				t.Fatalf("error %v, want an OpError", err)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %q is not %q", err, c.is)
			}
			for _, part := range c.text {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not mention %q", err, part)
				}
			}
			t.Log(err)
		})
	}
}

func TestReceiverMistakes(t *testing.T) {
	far := int64(math.MaxInt32) + 1 // negative where an int has 32 bits
	good := RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Interfaces: []Interface{paper}}
	with := func(change func(*RxConfig)) func() error {
		return func() error {
			cfg := good
			change(&cfg)
			s, err := OpenRx(cfg)
			if err == nil {
				s.Close()
			}
			return err
		}
	}
	checkMistakes(t, []mistakeCase{
		{"no group", with(func(c *RxConfig) { c.Groups = nil }), nil, []string{"Groups", "multicast address"}},
		{"unicast group", with(func(c *RxConfig) { c.Groups = groups("239.1.1.1", "192.0.2.7") }), ErrNotMulticast, []string{"192.0.2.7", "224.0.0.0/4"}},
		{"unicast IPv6 group", with(func(c *RxConfig) { c.Groups = groups("2001:db8::7") }), ErrNotMulticast, []string{"2001:db8::7", "ff00::/8"}},
		{"zero group", with(func(c *RxConfig) { c.Groups = make([]netip.Addr, 1) }), ErrNotMulticast, []string{"zero"}},
		{"group with zone", with(func(c *RxConfig) { c.Groups = groups("ff02::1%eth0") }), nil, []string{"ff02::1%eth0", "Interfaces"}},
		{"broadcast", with(func(c *RxConfig) { c.Groups = groups("255.255.255.255") }), ErrNotMulticast, []string{"255.255.255.255"}},
		{"port 0", with(func(c *RxConfig) { c.Port = 0 }), nil, []string{"Port 0"}},
		{"empty interfaces", with(func(c *RxConfig) { c.Interfaces = []Interface{} }), ErrNoInterface, []string{"Interfaces", "nil"}},
		{"zero interface", with(func(c *RxConfig) { c.Interfaces = make([]Interface, 1) }), ErrNoInterface, []string{"index 0", "FindInterfaces"}},
		{"interface without the family", with(func(c *RxConfig) { c.Groups, c.Interfaces = groups("239.1.1.1", "ff02::1"), []Interface{paper, paper4} }), ErrNoInterface, []string{"paper4", "IPv6"}},
		{"an index that is none", with(func(c *RxConfig) { c.Interfaces = []Interface{{Name: "far", Index: int(far)}} }), ErrNoInterface, []string{"far", "FindInterfaces"}},
		{"an address of the other family", with(func(c *RxConfig) { c.Interfaces = []Interface{{Name: "odd", Index: 7, IPv4: paper.IPv6}} }), nil, []string{"odd", "listed as an IPv4 address"}},
		{"a zero address", with(func(c *RxConfig) { c.Interfaces = []Interface{{Name: "odd", Index: 7, IPv4: make([]netip.Prefix, 1)}} }), nil, []string{"odd", "not an address"}},
		{"an IPv4 address in IPv6's form", with(func(c *RxConfig) {
			c.Interfaces = []Interface{{Name: "odd", Index: 7, IPv6: []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.1/120")}}}
		}), nil, []string{"odd", "::ffff:192.0.2.1", "not an address"}},
		{"sources with blocked", with(func(c *RxConfig) { c.Sources, c.Blocked = groups("192.0.2.1"), groups("192.0.2.2") }), nil, []string{"192.0.2.1", "192.0.2.2"}},
		{"multicast source", with(func(c *RxConfig) { c.Sources = groups("239.9.9.9") }), nil, []string{"Sources", "239.9.9.9", "multicast"}},
		{"multicast blocked", with(func(c *RxConfig) { c.Blocked = groups("ff02::9") }), nil, []string{"Blocked", "ff02::9", "multicast"}},
		{"unspecified source", with(func(c *RxConfig) { c.Sources = groups("0.0.0.0") }), nil, []string{"0.0.0.0", "unspecified"}},
		{"zero source", with(func(c *RxConfig) { c.Sources = make([]netip.Addr, 1) }), nil, []string{"Sources", "zero"}},
		{"source with zone", with(func(c *RxConfig) { c.Groups, c.Sources = groups("ff02::1"), groups("fe80::1%eth0") }), nil, []string{"fe80::1%eth0", "zone"}},
		{"source of no family", with(func(c *RxConfig) { c.Sources = groups("2001:db8::7") }), nil, []string{"2001:db8::7", "family"}},
		{"negative buffer", with(func(c *RxConfig) { c.ReadBuffer = -1 }), nil, []string{"ReadBuffer -1", "bytes"}},
		{"huge buffer", with(func(c *RxConfig) { c.ReadBuffer = math.MaxInt32; c.ReadBuffer++ }), nil, []string{"ReadBuffer", "2 GiB"}},
	})
}

func TestSenderMistakes(t *testing.T) {
	good := TxConfig{Groups: groups("239.1.1.1"), Interfaces: []Interface{paper}}
	with := func(change func(*TxConfig)) func() error {
		return func() error {
			cfg := good
			change(&cfg)
			s, err := OpenTx(cfg)
			if err == nil {
				s.Close()
			}
			return err
		}
	}
	checkMistakes(t, []mistakeCase{
		{"no group", with(func(c *TxConfig) { c.Groups = nil }), nil, []string{"Groups"}},
		{"unicast group", with(func(c *TxConfig) { c.Groups = groups("192.0.2.7") }), ErrNotMulticast, []string{"192.0.2.7"}},
		{"empty interfaces", with(func(c *TxConfig) { c.Interfaces = []Interface{} }), ErrNoInterface, []string{"Interfaces"}},
		{"interface without the family", with(func(c *TxConfig) { c.Groups, c.Interfaces = groups("ff05::1"), []Interface{paper4} }), ErrNoInterface, []string{"paper4", "IPv6"}},
		{"TTL 256", with(func(c *TxConfig) { c.TTL = 256 }), nil, []string{"TTL 256", "1 to 255", "TTLHost"}},
		{"TTL -2", with(func(c *TxConfig) { c.TTL = -2 }), nil, []string{"TTL -2"}},
		{"traffic class 256", with(func(c *TxConfig) { c.TrafficClass = 256 }), nil, []string{"TrafficClass 256", "255"}},
		{"traffic class -1", with(func(c *TxConfig) { c.TrafficClass = -1 }), nil, []string{"TrafficClass -1"}},
		{"negative buffer", with(func(c *TxConfig) { c.WriteBuffer = -1 }), nil, []string{"WriteBuffer -1"}},
	})
}

// An interface that is down says so, and not that there is none.
func TestInterfaceDownIsNotMissing(t *testing.T) {
	down := paper4
	down.Flags &^= net.FlagUp
	_, rx := OpenRx(RxConfig{Groups: groups("ff02::1"), Port: 5000, Interfaces: []Interface{down}})
	_, tx := OpenTx(TxConfig{Groups: groups("ff02::1"), Interfaces: []Interface{down}})
	for _, err := range []error{rx, tx} {
		var op *OpError
		if !errors.As(err, &op) || op.Interface != "paper4" || errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), "the interface is down") {
			t.Errorf("%v", err)
		}
	}
}

func addrTexts(addrs []netip.Addr) (texts []string) {
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return texts
}

// TestTentativeAddressesAreUsedLater covers what an interface says of addresses that are being checked.
func TestTentativeAddressesAreUsedLater(t *testing.T) {
	v4, v6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	ifc := Interface{Index: 12, Flags: net.FlagUp,
		IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24")},
		IPv6: []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}}
	checked := ifc
	ifc.tentative = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fe80::1")}
	if got := addrTexts(ifc.usable(v4)); !slices.Equal(got, []string{"192.0.2.1"}) || ifc.checking(v4) {
		t.Errorf("IPv4: %v, checking %v", got, ifc.checking(v4))
	}
	if got := ifc.usable(v6); got != nil || !ifc.checking(v6) {
		t.Errorf("IPv6: %v, checking %v", got, ifc.checking(v6))
	}
	if ifc.equal(checked) || checked.checking(v6) {
		t.Error("the end of the check is no change")
	}
	if found, err := SelectInterfaces([]Interface{ifc}, "192.0.2.2"); err != nil || len(found) != 1 {
		t.Errorf("a user cannot name an address that is being checked: %v", err)
	}
	down := ifc
	down.Flags = 0
	if down.checking(v6) || (&Interface{Flags: net.FlagUp}).checking(v4) {
		t.Error("an interface that is down, or without addresses, is waited for")
	}
}

// TestOpenRxAwaitsAddresses plays the end of the check, in a time that stands still while something runs.
func TestOpenRxAwaitsAddresses(t *testing.T) {
	const never = time.Hour
	v4, v6 := groups("239.1.1.1"), groups("ff02::1:2")
	checking := func(index int) Interface {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(index)}), 8)
		return Interface{Index: index, Flags: net.FlagUp, IPv4: []netip.Prefix{a}, tentative: []netip.Addr{a.Addr()}}
	}
	checked := func(i Interface) Interface { i.tentative = nil; return i }
	down := checking(5)
	down.Flags = 0
	for _, test := range []struct {
		name   string
		ifaces []Interface
		groups []netip.Addr
		all    bool
		after  time.Duration // the addresses of interface 1 have been checked
		waits  time.Duration
		usable bool
	}{
		{"it has been checked", []Interface{checked(checking(1))}, v4, false, 0, 0, true},
		{"it is being checked", []Interface{checking(1)}, v4, false, 2 * time.Second, 2 * time.Second, true},
		{"all are being checked", []Interface{checking(1), checking(2)}, v4, true, 2 * time.Second, 2 * time.Second, true},
		{"one of several that were named", []Interface{checking(1), checked(checking(3))}, v4, false, time.Second, time.Second, true},
		{"one of all", []Interface{checking(1), checked(checking(3))}, v4, true, time.Second, 0, false},
		{"the check does not end", []Interface{checking(1)}, v4, false, never, addressPatience, false},
		{"IPv6 is bound to no address", []Interface{checking(1)}, v6, false, never, 0, false},
		{"it is down", []Interface{down}, v4, false, never, 0, true},
		{"it is gone", []Interface{checking(7)}, v4, false, 0, addressPatience, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			got := awaitUsable(test.ifaces, test.groups, test.all, func() ([]Interface, error) {
				list := []Interface{checking(1), checking(2), checked(checking(3))}
				if time.Since(start) >= test.after {
					list[0] = checked(list[0])
				}
				return list, nil
			})
			if waited := time.Since(start).Round(100 * time.Millisecond); waited != test.waits {
				t.Errorf("%s: waited %v, want %v", test.name, waited, test.waits)
			}
			if len(got) != len(test.ifaces) || got[0].checking(v4[0]) == test.usable {
				t.Errorf("%s: %+v", test.name, got)
			}
			if test.ifaces[0].Index == 1 && test.after > 0 && len(test.ifaces[0].tentative) == 0 {
				t.Errorf("%s: the caller's slice was changed", test.name)
			}
		})
	}
	failing := func() ([]Interface, error) { return nil, errors.New("no scan") }
	if got := awaitUsable([]Interface{checking(1)}, v4, false, failing); len(got) != 1 || got[0].Index != 1 {
		t.Errorf("when scans fail: %+v", got)
	}
}
