package main

// What the prober tells in the end: a table for each listener, and what it means.

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// title is what to call a listener.
func title(who []*path) string {
	var addrs []string
	for _, p := range who {
		if p.addr.IsValid() {
			addrs = append(addrs, p.addr.Addr().String())
		}
	}
	name, list := who[0].name, strings.Join(addrs, " and ")
	if name == "" || slices.Contains(addrs, name) {
		return list
	}
	return fmt.Sprintf("%s (%s)", name, list)
}

// label is what to call a path of a listener.
func label(who []*path, p *path) string {
	switch {
	case p.name != "":
		return fmt.Sprintf("%s by %v", p.name, p.family)
	case p.addr.IsValid():
		return p.addr.Addr().String()
	}
	return fmt.Sprintf("%s by %v", title(who), p.family)
}

// report writes it all, and reports whether all is well.
func report(w io.Writer, s *session) (fine bool) {
	all := s.listeners()
	fine = len(all) > 0
	var names, sentences []string
	for _, who := range all {
		fmt.Fprintf(w, "\n%s", title(who))
		if who[0].id == 0 {
			fmt.Fprint(w, ", which does not answer")
		}
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "\tsent\tlost\tduplicate\treordered\tmin\tmedian\tmax\thops\tfirst after join\t")
		for _, p := range who {
			for k := range kinds {
				row(t, p.family, k, &p.streams[k])
				fine = fine && len(p.streams[k].sent) > 0 && p.streams[k].lost() == 0
			}
			f := facts{family: p.family, streams: &p.streams, found: p.id != 0, heard: p.heard,
				limited: p.flags&flagLimited != 0, ttl: max(*ttl, 0), mttl: p.mttl, source: p.source}
			names = append(names, label(who, p))
			sentences = append(sentences, meaning(f)+remarks(f))
		}
		t.Flush()
	}
	if s.late > 0 || s.strange > 0 {
		fmt.Fprintf(w, "\nnot counted: %d answers of listeners that were found too late (for them, take a longer -wait) "+
			"or were too many, %d datagrams that were no answers\n", s.late, s.strange)
	}
	fmt.Fprintf(w, "\nWhat it means: %s\n", conclude(names, sentences))
	return fine
}

// row writes the numbers of one kind, unless there are none.
func row(w io.Writer, f family, k kind, s *stream) {
	if len(s.sent) == 0 {
		return
	}
	times, hops, joined := "-\t-\t-", "-", "-"
	if low, median, high, ok := s.roundTrip(); ok {
		times = fmt.Sprintf("%v\t%v\t%v", round(low), round(median), round(high))
	}
	if s.hops >= 0 {
		hops = fmt.Sprint(s.hops)
	}
	if d, ok := s.afterJoin(); ok {
		joined = round(d).String()
	}
	const width = len("IPv4 SSM from it") // the numbers are aligned to the right, and the words are not
	fmt.Fprintf(w, "%-*s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t\n", width, fmt.Sprint(f, " ", k),
		len(s.sent), s.lost(), s.twice, s.reordered, times, hops, joined)
}

// round leaves of a duration what can be measured.
func round(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

// conclude makes one text of what is to be said of each path: one sentence, if it is the same of all.
func conclude(names, sentences []string) string {
	if len(sentences) == 0 {
		return fmt.Sprintf("nobody answers. Either no ping -listen runs within reach (with -port %d and the same groups, "+
			"by an interface, -iface, of the same network), or multicast does not get there, or a firewall, there or here, "+
			"stops UDP to the ports %d and %d. To tell these apart, give the address of a listener as an "+
			"argument: unicast is tried then, too.", *port, *port, *port+1)
	}
	var distinct []string
	about := make(map[string][]string)
	for i, s := range sentences {
		if about[s] == nil {
			distinct = append(distinct, s)
		}
		about[s] = append(about[s], names[i])
	}
	if len(distinct) == 1 {
		return distinct[0]
	}
	text := ""
	for _, s := range distinct {
		text += fmt.Sprintf("\n- %s: %s", strings.Join(about[s], ", "), s)
	}
	return text
}
