// The profiles of Windows' firewall are read from the registry, which every user may; profile.go decides.

package doctor

import "golang.org/x/sys/windows/registry"

// checkSurroundings comes after the watch.
func (c *checkup) checkSurroundings(*system) {
	c.notVisible("the rules of the firewall, which are not looked into: " +
		"Get-NetFirewallRule -Enabled True -Direction Inbound")
	if f, found := closed(readProfiles(registry.LOCAL_MACHINE, firewallSettings, firewallPolicy)); found &&
		(c.someSilent(true) || c.someSilent(false)) {
		c.add(f)
	}
}

// Where the firewall's settings are, and those that a domain or another administration sets ([MS-GPFAS]).
const (
	firewallSettings = `SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy`
	firewallPolicy   = `SOFTWARE\Policies\Microsoft\WindowsFirewall`
)

// readProfiles reads the profiles of the firewall, by the names that PowerShell has for them.
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
