// What is decided of facts of other systems is decided, and tested, on every system.

package doctor

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/go-multicast/mcast"
)

func TestLocalNetworkPrivacy(t *testing.T) {
	ifc := mcast.Interface{Name: "en0", Index: 4, Flags: net.FlagUp | net.FlagRunning | net.FlagMulticast,
		IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	denied := refusal{unreachable: true, macOS: "15.4.1", ifc: ifc, group: netip.MustParseAddr("239.1.2.3")}
	if f, found := denied.private(); !found || f.Code != LocalNetworkPrivacy || f.Severity != Error ||
		f.Interface != "en0" || f.Group != denied.group || f.Fix == "" {
		t.Errorf("%v, %+v", found, f)
	}
	newer := denied
	newer.macOS = "26.0"
	if _, found := newer.private(); !found {
		t.Error("later versions do so, too")
	}
	for name, spoil := range map[string]func(*refusal){
		"another error":            func(r *refusal) { r.unreachable = false },
		"another system":           func(r *refusal) { r.macOS = "" },
		"an older one":             func(r *refusal) { r.macOS = "14.7" },
		"root":                     func(r *refusal) { r.root = true },
		"the loopback":             func(r *refusal) { r.ifc.Flags |= net.FlagLoopback },
		"down":                     func(r *refusal) { r.ifc.Flags &^= net.FlagUp },
		"no multicast":             func(r *refusal) { r.ifc.Flags &^= net.FlagMulticast },
		"no address":               func(r *refusal) { r.ifc.IPv4 = nil },
		"no address of its family": func(r *refusal) { r.group = netip.MustParseAddr("ff15::1234") },
	} {
		r := denied
		spoil(&r)
		if f, found := r.private(); found {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestFirewallProfiles(t *testing.T) {
	v := func(n uint64) *uint64 { return &n }
	shut := profile{name: "Public", enabled: v(1), shut: v(1)}
	open := profile{name: "Private", enabled: v(1), shut: v(0)}
	const none = Severity(-1)
	for name, test := range map[string]struct {
		profiles []profile
		want     Severity
	}{
		"nothing is known":       {[]profile{{name: "Public"}, {name: "Private"}}, none},
		"rules decide":           {[]profile{open, {name: "Public", enabled: v(1)}}, none},
		"off":                    {[]profile{{name: "Public", enabled: v(0), shut: v(1)}}, none},
		"one is shut":            {[]profile{shut, open}, Info},
		"all are shut":           {[]profile{shut, {name: "Private", enabled: v(7), shut: v(1)}}, Warning},
		"off by policy":          {[]profile{{name: "Public", enabled: v(1), shut: v(1), enabledByPolicy: v(0)}}, none},
		"opened by policy":       {[]profile{{name: "Public", enabled: v(1), shut: v(1), shutByPolicy: v(0)}}, none},
		"shut by policy":         {[]profile{{name: "Public", enabled: v(1), shut: v(0), shutByPolicy: v(1)}}, Warning},
		"on and shut by policy":  {[]profile{{name: "Public", enabledByPolicy: v(1), shutByPolicy: v(1)}}, Warning},
		"shut, and not known on": {[]profile{{name: "Public", shut: v(1)}}, none},
	} {
		f, found := closed(test.profiles)
		if found != (test.want != none) || found && (f.Severity != test.want || f.Code != FirewallProfile || f.Fix == "") {
			t.Errorf("%s: %v, %+v", name, found, f)
		}
	}
}

const blockRule = `v2.31|Action=Block|Active=TRUE|Dir=In|Protocol=17|Profile=Public|App=C:\Go Programs\recv.exe|Name=recv.exe|Desc=recv.exe|Defer=User|`

func TestFirewallRules(t *testing.T) {
	const self = `c:\go programs\RECV.exe`
	const none = Severity(-1)
	change := func(old, new string) string { return strings.Replace(blockRule, old, new, 1) }
	for name, test := range map[string]struct {
		rules []string
		want  Severity
	}{
		"no rules":               {nil, none},
		"this program":           {[]string{blockRule}, Warning},
		"every protocol":         {[]string{change("Protocol=17|", "")}, Warning},
		"its port":               {[]string{change("App=", "LPort=80|LPort=12345|App=")}, Warning},
		"a range of ports":       {[]string{change("App=", "LPort2_10=12000-13000|App=")}, Warning},
		"a newer version":        {[]string{change("v2.31", "v3.0")}, Warning},
		"beside one that allows": {[]string{change("Action=Block", "Action=Allow"), blockRule}, Warning},
		"another program":        {[]string{change("recv.exe", "other.exe")}, Info},
		"it allows":              {[]string{change("Action=Block", "Action=Allow")}, none},
		"it is off":              {[]string{change("Active=TRUE", "Active=FALSE")}, none},
		"what goes out":          {[]string{change("Dir=In", "Dir=Out")}, none},
		"TCP":                    {[]string{change("Protocol=17", "Protocol=6")}, none},
		"another port":           {[]string{change("App=", "LPort=12346|App=")}, none},
		"ports by keyword":       {[]string{change("App=", "LPort=RPC|App=")}, none},
		"ports out of range":     {[]string{change("App=", "LPort=99999|App=")}, none},
		"of no program":          {[]string{change(`App=C:\Go Programs\recv.exe|`, "Svc=mcast|")}, none},
		"not a rule":             {[]string{"", "v2.31", "Action=Block|Active=TRUE|Dir=In|App=" + self}, none},
	} {
		var rules []registryRule
		for _, text := range test.rules {
			if r, ok := parseRegistryRule(text); ok {
				rules = append(rules, r)
			}
		}
		f, found := blocking(rules, 12345, self)
		if found != (test.want != none) || found && (f.Severity != test.want || f.Code != FirewallRule || !strings.Contains(f.Fix, "-Program")) {
			t.Errorf("%s: %v, %+v", name, found, f)
		}
	}
}

func FuzzFirewallRule(f *testing.F) {
	for _, text := range []string{blockRule, "v2.31|LPort=1|LPort2_10=2-3|", "v|=|App|LPort=-|LPort=1-2-3|", "|"} {
		f.Add(text, uint16(2))
	}
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		r, ok := parseRegistryRule(text)
		if !ok && !reflect.DeepEqual(r, registryRule{}) {
			t.Errorf("%q is no rule, and says %+v", text, r)
		}
		if r.keepsOut(port) && !(strings.Contains(text, "|App=") && strings.Contains(strings.ToLower(text), "action=block")) {
			t.Errorf("%q blocks: %+v", text, r)
		}
	})
}
