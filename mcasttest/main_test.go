// This file is what users of the package write, too.

package mcasttest_test

import (
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }
