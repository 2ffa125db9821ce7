package testrun

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Since skips the test if this Linux is older than major.minor, which it needs for the reason given. No setting of the
// machine changes that, so it is no failure with MCAST_TEST_STRICT either.
func Since(t *testing.T, major, minor int, reason string) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var here [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &here[0], &here[1]); err != nil {
		t.Fatalf("the release %q: %v", release, err)
	}
	if here[0] < major || here[0] == major && here[1] < minor {
		t.Skipf("this is Linux %s, and before %d.%d %s", release, major, minor, reason)
	}
}
