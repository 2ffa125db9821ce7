//go:build linux && cgo

// What C makes of the same work: the shortest loops around the system calls, the measure of what the kernel costs.
// They time themselves, so that the way from Go to C does not count.

package main

/*
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

enum { VLEN = 64, CONTROL = 128, SEGMENTS = 64, LARGEST = 65507 };

// What a receiver learns of a datagram, kept like noted in receivers.go.
struct noted { uint64_t bytes; struct sockaddr_in src; struct in_addr group; int ifindex; };

struct receiver {
	int fd, size, patience;
	struct noted noted;
	struct mmsghdr msgs[VLEN];
	struct iovec iovs[VLEN];
	struct sockaddr_in names[VLEN];
	char control[VLEN][CONTROL];
	char *buf;
};

struct sender {
	int fd, n, patience;
	struct sockaddr_in *names;
	struct iovec *iovs;
	struct mmsghdr *msgs;
	char *payload;
};

// See clock.go.
static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct receiver *receiver_new(int fd, int size, int patience) {
	struct receiver *r = calloc(1, sizeof *r);
	r->fd = fd;
	r->size = size;
	r->patience = patience;
	r->buf = malloc((size_t)size * VLEN);
	memset(r->buf, 1, (size_t)size * VLEN);
	for (int i = 0; i < VLEN; i++) {
		r->iovs[i].iov_base = r->buf + (size_t)size * i;
		r->iovs[i].iov_len = size;
		r->msgs[i].msg_hdr.msg_iov = &r->iovs[i];
		r->msgs[i].msg_hdr.msg_iovlen = 1;
		r->msgs[i].msg_hdr.msg_name = &r->names[i];
	}
	return r;
}

static void receiver_free(struct receiver *r) {
	free(r->buf);
	free(r);
}

static int wait_for(int fd, int events, int patience) {
	struct pollfd p = { fd, events, 0 };
	return poll(&p, 1, patience) > 0;
}

// take notes what is in a header and returns how many datagrams it is: with UDP_GRO it may be a run.
static int take(struct receiver *r, struct msghdr *h, unsigned len) {
	int n = 1;
	r->noted.bytes += len;
	r->noted.src = *(struct sockaddr_in *)h->msg_name;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(c);
			r->noted.group = info->ipi_addr;
			r->noted.ifindex = info->ipi_ifindex;
		} else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
			int segment;
			memcpy(&segment, CMSG_DATA(c), sizeof segment);
			if (segment > 0)
				n = (len + segment - 1) / segment;
		}
	}
	return n;
}

// receive_batch returns the nanoseconds that n datagrams took, or how many there were, less one, negated.
static int64_t receive_batch(struct receiver *r, int n, int vlen) {
	int64_t start = now();
	for (int got = 0; got < n;) {
		for (int i = 0; i < vlen; i++) {
			struct msghdr *h = &r->msgs[i].msg_hdr;
			h->msg_namelen = sizeof r->names[i];
			h->msg_control = r->control[i];
			h->msg_controllen = CONTROL;
		}
		int k = recvmmsg(r->fd, r->msgs, vlen, MSG_DONTWAIT, NULL);
		if (k < 0) {
			if (errno == EINTR || (errno == EAGAIN && wait_for(r->fd, POLLIN, r->patience)))
				continue;
			return -got - 1;
		}
		for (int i = 0; i < k; i++)
			got += take(r, &r->msgs[i].msg_hdr, r->msgs[i].msg_len);
	}
	return now() - start;
}

// receive_one is the same with recvmsg, and without control messages.
static int64_t receive_one(struct receiver *r, int n) {
	struct msghdr *h = &r->msgs[0].msg_hdr;
	int64_t start = now();
	for (int got = 0; got < n;) {
		h->msg_namelen = sizeof r->names[0];
		ssize_t len = recvmsg(r->fd, h, MSG_DONTWAIT);
		if (len < 0) {
			if (errno == EINTR || (errno == EAGAIN && wait_for(r->fd, POLLIN, r->patience)))
				continue;
			return -got - 1;
		}
		got += take(r, h, len);
	}
	return now() - start;
}

// receive_many reads one datagram from each socket that the epoll descriptor, fd, says has some.
static int64_t receive_many(struct receiver *r, int n) {
	struct msghdr *h = &r->msgs[0].msg_hdr;
	struct epoll_event events[VLEN];
	int64_t start = now();
	for (int got = 0; got < n;) {
		int k = epoll_wait(r->fd, events, VLEN, r->patience);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return -got - 1;
		for (int i = 0; i < k && got < n; i++) {
			h->msg_namelen = sizeof r->names[0];
			ssize_t len = recvmsg(events[i].data.fd, h, MSG_DONTWAIT);
			if (len >= 0)
				got += take(r, h, len);
		}
	}
	return now() - start;
}

// receive_told reads as many datagrams from each socket in turn and is never told which have some: they all have. No
// program that has these sockets can do with less.
static int64_t receive_told(struct receiver *r, const int *fds, int sockets, int n) {
	int64_t start = now();
	for (int got = 0; got < n;) {
		int fd = fds[got / (n / sockets)];
		socklen_t size = sizeof r->names[0];
		ssize_t len = recvfrom(fd, r->buf, r->size, MSG_DONTWAIT, (struct sockaddr *)&r->names[0], &size);
		if (len < 0) {
			if (errno == EINTR || (errno == EAGAIN && wait_for(fd, POLLIN, r->patience)))
				continue;
			return -got - 1;
		}
		r->noted.bytes += len;
		r->noted.src = r->names[0];
		got++;
	}
	return now() - start;
}

static struct sender *sender_new(int fd, int n, int size, int patience) {
	struct sender *s = calloc(1, sizeof *s);
	s->fd = fd;
	s->n = n;
	s->patience = patience;
	s->names = calloc(n, sizeof *s->names);
	s->iovs = calloc(n, sizeof *s->iovs);
	s->msgs = calloc(n, sizeof *s->msgs);
	s->payload = calloc(n, size);
	for (int i = 0; i < n; i++) {
		s->names[i].sin_family = AF_INET;
		s->iovs[i].iov_base = s->payload + (size_t)size * i;
		s->iovs[i].iov_len = size;
		s->msgs[i].msg_hdr.msg_iov = &s->iovs[i];
		s->msgs[i].msg_hdr.msg_iovlen = 1;
		s->msgs[i].msg_hdr.msg_name = &s->names[i];
		s->msgs[i].msg_hdr.msg_namelen = sizeof s->names[i];
	}
	return s;
}

static void sender_to(struct sender *s, int i, uint32_t group, uint16_t port) {
	s->names[i].sin_addr.s_addr = group;
	s->names[i].sin_port = port;
}

static void sender_free(struct sender *s) {
	free(s->names);
	free(s->iovs);
	free(s->msgs);
	free(s->payload);
	free(s);
}

// send_batches returns the nanoseconds that all messages took, or an errno, negated.
static int64_t send_batches(struct sender *s, int vlen) {
	int64_t start = now();
	for (int sent = 0; sent < s->n;) {
		int left = s->n - sent, k = sendmmsg(s->fd, s->msgs + sent, left < vlen ? left : vlen, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (k < 0) {
			if (errno == EINTR || (errno == EAGAIN && wait_for(s->fd, POLLOUT, s->patience)))
				continue;
			return -errno;
		}
		sent += k;
	}
	return now() - start;
}

// send_segmented sends all messages, which go to one destination, in runs that the kernel cuts up.
static int64_t send_segmented(struct sender *s) {
	union { char buf[CMSG_SPACE(sizeof(uint16_t))]; struct cmsghdr align; } control;
	uint16_t size = s->iovs[0].iov_len;
	int most = LARGEST / size < SEGMENTS ? LARGEST / size : SEGMENTS;
	struct msghdr h = s->msgs[0].msg_hdr;
	h.msg_control = control.buf;
	h.msg_controllen = sizeof control.buf;
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	c->cmsg_level = SOL_UDP;
	c->cmsg_type = UDP_SEGMENT;
	c->cmsg_len = CMSG_LEN(sizeof size);
	memcpy(CMSG_DATA(c), &size, sizeof size);

	int64_t start = now();
	for (int sent = 0; sent < s->n;) {
		int k = s->n - sent < most ? s->n - sent : most;
		h.msg_iov = s->iovs + sent;
		h.msg_iovlen = k;
		if (sendmsg(s->fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
			if (errno == EINTR || (errno == EAGAIN && wait_for(s->fd, POLLOUT, s->patience)))
				continue;
			return -errno;
		}
		sent += k;
	}
	return now() - start;
}
*/
import "C"

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cReceiver reads from one socket.
type cReceiver struct {
	c       *C.struct_receiver
	fd      int
	members []int
	how     func(c *C.struct_receiver, n C.int) C.int64_t
}

