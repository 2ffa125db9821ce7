// Protocol servers of others, whose socket is an RxSocket: they are asked by multicast and answer by unicast. Which
// methods they call, how often, and what they make of the errors is up to them.

package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"github.com/miekg/dns"
	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/message/pool"
	coapnet "github.com/plgd-dev/go-coap/v3/net"
	"github.com/plgd-dev/go-coap/v3/net/responsewriter"
	"github.com/plgd-dev/go-coap/v3/udp"
	coapclient "github.com/plgd-dev/go-coap/v3/udp/client"
	"github.com/plgd-dev/go-coap/v3/udp/coder"
)

// idle is a PacketConn that counts the reads which have timed out.
type idle struct {
	net.PacketConn
	timeouts atomic.Int32
}

func (c *idle) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := c.PacketConn.ReadFrom(p)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.timeouts.Add(1)
	}
	return n, addr, err
}

// TestDNS has two servers of github.com/miekg/dns on the groups of mDNS, in both families at once. It sets a read
// deadline before each read, goes on after those that pass, and reads no more after one in the past. A question to
// another group on the port does not get to them.
func TestDNS(t *testing.T) {
	t.Parallel()
	mcasttest.Require(t)
	const port = 5353
	groups := []netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::fb")}
	lan := mcasttest.NewLAN(t, 3)
	client, servers := lan.Hosts[0], lan.Hosts[1:]
	var asked atomic.Int32
	var stops []func()
	for _, h := range servers {
		rx := openRx(t, h, mcast.RxConfig{Groups: groups, Port: port})
		conn := &idle{PacketConn: rx}
		handler := func(w dns.ResponseWriter, q *dns.Msg) {
			asked.Add(1)
			reply := new(dns.Msg).SetReply(q)
			header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 120}
			reply.Answer = []dns.RR{&dns.A{Hdr: header, A: h.IPv4.AsSlice()}}
			if err := w.WriteMsg(reply); err != nil {
				t.Error(err)
			}
		}
		server := &dns.Server{PacketConn: conn, ReadTimeout: tick, Handler: dns.HandlerFunc(handler)}
		served := make(chan error, 1)
		go func() { served <- server.ActivateAndServe() }()
		until(t, "some reads have timed out", func() bool { return conn.timeouts.Load() >= 3 })
		stops = append(stops, func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := server.ShutdownContext(ctx); err != nil {
				t.Errorf("shut down: %v", err)
			}
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
			if _, _, err := rx.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after the server has closed its socket: %v", err)
			}
		})
		for _, group := range groups {
			lan.WaitJoined(h, group)
		}
	}

	for n, group := range groups {
		aside := openRx(t, servers[0], mcast.RxConfig{Groups: []netip.Addr{other(group)}, Port: port})
		lan.WaitJoined(servers[0], other(group))
		tx := openTx(t, client, mcast.TxConfig{Groups: []netip.Addr{group, other(group)}})
		question, err := new(dns.Msg).SetQuestion("host.local.", dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		write(t, tx, other(group), port, string(question))
		want(t, aside, other(group), source(client, group), string(question))
		write(t, tx, group, port, string(question))

		answers := map[string]bool{}
		tx.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 1500)
		for len(answers) < len(servers) {
			size, from, err := tx.ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatalf("after %v: %v", answers, err)
			}
			reply := new(dns.Msg)
			if err := reply.Unpack(b[:size]); err != nil || len(reply.Answer) != 1 {
				t.Fatalf("%v in %v", err, reply)
			}
			from = netip.AddrPortFrom(from.Addr().WithZone(""), from.Port())
			answers[fmt.Sprint(from, " ", reply.Answer[0].(*dns.A).A)] = true
		}
		for _, h := range servers {
			if is := fmt.Sprint(netip.AddrPortFrom(source(h, group), port), " ", h.IPv4); !answers[is] {
				t.Errorf("no answer %s, but %v", is, answers)
			}
		}
		if got, want := int(asked.Load()), (n+1)*len(servers); got != want {
			t.Errorf("the servers were asked %d times, want %d", got, want)
		}
	}
	for _, stop := range stops {
		stop()
	}
}

// coapServer is a server made of the parts of github.com/plgd-dev/go-coap. Its own wants a *net.UDPConn, which it sets
// options of; but its connections take any session, and one of those is what a datagram of an RxSocket goes to, and an
// answer comes from.
type coapServer struct {
	rx      *mcast.RxSocket
	handler func(*responsewriter.ResponseWriter[*coapclient.Conn], *pool.Message)
	ctx     context.Context
}

