package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
)

// TestWriteBatchEnds has a batch end that would go on for a long time: when its deadline passes, when the socket is closed,
// and not because another writer has its turn in between. What ends it begins when the first datagram has arrived.
func TestWriteBatchEnds(t *testing.T) {
	home := scriptHome(t)
	const room = 1 << 18
	all := groups("239.80.4.1", "239.80.4.2")
	for _, tt := range []struct {
		name string
		end  func(tx *TxSocket, dst netip.AddrPort) error
		want error
	}{
		{"deadline", func(tx *TxSocket, _ netip.AddrPort) error { return tx.SetWriteDeadline(longAgo) }, os.ErrDeadlineExceeded},
		{"Close", func(tx *TxSocket, _ netip.AddrPort) error { return tx.Close() }, net.ErrClosed},
		{"another writer, then deadline", func(tx *TxSocket, dst netip.AddrPort) error {
			_, err := tx.WriteToUDPAddrPort([]byte("x"), dst)
			return errors.Join(err, tx.SetWriteDeadline(longAgo))
		}, os.ErrDeadlineExceeded},
		{"another writer with a deadline", func(tx *TxSocket, dst netip.AddrPort) error {
			err := tx.SetWriteDeadline(time.Now().Add(time.Millisecond))
			for err == nil {
				_, err = tx.WriteToUDPAddrPort([]byte("x"), dst)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
			return err
		}, os.ErrDeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := scriptPort(t)
			// Each receiver takes a copy, which makes a datagram slow to send.
			var first *RxSocket
			for range 16 {
				rx, err := OpenRx(RxConfig{Groups: all, Port: port, Interfaces: []Interface{home}, Loopback: true, Static: true})
				if err != nil {
					t.Fatal(err)
				}
				defer rx.Close()
				first = rx
			}
			tx, err := OpenTx(TxConfig{Groups: all, Interfaces: []Interface{home}, Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			ms := make([]Message, room)
			buf := make([]byte, 1000)
			for i := range ms {
				ms[i] = Message{Buf: buf, Addr: netip.AddrPortFrom(all[i%2], port)}
			}
			first.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
			ended := make(chan error, 1)
			go func() {
				_, _, err := first.ReadFromUDPAddrPort(make([]byte, 10))
				ended <- errors.Join(err, tt.end(tx, ms[0].Addr))
			}()
			n, err := tx.WriteBatch(ms)
			if n == 0 || n >= len(ms) || !errors.Is(err, tt.want) {
				t.Errorf("wrote %d of %d: %v; want some, and %v", n, len(ms), err, tt.want)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			sent := 0
			for sent < len(ms) && ms[sent].N == len(buf) {
				sent++
			}
			if sent != n {
				t.Errorf("%d messages have their N set, want %d", sent, n)
			}
		})
	}
}
