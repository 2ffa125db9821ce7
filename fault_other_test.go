//go:build !linux && !windows

package mcast

import "testing"

// bestEffort are the calls that may fail, each with the beginning of the name of the operations that it may fail in.
var bestEffort map[string]string

const descriptorSlack = 0

// openDescriptors is what cannot be told here without those of the runtime.
func openDescriptors(*testing.T) int { return 0 }
