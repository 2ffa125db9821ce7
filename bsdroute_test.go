package mcast

import (
	"encoding/binary"
	"testing"
)

func TestBSDCallsForScan(t *testing.T) {
	for typ, want := range map[byte]bool{
		0x01: false, // RTM_ADD
		0x02: false, // RTM_DELETE
		0x03: false, // RTM_CHANGE
		0x04: false, // RTM_GET
		0x05: false, // RTM_LOSING
		0x06: false, // RTM_REDIRECT
		0x07: false, // RTM_MISS
		0x0b: false, // RTM_RESOLVE
		0x0c: true,  // RTM_NEWADDR
		0x0d: true,  // RTM_DELADDR
		0x0e: true,  // RTM_IFINFO
		0x0f: false, // RTM_NEWMADDR
		0x10: false, // RTM_DELMADDR
		0x12: true,  // RTM_IFINFO2
		0x00: true,  // what is not known
		0x11: true,
		0xff: true,
	} {
		if got := bsdCallsForScan([]byte{92, 0, 5, typ, 0, 0, 0, 0}); got != want {
			t.Errorf("type %#x: %v", typ, got)
		}
		if !bsdCallsForScan([]byte{92, 0, 6, typ, 0, 0, 0, 0}) {
			t.Errorf("type %#x of another version needs no scan", typ)
		}
	}
	for _, short := range []string{"", "\x04", "\x04\x00\x05"} {
		if !bsdCallsForScan([]byte(short)) {
			t.Errorf("%q needs no scan", short)
		}
	}
	// A kernel's own: a group was left (golang.org/issue/44740).
	const left = "\x32\x00\x05\x10\x30\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x14\x12\x04\x00\x06\x03\x06\x00en0" +
		"\xac\x87\xa3\x19\x7f\x82\x00\x00\x00\x0e\x12\x00\x00\x00\x00\x06\x00\x91\xe0\xf0\x01\x00\x00"
	if bsdCallsForScan([]byte(left)) {
		t.Error("a group that is left calls for a scan")
	}
}

// TestBSDDown reads messages of interfaces (struct if_msghdr). Only one that says so has an interface down.
func TestBSDDown(t *testing.T) {
	message := func(version, typ byte, flags uint32, index uint16) []byte {
		b := []byte{112, 0, version, typ, 0, 0, 0, 0}
		b = binary.NativeEndian.AppendUint32(b, flags)
		b = binary.NativeEndian.AppendUint16(b, index)
		return append(b, make([]byte, 98)...)
	}
	const up, running = 0x1, 0x40
	for _, test := range []struct {
		name    string
		message []byte
		index   int
		down    bool
	}{
		{"down", message(5, 0xe, running, 4), 4, true},
		{"down, with the highest index", message(5, 0xe, 0, 0xffff), 0xffff, true},
		{"up", message(5, 0xe, up|running, 4), 4, false},
		{"another version", message(6, 0xe, 0, 4), 0, false},
		{"an address", message(5, 0xc, 0, 4), 0, false},
		{"cut short", message(5, 0xe, 0, 4)[:13], 0, false},
		{"nothing", nil, 0, false},
	} {
		if index, down := bsdDown(test.message); index != test.index || down != test.down {
			t.Errorf("%s: %d, %v", test.name, index, down)
		}
	}
}
