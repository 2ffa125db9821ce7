package mcast_test

// What README.md says is compiled, run or looked up: its Go blocks, the programs it starts, the names it quotes and
// the links it has.

import (
	"errors"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
)

const modulePath = "github.com/go-multicast/mcast"

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// readmeBlocks returns the fenced blocks of a language.
func readmeBlocks(t *testing.T, language string) (blocks []string) {
	t.Helper()
	for _, m := range fence.FindAllStringSubmatch(readme(t), -1) {
		if m[1] == language {
			blocks = append(blocks, m[2])
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("README.md has no block of %q", language)
	}
	return blocks
}

// goTool is the go command, and an environment in which it needs no network.
type goTool struct {
	path string
	env  []string
}

func findGo(t *testing.T) goTool {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("MCAST_TEST_STRICT") == "1" {
			t.Fatal("the go command is needed here: ", err)
		}
		t.Skip("the go command is needed here: ", err)
	}
	tool := goTool{path, append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off")}
	cache, err := exec.CommandContext(t.Context(), path, "env", "GOCACHE").Output()
	if err != nil || !filepath.IsAbs(strings.TrimSpace(string(cache))) { // a user without a home
		tool.env = append(tool.env, "GOCACHE="+t.TempDir())
	}
	return tool
}

// run runs the go command in a directory.
func (g goTool) run(t *testing.T, dir string, args ...string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), g.path, args...)
	cmd.Dir, cmd.Env = dir, g.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// readmeModule makes a module that may use this one, and returns its directory and a function that writes a file there.
func readmeModule(t *testing.T) (dir string, write func(name, text string)) {
	t.Helper()
	repo, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	write = func(name, text string) {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(repo, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	// It has all the requirements of this one, so that nothing has to be looked for.
	mod := strings.Replace(read("go.mod"), "module "+modulePath, "module example.com/readme", 1)
	write("go.mod", mod+fmt.Sprintf("\nrequire %s v0.0.0\nreplace %[1]s => %s\n", modulePath, strconv.Quote(repo)))
	write("go.sum", read("go.sum"))
	return dir, write
}

func TestReadmeGo(t *testing.T) {
	tool := findGo(t)
	dir, write := readmeModule(t)
	for i, block := range readmeBlocks(t, "go") {
		name := fmt.Sprintf("block%d/block.go", i+1)
		if strings.Contains(block, `"testing"`) {
			name = fmt.Sprintf("block%d/block_test.go", i+1)
		}
		if !strings.HasPrefix(block, "package ") {
			block = wholeFile(t, name, block)
		}
		write(name, block)
	}
	if err := tool.run(t, dir, "vet", "./..."); err != nil {
		t.Fatal(err)
	}
	t.Run("test", func(t *testing.T) {
		requireSockets(t)
		if err := tool.run(t, dir, "test", "-count=1", "./..."); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReadmeOneMachine builds the first blocks of Receive and Send as programs and runs them as a reader would. From one
// machine to another they work as they are, and on one machine if the line about that is followed.
func TestReadmeOneMachine(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	tool := findGo(t)
	dir, write := readmeModule(t)
	receiving, receive := readmeSection(t, "Receive")
	_, send := readmeSection(t, "Send")
	line := regexp.MustCompile("Both on one machine\\? Set `Loopback: true` in `mcast.RxConfig` and in `mcast.TxConfig`")
	if !line.MatchString(strings.ReplaceAll(receiving, "\n", " ")) {
		t.Fatalf("README.md does not say %q about both ends on one machine", line)
	}
	follow := strings.NewReplacer("Config{", "Config{Loopback: true, ", `"hello"`, `"hello, me"`)
	program := strings.NewReplacer("package readme", "package main", "func _()", "func main()")
	for name, block := range map[string]string{
		"receive": receive, "receiveown": follow.Replace(receive), "send": send, "sendown": follow.Replace(send),
	} {
		write(name+"/main.go", program.Replace(wholeFile(t, name, block)))
	}
	programs := t.TempDir()
	if err := tool.run(t, dir, "build", "-o", programs+string(filepath.Separator), "./..."); err != nil {
		t.Fatal(err)
	}
	start := func(host *mcasttest.Host, name string) *testrun.Process {
		return testrun.Start(t, host, exec.Command(filepath.Join(programs, name)))
	}

	here, there := lan.Hosts[0], lan.Hosts[1]
	own, other := start(here, "receiveown"), start(there, "receive")
	for _, host := range lan.Hosts {
		lan.WaitJoined(host, netip.MustParseAddr("239.1.2.3"))
	}
	for _, name := range []string{"send", "sendown"} {
		if p := start(here, name); p.Wait() != 0 {
			t.Error(p)
		}
	}
	other.WaitFor(`says "hello"`)
	for _, p := range []*testrun.Process{own, other} {
		p.WaitFor(`says "hello, me"`)
	}
	if strings.Contains(own.Stdout.String(), `"hello"`) {
		t.Errorf("want nothing from a sender without Loopback: %s", own)
	}
}

// readmeSection returns the text of a section, and its first block of Go.
func readmeSection(t *testing.T, title string) (text, block string) {
	t.Helper()
	_, text, found := strings.Cut(readme(t), "\n## "+title+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == "go" {
			return text, m[2]
		}
	}
	t.Fatalf("README.md has no block of Go in %q (the section is there: %t)", title, found)
	return "", ""
}

// requireSockets skips the test where this version opens no sockets.
func requireSockets(t *testing.T) {
	t.Helper()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{netip.MustParseAddr("239.1.2.3")}})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err == nil {
		tx.Close()
	}
	mcasttest.Require(t)
}

// readmePackages are those that fragments may use.
var readmePackages = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "log": "log", "net": "net", "netip": "net/netip",
	"os": "os", "slices": "slices", "slog": "log/slog", "time": "time", "mcast": modulePath, "mcasttest": modulePath + "/mcasttest",
}

// wholeFile makes a file of a fragment: statements that may use an open socket, a context, and these packages.
func wholeFile(t *testing.T, name, fragment string) string {
	t.Helper()
	body := "func _() {\n" + fragment + "}\n"
	file, err := parser.ParseFile(token.NewFileSet(), name, "package readme\n"+body, 0)
	if err != nil {
		t.Fatalf("%v, in\n%s", err, fragment)
	}
	uses := make(map[string]int)
	imports := map[string]bool{"context": true, "mcast": true}
	ast.Inspect(file, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			uses[id.Name]++
			if readmePackages[id.Name] != "" {
				imports[id.Name] = true
			}
		}
		return true
	})
	var unused strings.Builder // what a reader would go on with
	for _, statement := range file.Decls[0].(*ast.FuncDecl).Body.List {
		if def, ok := statement.(*ast.AssignStmt); ok && def.Tok == token.DEFINE {
			for _, x := range def.Lhs {
				if id := x.(*ast.Ident); uses[id.Name] == 1 {
					fmt.Fprintf(&unused, "_ = %s\n", id.Name)
				}
			}
		}
	}
	var b strings.Builder
	b.WriteString("package readme\n\nimport (\n")
	for name := range imports {
		fmt.Fprintf(&b, "%q\n", readmePackages[name])
	}
	b.WriteString(")\n\nvar (\nctx context.Context\nrx *mcast.RxSocket\ntx *mcast.TxSocket\n)\n\n")
	b.WriteString("func _() {\n" + fragment + unused.String() + "}\n")
	return b.String()
}

