// The watcher for Linux: one rtnetlink(7) socket for notices and one for scans. Each stays in the network namespace of
// the thread that opened it. So a watch stays in the network it was started in, whichever threads it runs on.

package mcast

import (
	"encoding/binary"
	"os"
	"runtime"
	"time"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// watchKey identifies a network namespace, by the file that stands for it.
type watchKey struct{ dev, ino uint64 }

// watchNamespace returns the network namespace of the calling thread. A process without /proc counts as living in one
// namespace.
func watchNamespace() (key watchKey) {
	var st unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &st) == nil {
		key = watchKey{uint64(st.Dev), st.Ino}
	}
	return key
}

// watchHere returns a function that calls f in the network namespace of the thread that called watchHere, and returns
// when f does. A goroutine of its own must call that function: its thread then stays in that namespace, and ends with
// the goroutine. If the thread is already in that namespace, as in nearly every program, nothing changes. Otherwise it
// needs CAP_SYS_ADMIN, which was also needed to enter that namespace in the first place.
func watchHere() (there func(f func(error)), err error) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if os.IsNotExist(err) {
		return func(f func(error)) { f(nil) }, nil
	}
	if err != nil {
		return nil, ifaceError("watch", err)
	}
	key := watchNamespace()
	there = func(f func(error)) {
		if watchNamespace() == key {
			here.Close()
			f(nil)
			return
		}
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread of a process never ends. It would stay in the namespace, and /proc/self would show that
			// to all. While it is locked, another goroutine gets another thread.
			done := make(chan struct{})
			go func() { defer close(done); there(f) }()
			<-done
			runtime.UnlockOSThread()
			return
		}
		err := os.NewSyscallError("setns", unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))
		here.Close()
		f(err)
	}
	return there, nil
}

// watchNetlink is a watchSource.
type watchNetlink struct {
	requests *rtnl.Conn
	notices  *rtnl.Listener
}

var _ watchSource = (*watchNetlink)(nil)

// watchRules are the groups of notices of policy rules, which decide when the main table has no default route.
const watchRules = unix.RTMGRP_IPV4_RULE | 1<<(unix.RTNLGRP_IPV6_RULE-1)

// watchRoutes are the groups of notices of routes and of nexthop objects. When a nexthop object is deleted, IPv4 routes
// through it are deleted without their own notice. A kernel before 5.3 has no nexthop objects, and ignores the group.
const watchRoutes = unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE | 1<<(unix.RTNLGRP_NEXTHOP-1)

// watchOpen returns the watcher for the network namespace of the calling thread.
//
// Of routes it receives only the default ones. A router can produce thousands of notices a second about other routes.
// These would push the relevant notices out of the buffer.
//
// If the process may not use rtnetlink, the watcher polls every few seconds for what it can read without.
func watchOpen() (watchSource, error) {
	src, err := watchListen()
	if isRefused(err) {
		if _, err2 := ioctlScan(); err2 == nil {
			return watchPoll{make(chan struct{}), err}, nil
		}
	}
	return src, err
}

func watchListen() (watchSource, error) {
	requests, err := rtnl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, ifaceError("watch", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_IFINFO | watchRules
	notices, err := rtnl.Listen(groups, watchRoutes, watchFilter())
	if err != nil {
		requests.Close()
		return nil, ifaceError("watch", err)
	}
	return &watchNetlink{requests, notices}, nil
}

// watched returns an error if the runtime's poller cannot wait for a file, for lack of memory or because of the limit
// fs.epoll.max_user_watches of a user. os.NewFile does not report this. It treats the file like one that is always
// ready, which is of no use here.
func watched(file *os.File) error {
	return os.NewSyscallError("epoll_ctl", file.SetReadDeadline(time.Time{})) // os.ErrNoDeadline
}

// watchFilter returns a filter that discards two kinds of notices before they take room in the buffer: of routes other
// than default ones, and of nexthop objects that are added or replaced. A route whose nexthop object is replaced has
// its own notice, unless net.ipv4.nexthop_compat_mode is 0.
//
// It is a program of classic BPF, which any process may attach. The program sees numbers larger than a byte as if they
// were in network byte order.
func watchFilter() []unix.SockFilter {
	swapped := func(typ uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, typ)))
	}
	const typ, dstLen = 4, unix.SizeofNlMsghdr + 1 // in struct nlmsghdr; in struct rtmsg behind it
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typ},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(unix.RTM_NEWNEXTHOP), Jt: 5},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(unix.RTM_NEWROUTE), Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(unix.RTM_DELROUTE), Jf: 2},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: dstLen},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}, // accept all of it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

func (w *watchNetlink) scan() ([]Interface, error) { return ifaceScanWith(w.requests) }

func (w *watchNetlink) close() {
	w.notices.Close()
	w.requests.Close()
}

func (w *watchNetlink) wait() (watchNotice, error) {
	b, lost, err := w.notices.Receive()
	notice := watchParse(b)
	notice.overflow = lost
	return notice, err
}

// watchParse extracts from notices the changes that the next scan may not show.
func watchParse(b []byte) (n watchNotice) {
	for m := range rtnl.Messages(b) {
		switch m.Type {
		case unix.RTM_DELLINK, unix.RTM_NEWLINK:
			if l, ok := rtnl.ParseLink(m.Body); ok {
				n.note(l.Index, watchLink(l, m.Type == unix.RTM_DELLINK))
			}
		case unix.RTM_DELROUTE, unix.RTM_NEWROUTE, unix.RTM_DELRULE, unix.RTM_NEWRULE, unix.RTM_DELNEXTHOP:
			n.routes = true
		}
	}
	return n
}

// watchLink returns the events of an interface in a notice. The kernel sends one about IPv6 when it has started IPv6
// there, even if because of disable_ipv6, and when a router sets other flags (inet6_ifinfo_notify in
// net/ipv6/addrconf.c). A bridge reports changes of its ports in notices of its own family.
func watchLink(l rtnl.Link, deleted bool) watchEvents {
	switch {
	case l.Family == unix.AF_INET6 && !deleted:
		return eventIPv6
	case l.Family != unix.AF_UNSPEC:
		return 0
	case deleted:
		return eventGone
	}
	return watchState(&Interface{Flags: ifaceFlags(l.Flags), MTU: l.MTU})
}
