// What all tests here share: programs of others on the hosts of a test, and sockets of ours.

package interop

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// patience is how long anything may take. It is so long that it decides only about what hangs.
const patience = time.Minute

// tick is how often to look for what nothing tells of.
const tick = 5 * time.Millisecond

func TestMain(m *testing.M) {
	if child() {
		return
	}
	// Where daemons are, and an ordinary user does not look.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	mcasttest.Main(m)
}

// need skips the test unless all these programs are there. In a strict run that fails it.
func need(t *testing.T, programs ...string) {
	t.Helper()
	mcasttest.Require(t)
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if strict := os.Getenv("MCAST_TEST_STRICT"); strict != "" && strict != "0" {
			t.Fatalf("%s is missing, and MCAST_TEST_STRICT is set", name)
		}
		t.Skipf("%s is missing", name)
	}
}

// program is somebody's program, running on a host.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	said *testrun.Output
}

// start runs a command on a host until it ends or the test does. What it says is there when the test fails.
func start(t *testing.T, h *mcasttest.Host, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{t, cmd, new(testrun.Output)}
	if cmd.Stdout == nil {
		cmd.Stdout = p.said
	}
	cmd.Stderr = p.said
	cmd.WaitDelay = time.Second // if a child of it has the pipes
	t.Cleanup(func() {          // after the host has ended it
		if t.Failed() {
			t.Logf("%.200s on %s: %v\n%s", strings.Join(cmd.Args, " "), h.Name, cmd.ProcessState, p.said)
		}
	})
	if err := h.Start(cmd); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return p
}

// wait waits until the program has ended by itself, wants it to be content, and returns what it has said.
func (p *program) wait() string {
	p.t.Helper()
	limit := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer limit.Stop()
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("%.200s: %v", p.cmd, err)
	}
	return p.said.String()
}

// until waits for a condition that nothing tells of.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(tick) {
		if time.Now().After(end) {
			t.Fatalf("waited %v until %s", patience, what)
		}
	}
}

// waitBound waits until a UDP socket on the host has the port.
func waitBound(t *testing.T, h *mcasttest.Host, group netip.Addr, port uint16) {
	t.Helper()
	table := "/proc/thread-self/net/udp"
	if group.Is6() {
		table += "6"
	}
	until(t, fmt.Sprintf("%s has port %d", h.Name, port), func() (is bool) {
		h.Do(func() {
			b, err := os.ReadFile(table)
			if err != nil {
				t.Fatal(err)
			}
			is = bytes.Contains(b, fmt.Appendf(nil, ":%04X ", port))
		})
		return is
	})
}

// packets returns two ends of a pipe that keeps packets apart: one for the test, and one to be the standard input or
// output of a program.
func packets(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "packets"), os.NewFile(uintptr(fds[1]), "packets")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// openRx opens a receiver on a host.
func openRx(t *testing.T, h *mcasttest.Host, cfg mcast.RxConfig) *mcast.RxSocket {
	t.Helper()
	var rx *mcast.RxSocket
	err := errors.New("not opened")
	h.Do(func() { rx, err = mcast.OpenRx(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rx.Close() })
	return rx
}

// join has a receiver join a group again.
func join(t *testing.T, h *mcasttest.Host, rx *mcast.RxSocket, group netip.Addr) {
	t.Helper()
	err := errors.New("not joined")
	h.Do(func() { err = rx.Join(group) })
	if err != nil {
		t.Fatal(err)
	}
}

// openTx opens a sender on a host.
func openTx(t *testing.T, h *mcasttest.Host, cfg mcast.TxConfig) *mcast.TxSocket {
	t.Helper()
	var tx *mcast.TxSocket
	err := errors.New("not opened")
	h.Do(func() { tx, err = mcast.OpenTx(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Close() })
	return tx
}

// write sends payloads to a group.
func write(t *testing.T, tx *mcast.TxSocket, group netip.Addr, port uint16, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if _, err := tx.WriteToUDPAddrPort([]byte(p), netip.AddrPortFrom(group, port)); err != nil {
			t.Fatal(err)
		}
	}
}

// want reads until the last of the payloads has come, which may not be among the others, and wants exactly these, sent
// to the group by the source.
func want(t *testing.T, rx *mcast.RxSocket, group, source netip.Addr, payloads ...string) {
	t.Helper()
	rx.SetReadDeadline(time.Now().Add(patience))
	ms := []mcast.Message{{Buf: make([]byte, 65536)}}
	var got []string
	for len(got) == 0 || got[len(got)-1] != payloads[len(payloads)-1] {
		if _, err := rx.ReadBatch(ms); err != nil {
			t.Fatalf("after %s: %v", brief(got), err)
		}
		m := ms[0]
		got = append(got, string(m.Buf[:m.N]))
		if m.Group != group || m.Addr.Addr().WithZone("") != source {
			t.Errorf("%s from %s to %s, want %s to %s", brief(got[len(got)-1:]), m.Addr, m.Group, source, group)
		}
	}
	compare(t, got, payloads)
}

// reader is what datagrams can be read from one by one: the standard output of a program, or our receiver.
type reader interface {
	Read(p []byte) (int, error)
	SetReadDeadline(time.Time) error
}

type rxReader struct{ *mcast.RxSocket }

func (r rxReader) Read(p []byte) (int, error) {
	n, _, err := r.ReadFromUDPAddrPort(p)
	return n, err
}

// waitHeard waits until r is sent what tx sends, and has read all of it. The way may take longer to open than
// WaitJoined tells: a switch also has to know of a source, and a router of the group.
func waitHeard(t *testing.T, tx *mcast.TxSocket, r reader, group netip.Addr, port uint16) {
	t.Helper()
	sent := 0
	probe := func() string {
		t.Helper()
		sent++
		payload := fmt.Sprint("probe ", sent)
		write(t, tx, group, port, payload)
		return payload
	}
	until(t, "a probe is heard", func() bool {
		probe()
		r.SetReadDeadline(time.Now().Add(10 * tick))
		_, err := r.Read(make([]byte, 100))
		return err == nil
	})
	skip(t, r, probe())
}

// skip reads until the payload comes.
func skip(t *testing.T, r reader, payload string) {
	t.Helper()
	r.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	for {
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("waiting for %q: %v", payload, err)
		}
		if string(b[:n]) == payload {
			return
		}
	}
}

// compare wants the payloads in their order.
func compare(t *testing.T, got, payloads []string) {
	t.Helper()
	for i := range max(len(got), len(payloads)) {
		if i >= len(got) || i >= len(payloads) || got[i] != payloads[i] {
			t.Errorf("got %s\nwant %s", brief(got), brief(payloads))
			return
		}
	}
}

// brief is for errors: the beginnings and lengths of payloads.
func brief(payloads []string) string {
	var b strings.Builder
	for _, p := range payloads {
		fmt.Fprintf(&b, "%.12q(%d) ", p, len(p))
	}
	return b.String()
}

// source is the address that the host sends to the group from.
func source(h *mcasttest.Host, group netip.Addr) netip.Addr {
	if group.Is6() && group.IsLinkLocalMulticast() {
		return h.LinkLocal
	}
	return address(h, group)
}
