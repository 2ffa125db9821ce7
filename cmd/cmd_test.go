// Package cmd tests the command lines of the programs in its directories. Each program has its other tests beside it.
package cmd

import (
	"runtime"
	"testing"

	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

func TestPrograms(t *testing.T) {
	dir := testrun.Build(t, "./...")
	t.Run("Usage", func(t *testing.T) { testUsage(t, dir) })
	t.Run("Errors", func(t *testing.T) { testErrors(t, dir) })
}

func testUsage(t *testing.T, dir testrun.Programs) {
	const ttl = "want 1 to 255, or -1"
	const group = "want a multicast address without a zone: 224.0.0.0/4 or ff00::/8"
	dir.WantUsage(t, map[string]string{
		"mdns eth0":                                    `unexpected argument "eth0": want flags only`,
		"mdns -timeout 0s":                             `invalid value "0s" for flag -timeout: want a time above 0`,
		"mdns -service http":                           `invalid value "http" for flag -service: want a type such as _http._tcp`,
		"mdns -service _printer._sub._http._tcp":       `invalid value "_printer._sub._http._tcp" for flag -service: want a type`,
		"ping -nonsense":                               "flag provided but not defined: -nonsense",
		"ping -group 239.1.2.3,":                       `invalid value "239.1.2.3," for flag -group: `,
		"ping -group 239.1.2.3,239.1.2.4":              `invalid value "239.1.2.3,239.1.2.4" for flag -group: more than one address of IPv4`,
		"ping -group 10.88.0.1":                        `invalid value "10.88.0.1" for flag -group: ` + group,
		"ping -ssm 232.1.2.3":                          "no -ssm group for -group ff15::1234: want one of IPv6",
		"ping -listen -group 239.1.2.3 -ssm 10.88.0.1": `invalid value "10.88.0.1" for flag -ssm: ` + group,
		"ping -source nonsense":                        `invalid value "nonsense" for flag -source: `,
		"ping -port 0":                                 `invalid value "0" for flag -port: want 1 to 65534`,
		"ping -port 65535":                             `invalid value "65535" for flag -port: want 1 to 65534`,
		"ping -n 0":                                    `invalid value "0" for flag -n: want 1 to 10000`,
		"ping -n 10001":                                `invalid value "10001" for flag -n: want 1 to 10000`,
		"ping -interval 19ms":                          `invalid value "19ms" for flag -interval: want at least 20ms`,
		"ping localhost -wait 0s":                      `invalid value "0s" for flag -wait: want a time above 0`,
		"ping -ttl 0":                                  `invalid value "0" for flag -ttl: ` + ttl,
		"ping -ttl 256":                                `invalid value "256" for flag -ttl: ` + ttl,
		"ping -listen 192.0.2.1":                       `unexpected argument "192.0.2.1": want flags only with -listen`,
		"ping 192.0.2.1 -listen":                       `unexpected argument "192.0.2.1": want flags only with -listen`,
		"ping -listen -n 10":                           "flag -n is for the prober",
		"ping -listen -source 192.0.2.1":               "flag -source is for the prober",
	})
	dir.WantHelp(t, "mdns", "ping")
}

func testErrors(t *testing.T, dir testrun.Programs) {
	if runtime.GOOS != "linux" {
		t.Skip("the interfaces mc0 and mc1 of mcasttest exist on Linux only")
	}
	mcasttest.Require(t)
	dir.WantErrors(t, map[string]string{
		"ping -iface nonsense":                      `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"ping -listen -iface nonsense":              `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"ping -iface mc*":                           `"mc*" names 2 interfaces, among them mc0 and mc1`,
		"mdns -iface lo,nonsense":                   `no such interface: "nonsense" (there is: lo (index 1) 127.0.0.1`,
		"mdns -service _nobody._tcp -timeout 300ms": "no services",
	})
}
