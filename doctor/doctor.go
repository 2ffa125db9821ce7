// Package doctor answers the first question of multicast users: why does nothing arrive? It examines the groups, the
// interfaces, and the tables and counters of the system. It joins the groups itself and watches for a while. It reports
// what is wrong, how it knows, and what to do about it.
//
//	report, err := doctor.Run(ctx, doctor.Config{
//		Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3")},
//		Port:   12345,
//	})
//	…
//	fmt.Println(report)
//
// Run it while the program that receives nothing is running, and while a host is sending: what it finds out about both
// is part of the answer. `go run ./examples/doctor` does the same on the command line.
//
// # What it does and does not do
//
// It changes no setting and needs no privilege. It joins each group on each interface that it examines, as any receiver
// does. It uses its own sockets, for as long as it watches. Switches and routers notice these joins. On Windows these
// sockets take the IPv4 unicast to the port on these interfaces from programs that receive it on the wildcard address.
// It sends nothing, unless [Config.SendTest] asks for it. [Facts.NotVisible] lists what it may not see. Only the rules
// of Linux's firewall need a privilege to be seen (CAP_NET_ADMIN, which root has). It reads them twice, each time for
// three seconds and into 8 MB of memory at most.
//
// # Findings
//
// A [Finding] has a code for programs, which stays the same, and texts for people. The codes are the constants of this
// package. Codes marked with an L are found on Linux only: the other systems do not show an ordinary program what
// these findings rest on. Codes marked with an M are found on macOS, codes with a W on Windows.
//
//	interface-down            the interface is down, or gone
//	no-carrier             L  no cable, or nothing at its other end
//	no-multicast-flag         the interface says that it cannot multicast
//	no-address                the interface has no address of the group's family
//	bridge-port            L  the interface belongs to a bridge, bond or team, which receives the datagrams in its place
//	rp-filter              L  the reverse path filter drops the sources (RFC 3704)
//	accept-local           L  a source is this machine itself, and its datagrams would have to arrive on a wire
//	lo-route               L  IPv6 multicast over lo has no route, or a wrong one
//	not-joined                the group is not joined where it should be; Linux names the program
//	membership-limit       L  net.ipv4.igmp_max_memberships
//	source-limit           L  net.ipv4.igmp_max_msf, net.ipv6.mld_max_msf
//	igmp-version           L  sources are not reported to the network: it uses IGMPv1, IGMPv2 or MLDv1
//	port-taken                a program holds the port and does not share it (Linux names it), or Windows reserved it
//	buffer-clamped            the system grants a smaller receive buffer than requested
//	buffer-overflow        L  a program's receive buffer overflowed during the watch
//	vrf                    L  a program's socket is bound to no device, and receives nothing in the interface's VRF
//	wrong-port             L  multicast arrived during the watch for ports that no socket receives on
//	link-scope                the group does not leave the link, or not even the machine
//	ssm-range                 a group for source-specific multicast without sources, or the reverse (RFC 4607)
//	mac-collision             groups that switches and network cards cannot distinguish
//	reserved-group            a group that is not to be used
//	no-default-route          senders that name no interface find none
//	multiple-default       L  default routes on several interfaces
//	no-querier             L  a bridge of this machine snoops, and there is no querier
//	firewall               L  nftables dropped packets while the group was silent, or could: seen with CAP_NET_ADMIN only
//	firewall-profile       W  Windows' firewall lets nothing in
//	firewall-rule          W  a rule of Windows' firewall blocks a program
//	local-network-privacy  M  macOS keeps the program from the local network; found by the self-test
//	container              L  the interface leads to the network of containers, or of the Windows Subsystem for Linux
//	self-test                 a datagram that doctor sent did not come back
//	own-host                  this machine sends all datagrams of the group; its receivers need Loopback for them
//	silent                    none of the above, and nothing arrived
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
)

// The codes of findings. The package documentation says what each means.
const (
	InterfaceDown       = "interface-down"
	NoCarrier           = "no-carrier"
	NoMulticastFlag     = "no-multicast-flag"
	NoAddress           = "no-address"
	BridgePort          = "bridge-port"
	RPFilter            = "rp-filter"
	AcceptLocal         = "accept-local"
	LoRoute             = "lo-route"
	NotJoined           = "not-joined"
	MembershipLimit     = "membership-limit"
	SourceLimit         = "source-limit"
	IGMPVersion         = "igmp-version"
	PortTaken           = "port-taken"
	BufferClamped       = "buffer-clamped"
	BufferOverflow      = "buffer-overflow"
	VRF                 = "vrf"
	WrongPort           = "wrong-port"
	LinkScope           = "link-scope"
	SSMRange            = "ssm-range"
	MACCollision        = "mac-collision"
	ReservedGroup       = "reserved-group"
	NoDefaultRoute      = "no-default-route"
	MultipleDefault     = "multiple-default"
	NoQuerier           = "no-querier"
	Firewall            = "firewall"
	FirewallProfile     = "firewall-profile"
	FirewallRule        = "firewall-rule"
	LocalNetworkPrivacy = "local-network-privacy"
	Container           = "container"
	SelfTest            = "self-test"
	OwnHost             = "own-host"
	Silent              = "silent"
)

