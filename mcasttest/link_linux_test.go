// This file tests that the switch's table of members is read rightly.

package mcasttest

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

func mdbEntry(group string, protocol ...byte) []byte {
	b := make([]byte, 28)
	copy(b[8:], netip.MustParseAddr(group).AsSlice())
	copy(b[24:], protocol)
	return rtnl.Attr(mdbaMDBEntry, rtnl.Attr(mdbaMDBEntryInfo, b, rtnl.Attr(1, u32(0))))
}

func TestParseMembers(t *testing.T) {
	body := append(make([]byte, 8), rtnl.Attr(mdbaMDB|unix.NLA_F_NESTED,
		mdbEntry("239.1.2.3", 8, 0), mdbEntry("ff15::1234", 0x86, 0xdd), mdbEntry("1.2.3.4", 0, 0))...)
	want := []member{{0, netip.MustParseAddr("239.1.2.3")}, {0, netip.MustParseAddr("ff15::1234")}}
	if got := parseMembers(body); !reflect.DeepEqual(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
}

func TestKernelError(t *testing.T) {
	n, err := hereNetns()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	if _, err := n.index("nosuch0"); !isGone(err) || !strings.Contains(err.Error(), "find interface nosuch0") {
		t.Errorf("index of no interface: %v", err)
	}
	// After an error the connection is as good as before.
	if index, err := n.index("lo"); err != nil || index != 1 {
		t.Errorf("index of lo: %d, %v", index, err)
	}
}

// FuzzParseMembers checks that no more members come out than went in.
func FuzzParseMembers(f *testing.F) {
	f.Add(append(make([]byte, 8), rtnl.Attr(mdbaMDB, mdbEntry("239.1.2.3", 8, 0))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parseMembers(b)); n > len(b)/28 {
			t.Errorf("%d members in %d bytes", n, len(b))
		}
	})
}
