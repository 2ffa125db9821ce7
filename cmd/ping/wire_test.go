package main

import (
	"bytes"
	"testing"
)

// examplePackets have a different value in every field that may have one.
var examplePackets = []packet{
	{kind: unicast, nonce: 1, token: 2, seq: 3, path: 4, ttl: 64},
	{kind: asmTo, nonce: 1 << 63, path: noPath, ttl: 1},
	{answer: true, kind: unicast, flags: flagIP4 | flagIP6, nonce: 5, id: 6, token: 7, seq: 8, heard: 9, path: 10, ttl: 11,
		seen: 12, mttl: 13},
	{answer: true, kind: asmTo, flags: flagLimited, nonce: 5, id: 1, seq: 1<<32 - 1, path: noPath},
	{answer: true, kind: asmFrom, id: 1 << 63},
	{answer: true, kind: ssmFrom, id: 1, path: noPath - 1, ttl: 255, seen: 255, mttl: 255},
}

func TestPacket(t *testing.T) {
	for _, p := range examplePackets {
		b := p.append(nil)
		if len(b) != packetSize {
			t.Errorf("%+v has %d bytes, want %d", p, len(b), packetSize)
		}
		if got, ok := parse(b); !ok || got != p {
			t.Errorf("got %+v, %v, want %+v", got, ok, p)
		}
	}
}

// TestPacketRefused takes a good packet each time and spoils one thing.
func TestPacketRefused(t *testing.T) {
	probe, reply := examplePackets[0], examplePackets[2]
	for _, p := range []packet{probe, reply} {
		if _, ok := parse(p.append(nil)); !ok {
			t.Fatalf("%+v is refused", p)
		}
	}
	change := func(p packet, f func(*packet)) []byte { f(&p); return p.append(nil) }
	spoil := func(i int, c byte) []byte { b := probe.append(nil); b[i] = c; return b }
	for name, b := range map[string][]byte{
		"empty":                          nil,
		"too short":                      probe.append(nil)[:packetSize-1],
		"too long":                       append(probe.append(nil), 0),
		"magic":                          spoil(0, 'x'),
		"version":                        spoil(3, '2'),
		"kind":                           spoil(4, byte(kinds)),
		"kind of an answer":              spoil(4, 0x80|byte(kinds)),
		"flags":                          change(reply, func(p *packet) { p.flags = flagsAll + 1 }),
		"answer of nobody":               change(reply, func(p *packet) { p.id = 0 }),
		"answer to all about one":        change(reply, func(p *packet) { p.kind = asmTo }),
		"unicast to all":                 change(probe, func(p *packet) { p.path = noPath }),
		"probe with flags":               change(probe, func(p *packet) { p.flags = flagIP4 }),
		"probe of a listener":            change(probe, func(p *packet) { p.id = 1 }),
		"probe that has heard":           change(probe, func(p *packet) { p.heard = 1 }),
		"probe that has seen":            change(probe, func(p *packet) { p.seen = 1 }),
		"probe with a listener's TTL":    change(probe, func(p *packet) { p.mttl = 1 }),
		"something else on the group":    bytes.Repeat([]byte("x"), packetSize),
		"an ack of the example receiver": []byte("ack"),
	} {
		if p, ok := parse(b); ok {
			t.Errorf("%s: taken for %+v", name, p)
		}
	}
}

// FuzzParse: what is taken is exactly what would have been written.
func FuzzParse(f *testing.F) {
	for _, p := range examplePackets {
		f.Add(p.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parse(b); ok && !bytes.Equal(p.append(nil), b) {
			t.Errorf("%x was taken for %+v, which is %x", b, p, p.append(nil))
		}
	})
}