// Config says what should arrive, and where.
type Config struct {
	// Groups are the groups that should arrive. At least one is required; families may be mixed.
	Groups []netip.Addr

	// Port is the UDP port that the groups are sent to. It is required.
	Port uint16

	// Interfaces are the interfaces on which the groups should arrive. Nil means every interface that could receive
	// them. Such an interface is up, has a carrier and can multicast. It has an address of the family of a group. It belongs
	// to no bridge, and is not the loopback. If there is none, nil means every interface but the loopback, to report
	// what each of them lacks. An empty list that is not nil is refused.
	Interfaces []mcast.Interface

	// Sources are the hosts that send, if they are known. The groups are joined for these sources only, as with
	// mcast.RxConfig.Sources. The reverse path filter is checked for each of them.
	Sources []netip.Addr

	// ReadBuffer is the size of the receive buffer that the program requests, in bytes. 0 means the system's default.
	ReadBuffer int

	// Watch is how long to watch. 0 means three seconds. Less than a second is too short to call a group silent. The
	// end of the context ends the watch early.
	Watch time.Duration

	// SendTest sends one datagram to each group through each interface, and checks whether it comes back. The hop limit
	// is 0, so the datagram does not leave the machine. Programs on the machine that receive the group receive it too.
	// The datagram begins with "mcast doctor self-test ".
	SendTest bool

	root string // the root of the file system, if that is not /
}

const (
	defaultWatch = 3 * time.Second
	silence      = time.Second     // the shortest watch after which a group is called silent
	echoTime     = 2 * time.Second // how long a self-test may take on a busy machine
)

// Severity is how bad a finding is.
type Severity int

const (
	Info    Severity = iota // good to know: nothing is wrong for a receiver made with this module
	Warning                 // may well be the reason, or become one
	Error                   // as long as it is so, it cannot work
)

var severities = []string{"info", "warning", "error"}

func (s Severity) String() string {
	if s < 0 || int(s) >= len(severities) {
		return fmt.Sprintf("Severity(%d)", int(s))
	}
	return severities[s]
}

// MarshalText writes "info", "warning" or "error".
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severities, string(text))
	if i < 0 {
		return fmt.Errorf("doctor: unknown severity %q", text)
	}
	*s = Severity(i)
	return nil
}

// Finding is one thing that is wrong, or good to know.
type Finding struct {
	Code      string     `json:"code"` // one of the constants
	Severity  Severity   `json:"severity"`
	Interface string     `json:"interface,omitempty"` // empty: the finding is about no single one
	Group     netip.Addr `json:"group,omitzero"`      // the zero Addr: the finding is about no single one
	Summary   string     `json:"summary"`             // what is wrong, in one line
	Detail    string     `json:"detail"`              // how that was established, and what follows
	Fix       string     `json:"fix,omitempty"`       // what to do: a command, or advice
}

// Facts are the observations that the findings rest on, as far as they are useful by themselves.
type Facts struct {
	Interfaces []string  `json:"interfaces"`            // the names of the examined interfaces
	Traffic    []Traffic `json:"traffic"`               // what arrived, for each membership that could be joined
	Watched    string    `json:"watched"`               // how long the watch took, as time.Duration prints it
	NotVisible []string  `json:"not_visible,omitempty"` // what the system would not show
}

// Traffic is what arrived for a group on an interface.
type Traffic struct {
	Group     netip.Addr   `json:"group"`
	Interface string       `json:"interface"`
	Datagrams uint64       `json:"datagrams"`         // to the port, and from the Sources if there are any
	Own       uint64       `json:"own,omitempty"`     // of these, from an address of the interface: this machine sent them
	Sources   []netip.Addr `json:"sources,omitempty"` // where they came from, up to 16 addresses
}

// Report is the result of [Run]. It is plain data, which can be stored as JSON and read again.
type Report struct {
	Findings []Finding `json:"findings"` // the worst first
	Facts    Facts     `json:"facts"`
}

// Worst returns the highest severity of the findings. Without a finding it returns Info.
func (r *Report) Worst() (worst Severity) {
	for _, f := range r.Findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// String returns the report for people, in several lines.
func (r *Report) String() string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: %s", strings.ToUpper(f.Severity.String()), f.Code)
		if f.Group.IsValid() {
			fmt.Fprintf(&b, " of %s", f.Group)
		}
		if f.Interface != "" {
			fmt.Fprintf(&b, " on %s", f.Interface)
		}
		fmt.Fprintf(&b, ": %s\n    %s\n", f.Summary, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(&b, "    Fix: %s\n", f.Fix)
		}
	}
	if len(r.Findings) == 0 {
		b.WriteString("Nothing is wrong.\n")
	}
	for _, t := range r.Facts.Traffic {
		fmt.Fprintf(&b, "%s by %s: %d datagrams in %s", t.Group, t.Interface, t.Datagrams, r.Facts.Watched)
		for i, s := range t.Sources {
			b.WriteString([]string{" from ", ", "}[min(i, 1)])
			b.WriteString(s.String())
		}
		b.WriteByte('\n')
	}
	for _, what := range r.Facts.NotVisible {
		fmt.Fprintf(&b, "Not visible: %s\n", what)
	}
	return b.String()
}

