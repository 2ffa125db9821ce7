package main

// What the numbers mean: one sentence for a listener and a family, and where to look next.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// facts is what the sentence rests on.
type facts struct {
	family  family
	streams *[kinds]stream
	found   bool // a listener has answered, by this family or the other
	heard   int  // how many counted probes to the group it says it has got
	limited bool // it says that it has left probes without an answer
	ttl     int  // what multicast is sent with, here
	mttl    int  // and there
	source  netip.Addr
}

// extent is how much of something arrives.
type extent int

const (
	untried extent = iota
	nothing
	partly
	whole
)

func extentOf(sent, came int) extent {
	switch {
	case sent == 0:
		return untried
	case came <= 0:
		return nothing
	case came < sent:
		return partly
	}
	return whole
}

// meaning says what the facts mean. The first case that fits is the one that explains most.
func meaning(f facts) string {
	of := func(k kind) extent { return extentOf(len(f.streams[k].sent), len(f.streams[k].trips)) }
	uni, back, asm, ssm := of(unicast), of(asmTo), of(asmFrom), of(ssmFrom)
	// What it says it has got may hold duplicates, and what came back it must have got.
	to := extentOf(len(f.streams[asmTo].sent), max(f.heard, len(f.streams[asmTo].trips)))
	lossy := slices.Contains([]extent{uni, back, asm, ssm}, partly)
	far := f.streams[unicast].hops
	doctor := fmt.Sprintf("go run ./examples/doctor -group %s -port %d", list(groups), *port)

	switch {
	case uni == untried && back == untried:
		return "nothing was counted."
	case uni <= nothing && back == nothing && !f.found:
		return fmt.Sprintf("nothing comes back, neither by unicast nor by multicast: ping -listen does not run there "+
			"(with -port %d), or a firewall, there or here, stops UDP to the ports %d and %d.", *port, *port, *port+1)
	case uni == untried && back == nothing:
		return fmt.Sprintf("it listens by %v, and multicast to it does not get there. To see whether unicast does, give "+
			"its %[1]v address as an argument, and run there: %s", f.family, doctor)
	case f.limited && (lossy || back == nothing || asm == nothing || ssm == nothing):
		return "the listener was asked too often, by you or by others, and has left probes without an answer: " +
			"the losses mean nothing; take a longer -interval."
	case uni == nothing && back == nothing:
		return "it has answered at first, and nothing counted has come back: it has ended, or the network has failed."
	case uni == nothing:
		return fmt.Sprintf("multicast gets there and is answered, and unicast does not get there: "+
			"a firewall there stops UDP to port %d.", *port+1)
	case asm == untried && ssm == untried:
		return "it was too late with its first answer to be asked for multicast: take a longer -wait."

	case to == nothing && asm == nothing && ssm == nothing && far >= f.ttl && far >= f.mttl:
		return fmt.Sprintf("unicast is fine and multicast is lost, since its TTL (%d here, %d there) is too small for a way "+
			"with %s: start both ends with -ttl %d or more; the routers must route multicast, too.",
			f.ttl, f.mttl, routers(far), far+1)
	case to == nothing && asm == nothing && ssm == nothing && far > 0:
		return fmt.Sprintf("unicast is fine and multicast is lost both ways: the %s in between do not route it, or a switch "+
			"does not forward it. Routers need PIM for it, and switches that snoop a querier. To be sure of the host, "+
			"run there: %s", routers(far), doctor)
	case to == nothing && asm == nothing && ssm == nothing:
		return "unicast is fine and multicast is lost both ways: the switch, the Wi-Fi access point or the router in " +
			"between does not forward it, or a firewall stops it. A switch that snoops needs a querier, and both ends " +
			"must name the same groups, and use interfaces (-iface) of one network, which unicast need not. Run there, and " +
			"here: " + doctor
	case to == nothing && far >= f.ttl:
		return fmt.Sprintf("multicast comes from there, and does not get there, since its TTL of %d is too small for a way "+
			"with %s: use -ttl %d or more here.", f.ttl, routers(far), far+1)
	case to == nothing:
		return "multicast comes from there and does not get there: the switch before it does not know that it has " +
			"joined, or a firewall or path filter there drops it. Run there: " + doctor
	case asm == nothing && ssm == nothing && far >= f.mttl:
		return fmt.Sprintf("multicast gets there and does not come back, since its TTL of %d is too small for a way "+
			"with %s: start the listener with -ttl %d or more.", f.mttl, routers(far), far+1)
	case asm == nothing && ssm == nothing && back == nothing:
		return "multicast gets there, and neither multicast from there nor the unicast answers to it come in here, while " +
			"answers to unicast do: a firewall here lets in only what it takes for an answer."
	case asm == nothing && ssm == nothing:
		return "multicast gets there and does not come from there: the switch before this machine does not know that it " +
			"has joined, or a firewall or path filter here drops it. Run here: " + doctor
	case ssm == nothing:
		return fmt.Sprintf("ASM is fine and SSM is lost: a switch or router does not speak %s, or the listener sends from "+
			"another address than %s (then name it with -source).", [families]string{"IGMPv3", "MLDv2"}[f.family], f.source)
	case asm == nothing:
		return "SSM is fine and ASM from there is lost: the routers in between have no rendezvous point for it; " +
			"use SSM, or give them one."
	case back == nothing:
		return "multicast gets there, and the unicast answers to it do not come back, while others do: a stateful " +
			"firewall here takes nothing for an answer that comes from another address than the question went to. " +
			"Multicast itself is fine."

	case uni == partly:
		return "unicast loses some as well as multicast, so it is the way there itself: Wi-Fi, a bad cable, or too much " +
			"traffic."
	case lossy:
		return "unicast is fine and multicast loses some: Wi-Fi, which sends it unacknowledged, a switch that limits it " +
			"(storm control), or a full receive buffer. Look on the receiving side: " + doctor
	}
	return "everything arrives: unicast, and multicast both ways, ASM and SSM."
}

// remarks says what is odd though it arrives.
func remarks(f facts) (said string) {
	twice, late := [2]int{}, [2]int{} // of unicast, of multicast
	for k := range f.streams {
		i := min(k, 1)
		twice[i] += f.streams[k].twice
		late[i] += f.streams[k].reordered
	}
	switch {
	case twice[0] > 0:
		said += " Datagrams come more than once, unicast too: something on the way doubles them."
	case twice[1] > 0:
		said += " Multicast comes more than once: there is a second way to the group, such as a loop of switches, a " +
			"second router, or Wi-Fi that repeats it."
	}
	if late[0]+late[1] > 0 {
		said += " The order changes on the way: there are several ways, or queues of different length."
	}
	return said
}

// list writes groups as a flag takes them.
func list(groups [families]netip.Addr) string {
	var texts []string
	for _, g := range groups {
		if g.IsValid() {
			texts = append(texts, g.String())
		}
	}
	return strings.Join(texts, ",")
}

// routers says how many there are.
func routers(n int) string {
	if n == 1 {
		return "1 router"
	}
	return fmt.Sprintf("%d routers", n)
}
