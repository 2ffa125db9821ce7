//go:build !linux

// Where this version has no sockets: the module builds, documents itself and lists interfaces, and opening a socket
// says errors.ErrUnsupported. Nothing below newMerge is ever reached.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"
)

var errNoSockets = fmt.Errorf("multicast sockets on %s: %w", runtime.GOOS, errors.ErrUnsupported)

type merge struct{}

func newMerge() (*merge, error) { return nil, errNoSockets }

func (*merge) add(*conn) error                 { return errNoSockets }
func (*merge) remove(*conn) error              { return errNoSockets }
func (*merge) retire(*conn) error              { return errNoSockets }
func (*merge) update(func())                   {}
func (*merge) setReadDeadline(time.Time) error { return errNoSockets }
func (*merge) close() error                    { return errNoSockets }

func (*merge) read([]byte) (int, netip.AddrPort, error) { return 0, netip.AddrPort{}, errNoSockets }
func (*merge) readBatch([]Message) (int, error)         { return 0, errNoSockets }

type conn struct {
	screen  screen
	release func() error
	count   counters
}

func (*conn) stats() (dropped uint64, readBuffer int) { return 0, 0 }

func openPair(*RxConfig, *pair, []netip.Addr) ([]*conn, error)      { return nil, errNoSockets }
func (*pair) rejoin(*conn) error                                    { return errNoSockets }
func listenReply(netip.Addr, uint16) (*net.UDPConn, error)          { return nil, errNoSockets }
func replyConn(syscall.RawConn) (*conn, error)                      { return nil, errNoSockets }
func setMulticastInterface(syscall.RawConn, bool, *Interface) error { return errNoSockets }
func probeSource(*Interface, netip.Addr) error                      { return errNoSockets }
func isTransient(error) bool                                        { return false }
func openHint(error) string                                         { return "" }
func sendHint(error, *Interface, netip.Addr) string                 { return "" }

func controlTx(bool) func(network, address string, rc syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return errNoSockets }
}

type sender struct {
	conn *net.UDPConn
	raw  syscall.RawConn
}

func newSender(*net.UDPConn) (*sender, error) { return nil, errNoSockets }

func (*sender) send([]byte, netip.AddrPort, int) error { return errNoSockets }
func (*sender) sendBatch([]Message, int) (int, error)  { return 0, errNoSockets }
