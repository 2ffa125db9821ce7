// A process that another test tells what to do, by lines of JSON: so that a test on Linux can have one on Windows open
// sockets, send and receive.

package mcast_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
)

// remoteChild is in the environment of such a process.
const remoteChild = "MCAST_TEST_REMOTE"

// remoteOrder is what it shall do next. It has one receiver and one sender.
type remoteOrder struct {
	OpenRx, OpenTx   bool
	Read             int    // datagrams, from the receiver
	ReadReply        bool   // one, from the sender
	Join, Leave      bool   // Groups[0], for Sources
	Send             string // to Groups[0]
	Reply            string // to To, from the receiver
	Close            bool   // while two reads are blocked
	Groups           []netip.Addr
	Port             uint16
	To               netip.AddrPort
	Interfaces       []string
	Sources, Blocked []netip.Addr
	TTL              int
	Loopback         bool
}

// remoteAnswer is what it says then.
type remoteAnswer struct {
	Err      string
	Arrivals []remoteArrival
}

type remoteArrival struct {
	arrival
	Src      netip.AddrPort
	HopLimit int
}

func TestRemote(t *testing.T) {
	if os.Getenv(remoteChild) == "" {
		t.Skip("it is for other tests to start")
	}
	orders := bufio.NewScanner(os.Stdin)
	r := remote{t: t}
	for orders.Scan() {
		var order remoteOrder
		var answer remoteAnswer
		err := json.Unmarshal(orders.Bytes(), &order)
		if err == nil {
			answer.Arrivals, err = r.do(&order)
		}
		if err != nil {
			answer.Err = err.Error()
		}
		line, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s%s\n", remoteMark, line)
	}
}

// remoteMark begins an answer, among what else a test prints.
const remoteMark = "remote: "

type remote struct {
	t  *testing.T
	rx *mcast.RxSocket
	tx *mcast.TxSocket
}

func (r *remote) do(o *remoteOrder) (got []remoteArrival, err error) {
	var ifaces []mcast.Interface
	if o.OpenRx || o.OpenTx {
		if ifaces, err = mcast.FindInterfaces(o.Interfaces...); err != nil {
			return nil, err
		}
	}
	switch {
	case o.OpenRx:
		r.rx, err = mcast.OpenRx(mcast.RxConfig{Groups: o.Groups, Port: o.Port, Interfaces: ifaces, Sources: o.Sources, Blocked: o.Blocked,
			HopLimits: true, Loopback: o.Loopback})
	case o.OpenTx:
		r.tx, err = mcast.OpenTx(mcast.TxConfig{Groups: o.Groups, Interfaces: ifaces, TTL: o.TTL, Port: o.Port, Loopback: o.Loopback})
	case o.Read > 0:
		ms := make([]mcast.Message, 64)
		for i := range ms {
			ms[i].Buf = make([]byte, 1000)
		}
		r.rx.SetReadDeadline(time.Now().Add(patience))
		for len(got) < o.Read && err == nil {
			var n int
			n, err = r.rx.ReadBatch(ms)
			for _, m := range ms[:n] {
				got = append(got, remoteArrival{arrival{string(m.Buf[:m.N]), m.Group, m.IfIndex}, m.Addr, m.HopLimit})
			}
		}
	case o.ReadReply:
		buf := make([]byte, 1000)
		r.tx.SetReadDeadline(time.Now().Add(patience))
		n, src, err := r.tx.ReadFromUDPAddrPort(buf)
		return []remoteArrival{{arrival: arrival{Payload: string(buf[:n])}, Src: src}}, err
	case o.Join:
		err = r.rx.Join(o.Groups[0], o.Sources...)
	case o.Leave:
		err = r.rx.Leave(o.Groups[0])
	case o.Send != "":
		_, err = r.tx.WriteToUDPAddrPort([]byte(o.Send), netip.AddrPortFrom(o.Groups[0], o.Port))
	case o.Reply != "":
		_, err = r.rx.WriteToUDPAddrPort([]byte(o.Reply), o.To)
	case o.Close:
		done := make(chan error, 2)
		blocked := 0
		if r.rx != nil {
			r.rx.SetReadDeadline(time.Time{})
			go func() { _, _, err := r.rx.ReadFromUDPAddrPort(make([]byte, 1)); done <- err }()
			blocked++
		}
		if r.tx != nil {
			r.tx.SetReadDeadline(time.Time{})
			go func() { _, _, err := r.tx.ReadFromUDPAddrPort(make([]byte, 1)); done <- err }()
			blocked++
		}
		time.Sleep(10 * time.Millisecond) // so that they are blocked, as a rule
		if r.rx != nil {
			err = r.rx.Close()
		}
		if r.tx != nil && err == nil {
			err = r.tx.Close()
		}
		for range blocked {
			<-done
		}
		r.rx, r.tx = nil, nil
	}
	return got, err
}
