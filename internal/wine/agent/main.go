// Command agent opens multicast sockets, sends and receives, as lines of JSON on its standard input order, and answers
// each on its standard output. The tests of package wine run it as a Windows program.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/wine"
)

// patience limits every wait for a datagram.
const patience = 20 * time.Second

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// serve carries out the orders until there are no more.
func serve(in io.Reader, out io.Writer) error {
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	var a agent
	for {
		var o wine.Order
		if err := orders.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var answer wine.Answer
		var err error
		if answer.Arrivals, err = a.do(&o); err != nil {
			answer.Err = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
}

// agent has the sockets; nil is one that is not open.
type agent struct {
	rx *mcast.RxSocket
	tx *mcast.TxSocket
}

func (a *agent) do(o *wine.Order) ([]wine.Arrival, error) {
	switch o.Do {
	case wine.OpenRx, wine.OpenTx:
		return nil, a.open(o)
	case wine.Close:
		return nil, a.close()
	case wine.Read:
		return a.read(o.Count)
	case wine.ReadReply:
		buf := make([]byte, 1000)
		a.tx.SetReadDeadline(time.Now().Add(patience))
		n, src, err := a.tx.ReadFromUDPAddrPort(buf)
		return []wine.Arrival{{Payload: string(buf[:n]), Src: src}}, err
	case wine.Join:
		return nil, a.rx.Join(o.Groups[0], o.Sources...)
	case wine.Leave:
		return nil, a.rx.Leave(o.Groups[0])
	case wine.Send:
		_, err := a.tx.WriteToUDPAddrPort([]byte(o.Payload), netip.AddrPortFrom(o.Groups[0], o.Port))
		return nil, err
	case wine.Reply:
		_, err := a.rx.WriteToUDPAddrPort([]byte(o.Payload), o.To)
		return nil, err
	}
	return nil, fmt.Errorf("unknown order %q", o.Do)
}

func (a *agent) open(o *wine.Order) error {
	ifaces, err := mcast.FindInterfaces(o.Interfaces...)
	if err != nil {
		return err
	}
	if o.Do == wine.OpenRx {
		a.rx, err = mcast.OpenRx(mcast.RxConfig{Groups: o.Groups, Port: o.Port, Interfaces: ifaces, Sources: o.Sources,
			Blocked: o.Blocked, HopLimits: true, Loopback: o.Loopback})
		return err
	}
	a.tx, err = mcast.OpenTx(mcast.TxConfig{Groups: o.Groups, Port: o.Port, Interfaces: ifaces, TTL: o.TTL, Loopback: o.Loopback})
	return err
}

// read returns the datagrams that have come, at least count of them unless it fails.
func (a *agent) read(count int) (got []wine.Arrival, err error) {
	ms := make([]mcast.Message, 64)
	for i := range ms {
		ms[i].Buf = make([]byte, 1000)
	}
	a.rx.SetReadDeadline(time.Now().Add(patience))
	for len(got) < count && err == nil {
		var n int
		n, err = a.rx.ReadBatch(ms)
		for _, m := range ms[:n] {
			got = append(got, wine.Arrival{Payload: string(m.Buf[:m.N]), Group: m.Group, IfIndex: m.IfIndex, Src: m.Addr, HopLimit: m.HopLimit})
		}
	}
	return got, err
}

// close closes the sockets that are open, in each of which a read is blocked. It waits for the reads.
func (a *agent) close() (err error) {
	type socket interface {
		io.Closer
		SetReadDeadline(time.Time) error
		ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	}
	var open []socket
	if a.rx != nil {
		open = append(open, a.rx)
	}
	if a.tx != nil {
		open = append(open, a.tx)
	}
	read := make(chan struct{})
	for _, s := range open {
		s.SetReadDeadline(time.Time{})
		go func() {
			s.ReadFromUDPAddrPort(make([]byte, 1))
			read <- struct{}{}
		}()
	}
	time.Sleep(10 * time.Millisecond) // in most runs the reads block then
	for _, s := range open {
		err = errors.Join(err, s.Close())
	}
	for range open {
		<-read
	}
	a.rx, a.tx = nil, nil
	return err
}
