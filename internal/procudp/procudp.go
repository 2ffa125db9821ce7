// Package procudp reads from /proc the UDP sockets of this machine, and the programs that have them. It owns the format
// of /proc/net/udp and udp6 (see proc_pid_net(5)), but not the conclusions from it.
package procudp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Socket is a UDP socket, of any network family.
type Socket struct {
	Local netip.AddrPort
	UID   string // the user who opened it
	Inode uint64
	Drops uint64 // datagrams that were dropped, modulo 2^32
}

// Sockets returns the sockets of the calling thread's network namespace, IPv4 first.
func Sockets() []Socket {
	var all []Socket
	for _, name := range []string{"udp", "udp6"} {
		text, _ := os.ReadFile("/proc/thread-self/net/" + name)
		all = append(all, Parse(string(text))...)
	}
	return all
}

// Parse reads the text of /proc/net/udp or udp6. It skips lines that it does not understand.
func Parse(text string) (sockets []Socket) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 13 {
			continue
		}
		addrText, portText, ok := strings.Cut(fields[1], ":")
		if !ok {
			continue
		}
		addr, ok := HexAddr(addrText)
		port, err := strconv.ParseUint(portText, 16, 16)
		inode, err2 := strconv.ParseUint(fields[9], 10, 64)
		drops, err3 := strconv.ParseUint(fields[12], 10, 64)
		if !ok || err != nil || err2 != nil || err3 != nil {
			continue
		}
		sockets = append(sockets, Socket{netip.AddrPortFrom(addr, uint16(port)), fields[7], inode, drops})
	}
	return sockets
}

// HexAddr reads an address as most files of /proc/net show it: 32-bit words in the byte order of the machine.
func HexAddr(text string) (netip.Addr, bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	return netip.AddrFromSlice(b)
}

// Takes reports whether the socket receives datagrams to a group and port that it joined, or would conflict with a
// socket that is bound to them. A socket that is bound to [::] takes IPv4 as well, unless it is for IPv6 only, which
// /proc does not show. Every socket of its family conflicts with a socket that is bound to the unspecified address.
func (s *Socket) Takes(group netip.Addr, port uint16) bool {
	addr := s.Local.Addr()
	same := addr.Is4() == group.Is4()
	wildcard := addr.IsUnspecified() && (same || addr.Is6())
	return s.Local.Port() == port && (wildcard || addr == group || same && group.IsUnspecified())
}

// ownersMost is how many descriptors Owners reads at most. Each takes about 5 µs, and the callers hold a lock.
const ownersMost = 1 << 14

// Owners returns the programs that have the sockets, by inode. It finds the programs whose descriptors the calling
// process may see: those of its user, and for root all. On a machine with very many descriptors it stops before it has
// seen all.
func Owners(sockets []Socket) map[uint64]string { return owners("/proc", sockets) }

func owners(proc string, sockets []Socket) map[uint64]string {
	inodes := make(map[string]uint64, len(sockets))
	for _, u := range sockets {
		inodes[fmt.Sprintf("socket:[%d]", u.Inode)] = u.Inode
	}
	found := make(map[uint64]string)
	left := ownersMost
	processes, _ := filepath.Glob(proc + "/[0-9]*")
	for _, p := range processes {
		fds := names(p+"/fd", left)
		for _, fd := range fds {
			target, _ := os.Readlink(p + "/fd/" + fd)
			if inode, ok := inodes[target]; ok {
				name, _ := os.ReadFile(p + "/comm")
				found[inode] = fmt.Sprintf("process %s (%s)", filepath.Base(p), strings.TrimSpace(string(name)))
			}
		}
		left -= 1 + len(fds)
		if left <= 0 || len(found) == len(inodes) {
			break
		}
	}
	return found
}

// names returns up to most names in a directory. most is greater than 0.
func names(dir string, most int) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := f.Readdirnames(most)
	return all
}

// Describe names up to five sockets and their programs: "0.0.0.0:5353 of process 412 (avahi-daemon)".
func Describe(sockets []Socket) string {
	const most = 5
	named := sockets[:min(len(sockets), most)]
	owners := Owners(named)
	var texts []string
	for _, u := range named {
		who := owners[u.Inode]
		if who == "" {
			who = "user " + u.UID + " (the program is not visible)"
		}
		texts = append(texts, u.Local.String()+" of "+who)
	}
	text := strings.Join(texts, ", ")
	if n := len(sockets) - most; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}
