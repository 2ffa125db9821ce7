// This file is a multicast router in user space, of the simplest kind. The kernel asks where packets of a new source
// and group should go, and the answer is always "out of all other interfaces". The switches there forward them only to
// members. The interface of the kernel is in linux/mroute.h and linux/mroute6.h.

package mcasttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	mrtInit       = 200 // the same numbers for both families
	mrtAddVIF     = 202
	mrtAddMFC     = 204
	upcallNoCache = 1
	vifUseIndex   = 8
	threshold     = 1 // forward what arrives with a TTL above
)

// mroute forwards multicast of one family between the interfaces of a namespace.
type mroute struct {
	family  mrouteFamily
	file    *os.File // of a raw socket, on which the kernel asks
	legs    int
	stopped chan struct{}
}

// mrouteFamily holds the differences between IPv4 and IPv6.
type mrouteFamily struct {
	domain, protocol, level int
	vif                     func(vif, index int) []byte                             // struct vifctl, mif6ctl
	mfc                     func(source, group []byte, vif, legs int) []byte        // struct mfcctl, mf6cctl
	upcall                  func(b []byte) (source, group []byte, vif int, ok bool) // struct igmpmsg, mrt6msg
}

var mrouteFamilies = []mrouteFamily{{
	domain: unix.AF_INET, protocol: unix.IPPROTO_IGMP, level: unix.IPPROTO_IP,
	vif: func(vif, index int) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(vif))
		b = append(b, vifUseIndex, threshold, 0, 0, 0, 0) // no rate limit
		b = append(b, u32(index)...)
		return append(b, 0, 0, 0, 0) // no tunnel
	},
	mfc: func(source, group []byte, vif, legs int) []byte {
		b := append(append([]byte(nil), source...), group...)
		b = binary.NativeEndian.AppendUint16(b, uint16(vif))
		var ttls [32]byte // 0: not out of this one
		for i := range legs {
			if i != vif {
				ttls[i] = threshold
			}
		}
		b = append(b, ttls[:]...)
		return append(b, make([]byte, 2+16)...) // padding and counters
	},
	upcall: func(b []byte) (source, group []byte, vif int, ok bool) {
		if len(b) < 20 || b[8] != upcallNoCache || b[9] != 0 {
			return nil, nil, 0, false // b[9], the protocol, is 0 in an upcall and 2 in an IGMP packet
		}
		return b[12:16], b[16:20], int(b[10]), true
	},
}, {
	domain: unix.AF_INET6, protocol: unix.IPPROTO_ICMPV6, level: unix.IPPROTO_IPV6,
	vif: func(vif, index int) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(vif))
		b = append(b, 0, threshold)
		b = binary.NativeEndian.AppendUint16(b, uint16(index))
		return append(b, 0, 0, 0, 0, 0, 0) // padding, no rate limit
	},
	mfc: func(source, group []byte, vif, legs int) []byte {
		b := append(sockaddr6(source), sockaddr6(group)...)
		b = binary.NativeEndian.AppendUint16(b, uint16(vif))
		b = append(b, 0, 0)
		out := uint32(1)<<legs - 1
		out &^= 1 << vif
		b = binary.NativeEndian.AppendUint32(b, out)
		return append(b, make([]byte, 28)...) // the rest of 256 interfaces
	},
	upcall: func(b []byte) (source, group []byte, vif int, ok bool) {
		if len(b) < 40 || b[0] != 0 || b[1] != upcallNoCache {
			return nil, nil, 0, false
		}
		return b[8:24], b[24:40], int(binary.NativeEndian.Uint16(b[2:])), true
	},
}}

func sockaddr6(ip []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = append(b, make([]byte, 6)...)
	b = append(b, ip...)
	return append(b, 0, 0, 0, 0)
}

// startForwarding forwards multicast of both families between the interfaces until stop is called.
func (n *netns) startForwarding(names ...string) (stop func() error, err error) {
	var indexes []int
	for _, name := range names {
		index, err := n.index(name)
		if err != nil {
			return nil, err
		}
		indexes = append(indexes, index)
	}
	var routers []*mroute
	stop = func() error {
		var errs []error
		for _, r := range routers {
			errs = append(errs, r.stop())
		}
		return errors.Join(errs...)
	}
	for _, family := range mrouteFamilies {
		var r *mroute
		runErr := n.run(func() { r, err = openMroute(family, indexes) })
		if err := errors.Join(runErr, err); err != nil {
			return nil, errors.Join(err, stop())
		}
		routers = append(routers, r)
	}
	return stop, nil
}

func openMroute(family mrouteFamily, indexes []int) (*mroute, error) {
	const flags = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(family.domain, flags, family.protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket(SOCK_RAW)", err)
	}
	set := func(option int, value []byte) {
		if err == nil {
			err = unix.SetsockoptString(fd, family.level, option, string(value))
		}
	}
	set(mrtInit, u32(1))
	for vif, index := range indexes {
		set(mrtAddVIF, family.vif(vif, index))
	}
	if err == unix.ENOPROTOOPT {
		err = fmt.Errorf("kernel without multicast routing: %w", errors.ErrUnsupported)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt(MRT)", err)
	}
	r := &mroute{family, os.NewFile(uintptr(fd), "multicast routing"), len(indexes), make(chan struct{})}
	go r.serve()
	return r, nil
}

// serve answers the kernel's requests until the file is closed.
func (r *mroute) serve() {
	defer close(r.stopped)
	b := make([]byte, 64<<10)
	for {
		n, err := r.file.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // such as ENOBUFS: a request was lost, and the next packet causes another
		}
		if source, group, vif, ok := r.family.upcall(b[:n]); ok {
			r.forward(r.family.mfc(source, group, vif, r.legs))
		}
	}
}

// forward adds an entry to the forwarding cache. The kernel then also forwards the packets that waited for it. A
// refusal is not reported: packets that do not get through show it.
func (r *mroute) forward(entry []byte) {
	raw, err := r.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptString(int(fd), r.family.level, mrtAddMFC, string(entry)) })
}

// stop ends the forwarding. When the socket is closed, the kernel forgets its interfaces and routes.
func (r *mroute) stop() error {
	err := r.file.Close()
	<-r.stopped
	return err
}
