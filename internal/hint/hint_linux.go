package hint

import "strings"

// LoRoute returns the command that adds the route for IPv6 multicast to the loopback interface.
func LoRoute(lo string) string { return "ip -6 route add local ff00::/8 dev " + lo }

// ReceiveBuffer returns the command that allows larger receive buffers.
func ReceiveBuffer(bytes string) string { return Sysctl("net/core/rmem_max", bytes) }

// Sysctl returns the command that sets kernel parameters, given as path and value in turn. Names with slashes are required
// where an interface's name has dots.
func Sysctl(pathsAndValues ...string) string {
	command := "sudo sysctl -w"
	for i := 0; i+1 < len(pathsAndValues); i += 2 {
		path := pathsAndValues[i]
		if !strings.Contains(path, ".") {
			path = strings.ReplaceAll(path, "/", ".")
		}
		command += " " + path + "=" + pathsAndValues[i+1]
	}
	return command
}
