//go:build !windows

package wine

// Here reports whether Wine, and not Windows, runs this process.
func Here() bool { return false }
