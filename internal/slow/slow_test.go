package slow

import (
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 2, "0": 2, "-3": 2, "1": 2, "10": 20, "1.5": 2, "much": 2} {
		t.Setenv("MCAST_TEST_SLOW", value)
		if got := Limit(2 * time.Second); got != want*time.Second {
			t.Errorf("MCAST_TEST_SLOW=%q: %v, want %v", value, got, want*time.Second)
		}
	}
}
