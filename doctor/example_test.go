package doctor_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/go-multicast/mcast/doctor"
)

// A program that has heard nothing for a while asks why, and says so in its log.
func ExampleRun() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	report, err := doctor.Run(ctx, doctor.Config{
		Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3")},
		Port:   12345,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Severity >= doctor.Warning {
			log.Printf("%s: %s. To cure it: %s", f.Code, f.Summary, f.Fix)
		}
	}
}

func ExampleReport_String() {
	report := doctor.Report{
		Findings: []doctor.Finding{{
			Code: doctor.InterfaceDown, Severity: doctor.Error, Interface: "eth0",
			Summary: "the interface is down", Detail: "A scan shows its flags as broadcast|multicast.", Fix: "sudo ip link set dev eth0 up",
		}},
	}
	fmt.Print(&report)
	// Output:
	// ERROR: interface-down on eth0: the interface is down
	//     A scan shows its flags as broadcast|multicast.
	//     Fix: sudo ip link set dev eth0 up
}
