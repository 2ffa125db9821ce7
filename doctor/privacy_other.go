//go:build !darwin

// Where nothing keeps programs from the local network but firewalls.

package doctor

// refused: only macOS keeps programs from the local network.
func refused(error) refusal { return refusal{} }
