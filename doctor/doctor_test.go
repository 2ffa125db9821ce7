package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestMistakes(t *testing.T) {
	group, good := netip.MustParseAddr("239.1.2.3"), doctor.Config{Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3")}, Port: 12345}
	for name, spoil := range map[string]func(*doctor.Config){
		"no group":          func(c *doctor.Config) { c.Groups = nil },
		"a unicast group":   func(c *doctor.Config) { c.Groups = append(c.Groups, netip.MustParseAddr("10.0.0.1")) },
		"the zero group":    func(c *doctor.Config) { c.Groups = []netip.Addr{{}} },
		"a group's zone":    func(c *doctor.Config) { c.Groups = []netip.Addr{netip.MustParseAddr("ff02::1%eth0")} },
		"port 0":            func(c *doctor.Config) { c.Port = 0 },
		"no interface":      func(c *doctor.Config) { c.Interfaces = []mcast.Interface{} },
		"a group's source":  func(c *doctor.Config) { c.Sources = []netip.Addr{group} },
		"another family":    func(c *doctor.Config) { c.Sources = []netip.Addr{netip.MustParseAddr("2001:db8::1")} },
		"the zero source":   func(c *doctor.Config) { c.Sources = []netip.Addr{{}} },
		"less than no byte": func(c *doctor.Config) { c.ReadBuffer = -1 },
		"less than no time": func(c *doctor.Config) { c.Watch = -1 },
	} {
		cfg := good
		spoil(&cfg)
		var op *mcast.OpError
		if report, err := doctor.Run(t.Context(), cfg); report != nil || !errors.As(err, &op) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The context bounds an examination, and what was found until then is reported.
func TestContext(t *testing.T) {
	mcasttest.Require(t)
	cfg := doctor.Config{Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3")}, Port: 12345, Watch: time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), slow.Limit(100*time.Millisecond))
	defer cancel()
	if report, err := doctor.Run(ctx, cfg); err != nil || len(report.Facts.Interfaces) == 0 {
		t.Errorf("%v, %v", report, err)
	}
	if _, err := doctor.Run(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the end: %v", err)
	}
}

func TestSeverityText(t *testing.T) {
	for _, want := range []doctor.Severity{doctor.Info, doctor.Warning, doctor.Error} {
		var got doctor.Severity
		text, err := json.Marshal(want)
		if err := errors.Join(err, json.Unmarshal(text, &got)); err != nil || got != want {
			t.Errorf("%s is %v, want %v: %v", text, got, want, err)
		}
	}
	if err := new(doctor.Severity).UnmarshalText([]byte("fatal")); err == nil {
		t.Error("there is no such severity")
	}
	if doctor.Severity(7).String() != "Severity(7)" {
		t.Error(doctor.Severity(7))
	}
}
