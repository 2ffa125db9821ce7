// This file tests that what the kernel says is read rightly, and that nonsense is refused.

package mcasttest

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func mdbEntry(group string, protocol ...byte) []byte {
	b := make([]byte, 28)

	copy(b[8:], netip.MustParseAddr(group).AsSlice())
	copy(b[24:], protocol)
	return attr(mdbaMDBEntry, attr(mdbaMDBEntryInfo, b, attr(1, u32(0))))
}

func TestParseMembers(t *testing.T) {
	body := append(make([]byte, 8), attr(mdbaMDB|unix.NLA_F_NESTED,
		mdbEntry("239.1.2.3", 8, 0), mdbEntry("ff15::1234", 0x86, 0xdd), mdbEntry("1.2.3.4", 0, 0))...)
	got, err := parseMembers(body)
	want := []member{{0, netip.MustParseAddr("239.1.2.3")}, {0, netip.MustParseAddr("ff15::1234")}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("members %v, %v; want %v", got, err, want)
	}
}

func TestKernelError(t *testing.T) {
	c, err := dialNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	n := &netns{nl: c}
	if _, err := n.index("nosuch0"); !isGone(err) || !strings.Contains(err.Error(), "find interface nosuch0") {
		t.Errorf("index of no interface: %v", err)
	}
	// After an error the connection is as good as before, and it does not mind an answer nobody waited for.
	if err := unix.Sendto(c.fd, message{typ: unix.RTM_GETLINK, flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, seq: 1 << 30,
		body: ifinfo(0, 0, 0)}.encode(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if index, err := n.index("lo"); err != nil || index != 1 {
		t.Errorf("index of lo: %d, %v", index, err)
	}
}

func TestExplanation(t *testing.T) {
	request := message{typ: unix.RTM_NEWLINK, seq: 1, body: []byte("12345678")}.encode()
	words := attr(unix.NLMSGERR_ATTR_MSG, text("in words"))
	const errno = -int(unix.EPERM)
	for _, m := range []message{
		{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS, body: bytes.Join([][]byte{u32(errno), request, words}, nil)},
		{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED,
			body: bytes.Join([][]byte{u32(errno), request[:unix.SizeofNlMsghdr], words}, nil)},
	} {
		if err := m.err(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "in words") {
			t.Errorf("error of %v: %v", m, err)
		}
	}
	if err := (message{typ: unix.NLMSG_ERROR, body: u32(0)}).err(); err != nil {
		t.Errorf("acknowledgement: %v", err)
	}
}

// FuzzParse checks that whatever a message is, it is refused or read, and what is read is what was there.
func FuzzParse(f *testing.F) {
	link := message{typ: unix.RTM_NEWLINK, seq: 7, body: append(ifinfo(2, 1, 1), attr(unix.IFLA_IFNAME, text("eth0"))...)}
	failed := message{typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS, body: append(u32(-1), link.encode()...)}
	members := message{typ: unix.RTM_NEWMDB, body: append(make([]byte, 8), attr(mdbaMDB, mdbEntry("239.1.2.3", 8, 0))...)}
	f.Add(link.encode())
	f.Add(failed.encode())
	f.Add(append(members.encode(), link.encode()...))
	f.Add([]byte{16, 0, 0, 0, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := parseMessages(b)
		if err != nil {
			return
		}
		for _, m := range messages {
			again, err := parseMessages(m.encode())
			if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0], m) {
				t.Fatalf("%v, encoded and parsed: %v, %v", m, again, err)
			}
			_ = m.err()
			_, _ = parseMembers(m.body)
			attrs, err := parseAttributes(m.body)
			if err != nil {
				continue
			}
			for _, a := range attrs {
				again, err := parseAttributes(attr(a.typ, a.data))
				if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0], a) {
					t.Fatalf("%v, encoded and parsed: %v, %v", a, again, err)
				}
			}
		}
	})
}
