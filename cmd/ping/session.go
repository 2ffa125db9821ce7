package main

// What a prober knows, and how it takes in what arrives: without a socket, and in memory that is bounded by what the
// prober itself has sent, however much comes back.

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const maxPaths = 64 * int(families)

// path is a listener by one family; or a host that was named as one, and has not answered yet.
type path struct {
	family  family
	number  uint16
	name    string         // what the user calls it, if they do
	addr    netip.AddrPort // where its unicast goes; the zero AddrPort: nobody knows
	id      uint64         // of the listener; 0: it has not answered
	same    bool           // it has been found to lead where another path leads, and does not count
	token   uint64
	source  netip.Addr // where its multicast comes from or, as long as none has come, its answers
	flags   uint8      // as in a packet
	heard   int        // how many counted probes to the group it has got
	mttl    int        // what it sends multicast with
	streams [kinds]stream
}

// session is one run.
type session struct {
	nonce uint64
	start time.Time

	mu      sync.Mutex
	finding bool // listeners that are not known yet are welcome
	paths   []*path
	late    int    // answers of listeners that were not welcome
	strange uint64 // datagrams that no listener of ours has sent
}

func newSession() *session { return &session{nonce: draw(), start: time.Now(), finding: true} }

// add adds a path, if there is room.
func (s *session) add(p path) *path {
	if len(s.paths) == maxPaths {
		return nil
	}
	p.number = uint16(len(s.paths))
	for k := range p.streams {
		p.streams[k].hops = -1
	}
	s.paths = append(s.paths, &p)
	return &p
}

// take takes in what has arrived.
func (s *session) take(d datagram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := parse(d.buf)
	if ok && p.nonce == s.nonce && !p.answer || ok && p.nonce != s.nonce {
		return // our own probe come back, and what is for somebody else
	}
	if !ok || !arrivedRight(p, d) || !d.fromHost() {
		s.strange++
		return
	}
	at := d.at.Sub(s.start)
	to := s.path(p, d)
	if to == nil {
		return
	}
	st := &to.streams[p.kind]
	switch p.kind {
	case asmTo:
		st.hop(*ttl, int(p.seen))
	case unicast: // either way, since on some systems only the other end can say
		st.hop(unicastTTL, int(p.seen))
		st.hop(int(p.ttl), d.ttl)
	default:
		st.hop(int(p.ttl), d.ttl)
	}
	if !st.receive(p.seq, at) {
		s.strange++
		return
	}
	to.flags, to.mttl, to.heard = p.flags, int(p.mttl), max(to.heard, int(p.heard))
	if !d.group.IsValid() {
		to.token = p.token
	}
	if d.group.IsValid() || !to.streams[asmFrom].answered() && !to.streams[ssmFrom].answered() {
		to.source = d.from.Addr()
	}
}

// arrivedRight reports whether an answer came the way that its kind comes.
func arrivedRight(p packet, d datagram) bool {
	var group netip.Addr
	switch p.kind {
	case asmFrom:
		group = groups[d.end.family]
	case ssmFrom:
		group = ssms[d.end.family]
	}
	return d.group == group
}

// path returns the path that an answer is for, or nil.
func (s *session) path(p packet, d datagram) *path {
	family := d.end.family
	known := s.find(family, p.id)
	if p.path == noPath {
		if known != nil {
			if !known.addr.IsValid() {
				known.addr = d.from
			}
			return known
		}
		// It may be a host whose unicast does not answer.
		for _, to := range s.paths {
			if to.family == family && to.id == 0 && to.addr.Addr().WithZone("") == d.from.Addr().WithZone("") {
				to.id = p.id
				return to
			}
		}
		if s.finding {
			if to := s.add(path{family: family, addr: d.from, id: p.id}); to != nil {
				return to
			}
		}
		s.late++
		return nil
	}
	if int(p.path) >= len(s.paths) || s.paths[p.path].family != family {
		s.strange++
		return nil
	}
	to := s.paths[p.path]
	switch {
	case to.id != 0 || known == nil:
	case known.addr.IsValid():
		to.same = true
		known.name = cmp.Or(known.name, to.name)
	default: // all that was known was that there had to be one
		known.same = true
	}
	switch {
	case to.same && known != nil && p.seq == 0: // else it was counted where it was sent to, and that is nowhere now
		return known
	case to.same:
		return nil
	case to.id == 0 && !d.group.IsValid():
		to.id = p.id
		return to
	case to.id == p.id:
		return to
	}
	s.strange++
	return nil
}

// find returns the path to a listener, or nil.
func (s *session) find(f family, id uint64) *path {
	i := slices.IndexFunc(s.paths, func(p *path) bool { return p.family == f && p.id == id && !p.same })
	if i < 0 {
		return nil
	}
	return s.paths[i]
}

// complete adds a path for each family by which a listener listens and has not been found, if it is one of those.
// All that can be seen of such a path is that nothing comes by it.
func (s *session) complete(tried []*end) {
	for _, p := range slices.Clone(s.paths) {
		for _, e := range tried {
			if p.id != 0 && !p.same && p.flags&(1<<e.family) != 0 && s.find(e.family, p.id) == nil {
				s.add(path{family: e.family, id: p.id, name: p.name, flags: p.flags})
			}
		}
	}
}

// listeners returns the paths that count, those to one listener together.
func (s *session) listeners() (all [][]*path) {
	for _, p := range s.paths {
		if p.same {
			continue
		}
		i := slices.IndexFunc(all, func(who []*path) bool {
			return p.id != 0 && who[0].id == p.id || p.id == 0 && who[0].id == 0 && who[0].name == p.name
		})
		if i < 0 {
			all = append(all, nil)
			i = len(all) - 1
		}
		all[i] = append(all[i], p)
	}
	for _, who := range all {
		slices.SortStableFunc(who, func(a, b *path) int { return cmp.Compare(a.family, b.family) })
	}
	return all
}
