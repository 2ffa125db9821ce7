//go:build !linux

package mcast

import "net"

// indexIsFree reports whether no interface has the index.
func indexIsFree(index int) bool {
	_, err := net.InterfaceByIndex(index)
	return err != nil
}

// lacks reports the same of a sender's system.
func (*sender) lacks(index int) bool { return indexIsFree(index) }
