package main

import (
	"os"
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

// TestMain makes the test binary the program itself where a test starts it as that.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	mcasttest.Main(m)
}

const asProgram = "MCAST_TEST_PING"
