package hint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIPv6Off looks at what /proc/sys/net shows of kernels with and without IPv6.
func TestIPv6Off(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ file, hint string }{
		{"", ""}, // /proc is not visible
		{"ipv4/x", "ipv6.disable=1"},
		{"ipv6/conf/eth0.5/disable_ipv6", "net/ipv6/conf/eth0.5/disable_ipv6=0"},
	} {
		if path := filepath.Join(dir, test.file); test.file != "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if hint := IPv6Off(dir, "eth0.5"); (hint == "") != (test.hint == "") || !strings.Contains(hint, test.hint) {
			t.Errorf("with %s: %q", test.file, hint)
		}
	}
	if hint := IPv6Off(dir, "eth1"); hint != "" {
		t.Errorf("another interface: %q", hint)
	}
}
