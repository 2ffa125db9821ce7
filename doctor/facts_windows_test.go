package doctor

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/hint"
	"golang.org/x/sys/windows"
)

// A refused bind is WSAEACCES here, and never WSAEADDRINUSE. The finding names both of its causes.
func TestPortTaken(t *testing.T) {
	c := &checkup{Config: Config{Port: 12345}}
	group, ifc := netip.MustParseAddr("239.1.2.3"), mcast.Interface{Name: "Ethernet"}
	for errno, code := range map[windows.Errno]string{windows.WSAEACCES: PortTaken, windows.WSAEADDRINUSE: NotJoined, windows.WSAEADDRNOTAVAIL: NotJoined} {
		c.Report.Findings = nil
		c.cannotJoin(group, ifc, &mcast.OpError{Op: "join", Err: os.NewSyscallError("bind", errno), Hint: hint.PortTaken}, &system{})
		f := c.Report.Findings[0]
		if f.Code != code {
			t.Errorf("%v: %+v", errno, f)
		}
		if code != PortTaken {
			continue
		}
		for _, word := range []string{"SO_REUSEADDR", "reserved"} {
			if !strings.Contains(f.Detail, word) {
				t.Errorf("%q does not name %s", f.Detail, word)
			}
		}
		for _, command := range []string{"netstat -abno", "excludedportrange"} {
			if !strings.Contains(f.Fix, command) {
				t.Errorf("%q does not name %s", f.Fix, command)
			}
		}
	}
}
