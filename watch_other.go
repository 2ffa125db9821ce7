//go:build !linux && !darwin && !windows

// The watcher for a system whose notices this library does not use: it lists the interfaces every few seconds. A system
// with its own watcher is excluded in the build constraint above.

package mcast

import (
	"net"
	"time"
)

// watchInterval is how often the interfaces are listed. A change that is undone in between is not seen.
const watchInterval = 3 * time.Second

// watchPoll is a watchSource. Its method close closes the channel.
type watchPoll chan struct{}

var _ watchSource = watchPoll(nil)

func watchOpen() (watchSource, error) { return make(watchPoll), nil }

func (p watchPoll) scan() ([]Interface, error) { return ifaceScan() }

func (p watchPoll) close() { close(p) }

func (p watchPoll) wait() (watchNotice, error) {
	select {
	case <-p:
		return watchNotice{}, net.ErrClosed
	case <-time.After(watchInterval):
		return watchNotice{routes: true}, nil
	}
}
