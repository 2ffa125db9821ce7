//go:build linux && cgo

// The C side: the shortest loops around the system calls. One call from Go reads or sends all datagrams of a turn, so that
// the cost of the call is negligible.

package bench

/*
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { VLEN = 64, CONTROL = 64, PATIENCE = 60000 }; // datagrams, bytes, milliseconds

struct peer {
	int fd, epfd, batch, n;
	long bytes;
	struct sockaddr_in src;
	struct in_pktinfo info;
	struct mmsghdr *msgs;
	struct iovec *iovs;
	struct sockaddr_in *names;
	char *control, *payload;
};

// peer_new returns a peer with n messages of up to size bytes.
static struct peer *peer_new(int fd, int epfd, int batch, int n, int size) {
	struct peer *p = calloc(1, sizeof *p);
	*p = (struct peer){ .fd = fd, .epfd = epfd, .batch = batch, .n = n };
	p->msgs = calloc(n, sizeof *p->msgs);
	p->iovs = calloc(n, sizeof *p->iovs);
	p->names = calloc(n, sizeof *p->names);
	p->control = calloc(n, CONTROL);
	p->payload = calloc(n, size);
	for (int i = 0; i < n; i++) {
		p->iovs[i] = (struct iovec){ p->payload + (size_t)size * i, size };
		p->msgs[i].msg_hdr.msg_iov = &p->iovs[i];
		p->msgs[i].msg_hdr.msg_iovlen = 1;
		p->msgs[i].msg_hdr.msg_name = &p->names[i];
		p->msgs[i].msg_hdr.msg_namelen = sizeof p->names[i];
	}
	return p;
}

static void peer_free(struct peer *p) {
	free(p->msgs);
	free(p->iovs);
	free(p->names);
	free(p->control);
	free(p->payload);
	free(p);
}

static int read_one(struct peer *p, int fd) {
	socklen_t size = sizeof p->src;
	ssize_t len = recvfrom(fd, p->payload, p->iovs[0].iov_len, 0, (struct sockaddr *)&p->src, &size);
	p->bytes += len;
	return len < 0 ? -1 : 1;
}

static int read_batch(struct peer *p, int fd) {
	for (int i = 0; i < p->n; i++) {
		struct msghdr *h = &p->msgs[i].msg_hdr;
		h->msg_namelen = sizeof p->names[i];
		h->msg_control = p->control + CONTROL * i;
		h->msg_controllen = CONTROL;
	}
	int k = recvmmsg(fd, p->msgs, p->n, MSG_WAITFORONE, NULL);
	for (int i = 0; i < k; i++) {
		struct msghdr *h = &p->msgs[i].msg_hdr;
		p->bytes += p->msgs[i].msg_len;
		p->src = p->names[i];
		for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c))
			if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
				p->info = *(struct in_pktinfo *)CMSG_DATA(c);
	}
	return k;
}

// peer_read reads n datagrams from fd or, if there is an epfd, from the sockets that it reports. It returns an errno.
static int peer_read(struct peer *p, int n) {
	struct epoll_event ready[VLEN] = { { .data.fd = p->fd } };
	p->bytes = 0;
	for (int got = 0; got < n;) {
		int sockets = p->epfd < 0 ? 1 : epoll_wait(p->epfd, ready, VLEN, PATIENCE);
		if (sockets == 0)
			return ETIMEDOUT;
		if (sockets < 0 && errno != EINTR)
			return errno;
		for (int i = 0; i < sockets; i++) {
			int k = p->batch ? read_batch(p, ready[i].data.fd) : read_one(p, ready[i].data.fd);
			if (k < 0 && errno != EINTR)
				return errno;
			got += k < 0 ? 0 : k;
		}
	}
	return 0;
}

// peer_send sends all messages. It returns an errno.
static int peer_send(struct peer *p) {
	for (int sent = 0; sent < p->n;) {
		int left = p->n - sent, k = sendmmsg(p->fd, p->msgs + sent, left < VLEN ? left : VLEN, 0);
		if (k < 0 && errno != EINTR)
			return errno;
		sent += k < 0 ? 0 : k;
	}
	return 0;
}

static void peer_address(struct peer *p, int i, uint32_t group, uint16_t port) {
	p->names[i] = (struct sockaddr_in){ AF_INET, port, { group } };
}
*/
import "C"

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
)

// readC returns a function that reads n datagrams of up to size bytes from fd or, if epfd is not negative, from the
// sockets that epfd reports. It returns their bytes and, for batches, the last group and interface.
func readC(b *testing.B, fd, epfd int, batch bool, size int) func(n int) (bytes int, group netip.Addr, ifIndex int) {
	messages, inBatches := 1, 0
	if batch {
		messages, inBatches = C.VLEN, 1
	}
	p := C.peer_new(C.int(fd), C.int(epfd), C.int(inBatches), C.int(messages), C.int(size))
	b.Cleanup(func() { C.peer_free(p) })
	return func(n int) (int, netip.Addr, int) {
		if errno := C.peer_read(p, C.int(n)); errno != 0 {
			b.Fatal("reading in C: ", syscall.Errno(errno))
		}
		group := binary.NativeEndian.AppendUint32(nil, uint32(p.info.ipi_addr.s_addr))
		return int(p.bytes), netip.AddrFrom4([4]byte(group)), int(p.info.ipi_ifindex)
	}
}

// sendC returns a function that addresses message i of n, and one that sends all messages.
func sendC(b *testing.B, fd, n, size int) (address func(i int, dst netip.AddrPort), send func()) {
	p := C.peer_new(C.int(fd), -1, 1, C.int(n), C.int(size))
	b.Cleanup(func() { C.peer_free(p) })
	address = func(i int, dst netip.AddrPort) {
		group, port := dst.Addr().As4(), binary.BigEndian.AppendUint16(nil, dst.Port())
		C.peer_address(p, C.int(i), C.uint32_t(binary.NativeEndian.Uint32(group[:])), C.uint16_t(binary.NativeEndian.Uint16(port)))
	}
	return address, func() {
		if errno := C.peer_send(p); errno != 0 {
			b.Fatal("sending in C: ", syscall.Errno(errno))
		}
	}
}
