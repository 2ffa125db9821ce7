//go:build linux && !mcast_portable

package main

// mergeName is what the library was built with.
const mergeName = "epoll"

// mergeGoal: faster than without it.
var mergeGoal = goal{atMost: 1}

// timedReads: what a read returns has been received by it, so that a clock around it tells what that costs.
const timedReads = true
