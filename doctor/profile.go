// What Windows' firewall says in the registry: whether one of its profiles lets nothing in at all, and which rules
// block a program. Rules that allow a program are not examined.

package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// profile is a profile of the firewall, for one kind of network. Each setting has two fields: the system's own, and the
// policy of an administrator of many machines, which has precedence. nil means not set.
type profile struct {
	name                     string
	enabled, enabledByPolicy *uint64 // EnableFirewall
	shut, shutByPolicy       *uint64 // DoNotAllowExceptions: blocks everything that arrives, whatever the rules allow
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

// closed makes the finding about profiles that let nothing in. It is not known which of them applies to the network.
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
		Fix: fixFirewallProfile(strings.Join(names, ","))}
	if len(names) == len(profiles) {
		f.Severity = Warning
		f.Summary = "the firewall lets nothing in on any network, whatever its rules allow"
	}
	return f, true
}

// registryRule is a rule of the firewall, as far as it matters here.
type registryRule struct {
	name    string
	app     string // the path of the program; empty: the rule is for others too
	blocks  bool   // otherwise it allows
	udp     bool   // for UDP, or for every protocol
	in      bool   // for what arrives
	active  bool
	ports   [][2]uint16 // the local ports, from and to; none: all
	unclear bool        // the rule is for local ports of another kind
}

// parseRegistryRule reads a rule as the registry has it: "v2.31|Action=Block|Active=TRUE|Dir=In|Protocol=17|
// App=C:\x.exe|Name=x|" ([MS-GPFAS], section 2.2.2.19). It skips what it does not know.
func parseRegistryRule(text string) (r registryRule, ok bool) {
	version, fields, ok := strings.Cut(text, "|")
	if !ok || !strings.HasPrefix(version, "v") {
		return r, false
	}
	r.udp = true
	for field := range strings.SplitSeq(fields, "|") {
		name, value, _ := strings.Cut(field, "=")
		is := func(want string) bool { return strings.EqualFold(value, want) }
		switch name {
		case "Action":
			r.blocks = is("Block")
		case "Active":
			r.active = is("TRUE")
		case "Dir":
			r.in = is("In")
		case "Protocol":
			r.udp = is("17")
		case "App":
			r.app = value
		case "Name":
			r.name = value
		case "LPort", "LPort2_10": // the latter is a range
			ports, ok := parsePorts(value)
			if r.unclear = r.unclear || !ok; ok {
				r.ports = append(r.ports, ports)
			}
		}
	}
	return r, true
}

// parsePorts reads "5353" and "5000-6000".
func parsePorts(text string) (ports [2]uint16, ok bool) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	for i, s := range []string{from, to} {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return ports, false
		}
		ports[i] = uint16(n)
	}
	return ports, true
}

// keepsOut reports whether the rule blocks what arrives for a program on a port.
func (r registryRule) keepsOut(port uint16) bool {
	fits := func(ports [2]uint16) bool { return ports[0] <= port && port <= ports[1] }
	all := len(r.ports) == 0 && !r.unclear
	return r.blocks && r.active && r.in && r.udp && r.app != "" && (all || slices.ContainsFunc(r.ports, fits))
}

// blocking makes the finding about rules that block the port for a program. They have precedence over rules that open
// it. If this program is among the blocked ones, that explains its silence. Otherwise the user may find the program
// that receives nothing.
func blocking(rules []registryRule, port uint16, self string) (f Finding, found bool) {
	var own, others []string
	for _, r := range rules {
		switch {
		case !r.keepsOut(port):
		case strings.EqualFold(r.app, self):
			own = append(own, strconv.Quote(r.name))
		case !slices.ContainsFunc(others, func(app string) bool { return strings.EqualFold(app, r.app) }):
			others = append(others, r.app)
		}
	}
	const why = "The registry has such rules with Action=Block and Dir=In. Windows leaves them when a user does not allow a " +
		"program at its first start, and they count more than rules that open the port."
	switch {
	case len(own) > 0:
		return Finding{Code: FirewallRule, Severity: Warning,
			Summary: "the firewall blocks what comes in for this program, whatever other rules allow",
			Detail:  fmt.Sprintf("The rule is called %s, and its program is %s. %s", list(own), self, why),
			Fix:     fixUnblock(self)}, true
	case len(others) > 0:
		slices.Sort(others)
		return Finding{Code: FirewallRule, Severity: Info,
			Summary: "the firewall blocks what comes in for some programs, whatever other rules allow",
			Detail:  fmt.Sprintf("They are %s. If one of them should receive, this is why it does not. %s", list(others), why),
			Fix:     fixUnblock("…")}, true
	}
	return f, false
}
