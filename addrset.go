// A set of addresses that the reads of many OS sockets share.

package mcast

import (
	"net/netip"
	"slices"
)

// addrSet is a set of addresses without zones. It is immutable, so any number of OS sockets can share it. nil is the
// empty set.
type addrSet struct {
	few  []netip.Addr            // all of them, if there are at most fewAddrs
	many map[netip.Addr]struct{} // all of them otherwise
}

// fewAddrs is the largest number of addresses that are compared one by one: a map would take longer for them.
const fewAddrs = 16

// newAddrSet returns the set of addrs. It keeps no reference to them.
func newAddrSet(addrs []netip.Addr) *addrSet {
	switch {
	case len(addrs) == 0:
		return nil
	case len(addrs) <= fewAddrs:
		return &addrSet{few: slices.Clone(addrs)}
	}
	s := &addrSet{many: make(map[netip.Addr]struct{}, len(addrs))}
	for _, a := range addrs {
		s.many[a] = struct{}{}
	}
	return s
}

// has reports whether a, which has no zone, is in the set.
func (s *addrSet) has(a netip.Addr) bool {
	switch {
	case s == nil:
		return false
	case s.many == nil:
		return slices.Contains(s.few, a)
	}
	_, ok := s.many[a]
	return ok
}
