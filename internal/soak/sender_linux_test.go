// The senders. They must not send faster than the kernel takes packets in, which is the one loss that no socket is told
// of; and a stream must stay on one processor, since packets that wait at two overtake each other.

package soak

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast"
)

// sequence counts what was sent to a group.
type sequence struct {
	next    atomic.Uint64 // the number of the datagram to come: those below may have been sent
	arrived atomic.Uint64 // those below were sent, and the kernel has given them to the sockets that were there
}

const (
	header  = 16
	maxSize = 1100
	magic   = 0x6d63
)

// write makes a datagram: header, and filling.
func write(p []byte, from, wire, group int, serial uint64) {
	binary.BigEndian.PutUint16(p[0:], magic)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[4], p[5], p[6], p[7] = byte(from), byte(wire), byte(group), 0
	binary.BigEndian.PutUint64(p[8:], serial)
	for i := header; i < len(p); i++ {
		p[i] = byte(serial) + byte(i)
	}
}

// parse takes a datagram apart, and says whether it is whole.
func parse(p []byte) (from, wire, group int, serial uint64, err error) {
	if len(p) < header || binary.BigEndian.Uint16(p) != magic || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
		return 0, 0, 0, 0, fmt.Errorf("not a datagram of ours: %x", p[:min(len(p), header)])
	}
	from, wire, group, serial = int(p[4]), int(p[5]), int(p[6]), binary.BigEndian.Uint64(p[8:])
	for i := header; i < len(p); i++ {
		if p[i] != byte(serial)+byte(i) {
			return 0, 0, 0, 0, fmt.Errorf("byte %d of datagram %d to group %d is another's", i, serial, group)
		}
	}
	return from, wire, group, serial, nil
}

// sender sends to all groups: the peer of a wire, or this host by all wires.
type sender struct {
	*life
	from, wire int // the wire of a peer
	seqs       *[groupCount]sequence
	rng        *rand.Rand
	cpu        int
	echo       int           // socket
	echoes     uint64        // datagrams that were sent to it
	most       int           // datagrams in a burst
	pause      time.Duration // at most, between bursts

	// plain sends to groups that are not loud, noisy to those that are, with Loopback.
	plain, noisy atomic.Pointer[mcast.TxSocket]
	excused      atomic.Bool // for writing to a socket that was closed
	poked        atomic.Bool // a write deadline passes

	bufs [][]byte
	ms   []mcast.Message
}

func (l *life) newSender(from, wire int, seqs *[groupCount]sequence, cpu, most int, pause time.Duration) *sender {
	s := &sender{life: l, from: from, wire: wire, seqs: seqs, cpu: cpu, most: most, pause: pause}
	s.rng = rand.New(rand.NewPCG(l.seed, uint64(100+wire)))
	for range most {
		s.bufs = append(s.bufs, make([]byte, maxSize))
	}
	s.ms = make([]mcast.Message, most)
	return s
}

// openEcho opens a socket that sends to itself by lo, on the host of the calling thread.
func (s *sender) openEcho() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.echo = fd
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, self); err != nil {
		return err
	}
	second := unix.NsecToTimeval(int64(time.Second))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second)
}

// run sends bursts until the life ends.
func (s *sender) run(done <-chan struct{}) {
	if err := s.pin(); err != nil {
		s.problem(-1, "", "%v", err)
		return
	}
	for {
		select {
		case <-done:
			return
		default:
		}
		s.gate.RLock()
		err := s.burst()
		s.gate.RUnlock()
		if err != nil {
			s.problem(s.wire, "", "sender %d: %v", s.wire, err)
			return
		}
		time.Sleep(time.Duration(s.rng.Int64N(int64(s.pause))))
	}
}

// burst sends some datagrams to one group and waits until they have arrived.
func (s *sender) burst() error {
	g, n, size := s.rng.IntN(groupCount), 1+s.rng.IntN(s.most), header+s.rng.IntN(maxSize-header)
	if s.rng.IntN(2) == 0 {
		size = header + size%100
	}
	batch, uneven := s.rng.IntN(3) > 0, s.rng.IntN(3) == 0
	for i := range n {
		if uneven {
			size = header + (size*7+i)%(maxSize-header)
		}
		s.bufs[i] = s.bufs[i][:size]
	}
	first := s.seqs[g].next.Load()
	s.send(g, s.bufs[:n], batch)
	if err := s.flush(); err != nil {
		return err
	}
	s.seqs[g].arrived.Store(first + uint64(n))
	return nil
}

// one sends a single datagram and returns its number. The life's gate is closed.
func (s *sender) one(g int) (serial uint64) {
	s.bufs[0] = s.bufs[0][:header]
	serial = s.seqs[g].next.Load()
	s.send(g, s.bufs[:1], false)
	return serial
}

