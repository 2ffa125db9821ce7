// What is decided of facts of other systems is decided, and tested, on every system.

package doctor

import (
	"net"
	"net/netip"
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
