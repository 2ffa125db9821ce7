// Package bench compares this library with package net, with golang.org/x/net and with C, on the same work.
// docs/performance.md explains the benchmarks and how to run them.
//
// One benchmark measures two sides, which take turns of about a millisecond. So a change of the processor's clock or of
// the machine's load affects both. The output has the cost of an operation on each side, and the cost of this library
// as a percentage of the other's.
//
// The benchmarks need Linux and the private namespace of package mcasttest. Without cgo, the benchmarks against C are
// skipped.
package bench
