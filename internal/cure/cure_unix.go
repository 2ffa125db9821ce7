//go:build unix

package cure

import (
	"fmt"
	"syscall"
)

// Files is the hint for a process, or a system, that has no file descriptor left.
func Files() string {
	const what = "each membership of a receiver needs a file descriptor, and each interface and family of a sender"
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return what + ": raise the limit (ulimit -n)"
	}
	return fmt.Sprintf("%s; the limit is %d: raise it (ulimit -n)", what, uint64(limit.Cur))
}
