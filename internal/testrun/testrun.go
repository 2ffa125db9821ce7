// Package testrun runs programs in tests as their users do: the examples have tests in several packages that need it.
package testrun

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// Limit is how long anything may take. It is so long that it never decides, but for programs that hang.
var Limit = slow.Limit(time.Minute)

// Process is a program that was started.
type Process struct {
	Stdout, Stderr Output

	t   *testing.T
	cmd *exec.Cmd
}

// Start starts a program on a host, or where the test is if that is nil. It ends with the test.
func Start(t *testing.T, host *mcasttest.Host, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd}
	cmd.Stdout, cmd.Stderr = &p.Stdout, &p.Stderr
	start := cmd.Start
	if host != nil {
		start = func() error { return host.Start(cmd) }
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	if host == nil {
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	return p
}

// Wait waits for the end of the program and returns its exit code.
func (p *Process) Wait() int {
	p.t.Helper()
	late := time.AfterFunc(Limit, func() { p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	if !late.Stop() {
		p.t.Fatalf("killed after %v: %s", Limit, p)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("%v: %s", err, p)
	}
	return p.cmd.ProcessState.ExitCode()
}

// WaitFor waits until the program has printed the text.
func (p *Process) WaitFor(text string) {
	p.t.Helper()
	for end := time.Now().Add(Limit); !strings.Contains(p.Stdout.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("no %q in %v: %s", text, Limit, p)
		}
	}
}

// Interrupt is Ctrl-C.
func (p *Process) Interrupt() { p.t.Helper(); p.Signal(os.Interrupt) }

// Signal sends a signal to the program.
func (p *Process) Signal(signal os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatalf("%v: %v: %s", signal, err, p)
	}
}

func (p *Process) String() string {
	return fmt.Sprintf("%s\nstdout: %s\nstderr: %s", strings.Join(p.cmd.Args, " "), &p.Stdout, &p.Stderr)
}

// Output is a buffer that may be looked at while it is written.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
