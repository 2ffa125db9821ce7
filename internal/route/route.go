// Package route asks the operating system for the default route.
package route

// Default returns the index of the interface of the default route of IPv4 or IPv6, or 0 if there is none. Of several
// default routes it chooses the best one by the system's own order. On Linux that is the best one of the main table. If
// that table has none, it is the interface through which the kernel would send to a host far away. The error wraps
// errors.ErrUnsupported on systems other than Linux, macOS and Windows.
func Default(v4 bool) (index int, err error) { return defaultRoute(v4) }
