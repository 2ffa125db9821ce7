// A firewall that drops what the library sends. Its rules are nft's, of the package nftables.

package interop

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// The hint of EPERM names the chain of the firewall. Without the rule the write succeeds.
func TestFirewallHint(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	host := mcasttest.NewLAN(t, 1).Hosts[0]
	nft := func(args ...string) {
		t.Helper()
		start(t, host, exec.Command("nft", args...)).wait()
	}
	for _, group := range []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")} {
		tx := openTx(t, host, mcast.TxConfig{Groups: []netip.Addr{group}})
		nft("add table inet t; add chain inet t out { type filter hook output priority 0; }; add rule inet t out udp dport 9 drop")
		_, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(group, 9))
		var op *mcast.OpError
		if !errors.Is(err, unix.EPERM) || !errors.As(err, &op) || !strings.Contains(op.Hint, "OUTPUT") {
			t.Errorf("%s: %v: want EPERM with a hint that names the chain OUTPUT", group, err)
		}
		nft("flush", "ruleset")
		write(t, tx, group, 9, "x")
	}
}
