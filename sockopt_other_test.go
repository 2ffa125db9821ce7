//go:build !linux && !darwin && !windows

package mcast

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"
)

// TestUnsupported checks what programs for other systems are told.
func TestUnsupported(t *testing.T) {
	groups := []netip.Addr{netip.MustParseAddr("239.1.2.3")}
	for name, open := range map[string]func() error{
		"OpenRx": func() error { _, err := OpenRx(RxConfig{Groups: groups, Port: 5000}); return err },
		"OpenTx": func() error { _, err := OpenTx(TxConfig{Groups: groups}); return err },
	} {
		err := open()
		var e *OpError
		if !errors.As(err, &e) || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS) {
			t.Errorf("%s: %v, want an OpError of ErrUnsupported that names %s", name, err, runtime.GOOS)
		}
	}
}
