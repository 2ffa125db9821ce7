// Routes.

package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Route is the content of a message about a route.
type Route struct {
	DstBits byte // prefix length of the destination
	SrcBits byte // prefix length of the sources that the route applies to
	TOS     byte
	Kind    byte // RTN_UNICAST, …
	Table   uint32
	Cloned  bool // from the cache, not from the table
	Expired bool // the kernel no longer uses it, and has not removed it yet
	Metric  uint32
	Rank    int   // by the preference of RFC 4191: 0 high, 1 medium, 2 low
	Hops    []Hop // all next hops
}

// Hop is a next hop of a route.
type Hop struct {
	Index int    // of the interface; above 0
	Flags uint32 // RTNH_F_DEAD, …
}

// ParseRoute parses the body of RTM_NEWROUTE or RTM_DELROUTE.
func ParseRoute(b []byte) (r Route, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	r = Route{DstBits: b[1], SrcBits: b[2], TOS: b[3], Kind: b[7], Table: uint32(b[4]), Cloned: flags&unix.RTM_F_CLONED != 0, Rank: 1}
	for typ, v := range Attrs(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_TABLE:
			r.Table = Uint32(v)
		case unix.RTA_PRIORITY:
			r.Metric = Uint32(v)
		case unix.RTA_PREF:
			switch { // a signed number of two bits
			case len(v) != 1:
			case v[0] == 1:
				r.Rank = 0
			case v[0] == 3:
				r.Rank = 2
			}
		case unix.RTA_OIF: // the flags of the message are about this next hop
			r.addHop(Uint32(v), flags)
		case unix.RTA_CACHEINFO: // struct rta_cacheinfo
			r.Expired = len(v) >= 12 && int32(binary.NativeEndian.Uint32(v[8:])) < 0
		case unix.RTA_MULTIPATH:
			for len(v) >= unix.SizeofRtNexthop {
				size := int(binary.NativeEndian.Uint16(v))
				if size < unix.SizeofRtNexthop || size > len(v) {
					break
				}
				r.addHop(binary.NativeEndian.Uint32(v[4:]), uint32(v[2]))
				v = v[align(size, len(v)):]
			}
		}
	}
	return r, true
}

func (r *Route) addHop(index, flags uint32) {
	if int32(index) > 0 {
		r.Hops = append(r.Hops, Hop{int(int32(index)), flags})
	}
}
