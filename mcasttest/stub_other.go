//go:build !linux

// This file is for systems without network namespaces. There the tests run on the machine itself. Tests that need a
// network of their own are skipped before any of these functions is called.

package mcasttest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
)

func run(m *testing.M) int { return m.Run() }

func namespaceError() error {
	return fmt.Errorf("network namespaces on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

type linkEnd struct {
	ns    *netns
	name  string
	index int
	mac   net.HardwareAddr
}

func addVeth(a, b linkEnd) error { return errors.ErrUnsupported }

func isBusy(error) bool { return false }
func isGone(error) bool { return false }

type netns struct{}

func newNetns() (*netns, error)  { return nil, errors.ErrUnsupported }
func hereNetns() (*netns, error) { return nil, errors.ErrUnsupported }

func (*netns) close() error                                    { return errors.ErrUnsupported }
func (*netns) run(func()) error                                { return errors.ErrUnsupported }
func (*netns) index(string) (int, error)                       { return 0, errors.ErrUnsupported }
func (*netns) waitRunning(string) error                        { return errors.ErrUnsupported }
func (*netns) setUp(string) error                              { return errors.ErrUnsupported }
func (*netns) setDown(string) error                            { return errors.ErrUnsupported }
func (*netns) setMTU(string, int) error                        { return errors.ErrUnsupported }
func (*netns) rename(name, to string) error                    { return errors.ErrUnsupported }
func (*netns) move(string, *netns) error                       { return errors.ErrUnsupported }
func (*netns) delLink(string) error                            { return errors.ErrUnsupported }
func (*netns) addAddress(string, netip.Prefix) error           { return errors.ErrUnsupported }
func (*netns) delAddress(string, netip.Prefix) error           { return errors.ErrUnsupported }
func (*netns) addRoute(string, route) error                    { return errors.ErrUnsupported }
func (*netns) delRoute(string, route) error                    { return errors.ErrUnsupported }
func (*netns) addBridge(string, net.HardwareAddr) error        { return errors.ErrUnsupported }
func (*netns) query(string) error                              { return errors.ErrUnsupported }
func (*netns) enslave(name, bridge string, router bool) error  { return errors.ErrUnsupported }
func (*netns) member(string, netip.Addr) (bool, error)         { return false, errors.ErrUnsupported }
func (*netns) newCounter(string, netip.Addr) (*counter, error) { return nil, errors.ErrUnsupported }
func (*netns) startForwarding(...string) (func() error, error) { return nil, errors.ErrUnsupported }

type counter struct{}

func (*counter) read() (uint64, error) { return 0, errors.ErrUnsupported }
func (*counter) close() error          { return errors.ErrUnsupported }
