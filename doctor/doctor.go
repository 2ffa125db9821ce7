// Package doctor answers the first question of everyone who uses multicast: why does nothing arrive? It looks at the
// groups, the interfaces, the tables and counters of the system, joins the groups itself and watches for a while, and
// says what is wrong, how it knows, and what to do about it.
//
//	report, err := doctor.Run(ctx, doctor.Config{
//		Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3")},
//		Port:   12345,
//	})
//	…
//	fmt.Println(report)
//
// Run it while the program that receives nothing is running, and while somebody is sending: what it finds out about
// both is part of the answer. `go run ./examples/doctor` is the same for the command line.
//
// # What it does and does not do
//
// It changes no setting and needs no privilege. It joins each group on each interface that it examines, from its own
// sockets and for as long as it watches, as any receiver does: switches and routers notice that. On Windows these sockets
// take the IPv4 unicast to the port on these interfaces from programs that receive it on the wildcard address. It sends
// nothing, unless [Config.SendTest] asks for it. What it may not see is listed in [Facts.NotVisible]. The one thing that is seen
// only with privilege (CAP_NET_ADMIN, as root has it) is the rules of Linux's firewall. It reads
// them twice, each time for three seconds and into 8 MB of memory at most.
//
// # Findings
//
// A [Finding] has a code, which stays the same and is for programs, and texts, which are for people. The codes are the
// constants of this package. Those marked with an L are found on Linux only, since the other systems do not tell an
// ordinary program what they rest on; those with an M on macOS, those with a W on Windows.
//
//	interface-down            the interface is down, or gone
//	no-carrier             L  no cable, or nobody at its other end
//	no-multicast-flag         the interface says that it cannot multicast
//	no-address                the interface has no address of the group's family
//	bridge-port            L  the interface belongs to a bridge, bond or team, which gets the datagrams in its place
//	rp-filter              L  the reverse path filter drops the sources (RFC 3704)
//	accept-local           L  a source is this machine itself, and would have to come in by a wire
//	lo-route               L  IPv6 multicast over lo has no route, or a wrong one
//	not-joined                the group is not joined where it should be; by whom, Linux tells
//	membership-limit       L  net.ipv4.igmp_max_memberships
//	source-limit           L  net.ipv4.igmp_max_msf, net.ipv6.mld_max_msf
//	igmp-version           L  sources are not told to the network: IGMPv1, IGMPv2 or MLDv1 is spoken on it
//	port-taken                a program holds the port and does not share it, which Linux names; or Windows reserved it
//	buffer-clamped            the system grants a smaller receive buffer than was asked for
//	buffer-overflow        L  a program's receive buffer ran over while it was watched
//	vrf                    L  a program's socket is bound to no device, and receives nothing in the interface's VRF
//	wrong-port             L  multicast for ports that nobody receives on came in while it was watched
//	link-scope                the group does not leave the link, or not even the machine
//	ssm-range                 a group for source-specific multicast without sources, or the reverse (RFC 4607)
//	mac-collision             groups that switches and network cards cannot tell apart
//	reserved-group            a group that is not to be used
//	no-default-route          senders that name no interface find none
//	multiple-default       L  default routes by several interfaces
//	no-querier             L  a bridge of this machine snoops, and nobody asks who is a member
//	firewall               L  nftables dropped packets while the group was silent, or could: seen with CAP_NET_ADMIN only
//	firewall-profile       W  Windows' firewall lets nothing in
//	firewall-rule          W  a rule of Windows' firewall blocks a program
//	local-network-privacy  M  macOS keeps the program from the local network; found by the self-test
//	container              L  the interface leads to the network of containers, or of Windows' subsystem for Linux
//	self-test                 a datagram of its own did not come back
//	own-host                  all datagrams of the group come from this machine, whose receivers need Loopback for that
//	silent                    nothing of all this, and nothing came in
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

	// Port is the UDP port that they are sent to. It is required.
	Port uint16

	// Interfaces are those that they should come in by. Nil means those that could: every interface that is up and has
	// a carrier, can multicast, has an address of the family of a group, belongs to no bridge, and is not the loopback; if
	// there is none, every one but the loopback, to say what each of them lacks. An empty list that is not nil is refused.
	Interfaces []mcast.Interface

	// Sources are the hosts that send, if they are known. The groups are joined for these sources only, as with
	// mcast.RxConfig.Sources, and the reverse path filter is asked about each of them.
	Sources []netip.Addr

	// ReadBuffer is the size of the receive buffer that the program asks for, in bytes. 0 is the system's default.
	ReadBuffer int

	// Watch is how long to watch. 0 means three seconds. Less than a second is too short to call a group silent. The
	// end of the context ends it early.
	Watch time.Duration

	// SendTest sends one datagram to each group by each interface, with a hop limit of 0 so that it does not leave the
	// machine, and sees whether it comes back. Programs on the machine that receive the group get it too: it begins with
	// "mcast doctor self-test ".
	SendTest bool

	root string // where the file system begins, if that is not /
}