func (s *coapServer) serve() error {
	conns := map[string]*coapclient.Conn{}
	b := make([]byte, 1500)
	for {
		n, from, err := s.rx.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		conn := conns[from.String()]
		if conn == nil {
			cfg := coapclient.DefaultConfig
			cfg.Handler = s.handler
			conn = coapclient.NewConnWithOpts(&coapSession{rx: s.rx, from: from, ctx: s.ctx}, &cfg)
			conns[from.String()] = conn
		}
		if err := conn.Process(nil, b[:n]); err != nil {
			return err
		}
	}
}

// coapSession is one client of a coapServer.
type coapSession struct {
	rx   *mcast.RxSocket
	from net.Addr

	mu      sync.Mutex
	ctx     context.Context
	onClose []func()
}

var _ coapclient.Session = (*coapSession)(nil)

func (s *coapSession) WriteMessage(m *pool.Message) error {
	data, err := m.MarshalWithEncoder(coder.DefaultCoder)
	if err != nil {
		return err
	}
	_, err = s.rx.WriteTo(data, s.from)
	return err
}

func (s *coapSession) WriteMulticastMessage(*pool.Message, *net.UDPAddr, ...coapnet.MulticastOption) error {
	return errors.ErrUnsupported
}

func (s *coapSession) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx
}

func (s *coapSession) SetContextValue(key, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = context.WithValue(s.ctx, key, value)
}

func (s *coapSession) AddOnClose(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onClose = append(s.onClose, f)
}

func (s *coapSession) Close() error {
	s.mu.Lock()
	all := s.onClose
	s.onClose = nil
	s.mu.Unlock()
	for _, f := range all {
		f()
	}
	return nil
}

func (s *coapSession) Run(*coapclient.Conn) error { return errors.ErrUnsupported } // the server reads
func (s *coapSession) Done() <-chan struct{}      { return s.Context().Done() }
func (s *coapSession) MaxMessageSize() uint32     { return 1500 }
func (s *coapSession) RemoteAddr() net.Addr       { return s.from }
func (s *coapSession) LocalAddr() net.Addr        { return s.rx.LocalAddr() }
func (s *coapSession) NetConn() net.Conn          { return nil }

// TestCoAP has a client of go-coap discover two servers on the groups of all CoAP nodes (RFC 7252, section 12.8).
func TestCoAP(t *testing.T) {
	t.Parallel()
	mcasttest.Require(t)
	const port = 5683
	groups := []netip.Addr{netip.MustParseAddr("224.0.1.187"), netip.MustParseAddr("ff02::fd")}
	lan := mcasttest.NewLAN(t, 3)
	client, servers := lan.Hosts[0], lan.Hosts[1:]
	for _, h := range servers {
		rx := openRx(t, h, mcast.RxConfig{Groups: groups, Port: port})
		handler := func(w *responsewriter.ResponseWriter[*coapclient.Conn], m *pool.Message) {
			path, err := m.Path()
			if err != nil || path != "/name" {
				t.Errorf("a request for %q, %v", path, err)
			}
			if err := w.SetResponse(codes.Content, message.TextPlain, strings.NewReader(h.Name)); err != nil {
				t.Error(err)
			}
		}
		server := &coapServer{rx, handler, t.Context()}
		served := make(chan error, 1)
		go func() { served <- server.serve() }()
		t.Cleanup(func() {
			rx.Close()
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		for _, group := range groups {
			lan.WaitJoined(h, group)
		}
	}

	for _, group := range groups {
		network := "udp4"
		if group.Is6() {
			network = "udp6"
		}
		// Everything of the client that opens or looks at something does so here, on its host.
		client.Do(func() {
			conn, err := coapnet.NewListenUDP(network, ":0")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			discoverer := udp.NewServer()
			served := make(chan error, 1)
			go func() { served <- discoverer.Serve(conn) }()
			defer func() {
				discoverer.Stop()
				if err := <-served; err != nil {
					t.Errorf("client: %v", err)
				}
			}()

			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var mu sync.Mutex
			answers := map[string]string{} // the name of a host, and its address
			answer := func(from *coapclient.Conn, m *pool.Message) {
				body, err := m.ReadBody()
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				answers[string(body)] = from.RemoteAddr().(*net.UDPAddr).IP.String()
				if len(answers) == len(servers) {
					cancel()
				}
			}
			err = discoverer.Discover(ctx, netip.AddrPortFrom(group, port).String(), "/name", answer)
			if err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			mu.Lock() // the last answer may be on its way
			defer mu.Unlock()
			for _, h := range servers {
				// The client asks from all its addresses.
				if a := answers[h.Name]; a != h.LinkLocal.String() && a != address(h, group).String() {
					t.Errorf("answers from %v, want one from %s", answers, h.Name)
				}
			}
		})
	}
}
