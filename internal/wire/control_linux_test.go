package wire

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlMessage is one as the kernel writes it on this processor, by the constants and structures of package unix.
func controlMessage[T any](level, kind int32, data T) []byte {
	size := int(unsafe.Sizeof(data))
	b := make([]byte, unix.CmsgSpace(size))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	*(*T)(unsafe.Pointer(&b[unix.CmsgLen(0)])) = data
	return b
}

// TestControlMessagesOfProcessor reads each control message in the numbers and the layout of the processor that it runs on.
func TestControlMessagesOfProcessor(t *testing.T) {
	group4, group6 := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")
	at := time.Unix(1_700_000_000, 123_456_789)
	for _, c := range []struct {
		name string
		b    []byte
		want Metadata
	}{
		{"IP_TTL", controlMessage(unix.IPPROTO_IP, unix.IP_TTL, int32(3)), Metadata{HopLimit: 3}},
		{"IPV6_HOPLIMIT", controlMessage(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, int32(64)), Metadata{HopLimit: 64}},
		{"IP_PKTINFO", controlMessage(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.Inet4Pktinfo{Ifindex: 7, Addr: group4.As4()}),
			Metadata{Group: group4, IfIndex: 7}},
		{"IPV6_PKTINFO", controlMessage(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.Inet6Pktinfo{Ifindex: 7, Addr: group6.As16()}),
			Metadata{Group: group6, IfIndex: 7}},
		{"SCM_TIMESTAMPNS", controlMessage(unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS, unix.NsecToTimespec(at.UnixNano())), Metadata{Time: at}},
		{"UDP_GRO", controlMessage(unix.SOL_UDP, unix.UDP_GRO, int32(1400)), Metadata{Segment: 1400}},
	} {
		before := controlMessage(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, uint32(9)) // not requested
		if got := ParseControl(append(before, c.b...)); got != c.want {
			t.Errorf("%s is read as %+v, want %+v", c.name, got, c.want)
		}
	}
}
