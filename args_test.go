// Methods of sockets that were not opened return errors, as those of package net do.

package mcast_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
)

func TestMethodsOfUnopenedSockets(t *testing.T) {
	group := addr("239.1.1.1")
	to := netip.AddrPortFrom(group, 9)
	ms := []mcast.Message{{Buf: make([]byte, 10), Addr: to}}
	for name, rx := range map[string]*mcast.RxSocket{"nil": nil, "zero": new(mcast.RxSocket)} {
		for method, call := range map[string]func() error{
			"ReadFrom":            func() error { _, _, err := rx.ReadFrom(nil); return err },
			"ReadFromUDPAddrPort": func() error { _, _, err := rx.ReadFromUDPAddrPort(nil); return err },
			"ReadBatch":           func() error { _, err := rx.ReadBatch(ms); return err },
			"Messages":            func() (err error) { return firstError(rx.Messages(t.Context())) },
			"Messages without a context": func() (err error) {
				var none context.Context
				return firstError(rx.Messages(none))
			},
			"WriteTo":            func() error { _, err := rx.WriteTo(nil, net.UDPAddrFromAddrPort(to)); return err },
			"WriteToUDPAddrPort": func() error { _, err := rx.WriteToUDPAddrPort(nil, to); return err },
			"Join":               func() error { return rx.Join(group) },
			"Leave":              func() error { return rx.Leave(group) },
			"SetDeadline":        func() error { return rx.SetDeadline(time.Time{}) },
			"SetReadDeadline":    func() error { return rx.SetReadDeadline(time.Time{}) },
			"SetWriteDeadline":   func() error { return rx.SetWriteDeadline(time.Time{}) },
			"Close":              rx.Close,
		} {
			wantNotOpen(t, name+" RxSocket."+method, call())
		}
		if rx.LocalAddr() != nil || rx.Memberships() != nil {
			t.Errorf("%s RxSocket: %v, %v", name, rx.LocalAddr(), rx.Memberships())
		}
	}
	for name, tx := range map[string]*mcast.TxSocket{"nil": nil, "zero": new(mcast.TxSocket)} {
		for method, call := range map[string]func() error{
			"ReadFrom":            func() error { _, _, err := tx.ReadFrom(nil); return err },
			"ReadFromUDPAddrPort": func() error { _, _, err := tx.ReadFromUDPAddrPort(nil); return err },
			"WriteTo":             func() error { _, err := tx.WriteTo(nil, net.UDPAddrFromAddrPort(to)); return err },
			"WriteToUDPAddrPort":  func() error { _, err := tx.WriteToUDPAddrPort(nil, to); return err },
			"WriteBatch":          func() error { _, err := tx.WriteBatch(ms); return err },
			"SetTTL":              func() error { return tx.SetTTL(1) },
			"SetDeadline":         func() error { return tx.SetDeadline(time.Time{}) },
			"SetReadDeadline":     func() error { return tx.SetReadDeadline(time.Time{}) },
			"SetWriteDeadline":    func() error { return tx.SetWriteDeadline(time.Time{}) },
			"Close":               tx.Close,
		} {
			wantNotOpen(t, name+" TxSocket."+method, call())
		}
		if tx.LocalAddr() != nil || tx.Interfaces() != nil {
			t.Errorf("%s TxSocket: %v, %v", name, tx.LocalAddr(), tx.Interfaces())
		}
	}
	var e *mcast.OpError
	if e.Error() == "" || e.Unwrap() != nil || e.Timeout() || e.Temporary() || new(mcast.OpError).Error() == "" {
		t.Errorf("nil OpError: %v", e)
	}
}

func firstError(messages func(func(*mcast.Message, error) bool)) (first error) {
	for _, err := range messages {
		return err
	}
	return nil
}

// wantNotOpen wants the errno that package net returns for such a method.
func wantNotOpen(t *testing.T, method string, err error) {
	t.Helper()
	var op *mcast.OpError
	if !errors.Is(err, syscall.EINVAL) || !errors.As(err, &op) {
		t.Errorf("%s: %v", method, err)
	}
}
