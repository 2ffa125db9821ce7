package mcast

// Hints that several systems share. The others are in hints_<os>.go.
const (
	hintGone           = "the interface is gone"
	hintScanAgain      = "there is no such interface now: scan again"
	hintTooLong        = "a datagram carries at most 65507 bytes over IPv4 and 65527 over IPv6"
	hintNoAddressOrYet = "the interface has no usable address of this family (yet)"
	hintNoLink         = "the interface is down or has no address of this family"
	hintBroadcast      = "it is a broadcast address, or a route prohibits it"
	hintShortOfMemory  = "the system is short of memory for sockets"
	hintQueueFull      = "the queue of the interface is full, or the system is short of memory: send slower; or WriteBuffer is " +
		"smaller than the datagram"
)
