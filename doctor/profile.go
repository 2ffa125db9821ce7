// What the profiles of Windows' firewall say by themselves: whether one lets nothing in at all. Which of its rules fits
// a program is not looked into.

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-multicast/mcast/internal/cure"
)

// profile is that of the firewall for networks of a kind. Its fields are what the system's own settings say, and what
// those of an administrator of many machines say, which count more; nil is nothing.
type profile struct {
	name                     string
	enabled, enabledByPolicy *uint64 // EnableFirewall
	shut, shutByPolicy       *uint64 // DoNotAllowExceptions: all that comes in is blocked, whatever the rules allow
}

// letsIn reports whether the profile may let in what rules allow.
func (p profile) letsIn() bool {
	value := func(own, policy *uint64) bool {
		if policy != nil {
			own = policy
		}
		return own != nil && *own != 0
	}
	return !value(p.enabled, p.enabledByPolicy) || !value(p.shut, p.shutByPolicy)
}

// closed makes the finding of the profiles that let nothing in. Which of them is that of the network, is not known.
func closed(profiles []profile) (f Finding, found bool) {
	var names []string
	for _, p := range profiles {
		if !p.letsIn() {
			names = append(names, p.name)
		}
	}
	if len(names) == 0 {
		return f, false
	}
	slices.Sort(names)
	f = Finding{Code: FirewallProfile, Severity: Info,
		Summary: fmt.Sprintf("the firewall lets nothing in on networks of the kind %s, whatever its rules allow",
			list(names)),
		Detail: "The registry has EnableFirewall 1 and DoNotAllowExceptions 1 for it (\"block all incoming connections\"). " +
			"Get-NetConnectionProfile shows of which kind the network is.",
		Fix: cure.FirewallProfile(strings.Join(names, ","))}
	if len(names) == len(profiles) {
		f.Severity = Warning
		f.Summary = "the firewall lets nothing in on any network, whatever its rules allow"
	}
	return f, true
}