func (s *sender) send(g int, bufs [][]byte, batch bool) {
	first, n := s.seqs[g].next.Load(), uint64(len(bufs))
	for i := range bufs {
		write(bufs[i], s.from, s.wire, g, first+uint64(i))
	}
	s.seqs[g].next.Store(first + n)
	s.counts.sent.Add(n)
	tx, dst := s.plain.Load(), netip.AddrPortFrom(groups[g], port)
	if loud(g) && s.from == fromHost {
		tx = s.noisy.Load()
	}
	if batch {
		for i, p := range bufs {
			s.ms[i] = mcast.Message{Buf: p, Addr: dst}
		}
		s.sendBatch(tx, s.ms[:n])
		return
	}
	for _, p := range bufs {
		_, err := tx.WriteToUDPAddrPort(p, dst)
		for s.late(err) {
			_, err = tx.WriteToUDPAddrPort(p, dst)
		}
		s.judge(err)
	}
}

// sendBatch sends what a deadline held back when the deadline is no more: it was not sent, and the rest was.
func (s *sender) sendBatch(tx *mcast.TxSocket, ms []mcast.Message) {
	for {
		n, err := tx.WriteBatch(ms)
		if s.late(err) {
			ms = ms[n:]
			continue
		}
		s.judge(err)
		if err == nil && n != len(ms) {
			s.problem(s.wire, "", "sender %d: WriteBatch: %d of %d, and no error", s.wire, n, len(ms))
		}
		return
	}
}

// late reports whether the sender's deadline was the cause of an error, and waits a moment then.
func (s *sender) late(err error) bool {
	late := s.poked.Load() && errors.Is(err, os.ErrDeadlineExceeded)
	if late {
		time.Sleep(100 * time.Microsecond)
	}
	return late
}

// poke has writes of a peer fail for a moment. It sends by one interface, so what has failed was not sent at all.
func (s *sender) poke() error {
	s.poked.Store(true)
	tx := s.plain.Load()
	err := tx.SetWriteDeadline(time.Unix(1, 0))
	time.Sleep(time.Millisecond)
	return errors.Join(err, tx.SetWriteDeadline(time.Time{}))
}

// judge looks at an error of sending: the wires that it names must be ones that cannot be sent by.
func (s *sender) judge(err error) {
	if err == nil {
		return
	}
	s.counts.unsent.Add(1)
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			s.judge(err)
		}
		return
	}
	var e *mcast.OpError
	if !errors.As(err, &e) {
		s.problem(s.wire, "", "sender %d: %T is no OpError: %v", s.wire, err, err)
		return
	}
	if errors.Is(err, net.ErrClosed) && s.excused.Load() {
		return
	}
	w := s.wire
	if s.from == fromHost {
		for _, other := range s.wires {
			if e.Interface == other.names[0] || e.Interface == other.names[1] {
				w = other.n
			}
		}
	}
	if w < 0 || !s.states[w].excused[s.from].Load() {
		s.problem(w, "", "sender %d: %v", s.wire, err)
	}
}

// flush waits until the kernel has taken in all that this thread has sent: lo has the same queue on a processor as all
// other interfaces.
func (s *sender) flush() error {
	var p, q [8]byte
	for {
		s.echoes++
		binary.BigEndian.PutUint64(p[:], s.echoes)
		if _, err := unix.Write(s.echo, p[:]); err != nil && err != unix.EINTR {
			return fmt.Errorf("echo: %w", err)
		}
		for {
			_, err := unix.Read(s.echo, q[:])
			if err == nil && q == p {
				return nil
			}
			if err == unix.EAGAIN {
				break // it was dropped, for want of room in that queue
			}
			if err != nil && err != unix.EINTR {
				return fmt.Errorf("echo: %w", err)
			}
		}
	}
}

// close ends what the sender has open.
func (s *sender) close() (err error) {
	for _, p := range []*atomic.Pointer[mcast.TxSocket]{&s.plain, &s.noisy} {
		if tx := p.Load(); tx != nil {
			err = errors.Join(err, tx.Close())
		}
	}
	return errors.Join(err, unix.Close(s.echo))
}

// processors are those that this process may use.
func processors() (all []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for cpu := range 1024 {
		if set.IsSet(cpu) {
			all = append(all, cpu)
		}
	}
	return all, nil
}

// pinned sends a single datagram on the sender's processor, and returns its number when it has arrived. The life's gate
// is closed.
func (s *sender) pinned(g int) (serial uint64) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.pin(); err != nil {
			s.problem(s.wire, "", "sender %d: %v", s.wire, err)
			return
		}
		serial = s.one(g)
		if err := s.flush(); err != nil {
			s.problem(s.wire, "", "sender %d: %v", s.wire, err)
		}
		s.seqs[g].arrived.Store(serial + 1)
	}()
	<-done
	return serial
}

// pin binds the calling goroutine to the sender's processor, for good: its thread ends with it.
func (s *sender) pin() error {
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(s.cpu)
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &one))
}
