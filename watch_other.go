//go:build !linux && !darwin && !windows

// The ear on the network of a system whose notices nobody here has learned to hear: look every few seconds. A system that
// gets a file of its own is taken out of the build constraint above.

package mcast

import (
	"net"
	"time"
)

// watchInterval is how often the interfaces are looked at. What happens and is undone in between goes unseen.
const watchInterval = 3 * time.Second

// watchPoll is a watchSource. The channel is closed to close it.
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
