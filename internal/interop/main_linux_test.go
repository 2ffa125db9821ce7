// What all tests here share.

package interop

import (
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }
