// An exchange with the kernel over netlink(7).

package doctor

import (
	"encoding/binary"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// ask sends a request and calls take for each message of the answer: its type and its body, which is valid for this
// call only. It ends early with the error of take. An error that the kernel answers with is a syscall.Errno as such.
func ask(protocol int, typ, flags uint16, body []byte, take func(typ uint16, body []byte) error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = binary.NativeEndian.AppendUint16(request, typ)
	request = binary.NativeEndian.AppendUint16(request, flags|unix.NLM_F_REQUEST)
	request = slices.Concat(request, make([]byte, 8), body) // the kernel needs neither sequence number nor port
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 1<<15) // a dump takes no more (netlink_recvmsg in net/netlink/af_netlink.c)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return os.NewSyscallError("netlink", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			}
			if err := take(m.Header.Type, m.Data); err != nil {
				return err
			}
		}
		if flags&unix.NLM_F_DUMP == 0 {
			return nil
		}
	}
}

// encodeAttribute is the reverse of attribute.
func encodeAttribute(typ uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	return append(b, make([]byte, -len(value)&3)...)
}
