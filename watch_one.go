//go:build !linux

// The one network of a system that has no namespaces.

package mcast

// watchKey tells networks apart; here there is one.
type watchKey struct{}

func watchNamespace() watchKey { return watchKey{} }

func watchHere() (there func(f func(error)), err error) { return func(f func(error)) { f(nil) }, nil }

// joinedSource returns nil: the system does not say what is joined.
func joinedSource() func(*joinedSet, int) { return nil }
