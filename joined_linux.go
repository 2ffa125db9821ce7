// The joined groups of the calling thread's network namespace, from the files of /proc that list them.

package mcast

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"os"
	"strconv"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// joinedSource returns the function that asks the kernel.
func joinedSource() func(*joinedSet, int) { return askJoined }

// askJoined reads the files of the held families, in pieces of the given size. What cannot be read, without /proc or
// without a free descriptor, stays unknown. rtnetlink is no substitute: RTM_GETMULTICAST reports neither the number of
// sockets nor the sources.
func askJoined(j *joinedSet, piece int) {
	index := 0
	j.askFamily(true, piece, "igmp", "mcfilter", func(line []byte) { index = j.parseIGMP(line, index) })
	j.askFamily(false, piece, "igmp6", "mcfilter6", j.parseIGMP6)
}

// askFamily reads the groups of a family, and their sources if they can matter.
func (j *joinedSet) askFamily(v4 bool, piece int, groups, sources string, parse func(line []byte)) {
	held := func(matters func(joinedKey, *joinedCount) bool) bool {
		for key, n := range j.counts {
			if key.group.Is4() == v4 && matters(key, n) {
				return true
			}
		}
		return false
	}
	if !held(func(joinedKey, *joinedCount) bool { return true }) {
		return
	}
	answers := &j.v6
	if v4 {
		answers = &j.v4
	}
	answers.groups = joinedRead(groups, piece, parse)
	if held(func(key joinedKey, n *joinedCount) bool { return key.source.IsValid() || n.found > n.held }) {
		answers.sources = j.askSources(v4, sources, piece)
	}
}

// askSources reads the sources of a family, and reports whether it has read all of them. The kernel begins with the
// first interface whose latest group has sources, and skips the interfaces before it (igmp_mcf_get_first in
// net/ipv4/igmp.c, igmp6_mcf_get_first in net/ipv6/mcast.c). So askSources meanwhile joins such a group on loopback,
// which is the first interface of all (loopback_net_init in drivers/net/loopback.c).
func (j *joinedSet) askSources(v4 bool, name string, piece int) bool {
	const loopback = 1 // LOOPBACK_IFINDEX
	domain, level := unix.AF_INET6, unix.IPPROTO_IPV6
	group, source := netip.MustParseAddr("ff31::8000:0"), netip.IPv6Loopback()
	if v4 {
		domain, level = unix.AF_INET, unix.IPPROTO_IP
		group, source = netip.AddrFrom4([4]byte{232}), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if unix.SetsockoptString(fd, level, unix.MCAST_JOIN_SOURCE_GROUP, string(wire.MreqLinux.GroupSourceReq(loopback, group, source))) != nil {
		return false
	}
	first := 0 // interface
	read := joinedRead(name, piece, func(line []byte) {
		if index := j.parseFilter(line); first == 0 {
			first = index
		}
	})
	return read && first == loopback
}

// joinedRead calls parse for each line of a file, and reports whether it has read all of it.
func joinedRead(name string, piece int, parse func(line []byte)) bool {
	f, err := os.Open("/proc/thread-self/net/" + name)
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, piece)
	var text []byte // read and not parsed yet
	for {
		n, err := f.Read(buf)
		text = append(text, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(text, []byte("\n"))
			if !ok {
				break
			}
			parse(line)
			text = rest
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// parseIGMP parses a line of /proc/net/igmp and returns the interface of the next line. That is the interface of the
// latest line that is not indented (igmp_mc_seq_show in net/ipv4/igmp.c).
func (j *joinedSet) parseIGMP(line []byte, index int) int {
	field, rest := joinedField(line)
	if len(line) == 0 || line[0] != '\t' {
		index, _ = strconv.Atoi(string(field))
		return index
	}
	users, _ := joinedField(rest)
	word, err := strconv.ParseUint(string(field), 16, 32)
	n, errUsers := strconv.Atoi(string(users))
	if err == nil && errUsers == nil {
		// The number has the bytes of the address in memory order.
		group := netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, uint32(word))))
		j.find(joinedKey{index: index, group: group}, n)
	}
	return index
}

// parseIGMP6 parses a line of /proc/net/igmp6: index, name, group, users (igmp6_mc_seq_show in net/ipv6/mcast.c).
func (j *joinedSet) parseIGMP6(line []byte) {
	field, rest := joinedField(line)
	_, rest = joinedField(rest)
	address, rest := joinedField(rest)
	users, _ := joinedField(rest)
	index, err := strconv.Atoi(string(field))
	group, ok := joinedAddress(address)
	n, errUsers := strconv.Atoi(string(users))
	if err == nil && errUsers == nil && ok {
		j.find(joinedKey{index: index, group: group}, n)
	}
}

// parseFilter parses a line of /proc/net/mcfilter or mcfilter6: index, a part of the name, group, source, how many
// sockets include the source, and how many exclude it (igmp_mcf_seq_show in net/ipv4/igmp.c, igmp6_mcf_seq_show in
// net/ipv6/mcast.c). It returns the index, or 0 if the line is not about a source.
func (j *joinedSet) parseFilter(line []byte) int {
	field, rest := joinedField(line)
	_, rest = joinedField(rest)
	groupField, rest := joinedField(rest)
	sourceField, rest := joinedField(rest)
	included, _ := joinedField(rest)
	index, err := strconv.Atoi(string(field))
	group, ok := joinedAddress(groupField)
	source, okSource := joinedAddress(sourceField)
	n, errIncluded := strconv.Atoi(string(included))
	if err != nil || errIncluded != nil || !ok || !okSource {
		return 0
	}
	if n > 0 {
		j.find(joinedKey{index, group, source}, n)
	}
	return index
}

// joinedAddress parses 32 digits, or 8 after 0x, in network byte order.
func joinedAddress(text []byte) (netip.Addr, bool) {
	text = bytes.TrimPrefix(text, []byte("0x"))
	var b [16]byte
	if len(text) != 2*len(b) && len(text) != 8 {
		return netip.Addr{}, false
	}
	n, err := hex.Decode(b[:], text)
	if err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(b[:n])
}

// joinedField cuts the first field off a line.
func joinedField(line []byte) (field, rest []byte) {
	line = bytes.TrimLeft(line, " \t")
	if i := bytes.IndexAny(line, " \t"); i >= 0 {
		return line[:i], line[i:]
	}
	return line, nil
}
