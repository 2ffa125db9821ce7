// This file lets the tests outside the package see what they need and users do not.

package mcasttest

import "net"

// Connect lays a cable that nothing takes up again.
func Connect(a *Host, nameA string, b *Host, nameB string) error {
	mac := func(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }
	return addVeth(linkEnd{ns: a.ns, name: nameA, mac: mac(1)}, linkEnd{ns: b.ns, name: nameB, mac: mac(2)})
}
