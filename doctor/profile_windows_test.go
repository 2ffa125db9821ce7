// The registry is Windows' own, or Wine's.

package doctor

import (
	"testing"

	"golang.org/x/sys/windows/registry"
)

// The profiles are read as they are written, from a key of the user's own.
func TestReadProfiles(t *testing.T) {
	const base = `SOFTWARE\mcast-doctor-test`
	write := func(path string, values map[string]uint32) {
		t.Helper()
		key, _, err := registry.CreateKey(registry.CURRENT_USER, path, registry.ALL_ACCESS)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { key.Close(); registry.DeleteKey(registry.CURRENT_USER, path) })
		for name, value := range values {
			if err := key.SetDWordValue(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func() (f Finding, found bool) {
		return closed(readProfiles(registry.CURRENT_USER, base+`\own`, base+`\policy`))
	}
	if f, found := read(); found {
		t.Errorf("of nothing: %+v", f)
	}
	write(base, nil)
	write(base+`\own`, nil)
	write(base+`\policy`, nil)
	write(base+`\own\PublicProfile`, map[string]uint32{"EnableFirewall": 1, "DoNotAllowExceptions": 1})
	write(base+`\own\StandardProfile`, map[string]uint32{"EnableFirewall": 1, "DoNotAllowExceptions": 0})
	if f, found := read(); !found || f.Severity != Info {
		t.Errorf("of Public alone: %+v", f)
	}
	write(base+`\policy\PrivateProfile`, map[string]uint32{"DoNotAllowExceptions": 1})
	write(base+`\policy\DomainProfile`, map[string]uint32{"EnableFirewall": 1, "DoNotAllowExceptions": 1})
	if f, found := read(); !found || f.Severity != Warning {
		t.Errorf("of all: %+v", f)
	}
}

// The machine's own profiles can be read, or are not there.
func TestOwnProfiles(t *testing.T) {
	if profiles := readProfiles(registry.LOCAL_MACHINE, firewallSettings, firewallPolicy); len(profiles) != 3 {
		t.Errorf("%+v", profiles)
	}
}
