//go:build linux || darwin

// What the OS border on Linux and that on macOS have in common.

package mcast

import (
	"net"
	"os"
	"syscall"
)

// control runs f on the descriptor of rc.
func control(rc syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// fileConn hands a duplicate of a UDP socket's descriptor to package net.
func fileConn(file *os.File) (udp *net.UDPConn, err error) {
	err = call("dup", func() error {
		pc, err := net.FilePacketConn(file)
		if err == nil {
			udp = pc.(*net.UDPConn)
		}
		return err
	})
	return udp, err
}
