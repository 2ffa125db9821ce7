package hint

// PortTaken is the hint for a port that another program holds.
const PortTaken = "another user's program holds the port without SO_REUSEADDR, or any program with SO_EXCLUSIVEADDRUSE " +
	"(`netstat -abno -p UDP` names it), or Windows has reserved the port (`netsh int ipv4 show excludedportrange " +
	"protocol=udp`)"

// ReceiveBuffer returns what to do about a receive buffer that is too small.
func ReceiveBuffer(string) string { return "ask for a smaller buffer, and read faster" }
