// Reads the profiles and rules of Windows' firewall from the registry, which every user may do; profile.go decides.

package doctor

import (
	"os"

	"golang.org/x/sys/windows/registry"
)

// checkSurroundings runs after the watch.
func (c *checkup) checkSurroundings(*system) {
	c.notVisible("which rules of the firewall allow the program or the port: Get-NetFirewallRule -Enabled True -Direction " +
		"Inbound. Without one, only replies to multicast pass, for 4 seconds after each datagram that the program sends")
	c.notVisible("the multicast level of the host, which must be All to receive: Get-NetIPv4Protocol (IGMPLevel), " +
		"Get-NetIPv6Protocol (MldLevel)")
	if !c.someSilent(true) && !c.someSilent(false) {
		return
	}
	if f, found := closed(readProfiles(registry.LOCAL_MACHINE, firewallSettings, firewallPolicy)); found {
		c.add(f)
	}
	self, _ := os.Executable()
	if f, found := blocking(readRules(registry.LOCAL_MACHINE, firewallSettings, firewallPolicy), c.Port, self); found {
		c.add(f)
	}
}

// readRules reads the rules of the firewall, including those of an administration.
func readRules(root registry.Key, paths ...string) (rules []registryRule) {
	for _, path := range paths {
		key, err := registry.OpenKey(root, path+`\FirewallRules`, registry.QUERY_VALUE)
		if err != nil {
			continue
		}
		defer key.Close()
		names, _ := key.ReadValueNames(0)
		for _, name := range names {
			text, _, err := key.GetStringValue(name)
			if r, ok := parseRegistryRule(text); err == nil && ok {
				if app, err := registry.ExpandString(r.app); err == nil { // %SystemRoot%, %ProgramFiles%
					r.app = app
				}
				rules = append(rules, r)
			}
		}
	}
	return rules
}

// Where the settings of the firewall are, and the settings of a domain or another administration ([MS-GPFAS]).
const (
	firewallSettings = `SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy`
	firewallPolicy   = `SOFTWARE\Policies\Microsoft\WindowsFirewall`
)

// readProfiles reads the profiles of the firewall, under the names that PowerShell uses.
func readProfiles(root registry.Key, settings, policy string) (profiles []profile) {
	for _, names := range [][3]string{
		{"Domain", "DomainProfile", "DomainProfile"},
		{"Private", "StandardProfile", "PrivateProfile"},
		{"Public", "PublicProfile", "PublicProfile"},
	} {
		p := profile{name: names[0]}
		p.enabled, p.shut = readProfile(root, settings+`\`+names[1])
		p.enabledByPolicy, p.shutByPolicy = readProfile(root, policy+`\`+names[2])
		profiles = append(profiles, p)
	}
	return profiles
}

func readProfile(root registry.Key, path string) (enabled, shut *uint64) {
	key, err := registry.OpenKey(root, path, registry.QUERY_VALUE)
	if err != nil {
		return nil, nil
	}
	defer key.Close()
	read := func(name string) *uint64 {
		value, _, err := key.GetIntegerValue(name)
		if err != nil {
			return nil
		}
		return &value
	}
	return read("EnableFirewall"), read("DoNotAllowExceptions")
}
