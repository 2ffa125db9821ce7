// Package soak is a test that goes on for as long as it is asked to: random changes to six interfaces and to the
// sockets on them while tens of thousands of datagrams pass every second, checked against a model of what must have
// been delivered. It looks for what shows only after hours, or only if two things happen at once.
//
//	go test -race -v ./internal/soak -soak.time=1m              a minute; without the flag, some seconds
//	go test -race -v ./internal/soak -soak.seed=7               one life again, as far as chance allows
//	go test -v -timeout=2h ./internal/soak -soak.time=1h -soak.log
//	go test -race -v ./internal/soak -soak.events="no IPv6,travel"  only these events of interfaces
//
// event_linux_test.go has the table of the events that interfaces meet. One that the library does not survive yet says so
// there, and is played only if it is asked for.
//
// It is a test rather than a program because it is about networks that package mcasttest makes, and these belong to a
// test. It runs on Linux; elsewhere there is nothing in it.
//
// # What is checked
//
// Every datagram has a number in its stream: those of one sender to one group on one wire. At the far end of each of
// the six wires there is a host that sends to all groups and receives what comes from this end; at this end one sender
// sends by all wires at once, and receivers of all kinds come and go. From time to time the senders rest, everything
// is read, and the books are made up:
//
//   - Nothing was read twice. Nothing was read that was sent before its group was joined for its source on its
//     interface, or after the group was left. Nothing was out of order, where one goroutine read.
//   - If nothing happened that concerns a group on an interface at a receiver, each of its datagrams was read, or is
//     in Membership.Dropped. What happened to other interfaces, groups and sockets in the meantime is no excuse.
//   - Membership.Packets, Sources, Blocked and Joined are what they should be.
//   - Reads and writes fail only for reasons that there are.
//
// A life ends with everything closed. Then the descriptors, goroutines, sockets and kernel memberships are those of the
// beginning, and so is, roughly, the memory.
package soak
