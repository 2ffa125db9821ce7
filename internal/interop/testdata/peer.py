# The plain socket of somebody who does not know this library: every packet on standard input becomes a datagram to the
# group, or every datagram of the group becomes a packet on standard output. Standard input and output are sockets that
# keep packets apart.
#
#     peer.py send|receive GROUP PORT ADDRESS INDEX SOURCE
#
# ADDRESS (IPv4) and INDEX (IPv6) name the interface; SOURCE is the only host to be received, or "" for all.

import os
import socket
import struct
import sys

mode, group, port, address, index, source = sys.argv[1:]
port, index = int(port), int(index)
family = socket.AF_INET6 if ":" in group else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)


def packed(a):
    return socket.inet_pton(family, a)


def sockaddr(a):
    """A struct sockaddr_storage."""
    if family == socket.AF_INET:
        b = struct.pack("=HH4s", family, 0, packed(a))
    else:
        b = struct.pack("=HHI16sI", family, 0, 0, packed(a), 0)
    return b.ljust(128, b"\0")


def send():
    if family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed(address))
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
    else:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 2)
    while packet := os.read(0, 65536):
        s.sendto(packet, (group, port))


def receive():
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", port))
    # Python does not name all of these. Linux's numbers are 39 (IP) and 46 (IPv6).
    if family == socket.AF_INET and source:
        s.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_ADD_SOURCE_MEMBERSHIP", 39),
                     packed(group) + packed(address) + packed(source))
    elif family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, packed(group) + packed(address))
    elif source:
        s.setsockopt(socket.IPPROTO_IPV6, getattr(socket, "MCAST_JOIN_SOURCE_GROUP", 46),
                     struct.pack("@I0Q", index) + sockaddr(group) + sockaddr(source))
    else:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed(group) + struct.pack("@I", index))
    while True:
        os.write(1, s.recv(65536))


send() if mode == "send" else receive()
