//go:build !linux && !windows

package hint

// ReceiveBuffer returns the command that allows larger receive buffers.
func ReceiveBuffer(bytes string) string { return "sudo sysctl -w kern.ipc.maxsockbuf=" + bytes }
