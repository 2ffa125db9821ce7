//go:build linux && mcast_portable

package main

// mergeName is what the library was built with.
const mergeName = "portable merge"

var mergeGoal goal

// timedReads: what a read returns has been received ahead of it.
const timedReads = false
