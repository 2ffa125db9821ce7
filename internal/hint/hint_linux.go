package hint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// NoIPv6 is the hint for a kernel without IPv6.
const NoIPv6 = "the kernel runs without IPv6: look for ipv6.disable=1 on its command line (/proc/cmdline)"

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

// IPv6Off returns the hint for an interface on which IPv6 is off, or for "all". It is empty if IPv6 is on. dir is /proc/sys/net.
func IPv6Off(dir, name string) string {
	disabled, err := os.ReadFile(filepath.Join(dir, "ipv6/conf", name, "disable_ipv6"))
	if err == nil && strings.TrimSpace(string(disabled)) == "1" {
		return "IPv6 is disabled: `" + strings.TrimPrefix(Sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0"), "sudo ") + "`"
	}
	_, err4 := os.Stat(filepath.Join(dir, "ipv4"))
	if _, err := os.Stat(filepath.Join(dir, "ipv6")); err4 == nil && errors.Is(err, os.ErrNotExist) {
		return NoIPv6
	}
	return ""
}
