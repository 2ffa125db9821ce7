// iperf (version 2), the usual measuring instrument for multicast: what it says to have sent is what we receive, and
// what it says to have received and missed is what we have sent and left out.

package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// iperfCases are the groups to measure with, and whether with the first host as the only source.
var iperfCases = []struct {
	name  string
	group netip.Addr
	ssm   bool
}{
	{"IPv4", netip.MustParseAddr("239.1.2.3"), false},
	{"IPv6", netip.MustParseAddr("ff15::1234"), false},
	{"SSM4", netip.MustParseAddr("232.1.2.3"), true},
	{"SSM6", netip.MustParseAddr("ff35::8000:1234"), true},
}

const iperfPort = 5001

// number is what each datagram of iperf begins with: it counts them, and in the last it is negative.
func number(datagram []byte) int32 {
	if len(datagram) < 4 {
		return 0
	}
	return int32(binary.BigEndian.Uint32(datagram))
}

// report finds a number in what iperf says.
func report(t *testing.T, said, pattern string) (numbers []int) {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("iperf does not say %q:\n%s", pattern, said)
	}
	for _, s := range m[1:] {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// TestFromIperf receives all that iperf counts as sent, and nothing of what a second iperf sends to another group on
// the port at the same time.
func TestFromIperf(t *testing.T) {
	t.Parallel()
	for _, c := range iperfCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "iperf")
			lan := mcasttest.NewLAN(t, 2)
			sender, receiver := lan.Hosts[0], lan.Hosts[1]
			var source netip.Addr
			if c.ssm {
				source = address(sender, c.group)
			}
			rx := openRx(t, receiver, mcast.RxConfig{Groups: []netip.Addr{c.group}, Port: iperfPort, Sources: sources(source)})
			control := openRx(t, receiver, mcast.RxConfig{Groups: []netip.Addr{other(c.group)}, Port: iperfPort})
			lan.WaitJoined(receiver, c.group)
			lan.WaitJoined(receiver, other(c.group))

			client := func(group netip.Addr, size int) *program {
				args := []string{"-c", group.String(), "-u", "-T", "2", "-p", strconv.Itoa(iperfPort), "-l", strconv.Itoa(size),
					"-n", strconv.Itoa(100 * size), "-b", "1000pps"}
				if group.Is6() {
					args = append(args, "-V")
				}
				return start(t, sender, exec.Command("iperf", args...))
			}
			wire := receiver.Interface("eth0").CountUDP(c.group)
			right, aside := client(c.group, 300), client(other(c.group), 400)
			fromIperf(t, control, aside.wait(), other(c.group), 400)
			if got := fromIperf(t, rx, right.wait(), c.group, 300); wire() != uint64(got) {
				t.Errorf("%d datagrams came to the host, and %d to the socket", wire(), got)
			}
		})
	}
}

// fromIperf wants rx to have got each datagram that the iperf which has said that has sent, and returns how many.
func fromIperf(t *testing.T, rx *mcast.RxSocket, said string, group netip.Addr, size int) int {
	t.Helper()
	sent := report(t, said, `Sent (\d+) datagrams`)[0]
	var got []int32
	ms := []mcast.Message{{Buf: make([]byte, 2000)}}
	rx.SetReadDeadline(time.Now().Add(patience))
	for len(got) == 0 || got[len(got)-1] >= 0 {
		if _, err := rx.ReadBatch(ms); err != nil {
			t.Fatalf("iperf has sent %d, got %d: %v", sent, got, err)
		}
		m := ms[0]
		if m.Group != group || m.N != size {
			t.Errorf("%d bytes to %s, want %d to %s", m.N, m.Group, size, group)
		}
		got = append(got, number(m.Buf[:m.N]))
	}
	last := len(got) - 1
	got[last] = -got[last]
	if !slices.IsSorted(got) || got[last]-got[0] != int32(last) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("iperf counts %v, want each number once", got)
	}
	// Version 2.1 says one more than it sends and than an iperf at the other end says: the number of the next.
	if n := len(got); n != sent && n != sent-1 {
		t.Errorf("iperf has sent %d datagrams, %d came: %v", sent, n, got)
	}
	return len(got)
}

// TestToIperf sends to iperf what it takes for its own, and leaves some out: iperf tells how many came and how many did
// not. What goes to another group on the port, or comes from another source, does not disturb the count.
func TestToIperf(t *testing.T) {
	t.Parallel()
	const count, missing, size = 100, 3, 300
	for _, c := range iperfCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "iperf")
			lan := mcasttest.NewLAN(t, 4)
			sender, receiver, stranger, bystander := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2], lan.Hosts[3]
			args := []string{"-s", "-u", "-e", "-p", strconv.Itoa(iperfPort), "-B", c.group.String() + "%eth0"}
			if c.group.Is6() {
				args = append(args, "-V")
			}
			if c.ssm {
				args = append(args, "-H", address(sender, c.group).String())
			}
			server := start(t, receiver, exec.Command("iperf", args...))
			control := openRx(t, bystander, mcast.RxConfig{Groups: []netip.Addr{c.group, other(c.group)}, Port: iperfPort})
			waitBound(t, receiver, c.group, iperfPort)
			lan.WaitJoined(receiver, c.group)
			lan.WaitJoined(bystander, c.group)
			lan.WaitJoined(bystander, other(c.group))

			tx := openTx(t, sender, mcast.TxConfig{Groups: []netip.Addr{c.group, other(c.group)}, TTL: 2})
			strangers := iperfDatagrams(10, size)
			write(t, tx, other(c.group), iperfPort, strangers...)
			want(t, control, other(c.group), address(sender, c.group), strangers...)
			if c.ssm {
				strange := openTx(t, stranger, mcast.TxConfig{Groups: []netip.Addr{c.group}, TTL: 2})
				write(t, strange, c.group, iperfPort, strangers...)
				want(t, control, c.group, address(stranger, c.group), strangers...)
			}
			write(t, tx, c.group, iperfPort, slices.Delete(iperfDatagrams(count, size), 50, 50+missing)...)

			const result = `(\d+)/(\d+) \([\d.e-]+%\)`
			until(t, "iperf reports", func() bool { return regexp.MustCompile(result).MatchString(server.said.String()) })
			if got, want := fmt.Sprint(report(t, server.said.String(), result)), fmt.Sprint([]int{missing, count}); got != want {
				t.Errorf("lost and total are %s to iperf, want %s", got, want)
			}
		})
	}
}

// iperfDatagrams are a run of iperf's: a number, the time in seconds and microseconds, the upper half of the number.
// The last has a negative number.
func iperfDatagrams(count, size int) (all []string) {
	now := time.Now()
	for id := int32(1); id <= int32(count); id++ {
		b := make([]byte, size)
		number := id
		if id == int32(count) {
			number = -id
		}
		binary.BigEndian.PutUint32(b, uint32(number))
		binary.BigEndian.PutUint32(b[4:], uint32(now.Unix()))
		binary.BigEndian.PutUint32(b[8:], uint32(now.Nanosecond()/1000))
		binary.BigEndian.PutUint32(b[12:], uint32(number>>31))
		all = append(all, string(b))
	}
	return all
}