var goRun = regexp.MustCompile(`go run (\./[\w/]+)`)

func TestReadmePrograms(t *testing.T) {
	tool := findGo(t)
	text := readme(t)
	for _, want := range []string{"go run ./examples/communicator", "go test ./...", "go get " + modulePath} {
		if !strings.Contains(text, want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
	built := make(map[string]bool)
	for _, m := range goRun.FindAllStringSubmatch(text, -1) {
		if built[m[1]] {
			continue
		}
		built[m[1]] = true
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("README.md runs %s: %v", m[1], err)
			continue
		}
		program := filepath.Join(t.TempDir(), "program.exe")
		if err := tool.run(t, ".", "build", "-mod=readonly", "-o", program, m[1]); err != nil {
			t.Error(err)
			continue
		}
		if out, err := exec.CommandContext(t.Context(), program, "-h").CombinedOutput(); err != nil || len(out) == 0 {
			t.Errorf("%s -h: %v\n%s", m[1], err, out)
		}
		if m[1] == "./examples/communicator" {
			t.Run("communicator", func(t *testing.T) {
				requireSockets(t)
				const rounds = 2
				out, err := exec.CommandContext(t.Context(), program, "-n", strconv.Itoa(rounds)).CombinedOutput()
				if err != nil || strings.Count(string(out), "\n") < rounds {
					t.Errorf("communicator -n %d: %v\n%s", rounds, err, out)
				}
			})
		}
	}
}

// exported returns the exported names of a package and, as Type.Name, those of its types' fields and methods.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	pkg, err := doc.NewFromFiles(fset, parsed, modulePath)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	values := func(values []*doc.Value) {
		for _, v := range values {
			for _, name := range v.Names {
				names[name] = true
			}
		}
	}
	funcs := func(prefix string, funcs []*doc.Func) {
		for _, f := range funcs {
			names[prefix+f.Name] = true
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	funcs("", pkg.Funcs)
	for _, typ := range pkg.Types {
		names[typ.Name] = true
		values(typ.Consts)
		values(typ.Vars)
		funcs("", typ.Funcs)
		funcs(typ.Name+".", typ.Methods)
		if s, ok := typ.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType); ok {
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					names[typ.Name+"."+name.Name] = true
				}
			}
		}
	}
	return names
}

var (
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	qualified = regexp.MustCompile(`\b(mcast|mcasttest|[A-Z]\w*)\.([A-Z]\w*)`)
)

func TestReadmeNames(t *testing.T) {
	names := map[string]map[string]bool{"mcast": exported(t, "."), "mcasttest": exported(t, "mcasttest")}
	checked := 0
	for _, span := range codeSpan.FindAllStringSubmatch(fence.ReplaceAllString(readme(t), ""), -1) {
		for _, m := range qualified.FindAllStringSubmatch(span[1], -1) {
			ok := names["mcast"][m[0]] || names["mcasttest"][m[0]]
			if of := names[m[1]]; of != nil {
				ok = of[m[2]]
			}
			if !ok {
				t.Errorf("README.md says `%s`, but there is no %s", span[1], m[0])
			}
			checked++
		}
	}
	if checked == 0 {
		t.Error("README.md quotes no names")
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

func TestReadmeLinks(t *testing.T) {
	text := fence.ReplaceAllString(readme(t), "")
	var anchors []string // as GitHub makes them
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		anchors = append(anchors, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		target := m[1]
		if strings.Contains(target, "://") {
			continue
		}
		if anchor, ok := strings.CutPrefix(target, "#"); ok {
			if !slices.Contains(anchors, anchor) {
				t.Errorf("README.md links to #%s, but has no such heading", anchor)
			}
			continue
		}
		if _, err := os.Stat(filepath.FromSlash(target)); errors.Is(err, fs.ErrNotExist) {
			t.Errorf("README.md links to %s: %v", target, err)
		}
	}
}
