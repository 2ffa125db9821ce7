package mcast

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cmsg is one control message, laid out as cmsg(3) says.
func cmsg(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func TestParseControl(t *testing.T) {
	at := unix.NsecToTimespec(time.Date(2026, 11, 21, 1, 2, 3, 456789, time.UTC).UnixNano())
	stamp := unsafe.Slice((*byte)(unsafe.Pointer(&at)), unsafe.Sizeof(at))
	foreign := cmsg(unix.SOL_SOCKET, unix.SCM_CREDENTIALS, make([]byte, 12))
	hops := cmsg(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, native32(64))
	info := cmsg(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(make([]byte, 16), native32(7)...))
	for name, c := range map[string]struct {
		in   []byte
		want metadata
	}{
		"nothing":   {nil, metadata{}},
		"TTL":       {cmsg(unix.IPPROTO_IP, unix.IP_TTL, native32(3)), metadata{hopLimit: 3}},
		"hop limit": {hops, metadata{hopLimit: 64}},
		"all": {append(append(append(cmsg(unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS, stamp), foreign...), hops...), info...),
			metadata{hopLimit: 64, ifIndex: 7, time: time.Unix(at.Unix())}},
		"short data":  {cmsg(unix.IPPROTO_IP, unix.IP_TTL, []byte{1}), metadata{}},
		"cut in two":  {append(hops, info[:len(info)-8]...), metadata{hopLimit: 64}},
		"only a head": {hops[:unix.SizeofCmsghdr], metadata{}},
	} {
		if got := parseControl(c.in); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(cmsg(unix.IPPROTO_IP, unix.IP_TTL, native32(3)))
	f.Add(cmsg(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, make([]byte, 20)))
	f.Add(cmsg(unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS, make([]byte, 16)))
	f.Fuzz(func(t *testing.T, b []byte) { parseControl(b) })
}

// FuzzSockaddr checks that what is stored for the kernel is what is read of it.
func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{239, 1, 2, 3}, uint16(5000), uint32(0))
	f.Add(make([]byte, 16), uint16(1), uint32(7))
	f.Fuzz(func(t *testing.T, ip []byte, port uint16, scope uint32) {
		var raw rawSockaddr
		copy(raw[:], ip)
		var zones zoneCache
		raw.addrPort(&zones) // whatever it is, no panic

		a, ok := netip.AddrFromSlice(ip)
		if !ok || scope > 1<<30 {
			return
		}
		raw.setAddrPort(netip.AddrPortFrom(a, port), int(scope))
		want := netip.AddrPortFrom(a, port)
		if a.Is6() && scope != 0 {
			want = netip.AddrPortFrom(a.WithZone(zones.zone(scope)), port)
		}
		if got := raw.addrPort(&zones); got != want {
			t.Errorf("%v with scope %d comes back as %v", want, scope, got)
		}
	})
}
