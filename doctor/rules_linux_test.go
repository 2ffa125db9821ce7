// The reader of nftables' messages, and the walk through its rules, by themselves. What they make of real rules is
// tested in firewall_linux_test.go.

package doctor

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/go-multicast/mcast"
)

// messages are the rules that netlink messages tell.
func messages(b []byte) *rules {
	r := newRules()
	parsed, _ := syscall.ParseNetlinkMessage(b)
	for _, m := range parsed {
		r.read(m.Header.Type&0xff, m.Data)
	}
	return r
}

// A message is a rule's, and what follows it may be anything: whatever comes from netlink ends, with a result. The
// corpus is of Linux 6.18 on a little-endian machine.
func FuzzRules(f *testing.F) {
	i := mcast.Interface{Name: "eth0", Index: 2, HardwareAddr: make(net.HardwareAddr, 6)}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return // more rules take more time, and are no other
		}
		r := messages(b)
		for _, p := range []packet{
			datagramTo(netip.MustParseAddr("239.1.2.3"), netip.Addr{}, 12345, i),
			datagramTo(netip.MustParseAddr("ff15::1234"), netip.MustParseAddr("fd00::1"), 12345, i),
			query(true, i), report(false, i),
		} {
			for _, c := range r.onWay(p) {
				all, dropped, _ := r.fate(p, c)
				if all == 0 || all&^(accepts|drops) != 0 {
					t.Fatalf("what becomes of it: %b", all)
				}
				if all == drops && r.chains[dropped.chain] == nil {
					t.Fatalf("it is dropped in chain %v, which is not there", dropped.chain)
				}
			}
		}
	})
}

// What is not known of a packet leaves open what hangs on it.
func TestCompare(t *testing.T) {
	half := octets{1, -1, 3}
	for _, test := range []struct {
		op   uint32
		have octets
		data []byte
		want certainty
	}{
		{0, known(1, 2, 3), []byte{1, 2, 3}, yes},
		{0, known(1, 2, 3), []byte{1, 2, 4}, no},
		{0, half, []byte{1, 2, 3}, maybe},
		{0, half, []byte{1, 2, 4}, no},
		{1, known(1, 2, 3), []byte{1, 2, 3}, no},
		{1, half, []byte{1, 2, 3}, maybe},
		{1, half, []byte{1, 2, 4}, yes},
		{2, known(1, 2), []byte{1, 2}, no},
		{2, known(1, 2), []byte{1, 3}, yes},
		{3, known(1, 2), []byte{1, 2}, yes},
		{4, known(1, 2), []byte{1, 2}, no},
		{5, known(1, 2), []byte{1, 2}, yes},
		{5, known(1, 2), []byte{2, 0}, no},
		{5, half, []byte{2, 0, 0}, maybe},
		{9, known(1), []byte{1}, maybe},
	} {
		if got := compare(test.op, test.have, test.data); got != test.want {
			t.Errorf("%v by %d to %v: %d, want %d", test.have, test.op, test.data, got, test.want)
		}
	}
}

// Chains that call each other for ever, and more often than there is time for, come to an end, and nothing is sure.
func TestEndless(t *testing.T) {
	attribute := func(typ uint16, data ...[]byte) []byte {
		b := bytes.Join(data, nil)
		head := binary.NativeEndian.AppendUint16(nil, uint16(4+len(b)))
		head = append(binary.NativeEndian.AppendUint16(head, typ), b...)
		return append(head, make([]byte, -len(b)&3)...)
	}
	number := func(v int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
	name := func(typ uint16, s string) []byte { return attribute(typ, []byte(s+"\x00")) }
	header := []byte{1, 0, 0, 0} // inet
	table := name(1, "t")
	r := newRules()
	hook := attribute(4, attribute(1, number(1)), attribute(2, number(0)))
	r.read(3, bytes.Join([][]byte{header, table, name(3, "a"), hook, attribute(5, number(0))}, nil))
	verdict := attribute(2, attribute(2, attribute(1, number(-3)), name(2, "a"))) // jump to itself
	jump := attribute(1, name(1, "immediate"), attribute(2, attribute(1, number(0)), verdict))
	for range 3 {
		r.read(6, bytes.Join([][]byte{header, table, name(2, "a"), attribute(4, jump)}, nil))
	}
	p := datagramTo(netip.MustParseAddr("239.1.2.3"), netip.Addr{}, 12345, mcast.Interface{Name: "eth0", Index: 2})
	way := r.onWay(p)
	if len(way) != 1 || len(way[0].rules) != 3 || !way[0].drops {
		t.Fatalf("the messages were not understood: %+v", way)
	}
	if all, _, _ := r.fate(p, way[0]); all != accepts|drops {
		t.Errorf("what becomes of it: %b", all)
	}
}

// Where an interval ends and another begins at once, the order in which the kernel tells it makes no difference.
func TestIntervals(t *testing.T) {
	a := element{key: []byte{10}}
	end := element{key: []byte{20}, end: true}
	b := element{key: []byte{20}}
	last := element{key: []byte{30}, end: true}
	for _, elements := range [][]element{{a, end, b, last}, {last, b, end, a}, {last, end, b, a}} {
		s := &ruleSet{flags: 0x4, elements: elements}
		for value, want := range map[byte]certainty{9: no, 10: yes, 19: yes, 20: yes, 29: yes, 30: no} {
			if _, in := s.find(func(int) octets { return known(value) }); in != want {
				t.Errorf("%d is in %+v: %d, want %d", value, elements, in, want)
			}
		}
		if _, in := s.find(unknown); in != maybe {
			t.Errorf("what is not known: %d", in)
		}
	}
}
