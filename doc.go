// Package mcast sends and receives UDP multicast, over IPv4 and IPv6. An [RxSocket] returns each datagram sent to a
// group it has joined, on an interface it has joined it on, exactly once, and nothing else; a [TxSocket] sends to
// groups, by the interfaces it was given, and reads the replies. Both are a [net.PacketConn].
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
// [RxSocket.ReadFromUDPAddrPort] returns one datagram and its sender. [RxSocket.ReadBatch] returns those that have
// arrived, and tells of each, in a [Message], the group it was sent to, the interface it came in by, whether the
// buffer was too small, and if asked its hop limit and the time the kernel received it. [RxSocket.Messages] does so
// for a range statement. [RxSocket.Join] and [RxSocket.Leave] change the groups of an open socket.
//
// [RxSocket.WriteToUDPAddrPort] answers a sender by unicast, from the port of the group.
//
// # Sending
//
// [OpenTx] names the groups that may be sent to, and [TxSocket.WriteToUDPAddrPort] sends to one of them, at any port:
//
//	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}})
//	…
//	_, err = tx.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, 12345))
//
// Datagrams stay on the link unless TxConfig.TTL lets them pass routers. With several interfaces, each datagram leaves
// by all of them. [TxSocket.WriteBatch] sends many with few system calls. [TxSocket.ReadFromUDPAddrPort] reads unicast
// that is sent back to the socket. Success means that a datagram has left, and nothing about who has it.
//
// # Interfaces
//
// Multicast is joined and sent by interface: unlike unicast's, it is not chosen by the routing table. Name interfaces
// in the way that suits the program:
//
//	ifaces, err := mcast.FindInterfaces("eth0") // or "192.168.0.248", "10.0.0.0/8", "enp*", "default"
//	rx, err := mcast.OpenRx(mcast.RxConfig{…, Interfaces: ifaces})
//
// [SelectInterfaces] says what such a spec can be, [Interfaces] lists what there is, and [WatchInterfaces] follows it.
// Without Interfaces, an RxSocket joins on every interface that is up, can multicast and has an address of the group's
// family, the loopback excepted, also on those that come to be so later; and a TxSocket sends by the interface that leads
// to the default gateway ([DefaultInterface]). A receiver whose interfaces were named fails to open if one of them cannot
// join. Without named interfaces each group must be joined on one of them, and [RxSocket.Memberships] has the others with
// their errors; groups of a family that the host lacks wait for it. A lack of file descriptors or memory is always an error.
//
// # The delivery contract
//
// A group is joined by an interface of the host (RFC 1112, section 7), while a socket is something else: systems
// deliver to it, by default, groups that other programs have joined, those of other interfaces, and unicast to its
// port. An RxSocket is different: it returns a datagram if, and only if,
//
//   - it was sent to a group that is joined, and to the socket's port,
//   - it came in by an interface that the group is joined on,
//   - its source is one of Sources, if there are any for the group, and none of Blocked,
//   - and its source is not an address of that interface itself, which makes it the host's own; with Loopback set, and
//     on the loopback interface, it may be. Nor is it an IPv4 address in an IPv6 packet, which is nobody's.
//
// It returns it once, however many groups and interfaces there are, to one of the reads that wait. What the network
// itself duplicates, reorders or loses is beyond that. What the kernel drops because nobody reads in time is counted,
// for each group on each interface, in [Membership].
//
// Sockets share their port with other programs that allow that, and each of them gets its own copy of a datagram. A
// source address is not a proof of origin; see SECURITY.md.
//
// # Source-specific multicast
//
// With RxConfig.Sources, or sources given to [RxSocket.Join], only those hosts are received, and routers and switches
// that speak IGMPv3 (RFC 3376) or MLDv2 (RFC 3810) are asked for nothing else. The groups of 232.0.0.0/8 and ff3x::/32
// are meant to be used so (RFC 4607); it works with all others. RxConfig.Blocked does the opposite. Both apply to the
// groups of their address family, and the number of sources is not limited by igmp_max_msf and mld_max_msf of Linux.
//
// # Loopback
//
// What a host sends by a network interface is not received on that host, unless Loopback is set in both [RxConfig] and
// [TxConfig]. What is sent by the loopback interface is always received there. It must be named to be used, as in
// FindInterfaces("127.0.0.1"), and on Linux IPv6 needs a route that no host has by itself:
//
//	ip -6 route add local ff00::/8 dev lo
//
// # Deadlines, closing, concurrency
//
// All methods may be called from many goroutines. Reads block until a datagram arrives, the read deadline passes
// ([os.ErrDeadlineExceeded]) or the socket is closed ([net.ErrClosed]); writes block while a send buffer is full.
// Deadlines are as in package net: they are times and not durations, apply to calls that are under way, and stay until
// moved. [RxSocket.Messages] ends with a [context.Context]. Close may be called twice.
//
// Reading and writing with netip addresses and in batches does not allocate per datagram; ReadFrom and WriteTo, which
// [net.PacketConn] wants, do.
//
// # Errors
//
// Errors are of type *[OpError], or several of them joined where several interfaces failed. Each says what was tried,
// with which group, source and interface, why it failed and, where that is known, the cure. [errors.Is] finds
// [ErrNotMulticast], [ErrNotDeclared], [ErrNoInterface], [ErrNotJoined], the errors of the paragraph above,
// [errors.ErrUnsupported], and the errno of a system call. A mistake in a configuration is refused before a socket is
// opened. An error of one read does not end a socket: only Close does.
//
// # Groups and scopes
//
// IPv4 groups are 224.0.0.0/4 (RFC 5771). A program that has no group assigned takes one of 239.255.0.0/16, which is
// local, or 239.192.0.0/14, for an organization (RFC 2365); 224.0.0.0/24 never leaves a link. How far a datagram goes
// is up to its TTL and the routers. IPv6 groups are ff00::/8, and their fourth hexadecimal digit is their scope (RFC
// 4291, section 2.7): ff12:: to a link, ff15:: to a site, ff1e:: anywhere; the 1 marks groups that nobody has
// assigned. docs/multicast.md explains the basics of multicast.
//
// # Following the network
//
// Unless Static is set, sockets follow the interfaces of the host. One that was deleted and comes back under its name,
// or else under an alternative name (Interface.AltNames), is joined again and sent by again; a receiver without
// Interfaces also joins on new ones. A new address is not usable before the system has checked that no other host has it, on
// Linux for IPv6 (RFC 4862, section 5.4), on Windows for both families: [OpenTx], and on Windows [OpenRx], wait for that, for
// five seconds at most. A membership that cannot be joined is tried again after a second, then in intervals that double up
// to a minute, and at once when interfaces or addresses change. Logger receives what changes.
//
// # Platforms
//
// The delivery contract is the same on Linux, macOS and Windows. How it is kept differs, and some of that shows:
//
//   - Receive buffers: on Linux and macOS each group has one of its own on each interface. On Windows the groups of a
//     family share one on each interface, and a flooded group can push others out of it.
//   - Memory: on macOS and Windows a goroutine with a buffer of 128 KiB receives ahead for each OS socket.
//   - Losses: Membership.Dropped counts what the kernel dropped on Linux only.
//   - Times: Message.Time is there on Linux, on macOS to the microsecond, and on Windows never.
//   - Batches: many datagrams with one system call are for Linux. Elsewhere ReadBatch and WriteBatch work one by one.
//   - Unicast to the same port: on Linux an RxSocket takes none from other programs. On macOS it may as soon as it has
//     written a reply, on Windows always.
//   - Replies: the firewall of Windows lets unicast replies in for four seconds after each datagram to a group, unless a
//     rule allows the program or the port.
//   - TxConfig.TrafficClass: on Windows it is ignored for IPv4 and refused for IPv6.
//   - Permission: from macOS 15 on, the user has to allow a program to use the local network. Until then sending fails
//     with EHOSTUNREACH, which the error explains, and nothing comes in.
//
// Android is a Linux that refuses rtnetlink to apps (golang.org/issue/40569), and some sandboxes do the same. There the
// sockets look at the interfaces every three seconds, which the Logger reports, and [Interfaces] says what it cannot see.
// A configuration can name each as an [Interface] made of what the Java side knows: Name, Index, Flags and the addresses.
//
// Elsewhere the module compiles and lists interfaces, and [OpenRx] and [OpenTx] fail with an error that wraps
// [errors.ErrUnsupported] and names the system. docs/platforms.md says what has been run on which system.
//
// Package [github.com/go-multicast/mcast/mcasttest] is for tests of programs that use this one.
package mcast