const (
	defaultWatch = 3 * time.Second
	silence      = time.Second     // the shortest watch after which a group is called silent
	echoTime     = 2 * time.Second // how long a self-test may take on a busy machine
)

// Severity is how bad a finding is.
type Severity int

const (
	Info    Severity = iota // good to know: nothing is wrong for a receiver that is made with this module
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
	Interface string     `json:"interface,omitempty"` // empty: it is about no single one
	Group     netip.Addr `json:"group,omitzero"`      // the zero Addr: it is about no single one
	Summary   string     `json:"summary"`             // what is wrong, in a line
	Detail    string     `json:"detail"`              // how that was established, and what follows from it
	Fix       string     `json:"fix,omitempty"`       // what to do: a command, or advice
}

// Facts are what the findings rest on, as far as it is of use by itself.
type Facts struct {
	Interfaces []string  `json:"interfaces"`            // the names of those that were examined
	Traffic    []Traffic `json:"traffic"`               // what came in, for each pair that could be joined
	Watched    string    `json:"watched"`               // for how long it was watched, as time.Duration prints it
	NotVisible []string  `json:"not_visible,omitempty"` // what the system would not show
}

// Traffic is what came in of a group by an interface.
type Traffic struct {
	Group     netip.Addr   `json:"group"`
	Interface string       `json:"interface"`
	Datagrams uint64       `json:"datagrams"`         // to the port, from the Sources if there are any
	Own       uint64       `json:"own,omitempty"`     // of these, from an address of the interface: this machine sent them
	Sources   []netip.Addr `json:"sources,omitempty"` // who sent them, up to 16
}

// Report is the result of [Run]. It is plain data, and survives JSON.
type Report struct {
	Findings []Finding `json:"findings"` // the worst first
	Facts    Facts     `json:"facts"`
}

// Worst is the highest severity of the findings. Without a finding it is Info.
func (r *Report) Worst() (worst Severity) {
	for _, f := range r.Findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// String is the report for people, in several lines.
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

// Run examines the machine and returns what it found. That something is wrong is no error: errors are mistakes in the
// configuration, a context that has ended before anything was looked at, and that the system does not even list its
// interfaces.
//
// It takes as long as Config.Watch says, and a few seconds more at most; when ctx ends it stops watching, and reports
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

// check returns the configuration with its defaults, or its mistake.
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

// wait waits, and returns how long it did.
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

// checkup is a Run that is under way.
type checkup struct {
	Config
	Report Report
	all    []mcast.Interface // of the machine
	ifaces []mcast.Interface // those to examine, as they are now
	named  bool              // by the user
	letIn  []netip.Addr      // groups that did not arrive, and that the firewall did not drop
}

func (c *checkup) add(f Finding) { c.Report.Findings = append(c.Report.Findings, f) }

func (c *checkup) notVisible(what string) {
	if !slices.Contains(c.Report.Facts.NotVisible, what) {
		c.Report.Facts.NotVisible = append(c.Report.Facts.NotVisible, what)
	}
}

// sources are those of the group's family.
func (c *checkup) sources(group netip.Addr) (same []netip.Addr) {
	for _, s := range c.Sources {
		if s.Is4() == group.Is4() {
			same = append(same, s)
		}
	}
	return same
}

// hasFamily reports whether a group is of that family.
func (c *checkup) hasFamily(v4 bool) bool {
	return slices.ContainsFunc(c.Groups, func(g netip.Addr) bool { return g.Is4() == v4 })
}

func familyName(v4 bool) string {
	if v4 {
		return "IPv4"
	}
	return "IPv6"
}

// list is "a, b and 7 more" of a list that may be long.
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
