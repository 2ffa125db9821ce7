// What the kernel does to other sockets when one of ours is set up or closed.

package mcast

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// TestRxBlockedLeavesOthersAlone receives from a source while others that block it come and go: when such a socket
// leaves, the kernel shuts the source out from all for a moment. It takes many of these moments to meet one.
func TestRxBlockedLeavesOthersAlone(t *testing.T) {
	mcasttest.Require(t)
	const count, burst = 30_000, 50
	veth := mcasttest.NewVeth(t, "b0", netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd99::1/64"))
	b0 := interfaces(t, "b0")
	for i, group := range groups("239.1.1.1", "ff15::1234") {
		all := []netip.Addr{group}
		source := []netip.Addr{veth.Peer().IPv4, veth.Peer().IPv6}[i]
		rx, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: b0, ReadBuffer: 1 << 20})
		must(t, rx, err)
		defer rx.Close()
		var tx *TxSocket
		veth.Peer().Do(func() { tx, err = OpenTx(TxConfig{Groups: all, Interfaces: interfaces(t, "eth0")}) })
		must(t, tx, err)
		defer tx.Close()
		done := make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				other, err := OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: b0, Blocked: []netip.Addr{source}, Static: true})
				if err != nil {
					t.Error(err)
					return
				}
				other.Close()
			}
		})
		rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		buf := make([]byte, 10)
		for n := 0; n < count && !t.Failed(); n += burst {
			for range burst {
				if _, err := tx.WriteToUDPAddrPort([]byte("datagram"), netip.AddrPortFrom(group, 5000)); err != nil {
					t.Error(err)
				}
			}
			for range burst {
				if _, _, err := rx.ReadFromUDPAddrPort(buf); err != nil {
					t.Errorf("%s: one of the datagrams from %d on is missing: %v; %+v", group, n, err, rx.Memberships())
					break
				}
			}
		}
		close(done)
		others.Wait()
	}
}

// TestDroppedBeyond32Bits drops datagrams at a socket whose 32-bit counter is about to return to 0.
func TestDroppedBeyond32Bits(t *testing.T) {
	lo, group := interfaces(t, "lo"), groups("239.1.1.1")
	rx, err := OpenRx(RxConfig{Groups: group, Port: 5000, Interfaces: lo, ReadBuffer: 1, Static: true})
	must(t, rx, err)
	defer rx.Close()
	const before uint64 = 1<<32 - 1
	rx.m.update(func() { // the kernel counts from 0, as if it had counted up to here and one more
		rx.groups[0].pairs[0].conns[0].count.dropped = drops{last: 1<<32 - 1, total: before}
	})
	tx, err := OpenTx(TxConfig{Groups: group, Interfaces: lo, Static: true})
	must(t, tx, err)
	defer tx.Close()
	const sent = 100
	for range sent {
		must(t, 0, errOf(tx.WriteToUDPAddrPort(make([]byte, 1000), netip.AddrPortFrom(group[0], 5000))))
	}
	read := 0
	buf := make([]byte, 1000)
	for end := time.Now().Add(slow.Limit(20 * time.Second)); ; {
		rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			if _, _, err := rx.ReadFromUDPAddrPort(buf); err != nil {
				break
			}
			read++
		}
		m := rx.Memberships()[0]
		if m.Dropped == before+1+uint64(sent-read) && read < sent {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("sent %d, read %d, Dropped %d; want %d + 1 + %d", sent, read, m.Dropped, before, sent-read)
		}
	}
	tx.Close()
	conn := rx.groups[0].pairs[0].conns[0]
	must(t, 0, rx.Leave(group[0])) // which keeps what it counted, for a membership that goes on with other sockets
	if past := conn.pair.past.Dropped; past != before+1+uint64(sent-read) {
		t.Errorf("%d dropped are left of %d", past, before+1+uint64(sent-read))
	}
}

// The name that the file of a socket has within the library is not in errors.
func TestFileConnErrorWithoutFileName(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	named := (*os.SyscallError)(nil)
	if _, err = fileConn(r); !errors.Is(err, unix.ENOTSOCK) || !errors.As(err, &named) || err.Error() != named.Error() {
		t.Errorf("a pipe as a socket: %v", err)
	}
}

// TestVRFWithoutDevice has a kernel that binds no socket to a device. On a member of a VRF a receiver then fails and says why,
// and a sender logs that it gets no replies. On other interfaces all is well.
func TestVRFWithoutDevice(t *testing.T) {
	mcasttest.Require(t)
	mc0 := interfaces(t, "mc0")
	member := []Interface{mc0[0].clone()}
	member[0].Master, member[0].masterKind, member[0].masterName = 4242, kindVRF, "v7"
	hook := func(name string) error {
		if name == "setsockopt SO_BINDTOIFINDEX" {
			return unix.EPERM
		}
		return nil
	}
	testHookCall.Store(&hook)
	t.Cleanup(func() { testHookCall.Store(nil) })
	for _, group := range groups("239.1.1.1", "ff15::1234") {
		var log bytes.Buffer
		open := func(on []Interface) error {
			rx, err := OpenRx(RxConfig{Groups: []netip.Addr{group}, Port: 5000, Interfaces: on, Static: true})
			rx.Close()
			tx, txErr := OpenTx(TxConfig{Groups: []netip.Addr{group}, Interfaces: on, Static: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if txErr != nil {
				t.Fatal(txErr)
			}
			tx.Close()
			return err
		}
		if err := open(mc0); err != nil || log.Len() > 0 {
			t.Errorf("%s outside of a VRF: %v; the log is %s", group, err, &log)
		}
		op := (*OpError)(nil)
		if err := open(member); !errors.As(err, &op) || op.Interface != "mc0" || !strings.Contains(op.Hint, "udp_l3mdev_accept") {
			t.Errorf("%s in a VRF: %v", group, err)
		}
		if !strings.Contains(log.String(), "replies cannot be received in the VRF") {
			t.Errorf("the log is %s", &log)
		}
	}
}

// TestHintKernelWithoutIPv6 has the kernel refuse IPv6 sockets, as it does with ipv6.disable=1 on its command line. The hint says so.
func TestHintKernelWithoutIPv6(t *testing.T) {
	mcasttest.Require(t)
	mc0 := interfaces(t, "mc0")
	hook := func(name string) error {
		if name == "socket" || name == "bind" {
			return unix.EAFNOSUPPORT
		}
		return nil
	}
	testHookCall.Store(&hook)
	t.Cleanup(func() { testHookCall.Store(nil) })
	_, rxErr := OpenRx(RxConfig{Groups: groups("ff15::1234"), Port: 5000, Interfaces: mc0, Static: true})
	_, txErr := OpenTx(TxConfig{Groups: groups("ff15::1234"), Interfaces: mc0, Static: true})
	for _, err := range []error{rxErr, txErr} {
		if op := (*OpError)(nil); !errors.Is(err, unix.EAFNOSUPPORT) || !errors.As(err, &op) || op.Interface != "mc0" || !strings.Contains(op.Hint, "ipv6.disable=1") {
			t.Errorf("%v", err)
		}
	}
}
