package procudp

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestOwnersGiveUp has a process with more descriptors than are looked at, between two that have a socket each.
func TestOwnersGiveUp(t *testing.T) {
	proc := t.TempDir()
	descriptor := func(process, fd, target string) {
		t.Helper()
		dir := filepath.Join(proc, process)
		err := errors.Join(os.MkdirAll(dir+"/fd", 0o700), os.WriteFile(dir+"/comm", []byte("name\n"), 0o600), os.Symlink(target, dir+"/fd/"+fd))
		if err != nil {
			t.Fatal(err)
		}
	}
	descriptor("1", "3", "socket:[7]")
	descriptor("3", "3", "socket:[8]")
	sockets := []Socket{{Inode: 7}, {Inode: 8}}
	if all := owners(proc, sockets); len(all) != 2 || all[7] != "process 1 (name)" || all[8] != "process 3 (name)" {
		t.Errorf("found %v", all)
	}
	descriptor("2", "0", "pipe:[1]")
	for n := range ownersMost {
		if err := os.Symlink("pipe:[1]", filepath.Join(proc, "2/fd", strconv.Itoa(n+1))); err != nil {
			t.Fatal(err)
		}
	}
	if all := owners(proc, sockets); len(all) != 1 || all[7] == "" {
		t.Errorf("past %d descriptors: found %v", ownersMost, all)
	}
}