func receiveCBatch(c *C.struct_receiver, n C.int) C.int64_t { return C.receive_batch(c, n, C.VLEN) }
func receiveCOne(c *C.struct_receiver, n C.int) C.int64_t   { return C.receive_one(c, n) }

// openCBatch opens a receiver that learns source, group and interface of each datagram.
func openCBatch(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	return openC(p, dsts, size, true, receiveCBatch)
}

// openCBare opens a receiver that learns the source alone.
func openCBare(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	return openC(p, dsts, size, false, receiveCBatch)
}

// openCOne is openCBare for one datagram with each call.
func openCOne(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	return openC(p, dsts, size, false, receiveCOne)
}

// openCCoalesced opens a receiver of runs.
func openCCoalesced(p place, dsts []netip.AddrPort, _ int) (receiver, error) {
	r, err := openC(p, dsts, 1<<16, true, receiveCBatch)
	if err == nil {
		err = os.NewSyscallError("setsockopt UDP_GRO", unix.SetsockoptInt(r.(*cReceiver).fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1))
	}
	return r, err
}

// openCTold opens a socket for each of dsts, as the library does, and reads from them unasked.
func openCTold(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	r := &cReceiver{fd: -1}
	fds := make([]C.int, 0, len(dsts))
	err := p.do(func() error {
		for _, dst := range dsts {
			fd, err := rawPair(p, dst)
			if err != nil {
				return err
			}
			r.members, fds = append(r.members, fd), append(fds, C.int(fd))
		}
		return nil
	})
	if err != nil {
		closeAll(r.members)
		return nil, err
	}
	r.c = C.receiver_new(-1, C.int(size), C.int(patience.Milliseconds()))
	r.how = func(c *C.struct_receiver, n C.int) C.int64_t {
		return C.receive_told(c, &fds[0], C.int(len(fds)), n)
	}
	return r, nil
}

