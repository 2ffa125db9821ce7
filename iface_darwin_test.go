package mcast

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBSDNumbers compares the numbers in bsdroute.go with those of package unix.
func TestBSDNumbers(t *testing.T) {
	for typ, want := range map[byte]bool{
		unix.RTM_ADD: false, unix.RTM_RESOLVE: false, unix.RTM_NEWMADDR: false, unix.RTM_DELMADDR: false,
		unix.RTM_NEWADDR: true, unix.RTM_DELADDR: true, unix.RTM_IFINFO: true,
	} {
		if bsdCallsForScan([]byte{4, 0, unix.RTM_VERSION, typ}) != want {
			t.Errorf("message type %#x: not %v", typ, want)
		}
	}
}

// TestDefaultInterface compares the default interface with what route(8) says.
func TestDefaultInterface(t *testing.T) {
	for network, family := range map[string]string{"ip4": "-inet", "ip6": "-inet6"} {
		got, err := DefaultInterface(network)
		if err != nil && !errors.Is(err, ErrNoInterface) {
			t.Errorf("%s: %v", network, err)
			continue
		}
		// Without a default route it fails, or gives one that is not for everybody.
		said, _ := exec.Command("/sbin/route", "-n", "get", family, "default").CombinedOutput()
		want := ""
		if flags := ifaceTestField(said, "flags"); !strings.Contains(flags, "IFSCOPE") && !strings.Contains(flags, "REJECT") {
			want = ifaceTestField(said, "interface")
		}
		if got.Name != want {
			t.Errorf("%s: got %q, %v; route says\n%s", network, got.Name, err, said)
		}
		t.Logf("%s: %q", network, got.Name)
	}
}

// ifaceTestField returns the value in the line "name: value".
func ifaceTestField(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == name+":" {
			return strings.Join(f[1:], " ")
		}
	}
	return ""
}

// TestInterfacesLoopback checks what every Mac has.
func TestInterfacesLoopback(t *testing.T) {
	found, err := FindInterfaces("127.0.0.1")
	if err != nil || len(found) != 1 || found[0].Name != "lo0" || !found[0].IsLoopback() {
		t.Fatalf("127.0.0.1: %+v, %v", found, err)
	}
	again, err := FindInterfaces("fe80::1%lo0")
	if err != nil || !slices.EqualFunc(found, again, Interface.equal) {
		t.Errorf("fe80::1%%lo0: %+v, %v", again, err)
	}
}
