// Package mcast sends and receives UDP multicast over IPv4 and IPv6. An [RxSocket] joins groups on interfaces. It
// returns each datagram sent to such a group on such an interface exactly once, and nothing else. A [TxSocket] sends to
// groups on the interfaces it was given, and reads the replies. Both implement [net.PacketConn].
//
// # Receiving
//
// [OpenRx] joins groups on interfaces and listens on one port:
//
//	rx, err := mcast.OpenRx(mcast.RxConfig{
//		Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")},
//		Port:   12345,
//	})
//
// [RxSocket.ReadFromUDPAddrPort] returns one datagram and its sender. [RxSocket.ReadBatch] returns the datagrams that
// have arrived, each in a [Message]: with its group, the interface it arrived on, and whether the buffer was too small.
// If asked for, a Message also has the hop limit and the time when the kernel received the datagram.
// [RxSocket.Messages] does the same for a range statement. [RxSocket.Join] and [RxSocket.Leave] change the groups of an
// open socket.
//
// [RxSocket.WriteToUDPAddrPort] replies to a sender by unicast, from the port of the group.
//
// # Sending
//
// [OpenTx] names the groups that may be sent to, and [TxSocket.WriteToUDPAddrPort] sends to one of them, at any port:
//
//	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}})
//	…
//	_, err = tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, 12345))
//
// Datagrams stay on the link unless TxConfig.TTL lets them pass routers. With several interfaces, each datagram is sent
// on all of them. [TxSocket.WriteBatch] sends many datagrams with few system calls. [TxSocket.ReadFromUDPAddrPort]
// reads the unicast replies to the socket. A nil error means that the kernel accepted the datagram, not that anyone
// received it.
//
// # Interfaces
//
// A group is joined on an interface, and multicast is sent on an interface. The routing table does not choose the
// interface, as it does for unicast. Name interfaces in the way that suits the program:
//
//	ifaces, err := mcast.FindInterfaces("eth0") // or "192.168.0.248", "10.0.0.0/8", "enp*", "default"
//	rx, err := mcast.OpenRx(mcast.RxConfig{…, Interfaces: ifaces})
//
// [SelectInterfaces] describes these specs, [Interfaces] lists the interfaces, and [WatchInterfaces] follows them.
// Without Interfaces, an RxSocket joins on every interface that is up, supports multicast and has an address of the
// group's family, except the loopback. It also joins on interfaces that become usable later. A TxSocket without
// Interfaces sends on the interface that leads to the default gateway ([DefaultInterface]). A receiver with named
// interfaces fails to open if one of them cannot join. Without named interfaces, each group must be joined on at least
// one. [RxSocket.Memberships] reports the others with their errors. Groups of a family that the host lacks wait for it.
// A lack of file descriptors or memory is always an error.
//
// # The delivery contract
//
// An interface of the host joins a group (RFC 1112, section 7), not a socket. By default, systems also deliver to a
// socket the groups that other programs have joined, the groups of other interfaces, and unicast to its port. An
// RxSocket is different. It returns a datagram if, and only if,
//
//   - it was sent to a group that is joined, and to the socket's port,
//   - it arrived on an interface that the group is joined on,
//   - its source is one of Sources, if the group has any, and none of Blocked,
//   - and its source is not an address of that interface, which makes it the host's own datagram. With Loopback set,
//     and on the loopback interface, it may be. Nor is its source an IPv4 address in an IPv6 packet, which belongs to
//     no host.
//
// It returns the datagram once, to one of the waiting reads, however many groups and interfaces there are. The contract
// does not cover what the network duplicates, reorders or loses. [Membership] counts, for each group on each interface,
// the datagrams that the kernel drops because no read takes them in time.
//
// Sockets share their port with other programs that allow it. Each of them gets its own copy of a datagram. A source
// address is no proof of origin; see SECURITY.md.
//
// # Source-specific multicast
//
// With RxConfig.Sources, or sources given to [RxSocket.Join], a socket receives only from those hosts. It asks routers
// and switches that speak IGMPv3 (RFC 3376) or MLDv2 (RFC 3810) for nothing else. The groups of 232.0.0.0/8 and
// ff3x::/32 are meant for this use (RFC 4607); it works with all other groups too. RxConfig.Blocked does the opposite.
// Both apply to the groups of their address family. The sysctls igmp_max_msf and mld_max_msf of Linux do not limit the
// number of sources.
//
// # Loopback
//
// A host does not receive what it sends on a network interface, unless Loopback is set in both [RxConfig] and
// [TxConfig]. It always receives what it sends on the loopback interface. To use that interface, name it, as in
// FindInterfaces("127.0.0.1"). On Linux, IPv6 also needs a route that no host has by default:
//
//	ip -6 route add local ff00::/8 dev lo
//
// # Deadlines, closing, concurrency
//
// All methods may be called from many goroutines. Reads block until a datagram arrives, the read deadline passes
// ([os.ErrDeadlineExceeded]) or the socket is closed ([net.ErrClosed]). Writes block while a send buffer is full.
// Deadlines work as in package net: they are absolute times, apply to calls that are under way, and stay until they are
// changed. [RxSocket.Messages] ends with a [context.Context]. Close may be called twice.
//
// Reading and writing with netip addresses and in batches does not allocate per datagram. ReadFrom and WriteTo, which
// [net.PacketConn] requires, do.
//
// # Errors
//
// Errors are of type *[OpError], or several of them joined if several interfaces failed. Each names the operation, its
// group, source and interface, the cause and, where it is known, the cure. [errors.Is] finds [ErrNotMulticast],
// [ErrNotDeclared], [ErrNoInterface], [ErrNotJoined], the errors of the paragraph above, [errors.ErrUnsupported], and
// the errno of a system call. A mistake in a configuration is reported before a socket is opened. A failed read does
// not end a socket: only Close does.
//
// # Groups and scopes
//
// IPv4 groups are 224.0.0.0/4 (RFC 5771). A program without an assigned group takes one of 239.255.0.0/16, which is
// local, or of 239.192.0.0/14, for an organization (RFC 2365). 224.0.0.0/24 never leaves a link. The TTL and the
// routers limit how far a datagram goes. IPv6 groups are ff00::/8, and their fourth hexadecimal digit is their scope
// (RFC 4291, section 2.7): ff12:: for a link, ff15:: for a site, ff1e:: for anywhere. The 1 marks groups that are not
// assigned. docs/multicast.md explains the basics of multicast.
//
// # Following the network
//
// Unless Static is set, sockets follow the interfaces of the host. If an interface is deleted and returns under its
// name, or else under an alternative name (Interface.AltNames), sockets join and send on it again. A receiver without
// Interfaces also joins on new ones. A new address is usable only after the system has checked that no other host has
// it. Linux does so for IPv6 (RFC 4862, section 5.4), Windows for both families. [OpenTx], and on Windows [OpenRx],
// wait for that check for five seconds at most. A membership that cannot be joined is retried after a second, then at
// intervals that double up to a minute, and at once when interfaces or addresses change. Logger receives the changes.
//
// # Platforms
//
// The delivery contract is the same on Linux, macOS and Windows. The implementations differ, and some differences are
// visible:
//
//   - Receive buffers: on Linux and macOS each group has its own buffer on each interface. On Windows the groups of a
//     family share one on each interface, and a flooded group can push others out of it.
//   - Memory: on macOS and Windows a goroutine with a buffer of 128 KiB receives ahead for each OS socket.
//   - Losses: Membership.Dropped counts what the kernel dropped on Linux only.
//   - Times: Message.Time is set on Linux, on macOS to the microsecond, and never on Windows.
//   - Batches: only Linux moves many datagrams with one system call. Elsewhere ReadBatch and WriteBatch work one by
//     one.
//   - Unicast to the same port: on Linux an RxSocket takes none from other programs. On macOS it may do so once it has
//     written a reply, on Windows always.
//   - Replies: the firewall of Windows accepts unicast replies for four seconds after each datagram to a group, unless
//     a rule allows the program or the port.
//   - TxConfig.TrafficClass: on Windows it is ignored for IPv4 and refused for IPv6.
//   - Permission: from macOS 15 on, the user has to allow a program to use the local network. Until then sending fails
//     with EHOSTUNREACH, which the error explains, and nothing is received.
//
// Android is a Linux that refuses rtnetlink to apps (golang.org/issue/40569), and some sandboxes do the same. There the
// sockets list the interfaces every three seconds, which the Logger reports, and [Interfaces] documents what it cannot
// see. A configuration can name each interface as an [Interface] with the values that the Java side knows: Name, Index,
// Flags and the addresses.
//
// Elsewhere the module compiles and lists interfaces. [OpenRx] and [OpenTx] fail there with an error that wraps
// [errors.ErrUnsupported] and names the system. docs/platforms.md lists what has been run on which system.
//
// Package [github.com/go-multicast/mcast/mcasttest] helps to test programs that use this package.
package mcast
