// Package testrun builds and runs programs in tests, as their users do.
package testrun

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// Limit is how long anything may take. It is so long that it never decides, but for programs that hang.
var Limit = slow.Limit(time.Minute)

// Programs is the directory of built programs.
type Programs string

// Build builds the programs of package patterns, for the time of the test.
func Build(t *testing.T, patterns ...string) Programs {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false", "-o", dir + string(filepath.Separator)}, patterns...)...)
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		Missing(t, "this test needs the go command")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return Programs(dir)
}

// Missing skips a test that needs a program which is not installed. In CI the test fails.
func Missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("MCAST_TEST_STRICT") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Start starts the program args[0] on a host, or where the test is if that is nil. It ends with the test.
func (dir Programs) Start(t *testing.T, host *mcasttest.Host, args ...string) *Process {
	t.Helper()
	return Start(t, host, exec.Command(filepath.Join(string(dir), args[0]), args[1:]...))
}

// WantUsage runs wrong commands. Each must exit with 2 and print the usage and, last, the wanted error.
func (dir Programs) WantUsage(t *testing.T, errorOf map[string]string) {
	t.Helper()
	for command, want := range errorOf {
		name, _, _ := strings.Cut(command, " ")
		p := dir.Start(t, nil, strings.Fields(command)...)
		code, lines := p.Wait(), strings.Split(p.Stderr.String(), "\n") // the error is in the last, which ends with \n
		last := lines[max(0, len(lines)-2)]
		if code != 2 || !p.hasUsage(name) || p.Stdout.String() != "" || !strings.HasPrefix(last, name+": "+want) {
			t.Errorf("exit code %d, want 2, the usage and at the end %q from %s", code, want, p)
		}
	}
}

// WantHelp asks programs for help. Each must exit with 0 and print its usage.
func (dir Programs) WantHelp(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		for _, args := range [][]string{{name, "-h"}, {name, "something", "-help"}} {
			p := dir.Start(t, nil, args...)
			if code := p.Wait(); code != 0 || !p.hasUsage(name) {
				t.Errorf("exit code %d, want 0 and the usage from %s", code, p)
			}
		}
	}
}

func (p *Process) hasUsage(name string) bool {
	return strings.Contains(p.Stderr.String(), "For example:\n\n  "+name)
}

// WantErrors runs commands that fail. Each must exit with 1 and print one line, which has the wanted error.
func (dir Programs) WantErrors(t *testing.T, errorOf map[string]string) {
	t.Helper()
	for command, want := range errorOf {
		args := strings.Fields(command)
		p := dir.Start(t, nil, args...)
		code, said := p.Wait(), p.Stderr.String()
		found := strings.HasPrefix(said, args[0]+": ") && strings.Contains(said, want)
		if code != 1 || !found || strings.Count(said, "\n") != 1 {
			t.Errorf("exit code %d, want 1 and one line with %q from %s", code, want, p)
		}
	}
}

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
