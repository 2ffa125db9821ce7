// The registry is Windows' own, or Wine's.

package doctor

import (
	"errors"
	"os"
	"strings"
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

// The rules are read from both places, with the variables in their paths expanded.
func TestReadRules(t *testing.T) {
	const base = `SOFTWARE\mcast-doctor-rules-test`
	app := func(name string) string { return os.Getenv("SystemRoot") + `\` + name + ".exe" }
	if rules := readRules(registry.CURRENT_USER, base+`\own`); rules != nil {
		t.Errorf("of nothing: %+v", rules)
	}
	for _, path := range []string{base, base + `\own`, base + `\policy`, base + `\own\FirewallRules`, base + `\policy\FirewallRules`} {
		key, _, err := registry.CreateKey(registry.CURRENT_USER, path, registry.ALL_ACCESS)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { key.Close(); registry.DeleteKey(registry.CURRENT_USER, path) })
		if strings.HasSuffix(path, "Rules") {
			name := path[len(base)+1:][:3]
			text := `v2.31|Action=Block|Active=TRUE|Dir=In|Protocol=17|App=%SystemRoot%\` + name + `.exe|Name=` + name + `|`
			if err := errors.Join(key.SetStringValue("{1}", text), key.SetDWordValue("{2}", 1), key.SetStringValue("{3}", "none")); err != nil {
				t.Fatal(err)
			}
		}
	}
	rules := readRules(registry.CURRENT_USER, base+`\own`, base+`\nowhere`, base+`\policy`)
	if len(rules) != 2 || rules[0].app != app("own") || rules[1].app != app("pol") || !rules[1].keepsOut(9) {
		t.Errorf("%+v", rules)
	}
}
