//go:build linux && !cgo

package bench

import (
	"net/netip"
	"testing"
)

func readC(b *testing.B, _, _ int, _ bool, _ int) func(n int) (bytes int, group netip.Addr, ifIndex int) {
	b.Skip("the C side needs cgo")
	return nil
}

func sendC(b *testing.B, _, _, _ int) (address func(i int, dst netip.AddrPort), send func()) {
	b.Skip("the C side needs cgo")
	return nil, nil
}
