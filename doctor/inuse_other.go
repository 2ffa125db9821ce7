//go:build !unix && !windows

package doctor

// isPortTaken returns false: no socket can be opened here, so no port is taken.
func isPortTaken(error) bool { return false }
