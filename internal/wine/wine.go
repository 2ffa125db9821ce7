// Package wine is for tests under Wine, which runs Windows programs on Linux. Its own tests have sockets of Windows and of
// Linux talk to each other; they take the build tag wine, and CONTRIBUTING.md says how to run them.
//
// Wine has Linux's rules of delivery. What passes there shows that the library's code for Windows does what it means to,
// not what Windows does.
package wine

import "net/netip"

// Order is what a test orders the program agent to do. It is a line of JSON on the agent's standard input. The agent has
// one receiver and one sender.
type Order struct {
	Do               Deed
	Groups           []netip.Addr // for OpenRx and OpenTx; the first one for Join, Leave and Send
	Port             uint16
	Interfaces       []string // as FindInterfaces takes them
	Sources, Blocked []netip.Addr
	TTL              int
	Loopback         bool
	Count            int            // datagrams that Read reads
	Payload          string         // of Send and Reply
	To               netip.AddrPort // of Reply
}

// Deed is what an order is about.
type Deed string

// The deeds. Close closes both sockets, in each of which a read is blocked.
const (
	OpenRx    Deed = "open receiver"
	OpenTx    Deed = "open sender"
	Join      Deed = "join"
	Leave     Deed = "leave"
	Read      Deed = "read"
	Reply     Deed = "reply"
	Send      Deed = "send"
	ReadReply Deed = "read reply"
	Close     Deed = "close"
)

// Answer is what the agent writes to its standard output when it has done that.
type Answer struct {
	Err      string
	Arrivals []Arrival
}

// Arrival is a datagram that the agent has received. A reply has only Payload and Src.
type Arrival struct {
	Payload  string
	Group    netip.Addr
	IfIndex  int
	Src      netip.AddrPort
	HopLimit int
}
