//go:build !linux && !darwin && !windows

// Systems without sockets of this library: opening returns errors.ErrUnsupported, listing interfaces works. Nothing below
// errSystem is called.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
)

var errSystem = fmt.Errorf("multicast sockets on %s: %w", runtime.GOOS, errors.ErrUnsupported)

const (
	replyEarly       = false
	leastWriteBuffer = 0
	hasTrafficClass6 = false
	joinsWithoutIPv4 = false
	downLoses        = false
)

type osSocket struct{}

func (*conn) stats() (readBuffer int) { return 0 }

func openPair(*merge, *RxConfig, *pair, []netip.Addr) ([]*conn, error) { return nil, errSystem }
func (*pair) rejoin(*conn) error                                       { return errSystem }
func listenReply(netip.Addr, uint16) (*net.UDPConn, error)             { return nil, errSystem }
func replyConn(*sender, bool) (*conn, error)                           { return nil, errSystem }
func setMulticastInterface(*sender, bool, *Interface) error            { return errSystem }
func setWriteBuffer(*sender, int) (int, error)                         { return 0, errSystem }
func setShared(syscall.RawConn, bool, bool, bool) error                { return errSystem }
func (*conn) leave()                                                   {}
func probeSource(*Interface, netip.Addr) (a netip.Addr, err error)     { return a, errSystem }
func isExhausted(error) bool                                           { return false }
func isPortTaken(error) bool                                           { return false }
func leaveReusePortGroup(*net.UDPConn, int) error                      { return nil }

// bindSender: there are no VRFs.
func bindSender(syscall.RawConn, int) (bound bool, err error) { return false, nil }
func (*conn) stale(*Interface, map[watchAddr]bool) bool       { return false }
func isTransient(error) bool                                  { return false }
func isTruncation(error) bool                                 { return false }
func isHarmless(error) bool                                   { return false }
func isNoReceiver(error, bool, netip.Addr) bool               { return false }
func mayBeGone(error) bool                                    { return false }
func ipv6Off(string) string                                   { return "" }
func openHint(error) string                                   { return "" }
func sendBufferHint(int) string                               { return "" }
func sendHint(error, *Interface, netip.Addr) string           { return "" }
