//go:build !mcast_portable

// A process that is stopped for ten seconds, under load.

package mcast_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

const (
	stoppedChild = "MCAST_TEST_STOPPED"
	// stoppedFor is for how long, in which its deadline passes. It runs beside other tests.
	stoppedFor = 10 * time.Second
)

// stoppedReport is what the process that was stopped tells.
type stoppedReport struct {
	Received int // before the deadline was reported, and after it
	After    int
	Timeouts int
	Dropped  uint64
}

// TestStopped stops a process that receives (SIGSTOP), under load, for longer than its read deadline. When it goes on it
// is told once of the deadline, has received or counted everything, and is all right.
func TestStopped(t *testing.T) {
	if order := os.Getenv(stoppedChild); order != "" {
		stoppedReceive(t, order)
		return
	}
	t.Parallel() // it takes its time, but no processor
	i := mcasttest.NewVeth(t, "stopped", netip.MustParsePrefix("10.75.0.1/24"), netip.MustParsePrefix("fd75::1/64"))
	port := newPort()
	child := exec.Command(os.Args[0], "-test.run=^TestStopped$", "-test.count=1", "-test.timeout="+(2*patience+stoppedFor).String())
	child.Env = append(os.Environ(), stoppedChild+"="+strconv.Itoa(int(port)), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { child.Process.Kill(); child.Wait() })
	said := bufio.NewScanner(out)
	expect := func(want string) {
		if !said.Scan() || said.Text() != want {
			rest, _ := io.ReadAll(out)
			t.Errorf("the child says %q %s, %v, not %q", said.Text(), rest, said.Err(), want)
		}
	}
	// says expects that in another goroutine.
	says := func(what string) <-chan struct{} {
		said := make(chan struct{})
		go func() { defer close(said); expect(what) }()
		return said
	}
	not := func(happened <-chan struct{}) func() bool {
		return func() bool {
			select {
			case <-happened:
				return false
			default:
				return true
			}
		}
	}
	expect("listening")

	var stations []*station
	for _, r := range contractFamilies {
		stations = append(stations, newStation(t, i.Peer(), "eth0", unspecified(r.group)))
	}
	sent := 0
	load := func(payload string, f func() bool) {
		for ; f(); time.Sleep(10 * time.Millisecond) {
			for range 20 {
				for n, s := range stations {
					s.send(contractFamilies[n].group, port, payload)
					sent++
				}
			}
		}
	}
	load("early", not(says("reading")))
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(stoppedFor)
	load("stopped", func() bool { return time.Now().Before(end) })
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	load("late", not(says("after"))) // until one of these has come through
	if t.Failed() {
		return
	}
	fmt.Fprintln(in, sent)
	if !said.Scan() {
		t.Fatalf("the child says no more: %v", said.Err())
	}
	var got stoppedReport
	if err := json.Unmarshal(said.Bytes(), &got); err != nil {
		t.Fatalf("the child says %q: %v", said.Text(), err)
	}
	if n := got.Received + got.After + int(got.Dropped); n != sent || got.Timeouts != 1 || got.Dropped == 0 || got.Received == 0 || got.After == 0 {
		t.Errorf("of %d: %+v", sent, got)
	}
	t.Logf("of %d: %+v", sent, got)
	for said.Scan() { // to the end, as Wait wants it
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// stoppedReceive is what the child process does.
func stoppedReceive(t *testing.T, order string) {
	port, err := strconv.ParseUint(order, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	cfg := mcast.RxConfig{Port: uint16(port), Interfaces: mustFind(t, "stopped"), ReadBuffer: 32 << 10}
	for _, r := range contractFamilies {
		cfg.Groups = append(cfg.Groups, r.group)
	}
	rx := openRx(t, cfg)
	dropped := func() (n uint64) {
		for _, m := range rx.Memberships() {
			n += m.Dropped
		}
		return n
	}
	rx.SetReadDeadline(time.Now().Add(stoppedFor / 2))
	fmt.Println("listening")
	var report stoppedReport
	buf := make([]byte, 100)
	for late := false; !late; {
		n, _, err := rx.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			report.Timeouts++
			rx.SetReadDeadline(time.Now().Add(patience))
		case err != nil:
			t.Fatal(err)
		case report.Timeouts == 0:
			if report.Received++; report.Received == 1 {
				fmt.Println("reading")
			}
		default:
			report.After++
			late = string(buf[:n]) == "late"
		}
	}
	fmt.Println("after")
	var sent int
	if _, err := fmt.Fscan(os.Stdin, &sent); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); report.Received+report.After+int(dropped()) < sent && time.Now().Before(end); {
		rx.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, _, err := rx.ReadFromUDPAddrPort(buf); err == nil {
			report.After++
		}
	}
	report.Dropped = dropped()
	json.NewEncoder(os.Stdout).Encode(report)
}
