// ssmping and asmping, which test whether source-specific and any-source multicast get from a server to a client: each
// of their ends against one of ours. A request goes by unicast to port 4321 of the server, which answers by unicast and
// to a group, at the port that the request came from. Both are a letter and fields, each of a type and a length, of two
// bytes, and a value; the server sends back those it got.

package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

const (
	ssmpingPort     = 4321
	ssmpingRequest  = 'Q'
	ssmpingAnswer   = 'A'
	ssmpingClient   = 1 // the types of fields
	ssmpingSequence = 2
	ssmpingTime     = 3
	ssmpingGroup    = 4
)

// The groups of a server: those of ssmping, and two of the form that asmping insists on.
var ssmpingCases = []struct {
	name  string
	group netip.Addr
	ssm   bool
}{
	{"SSM4", netip.MustParseAddr("232.43.211.234"), true},
	{"SSM6", netip.MustParseAddr("ff3e::4321:1234"), true},
	{"ASM4", netip.MustParseAddr("239.1.2.234"), false},
	{"ASM6", netip.MustParseAddr("ff15::4321:1234"), false},
}

// field is one field of a message.
func field(kind uint16, value ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
}

// groupField names a group: a byte for the family, and the address.
func groupField(group netip.Addr) []byte {
	family := byte(1)
	if group.Is6() {
		family = 2
	}
	return field(ssmpingGroup, append([]byte{family}, group.AsSlice()...)...)
}

// TestSsmpingServer asks two servers: a socket writes the requests, by unicast from the port of the group, and receives
// the answers to the group; with a source only those of one server, while another socket has both.
func TestSsmpingServer(t *testing.T) {
	t.Parallel()
	for _, c := range ssmpingCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "ssmpingd")
			const port = 6000
			lan := mcasttest.NewLAN(t, 3)
			client, servers := lan.Hosts[0], lan.Hosts[1:]
			for _, h := range servers {
				start(t, h, exec.Command("ssmpingd"))
				waitBound(t, h, c.group, ssmpingPort)
			}
			cfg := mcast.RxConfig{Groups: []netip.Addr{c.group}, Port: port}
			both := openRx(t, client, cfg)
			lan.WaitJoined(client, c.group)
			rx := both
			if c.ssm {
				cfg.Sources = []netip.Addr{address(servers[0], c.group)}
				rx = openRx(t, client, cfg)
			}

			request := []byte{ssmpingRequest}
			request = append(request, field(ssmpingClient, 1, 2, 3, 4)...)
			request = append(request, field(ssmpingSequence, 0, 0, 0, 1)...)
			request = append(request, field(ssmpingTime, 1, 2, 3, 4, 5, 6, 7, 8)...)
			if !c.ssm {
				request = append(request, groupField(c.group)...)
			}
			for _, h := range []*mcasttest.Host{servers[1], servers[0]} {
				if _, err := rx.WriteToUDPAddrPort(request, netip.AddrPortFrom(address(h, c.group), ssmpingPort)); err != nil {
					t.Fatal(err)
				}
			}
			answers := func(rx *mcast.RxSocket, want int) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				from := map[netip.Addr]bool{}
				for m, err := range rx.Messages(ctx) {
					if err != nil {
						t.Fatal(err)
					}
					got := m.Buf[:m.N]
					if m.Group != c.group || m.Addr.Port() != ssmpingPort || from[m.Addr.Addr()] ||
						got[0] != ssmpingAnswer || string(got[1:]) != string(request[1:]) {
						t.Errorf("from %s to %s, after %v: %q", m.Addr, m.Group, from, got)
					}
					if from[m.Addr.Addr()] = true; len(from) == want {
						break
					}
				}
				if len(from) != want || !from[address(servers[0], c.group)] {
					t.Errorf("answers from %v", from)
				}
			}
			answers(both, 2)
			if c.ssm {
				answers(rx, 1)
			}
		})
	}
}

// TestSsmpingClient is the server that ssmping and asmping ask. A sender with a source port of its own is sent the
// requests, and answers them to the group; a receiver on the same port answers them by unicast.
func TestSsmpingClient(t *testing.T) {
	t.Parallel()
	for _, c := range ssmpingCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "ssmping", "asmping")
			const count = 2 // a second lies between two
			lan := mcasttest.NewLAN(t, 2)
			client, server := lan.Hosts[0], lan.Hosts[1]
			tx := openTx(t, server, mcast.TxConfig{Groups: []netip.Addr{c.group}, Port: ssmpingPort, TTL: 64})
			replies := openRx(t, server, mcast.RxConfig{Groups: []netip.Addr{other(c.group)}, Port: ssmpingPort})

			family := "-4"
			if c.group.Is6() {
				family = "-6"
			}
			cmd := exec.Command("ssmping", family, "-c", fmt.Sprint(count), address(server, c.group).String())
			if !c.ssm {
				cmd = exec.Command("asmping", family, "-c", fmt.Sprint(count), c.group.String(), address(server, c.group).String())
			}
			pings := start(t, client, cmd)
			tx.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, 2000)
			for n := range count {
				size, from, err := tx.ReadFromUDPAddrPort(b)
				if err != nil {
					t.Fatal(err)
				}
				sequence := field(ssmpingSequence, 0, 0, 0, byte(n+1))
				if b[0] != ssmpingRequest || !bytes.Contains(b[:size], sequence) {
					t.Fatalf("request %d: %q", n+1, b[:size])
				}
				if !c.ssm && !bytes.Contains(b[:size], groupField(c.group)) {
					t.Fatalf("request for %s: %q", c.group, b[:size])
				}
				b[0] = ssmpingAnswer
				lan.WaitJoined(client, c.group)
				if _, err := replies.WriteToUDPAddrPort(b[:size], from); err != nil {
					t.Fatal(err)
				}
				if _, err := tx.WriteToUDPAddrPort(b[:size], netip.AddrPortFrom(c.group, from.Port())); err != nil {
					t.Fatal(err)
				}
			}
			said := func() string { return pings.said.String() }
			until(t, "the last answer is there", func() bool { return strings.Count(said(), "multicast from") == count })
			pings.cmd.Process.Signal(syscall.SIGINT) // it waits a while for answers on their way
			pings.wait()
		})
	}
}