// openCMany opens a socket for each of dsts, as the library does: what that costs the kernel.
func openCMany(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	r := &cReceiver{fd: epfd, how: func(c *C.struct_receiver, n C.int) C.int64_t { return C.receive_many(c, n) }}
	err = p.do(func() error {
		for _, dst := range dsts {
			fd, err := rawPair(p, dst)
			if err != nil {
				return err
			}
			r.members = append(r.members, fd)
			if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
				return os.NewSyscallError("epoll_ctl", err)
			}
		}
		return nil
	})
	if err != nil {
		closeAll(append(r.members, epfd))
		return nil, err
	}
	r.c = C.receiver_new(C.int(epfd), C.int(size), C.int(patience.Milliseconds()))
	return r, nil
}

func openC(p place, dsts []netip.AddrPort, size int, pktinfo bool, how func(*C.struct_receiver, C.int) C.int64_t) (receiver, error) {
	r := &cReceiver{how: how}
	var err error
	if r.fd, err = openPlain(p, dsts, pktinfo, &r.members); err != nil {
		return nil, err
	}
	r.c = C.receiver_new(C.int(r.fd), C.int(size), C.int(patience.Milliseconds()))
	return r, nil
}

func (r *cReceiver) receive(n int) (time.Duration, error) {
	took := r.how(r.c, C.int(n))
	if took < 0 {
		return 0, lost(os.ErrDeadlineExceeded, int(-took-1), n)
	}
	return time.Duration(took), nil
}

func (r *cReceiver) close() {
	C.receiver_free(r.c)
	unix.Close(r.fd)
	closeAll(r.members)
}

// cSender sends to each of its destinations in turn.
type cSender struct {
	c         *C.struct_sender
	fd        int
	segmented bool
}

func openCSender(p place, dsts []netip.AddrPort, n, size int) (sender, error) {
	return newCSender(p, dsts, n, size, false)
}

func openCSegmenter(p place, dsts []netip.AddrPort, n, size int) (sender, error) {
	return newCSender(p, dsts, n, size, true)
}

func newCSender(p place, dsts []netip.AddrPort, n, size int, segmented bool) (sender, error) {
	s := &cSender{segmented: segmented}
	if err := p.do(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return os.NewSyscallError("socket", err)
		}
		mreq := &unix.IPMreqn{Ifindex: int32(p.ifc.Index), Address: p.ifc.IPv4[0].Addr().As4()}
		return os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq))
	}); err != nil {
		return nil, err
	}
	s.c = C.sender_new(C.int(s.fd), C.int(n), C.int(size), C.int(patience.Milliseconds()))
	for i := range n {
		dst := dsts[i%len(dsts)]
		group := dst.Addr().As4()
		C.sender_to(s.c, C.int(i), C.uint32_t(binary.NativeEndian.Uint32(group[:])),
			C.uint16_t(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, dst.Port()))))
	}
	return s, nil
}

func (s *cSender) send() (time.Duration, error) {
	var took C.int64_t
	if s.segmented {
		took = C.send_segmented(s.c)
	} else {
		took = C.send_batches(s.c, C.VLEN)
	}
	if took < 0 {
		return 0, fmt.Errorf("sending in C: %w", syscall.Errno(-took))
	}
	return time.Duration(took), nil
}

func (s *cSender) close() {
	C.sender_free(s.c)
	unix.Close(s.fd)
}
