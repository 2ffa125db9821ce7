//go:build !mcast_portable

package mcast

import (
	"errors"
	"testing"
)

// TestReadOfOneOfSeveralInterfaces has the replies of one of two interfaces fail to be read. The error names it.
func TestReadOfOneOfSeveralInterfaces(t *testing.T) {
	two := twoInterfaces(t)
	tx, err := OpenTx(TxConfig{Groups: groups("239.1.1.1"), Interfaces: two})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	failNth("epoll_ctl", 2)
	_, _, err = tx.ReadFrom(make([]byte, 1))
	testHookCall.Store(nil)
	var op *OpError
	if !errors.As(err, &op) || !errors.Is(err, errInjected) || op.Interface != two[1].Name {
		t.Errorf("%v: want an error that names %s", err, two[1].Name)
	}
}
