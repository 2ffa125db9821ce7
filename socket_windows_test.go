package mcast_test

import (
	"testing"

	"golang.org/x/sys/windows"
)

// skipWine skips the test where Wine, and not Windows, runs it, and Wine cannot do it.
func skipWine(t *testing.T, affected bool, why string) {
	t.Helper()
	if affected && windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil {
		t.Skipf("Wine %s", why)
	}
}
