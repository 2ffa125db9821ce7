// Package interop is where the library meets programs that others have written. There is nothing to use in here, only
// tests; they are for Linux, in namespaces of package mcasttest.
package interop