// Run examines the machine and returns what it found. A finding is not an error. Errors are mistakes in the
// configuration, a context that ended before anything was examined, and a system that does not even list its
// interfaces.
//
// Run takes as long as Config.Watch says, and a few seconds more at most. When ctx ends, Run stops watching and reports
// what it has. On Linux it examines the network namespace of the calling thread.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	all, err := mcast.Interfaces()
	if err != nil {
		return nil, err
	}
	c := &checkup{Config: cfg, all: all}
	before := c.look()
	c.choose(before)

	c.checkGroups()
	c.checkInterfaces()
	c.checkSystem(before)
	c.seeFirewall(ctx, before)

	listeners := c.listen(c.Groups, c.sources, before)
	defer func() {
		for _, l := range listeners {
			l.close()
		}
	}()
	start := c.look()
	c.checkJoined(start, listeners)
	if c.SendTest {
		c.selfTest(ctx, listeners)
	}
	watched := wait(ctx, cfg.Watch)
	end := c.look()
	c.report(listeners, watched)
	c.checkFlags()
	c.checkDefaults()
	c.checkWatched(before, start, end)
	c.checkFirewall(ctx, before, watched)
	c.checkSurroundings(end)
	c.checkOwnHost(watched)
	c.checkSilence(listeners, watched)

	slices.SortStableFunc(c.Report.Findings, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return &c.Report, nil
}

// check returns the configuration with its defaults, or an error about its mistake.
func (cfg Config) check() (Config, error) {
	mistake := func(format string, args ...any) (Config, error) {
		return Config{}, &mcast.OpError{Op: "examine", Err: fmt.Errorf(format, args...)}
	}
	if len(cfg.Groups) == 0 {
		return mistake("Groups is empty: want at least one multicast address")
	}
	if cfg.Port == 0 {
		return mistake("Port is 0: want the port that the datagrams are sent to")
	}
	if cfg.Interfaces != nil && len(cfg.Interfaces) == 0 {
		return mistake("Interfaces is empty: %w", mcast.ErrNoInterface)
	}
	if cfg.ReadBuffer < 0 || cfg.Watch < 0 {
		return mistake("ReadBuffer %d and Watch %v: want no negative values", cfg.ReadBuffer, cfg.Watch)
	}
	var groups []netip.Addr
	for _, g := range cfg.Groups {
		if g = g.Unmap(); !g.IsMulticast() || g.Zone() != "" {
			return mistake("Groups: %s: %w", g, mcast.ErrNotMulticast)
		}
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	var sources []netip.Addr
	for _, s := range cfg.Sources {
		s = s.Unmap()
		family := func(g netip.Addr) bool { return g.Is4() == s.Is4() }
		if !s.IsValid() || s.IsMulticast() || s.IsUnspecified() || s.Zone() != "" || !slices.ContainsFunc(groups, family) {
			return mistake("Sources: %s is not the address of a host, without zone, of the family of a group", s)
		}
		if !slices.Contains(sources, s) {
			sources = append(sources, s)
		}
	}
	cfg.Groups, cfg.Sources = groups, sources
	cfg.Watch = cmp.Or(cfg.Watch, defaultWatch)
	return cfg, nil
}

// wait waits, and returns how long it waited.
func wait(ctx context.Context, d time.Duration) time.Duration {
	start := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return time.Since(start)
}

// checkup is a Run in progress.
type checkup struct {
	Config
	Report Report
	all    []mcast.Interface // of the machine
	ifaces []mcast.Interface // to be examined, in their present state
	named  bool              // by the user: Config.Interfaces
	letIn  []netip.Addr      // groups that did not arrive, and that the firewall did not drop
}

func (c *checkup) add(f Finding) { c.Report.Findings = append(c.Report.Findings, f) }

func (c *checkup) notVisible(what string) {
	if !slices.Contains(c.Report.Facts.NotVisible, what) {
		c.Report.Facts.NotVisible = append(c.Report.Facts.NotVisible, what)
	}
}

// sources returns the Sources of the group's family.
func (c *checkup) sources(group netip.Addr) (same []netip.Addr) {
	for _, s := range c.Sources {
		if s.Is4() == group.Is4() {
			same = append(same, s)
		}
	}
	return same
}

// hasFamily reports whether any group is of the family.
func (c *checkup) hasFamily(v4 bool) bool {
	return slices.ContainsFunc(c.Groups, func(g netip.Addr) bool { return g.Is4() == v4 })
}

func familyName(v4 bool) string {
	if v4 {
		return "IPv4"
	}
	return "IPv6"
}

// list returns "a, b and 7 more" for a list that may be long.
func list[T any](all []T) string {
	const most = 5
	var texts []string
	for _, x := range all[:min(len(all), most)] {
		texts = append(texts, fmt.Sprint(x))
	}
	text := strings.Join(texts, ", ")
	if len(all) > most {
		text += fmt.Sprintf(" and %d more", len(all)-most)
	}
	return text
}
