//go:build !linux

// What the watchers of systems without network namespaces share.

package mcast

// watchKey identifies a network. Here there is only one.
type watchKey struct{}

func watchNamespace() watchKey { return watchKey{} }

func watchHere() (there func(f func(error)), err error) { return func(f func(error)) { f(nil) }, nil }

// joinedSource returns nil: the system does not report what is joined.
func joinedSource() func(*joinedSet, int) { return nil }
