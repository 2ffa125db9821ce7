// The ear on Linux's network: rtnetlink(7) notices, and a socket for scans. Both belong to the network namespace of the
// thread that opened them, for good, so that a watch keeps to the network it was started in whichever threads it runs on.

package mcast

import (
	"encoding/binary"
	"os"
	"runtime"
	"syscall"
	"time"

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
	questions *ifaceNetlink
	notices   *os.File // a non-blocking socket, so that Go's poller waits for it and closing it ends the wait
	raw       syscall.RawConn
	buf       []byte
	overrun   bool // notices were lost, and the buffer was not seen empty since; for wait only
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
	questions, err := ifaceDial()
	if err != nil {
		return nil, ifaceError("watch", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		questions.close()
		return nil, ifaceError("watch", os.NewSyscallError("socket", err))
	}
	// Room for a burst: a notice of a link takes some 2 KiB. More than net.core.rmem_max is not granted, and no loss.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_IFINFO | watchRules)
	if watchFilter(fd) == nil { // some sandboxes allow none
		groups |= watchRoutes
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	if err != nil {
		questions.close()
		unix.Close(fd)
		return nil, ifaceError("watch", os.NewSyscallError("bind", err))
	}
	notices := os.NewFile(uintptr(fd), "rtnetlink")
	raw, err := notices.SyscallConn()
	if err == nil {
		err = watched(notices)
	}
	if err != nil {
		questions.close()
		notices.Close()
		return nil, ifaceError("watch", err)
	}
	return &watchNetlink{questions: questions, notices: notices, raw: raw, buf: make([]byte, 32<<10)}, nil
}

// watched reports whether the runtime's poller waits for a file. It says so to nobody when it cannot, for want of memory
// or of what fs.epoll.max_user_watches allows a user: the file is then as those are that are always ready, and of no use.
func watched(file *os.File) error {
	return os.NewSyscallError("epoll_ctl", file.SetReadDeadline(time.Time{})) // os.ErrNoDeadline
}

// watchFilter has the kernel keep back notices of routes other than default ones, and of nexthop objects that are added or
// replaced, before they take room in the buffer. A route whose nexthop object is replaced has a notice of its own, unless
// net.ipv4.nexthop_compat_mode is 0.
//
// It is a program of classic BPF, which anybody may attach. Numbers larger than a byte come to it as if they were in
// network byte order.
func watchFilter(fd int) error {
	swapped := func(typ uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, typ)))
	}
	const typ, dstLen = 4, unix.SizeofNlMsghdr + 1 // in struct nlmsghdr; in struct rtmsg behind it
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typ},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(unix.RTM_NEWNEXTHOP), Jt: 5},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(unix.RTM_NEWROUTE), Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(unix.RTM_DELROUTE), Jf: 2},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: dstLen},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}, // all of it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

func (w *watchNetlink) scan() ([]Interface, error) { return w.questions.scan() }

func (w *watchNetlink) close() {
	w.notices.Close()
	w.questions.close()
}

// wait returns the next notice. When the kernel has lost one for want of room, it says so once, with ENOBUFS, and from then
// on drops all others silently until the buffer has been read empty (netlink_overrun and netlink_rcv_wake in
// net/netlink/af_netlink.c). So there may be more missing as long as that has not happened, and it is to be told when it has.
func (w *watchNetlink) wait() (watchNotice, error) {
	for {
		var n int
		var from unix.Sockaddr
		var readErr error
		err := w.raw.Read(func(fd uintptr) bool {
			readErr = ifaceRetry(func() (err error) {
				n, from, err = unix.Recvfrom(int(fd), w.buf, unix.MSG_TRUNC) // MSG_TRUNC: n is the true length
				return err
			})
			return readErr != unix.EAGAIN || w.overrun
		})
		switch {
		case err != nil:
			return watchNotice{}, err // closed
		case readErr == unix.EAGAIN:
			w.overrun = false
			return watchNotice{overflow: true}, nil
		case readErr == unix.ENOBUFS:
			w.overrun = true
		case readErr != nil:
			return watchNotice{}, os.NewSyscallError("recvfrom", readErr)
		case !ifaceFromKernel(from):
		case n > len(w.buf):
			return watchNotice{overflow: true}, nil
		default:
			notice := watchParse(w.buf[:n])
			notice.overflow = w.overrun
			return notice, nil
		}
	}
}

// watchParse takes from notices what the next scan may not tell.
func watchParse(b []byte) (n watchNotice) {
	for h, b := range ifaceMessages(b) {
		switch h.Type {
		case unix.RTM_DELLINK, unix.RTM_NEWLINK:
		case unix.RTM_DELROUTE, unix.RTM_NEWROUTE, unix.RTM_DELRULE, unix.RTM_NEWRULE, unix.RTM_DELNEXTHOP:
			n.routes = true
			continue
		default:
			continue
		}
		if index, ok := ifaceParseLink6(b); ok && h.Type == unix.RTM_NEWLINK {
			n.note(index, eventIPv6)
			continue
		}
		switch i, ok := ifaceParseLink(b); {
		case !ok:
		case h.Type == unix.RTM_DELLINK:
			n.note(i.Index, eventGone)
		default:
			n.note(i.Index, watchState(&i))
		}
	}
	return n
}
