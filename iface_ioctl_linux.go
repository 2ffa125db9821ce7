// The interfaces of a process that may not use rtnetlink(7): an Android application, or a strict sandbox. netdevice(7)
// and /proc/net have most of the data, as far as they can be read. A scan every few seconds replaces notices.

package mcast

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// isRefused reports whether err means that the process may not ask.
func isRefused(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAFNOSUPPORT)
}

// ioctlScan lists the interfaces, sorted by index, without alternative names, hardware addresses and masters. Where
// /proc/net cannot be read, it lacks IPv6 addresses and interfaces without an IPv4 address.
func ioctlScan() ([]Interface, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	addrs, err := ioctlAddrs(fd)
	if err != nil {
		return nil, err
	}
	devices, _ := os.ReadFile("/proc/thread-self/net/dev")
	addrs6, _ := os.ReadFile("/proc/thread-self/net/if_inet6")
	list := make(map[string]*Interface)
	names := slices.AppendSeq(ioctlNames(string(devices)), maps.Keys(addrs)) // most are in both
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if ifc := ioctlInterface(fd, name); ifc != nil { // else it is gone by now
			ifc.IPv4 = addrs[name]
			list[name] = ifc
		}
	}
	ioctlAddrs6(string(addrs6), list)
	var all []Interface
	for _, ifc := range list {
		all = append(all, *ifc)
	}
	slices.SortFunc(all, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	return all, nil
}

// ioctlNames returns the names in /proc/net/dev: two lines of headings, then lines of a name, a colon and counters.
func ioctlNames(text string) (names []string) {
	for line := range strings.Lines(text) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.Contains(name, "|") {
			names = append(names, name)
		}
	}
	return names
}

// ioctlAddrs returns the IPv4 addresses of each interface.
func ioctlAddrs(fd int) (map[string][]netip.Prefix, error) {
	var requests []unix.Ifreq
	for room, n := 512, 512; n == room; { // the kernel returns as many as fit, and does not report that there are more
		room *= 2
		requests = make([]unix.Ifreq, room)
		conf := struct { // struct ifconf
			size int32
			to   unsafe.Pointer
		}{int32(room * int(unsafe.Sizeof(requests[0]))), unsafe.Pointer(&requests[0])}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFCONF, uintptr(unsafe.Pointer(&conf))); errno != 0 {
			return nil, os.NewSyscallError("ioctl SIOCGIFCONF", errno)
		}
		n = int(conf.size) / int(unsafe.Sizeof(requests[0]))
		requests = requests[:n]
	}
	all := make(map[string][]netip.Prefix)
	for i := range requests {
		r := &requests[i]
		ip, err := r.Inet4Addr()
		if err != nil {
			continue
		}
		addr, bits := netip.AddrFrom4([4]byte(ip)), 32
		if unix.IoctlIfreq(fd, unix.SIOCGIFNETMASK, r) == nil { // of this address, which r holds
			if mask, err := r.Inet4Addr(); err == nil {
				bits, _ = net.IPMask(mask).Size()
			}
		}
		name, _, _ := strings.Cut(r.Name(), ":") // an address may have a label of its own
		all[name] = append(all[name], netip.PrefixFrom(addr, bits))
	}
	return all, nil
}

// ioctlInterface returns an interface without its addresses, or nil if none has that name.
func ioctlInterface(fd int, name string) *Interface {
	ifc := &Interface{Name: name}
	ask := func(request uint) (r *unix.Ifreq) {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = unix.IoctlIfreq(fd, request, r)
		}
		if err != nil {
			return nil
		}
		return r
	}
	index, flags := ask(unix.SIOCGIFINDEX), ask(unix.SIOCGIFFLAGS)
	if index == nil || flags == nil {
		return nil
	}
	ifc.Index, ifc.Flags = int(index.Uint32()), ifaceFlags(uint32(flags.Uint16()))
	if mtu := ask(unix.SIOCGIFMTU); mtu != nil {
		ifc.MTU = int(mtu.Uint32())
	}
	return ifc
}

// ioctlAddrs6 adds the IPv6 addresses of /proc/net/if_inet6: lines of an address, an index, the length of the prefix, a scope
// and flags, in hexadecimal, and a name.
func ioctlAddrs6(text string, to map[string]*Interface) {
	for line := range strings.Lines(text) {
		var digits, name string
		var index, bits, scope, flags int
		if n, _ := fmt.Sscanf(line, "%32s %x %x %x %x %s", &digits, &index, &bits, &scope, &flags, &name); n != 6 || len(digits) != 32 || to[name] == nil {
			continue
		}
		b, err := hex.DecodeString(digits)
		if err != nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(b)
		to[name].IPv6 = append(to[name].IPv6, netip.PrefixFrom(addr, bits))
	}
}

// ioctlDefault returns the interface with the source address that the kernel would use for a host far away.
func ioctlDefault(far netip.Addr) (index int, err error) {
	domain := unix.AF_INET
	if far.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(far, 9), 0)); err != nil {
		return 0, nil // there is no route
	}
	local, err := localAddr(fd)
	if err != nil {
		return 0, err
	}
	list, err := ioctlScan()
	if err != nil {
		return 0, err
	}
	for _, ifc := range list {
		if ifc.hasAddr(func(a netip.Addr) bool { return a == local }) {
			return ifc.Index, nil
		}
	}
	return 0, nil
}

// localAddr returns the address that a socket is bound to, without a zone.
func localAddr(fd int) (a netip.Addr, err error) {
	local, err := unix.Getsockname(fd)
	switch local := local.(type) {
	case *unix.SockaddrInet4:
		a = netip.AddrFrom4(local.Addr)
	case *unix.SockaddrInet6:
		a = netip.AddrFrom16(local.Addr)
	}
	return a, err
}

// watchInterval is how often the interfaces are listed. A change that is undone in between is not seen.
const watchInterval = 3 * time.Second

// watchPoll is the watchSource of a process that gets no notices. Its method close closes quit.
type watchPoll struct {
	quit chan struct{}
	why  error
}

var _ watchSource = watchPoll{}

func (p watchPoll) scan() ([]Interface, error) { return ioctlScan() }

func (p watchPoll) close() { close(p.quit) }

func (p watchPoll) wait() (watchNotice, error) {
	select {
	case <-p.quit:
		return watchNotice{}, net.ErrClosed
	case <-time.After(watchInterval):
		return watchNotice{routes: true}, nil
	}
}

// polls returns why there are no notices.
func (p watchPoll) polls() error { return p.why }
