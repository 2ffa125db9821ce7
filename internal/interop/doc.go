// Package interop is where the library meets programs that others have written: they send and it receives, and the
// other way round; they route, switch and serve, and it is at the ends. What it agrees upon with itself alone it might
// have misunderstood. There is nothing to use in here, only tests; they are for Linux, in namespaces of package
// mcasttest. It is a module of its own for the sake of what some of these programs depend on.
//
// A test skips when a program is missing that it needs, and says which; with MCAST_TEST_STRICT=1 it fails.
// CONTRIBUTING.md tells where the programs come from.
package interop
