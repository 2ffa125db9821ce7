// What an interface that was deleted makes of what is done on it.

package mcast

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// TestGoneInterface checks that whatever is done with an Interface, or on a socket, whose interface was deleted is
// ErrNoInterface, and an *OpError that names the operation, the interface and the cure. The errno is there as well.
func TestGoneInterface(t *testing.T) {
	for _, family := range [][]netip.Addr{groups("239.1.1.1", "239.1.1.2", "10.9.9.2"), groups("ff15::1234", "ff15::1235", "fd99::2")} {
		t.Run(familyName(family[0]), func(t *testing.T) {
			host := mcasttest.NewHost(t)
			veth := host.NewVeth("v0", netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("fd99::1/64"))
			group, other, source := family[0], family[1], family[2]
			more := source // that are new to ssm
			var v0 []Interface
			var rx, ssm *RxSocket
			var tx *TxSocket
			open := func(sources ...netip.Addr) (*RxSocket, error) {
				return OpenRx(RxConfig{Groups: []netip.Addr{group}, Port: 5000, Interfaces: v0, Sources: sources, Static: true})
			}
			openTx := func() (*TxSocket, error) {
				return OpenTx(TxConfig{Groups: []netip.Addr{group}, Interfaces: v0, Static: true})
			}
			attempts := []struct {
				op string
				do func() error
			}{
				{"join", func() error { rx, err := open(); return closed(rx, err) }},
				{"join", func() error { rx, err := open(source); return closed(rx, err) }},
				{"open", func() error { tx, err := openTx(); return closed(tx, err) }},
				{"join", func() error { return rx.Join(other) }},
				{"join", func() error { more = more.Next(); return ssm.Join(group, more) }},
				{"write", func() error { return errOf(tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(group, 5000))) }},
				{"write", func() error {
					return errOf(tx.WriteBatch([]Message{{Buf: []byte("x"), Addr: netip.AddrPortFrom(group, 5000)}}))
				}},
			}
			host.Do(func() {
				v0 = interfaces(t, "v0")
				rx, _ = open()
				ssm, _ = open(source)
				tx, _ = openTx()
				for i, a := range attempts {
					if err := a.do(); err != nil {
						t.Fatalf("attempt %d, with the interface: %v", i, err)
					}
				}
				must(t, 0, rx.Leave(other))
			})
			defer tx.Close()
			defer rx.Close()
			defer ssm.Close()

			veth.Down()
			for _, write := range attempts[5:] { // on a thread of another network namespace, which has no such index
				if err := write.do(); !errors.Is(err, unix.ENETUNREACH) || errors.Is(err, ErrNoInterface) {
					t.Errorf("down: %v", err)
				}
			}
			host.Do(veth.Delete)
			host.Do(func() {
				for i, a := range attempts {
					err := a.do()
					var op *OpError
					var sys *os.SyscallError
					var errno unix.Errno
					if !errors.Is(err, ErrNoInterface) || !errors.As(err, &op) || !errors.As(err, &errno) {
						t.Errorf("attempt %d: %v", i, err)
						continue
					}
					if a.op != "write" && !errors.As(err, &sys) {
						t.Errorf("attempt %d does not name the call: %v", i, err)
					}
					if op.Op != a.op || op.Interface != "v0" || !strings.Contains(op.Hint, "interface") {
						t.Errorf("attempt %d: %v", i, err)
					}
				}
			})
		})
	}
}

// TestReplyToGoneZone sends to a host whose zone is the index of an interface that was deleted.
func TestReplyToGoneZone(t *testing.T) {
	host := mcasttest.NewHost(t)
	veth := host.NewVeth("v0")
	host.Do(func() {
		rx, err := OpenRx(RxConfig{Groups: groups("ff15::1234"), Port: 5000, Interfaces: interfaces(t, "lo"), Static: true})
		must(t, rx, err)
		defer rx.Close()
		to := netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(strconv.Itoa(veth.Index())), 9)
		must(t, 0, errOf(rx.WriteToUDPAddrPort([]byte("x"), to)))
		veth.Delete()
		_, err = rx.WriteToUDPAddrPort([]byte("x"), to)
		if op := (*OpError)(nil); !errors.Is(err, ErrNoInterface) || !errors.As(err, &op) || op.Op != "write" || !strings.Contains(op.Hint, "scan again") {
			t.Errorf("%v", err)
		}
	})
}

func closed(s interface{ Close() error }, err error) error {
	if err == nil {
		err = s.Close()
	}
	return err
}
