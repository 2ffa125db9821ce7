// The ear on Linux's network: rtnetlink(7) notices, and a socket for scans. Both belong to the network namespace of the
// thread that opened them, for good, so that a watch keeps to the network it was started in whichever threads it runs on.

package mcast

import (
	"encoding/binary"
	"os"
	"runtime"
	"time"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// watchKey tells network namespaces apart, by the file that stands for one.
type watchKey struct{ dev, ino uint64 }

// watchNamespace returns the network namespace of the calling thread. A process that has no /proc is taken to live in one.
func watchNamespace() (key watchKey) {
	var st unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &st) == nil {
		key = watchKey{uint64(st.Dev), st.Ino}
	}
	return key
}

// watchHere returns a function that calls f in the network namespace of the thread that called watchHere, and returns when
// f does. A goroutine of its own must call it: its thread is that namespace's from then on, and ends with it. Where both
// are there already, as in nearly every program, that is not so. Otherwise it takes CAP_SYS_ADMIN, as it took to get there
// in the first place.
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
			// The first thread of a process never ends. It would keep the namespace, and /proc/self show that to all. As
			// long as it is taken, another goroutine gets another one.
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

// watchRoutes are the groups of notices of routes, and of nexthop objects: when one is deleted, IPv4 routes through it go
// without a notice of their own. A kernel before 5.3 has no nexthop objects, and ignores the group.
const watchRoutes = unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE | 1<<(unix.RTNLGRP_NEXTHOP-1)

// watchOpen returns the ear on the calling thread's network namespace.
//
// Of routes it hears only the default ones: the thousands of notices a second that a router can produce about others
// would push those that matter out of the buffer.
//
// Where the process may not use rtnetlink, it looks every few seconds, at what can be had without.
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

// watched reports whether the runtime's poller waits for a file. It says so to nobody when it cannot, for want of memory
// or of what fs.epoll.max_user_watches allows a user: the file is then as those are that are always ready, and of no use.
func watched(file *os.File) error {
	return os.NewSyscallError("epoll_ctl", file.SetReadDeadline(time.Time{})) // os.ErrNoDeadline
}

// watchFilter returns a filter that keeps back notices of routes other than default ones, and of nexthop objects that are added or
// replaced, before they take room in the buffer. A route whose nexthop object is replaced has a notice of its own, unless
// net.ipv4.nexthop_compat_mode is 0.
//
// It is a program of classic BPF, which anybody may attach. Numbers larger than a byte come to it as if they were in
// network byte order.
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
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}, // all of it
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

// watchParse takes from notices what the next scan may not tell.
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

// watchLink returns the events of an interface in a notice. The kernel sends one about IPv6 when it has started IPv6 there,
// be it for disable_ipv6, and when a router sets other flags (inet6_ifinfo_notify in net/ipv6/addrconf.c). A bridge reports
// changes of its ports in notices of its own family.
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
