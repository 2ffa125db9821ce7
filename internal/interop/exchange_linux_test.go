// Both directions with plain sockets of others: Python's, socat's, and those of Go's package net. Contents are compared
// byte by byte; what must not come is sent as well, and somebody gets it.

package interop

import (
	_ "embed"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

//go:embed testdata/peer.py
var python string

// channel is what a program is to send to or to receive.
type channel struct {
	group  netip.Addr
	port   uint16
	source netip.Addr // the only one to be received; zero: any
}

func (c channel) String() string { return netip.AddrPortFrom(c.group, c.port).String() }

// peer is a program of somebody else that sends, or receives, by the interface eth0 of a host. It sends what it reads
// from its standard input, and writes what it receives to its standard output.
type peer struct {
	name          string
	programs      []string // it needs these
	send, receive func(h *mcasttest.Host, c channel) *exec.Cmd
	ssm           bool // it can receive from one source alone
}

var peers = []peer{{
	name:     "Python",
	programs: []string{"python3"},
	ssm:      true,
	send:     func(h *mcasttest.Host, c channel) *exec.Cmd { return pythonPeer("send", h, c) },
	receive:  func(h *mcasttest.Host, c channel) *exec.Cmd { return pythonPeer("receive", h, c) },
}, {
	name:     "Socat",
	programs: []string{"socat"},
	send: func(h *mcasttest.Host, c channel) *exec.Cmd {
		if c.group.Is4() {
			return socat("STDIN", fmt.Sprintf("UDP4-DATAGRAM:%s,ip-multicast-if=%s,ip-multicast-ttl=2", c, h.IPv4))
		}
		return socat("STDIN", fmt.Sprintf("UDP6-DATAGRAM:%s,so-bindtodevice=eth0", c))
	},
	receive: func(h *mcasttest.Host, c channel) *exec.Cmd {
		if c.group.Is6() {
			return socat(fmt.Sprintf("UDP6-RECV:%d,reuseaddr,ipv6-join-group=[%s]:eth0", c.port, c.group), "STDOUT")
		}
		return socat(fmt.Sprintf("UDP4-RECV:%d,reuseaddr,ip-add-membership=%s:%s", c.port, c.group, h.IPv4), "STDOUT")
	},
}, {
	name:     "SocatBound", // it sends from the port of the group, and receives with the group as its address
	programs: []string{"socat"},
	send: func(h *mcasttest.Host, c channel) *exec.Cmd {
		address := "UDP4-DATAGRAM:%s,bind=:%d,reuseaddr,ip-add-membership=%s:eth0"
		if c.group.Is6() {
			address = "UDP6-DATAGRAM:%s,bind=:%d,reuseaddr,ipv6-join-group=[%s]:eth0"
		}
		return socat("STDIN", fmt.Sprintf(address, c, c.port, c.group))
	},
	receive: func(h *mcasttest.Host, c channel) *exec.Cmd {
		address := "UDP4-RECV:%d,bind=%[2]s,reuseaddr,ip-add-membership=%[2]s:eth0"
		if c.group.Is6() {
			address = "UDP6-RECV:%d,bind=[%[2]s],reuseaddr,ipv6-join-group=[%[2]s]:eth0"
		}
		return socat(fmt.Sprintf(address, c.port, c.group), "STDOUT")
	},
}, {
	name:    "GoNet",
	send:    func(h *mcasttest.Host, c channel) *exec.Cmd { return goPeer("send", c) },
	receive: func(h *mcasttest.Host, c channel) *exec.Cmd { return goPeer("receive", c) },
}}

func pythonPeer(mode string, h *mcasttest.Host, c channel) *exec.Cmd {
	source := ""
	if c.source.IsValid() {
		source = c.source.String()
	}
	return exec.Command("python3", "-c", python, mode, c.group.String(), strconv.Itoa(int(c.port)),
		h.IPv4.String(), strconv.Itoa(h.Interface("eth0").Index()), source)
}

func socat(from, to string) *exec.Cmd { return exec.Command("socat", "-u", "-b", "65536", from, to) }

// childVariable tells the test binary to be a program of Go's package net.
const childVariable = "INTEROP_CHILD"

func goPeer(mode string, c channel) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", mode, c.String())
	cmd.Env = append(os.Environ(), childVariable+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// child is that program, as its users write it. It reports whether this process is one.
func child() bool {
	if os.Getenv(childVariable) == "" {
		return false
	}
	if err := goNet(os.Args[1], net.UDPAddrFromAddrPort(netip.MustParseAddrPort(os.Args[2]))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func goNet(mode string, group *net.UDPAddr) error {
	b := make([]byte, 65536)
	if mode == "send" {
		conn, err := net.DialUDP("udp", nil, group)
		if err != nil {
			return err
		}
		for {
			n, err := os.Stdin.Read(b)
			if n == 0 {
				return nil
			}
			if err == nil {
				_, err = conn.Write(b[:n])
			}
			if err != nil {
				return err
			}
		}
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	conn, err := net.ListenMulticastUDP("udp", eth0, group)
	if err != nil {
		return err
	}
	for {
		n, err := conn.Read(b)
		if err == nil {
			_, err = os.Stdout.Write(b[:n])
		}
		if err != nil {
			return err
		}
	}
}

// startSend has a peer on the host send the payloads, and waits until it has.
func (p *peer) startSend(t *testing.T, h *mcasttest.Host, c channel, payloads ...string) {
	t.Helper()
	ours, theirs := packets(t)
	cmd := p.send(h, c)
	cmd.Stdin = theirs
	sender := start(t, h, cmd)
	theirs.Close()
	for _, payload := range payloads {
		if _, err := ours.WriteString(payload); err != nil {
			t.Fatal(err)
		}
	}
	ours.Close()
	sender.wait()
}

// receiving is a peer that receives. Its datagrams can be read one by one.
type receiving struct {
	*os.File
	program *program
}

// startReceive has a peer receive on the host.
func (p *peer) startReceive(t *testing.T, h *mcasttest.Host, c channel) receiving {
	t.Helper()
	ours, theirs := packets(t)
	cmd := p.receive(h, c)
	cmd.Stdout = theirs
	program := start(t, h, cmd)
	theirs.Close()
	return receiving{ours, program}
}

// want reads until the last of the payloads has come, as the function want does, and wants exactly these.
func (r receiving) want(payloads ...string) {
	t := r.program.t
	t.Helper()
	r.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 65536)
	var got []string
	for len(got) == 0 || got[len(got)-1] != payloads[len(payloads)-1] {
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("after %s: %v", brief(got), err)
		}
		got = append(got, string(b[:n]))
	}
	compare(t, got, payloads)
}

// stop ends the program.
func (r receiving) stop() {
	r.program.cmd.Process.Kill()
	r.program.cmd.Wait()
}

// payloads are some of many sizes, with every value of a byte in them; each is unlike all others. Those that do not fit
// into an Ethernet frame travel in fragments.
func payloads(mark string) (all []string) {
	for _, size := range []int{0, 1, 17, 256, 1000, 1400, 1440, 1473, 4000, 8000} {
		b := fmt.Appendf(nil, "%s %d: ", mark, size)
		for i := range size {
			b = append(b, byte(i*7+size))
		}
		all = append(all, string(b))
	}
	return append(all, mark+" end")
}

// exchanges runs a test with every peer, in both families, without and, for those that can, with a source.
func exchanges(t *testing.T, ssm func(*peer) bool, test func(t *testing.T, p *peer, lan *mcasttest.LAN, c channel)) {
	for _, p := range peers {
		for _, c := range []struct {
			name  string
			group string
			ssm   bool
		}{
			{"IPv4", "239.1.2.3", false},
			{"IPv6", "ff15::1234", false},
			{"SSM4", "232.1.2.3", true},
			{"SSM6", "ff35::8000:1234", true},
		} {
			ch := channel{group: netip.MustParseAddr(c.group), port: 5000}
			if c.ssm && !ssm(&p) {
				continue
			}
			t.Run(p.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				need(t, p.programs...)
				lan := mcasttest.NewLAN(t, 4)
				ch := ch // a copy
				if c.ssm {
					ch.source = address(lan.Hosts[0], ch.group)
				}
				test(t, &p, lan, ch)
			})
		}
	}
}

// address is the host's, in the family of the group.
func address(h *mcasttest.Host, group netip.Addr) netip.Addr {
	if group.Is4() {
		return h.IPv4
	}
	return h.IPv6
}

// other is a group beside this one.
func other(group netip.Addr) netip.Addr { return group.Next() }

func sources(of ...netip.Addr) (all []netip.Addr) {
	for _, a := range of {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// TestFromPeers receives what others send: not what goes to another group on the port, and with a source not what
// somebody else sends, though both reach the host, where another socket of ours has asked for them.
func TestFromPeers(t *testing.T) {
	t.Parallel()
	all := func(*peer) bool { return true } // it takes nothing to send
	exchanges(t, all, func(t *testing.T, p *peer, lan *mcasttest.LAN, c channel) {
		sender, receiver, stranger := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
		from := address(sender, c.group)
		rx := openRx(t, receiver, mcast.RxConfig{Groups: []netip.Addr{c.group}, Port: c.port, Sources: sources(c.source)})
		lan.WaitJoined(receiver, c.group)
		p.startSend(t, sender, c, payloads("first")...)
		want(t, rx, c.group, from, payloads("first")...)

		aside := channel{group: other(c.group), port: c.port}
		control := openRx(t, receiver, mcast.RxConfig{Groups: []netip.Addr{c.group, aside.group}, Port: c.port})
		lan.WaitJoined(receiver, aside.group)
		p.startSend(t, sender, aside, payloads("aside")...)
		want(t, control, aside.group, from, payloads("aside")...)
		if c.source.IsValid() {
			waitHeard(t, openTx(t, stranger, mcast.TxConfig{Groups: []netip.Addr{c.group}}), rxReader{control}, c.group, c.port)
			p.startSend(t, stranger, c, payloads("strange")...)
			want(t, control, c.group, address(stranger, c.group), payloads("strange")...)
		}
		p.startSend(t, sender, c, payloads("right")...)
		want(t, rx, c.group, from, payloads("right")...)
		want(t, control, c.group, from, payloads("right")...)
	})
}

// TestToPeers sends to others. What we send to another group on the port, or with a source from another host, does not
// get to them, but to a receiver of ours.
func TestToPeers(t *testing.T) {
	t.Parallel()
	exchanges(t, func(p *peer) bool { return p.ssm }, func(t *testing.T, p *peer, lan *mcasttest.LAN, c channel) {
		sender, receiver, stranger, bystander := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2], lan.Hosts[3]
		aside := other(c.group)
		control := openRx(t, bystander, mcast.RxConfig{Groups: []netip.Addr{c.group, aside}, Port: c.port})
		receives := p.startReceive(t, receiver, c)
		waitBound(t, receiver, c.group, c.port)
		lan.WaitJoined(receiver, c.group)
		lan.WaitJoined(bystander, c.group)
		lan.WaitJoined(bystander, aside)

		tx := openTx(t, sender, mcast.TxConfig{Groups: []netip.Addr{c.group, aside}})
		write(t, tx, aside, c.port, payloads("aside")...)
		want(t, control, aside, address(sender, c.group), payloads("aside")...)
		if c.source.IsValid() {
			strange := openTx(t, stranger, mcast.TxConfig{Groups: []netip.Addr{c.group}})
			write(t, strange, c.group, c.port, payloads("strange")...)
			want(t, control, c.group, address(stranger, c.group), payloads("strange")...)
		}
		write(t, tx, c.group, c.port, payloads("right")...)
		receives.want(payloads("right")...)
		want(t, control, c.group, address(sender, c.group), payloads("right")...)
	})
}

// TestSocatAnswers has a server of socat's on two hosts, which sends every datagram back to where it came from. Both
// answers come to the socket that has sent the question.
func TestSocatAnswers(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"239.1.2.3", "ff15::1234"} {
		t.Run(s, func(t *testing.T) {
			t.Parallel()
			need(t, "socat")
			c := channel{group: netip.MustParseAddr(s), port: 5000}
			lan := mcasttest.NewLAN(t, 3)
			for _, h := range lan.Hosts[1:] {
				listen := fmt.Sprintf("UDP4-RECVFROM:%d,fork,reuseaddr,ip-add-membership=%s:eth0", c.port, c.group)
				if c.group.Is6() {
					listen = fmt.Sprintf("UDP6-RECVFROM:%d,fork,reuseaddr,ipv6-join-group=[%s]:eth0", c.port, c.group)
				}
				start(t, h, exec.Command("socat", listen, "PIPE"))
				waitBound(t, h, c.group, c.port)
				lan.WaitJoined(h, c.group)
			}
			tx := openTx(t, lan.Hosts[0], mcast.TxConfig{Groups: []netip.Addr{c.group}})
			write(t, tx, c.group, c.port, "who is there?")
			tx.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, 100)
			from := map[netip.AddrPort]bool{}
			for len(from) < 2 {
				n, src, err := tx.ReadFromUDPAddrPort(b)
				if err != nil {
					t.Fatalf("after answers from %v: %v", from, err)
				}
				if got := string(b[:n]); got != "who is there?" || from[src] {
					t.Fatalf("%q from %s after %v", got, src, from)
				}
				from[src] = true
			}
			for _, h := range lan.Hosts[1:] {
				if a := netip.AddrPortFrom(address(h, c.group), c.port); !from[a] {
					t.Errorf("no answer from %s, but %v", a, from)
				}
			}
		})
	}
}
