//go:build !linux

// Stubs for systems whose kernel tables are not read.

package doctor

import (
	"context"
	"net/netip"
	"time"

	"github.com/go-multicast/mcast"
)

// system is one reading of the tables and counters. Here there are none.
type system struct{}

func (c *checkup) look() *system {
	c.notVisible("who else has joined, who has the port, and what the system dropped: on this system that is not " +
		"looked at")
	return &system{}
}

func (*system) master(int) string                   { return "" }
func (*system) fallback(mcast.Interface) bool       { return false }
func (*system) holders(*checkup, netip.Addr) string { return whoHolds }
func (*checkup) checkSystem(*system)                {}
func (*checkup) checkJoined(*system, []*listener)   {}
func (*checkup) checkWatched(_, _, _ *system)       {}

func (*checkup) seeFirewall(context.Context, *system)                  {}
func (*checkup) checkFirewall(context.Context, *system, time.Duration) {}
