package wire

import "golang.org/x/sys/unix"

// controlHere has the numbers of the processor: SOL_SOCKET is 0xffff on MIPS and 1 on others.
var controlHere = controlFormat{wordSize, []controlKind{
	{unix.IPPROTO_IP, unix.IP_TTL, hopLimit},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4},
	{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, hopLimit},
	{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, pktinfo6},
	{unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS, timespec},
	{unix.IPPROTO_UDP, unix.UDP_GRO, segment},
}}
