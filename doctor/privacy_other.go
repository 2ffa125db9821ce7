//go:build !darwin

// Systems on which only firewalls keep programs from the local network.

package doctor

// refused returns the zero refusal: only macOS keeps programs from the local network.
func refused(error) refusal { return refusal{} }
