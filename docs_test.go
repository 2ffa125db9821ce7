package mcast_test

// What README.md and docs/ say is compiled, run or looked up: their Go blocks, the programs they start, the names they
// quote and their links. Names and links of the other documents are looked up too.

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"net/netip"
	"os"
	"os/exec"
	"path"
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

// documents returns the text of each document by its name, which has slashes.
func documents(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil || len(names) == 0 {
		t.Fatal("no documents: ", err)
	}
	texts := make(map[string]string)
	for _, name := range append(names, "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.ToSlash(name)] = strings.ReplaceAll(string(text), "\r\n", "\n")
	}
	return texts
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// block is a fenced block of Go in a document.
type block struct {
	document string
	line     int // of its first line
	code     string
}

func (b block) name() string {
	return regexp.MustCompile(`\W`).ReplaceAllString(fmt.Sprintf("%s_%d", b.document, b.line), "_")
}

func blocks(document, text string) (all []block) {
	for _, m := range fence.FindAllStringSubmatchIndex(text, -1) {
		if text[m[2]:m[3]] == "go" {
			all = append(all, block{document, 1 + strings.Count(text[:m[4]], "\n"), text[m[4]:m[5]]})
		}
	}
	return all
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

// docsModule makes a module that may use this one, and returns its directory and a function that writes a file there.
func docsModule(t *testing.T) (dir string, write func(name, text string)) {
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
	mod, err := os.ReadFile("go.mod")
	sum, err2 := os.ReadFile("go.sum")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}

	// It has all the requirements of this one, so that nothing has to be looked for.
	write("go.mod", strings.Replace(string(mod), "module "+modulePath, "module example.com/docs", 1)+
		fmt.Sprintf("\nrequire %s v0.0.0\nreplace %[1]s => %s\n", modulePath, strconv.Quote(repo)))
	write("go.sum", string(sum))
	return dir, write
}

// docsSetup runs a fragment on a host of its own, with an open socket of each kind and a context that ends soon. A
// neighbour on eth0 sends to the groups and ports of the documents.
const docsSetup = `package docs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

func run(t *testing.T, fragment func(context.Context, *mcast.RxSocket, *mcast.TxSocket)) {
	groups := []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")}
	const port, other = 12345, 12346 // of the fragments, and of the socket that they are given
	lan := mcasttest.NewLAN(t, 2)
	var neighbour *mcast.TxSocket
	var err error
	lan.Hosts[1].Do(func() { neighbour, err = mcast.OpenTx(mcast.TxConfig{Groups: groups}) })
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	go func() {
		for i, err := 0, error(nil); !errors.Is(err, net.ErrClosed); i++ {
			_, err = neighbour.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(groups[i%2], uint16(port+i/2%2)))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	lan.Hosts[0].Do(func() {
		rx, err := mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: other})
		tx, err2 := mcast.OpenTx(mcast.TxConfig{Groups: groups})
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		defer rx.Close()
		defer tx.Close()
		fragment(ctx, rx, tx)
	})
}
`

// TestDocsGo vets all Go of the documents and runs it, loops without an end three times.
func TestDocsGo(t *testing.T) {
	tool := findGo(t)
	dir, write := docsModule(t)
	write("docs/docs_test.go", docsSetup)
	for document, text := range documents(t) {
		for _, b := range blocks(document, text) {
			name, in := b.name(), "docs"
			if strings.HasPrefix(b.code, "package ") || strings.HasPrefix(b.code, "func ") {
				in = name // it has a TestMain of its own
			}
			b.code = strings.ReplaceAll(b.code, "\nfor {\n", "\nfor range 3 {\n")
			write(in+"/"+name+"_test.go", b.file(t, "docs", "func Test_"+name+
				"(t *testing.T) { run(t, func_"+name+") }\n\nfunc func_"+name+
				"(ctx context.Context, rx *mcast.RxSocket, tx *mcast.TxSocket) {\n"))
		}
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

// TestReadmeOneMachine builds the first blocks of Receive and Send as programs and runs them as a reader would. Between
// two machines they work as they are, and on one machine if the line about that is followed.
func TestReadmeOneMachine(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	tool := findGo(t)
	dir, write := docsModule(t)
	readme := documents(t)["README.md"]
	line := regexp.MustCompile("Both on one machine\\? Set `Loopback: true` in `mcast.RxConfig` and in `mcast.TxConfig`")
	if !line.MatchString(strings.ReplaceAll(section(readme, "Receive"), "\n", " ")) {
		t.Fatalf("README.md does not say %q about both ends on one machine", line)
	}
	follow := strings.NewReplacer("Config{", "Config{Loopback: true, ", `"hello"`, `"hello, me"`)
	for name, title := range map[string]string{"receive": "Receive", "send": "Send"} {
		found := blocks("README.md", readme)
		i := slices.IndexFunc(found, func(b block) bool { return strings.Contains(section(readme, title), b.code) })
		if i < 0 {
			t.Fatalf("README.md has no block of Go in %q", title)
		}
		b := found[i]
		write(name+"/main.go", b.file(t, "main", "func main() {\n"))
		b.code = follow.Replace(b.code)
		write(name+"own/main.go", b.file(t, "main", "func main() {\n"))
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

// section returns the text of a section.
func section(text, title string) string {
	_, text, _ = strings.Cut(text, "\n## "+title+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	return text
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

// docsPackages are those that fragments may use.
var docsPackages = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "log": "log", "net": "net", "netip": "net/netip", "os": "os",
	"slices": "slices", "testing": "testing", "ipv4": "golang.org/x/net/ipv4", "ipv6": "golang.org/x/net/ipv6",
	"mcast": modulePath, "mcasttest": modulePath + "/mcasttest",
}

// file makes a file of a block. The block is a file, or declarations, or statements. Statements become the body of a
// function, which begins as given.
func (b block) file(t *testing.T, pkg, function string) string {
	t.Helper()
	line := fmt.Sprintf("//line %s:%d\n", b.document, b.line)
	if strings.HasPrefix(b.code, "package ") {
		return line + b.code
	}
	declarations := strings.HasPrefix(b.code, "func ")
	head, tail := function+"{\n", "}\n}\n" // a scope of its own
	if declarations {
		head, tail = "", ""
	}
	file, err := parser.ParseFile(token.NewFileSet(), "", "package "+pkg+"\n"+head+line+b.code+tail, 0)
	if err != nil {
		t.Fatalf("%v, in\n%s", err, b.code)
	}
	uses := make(map[string]int)
	ast.Inspect(file, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			uses[id.Name]++
		}
		return true
	})
	var unused, importing strings.Builder
	for name, p := range docsPackages {
		if uses[name] > 0 {
			fmt.Fprintf(&importing, "import %q\n", p)
		}
	}
	if !declarations {
		body := file.Decls[len(file.Decls)-1].(*ast.FuncDecl).Body.List[0]
		for _, s := range body.(*ast.BlockStmt).List { // what a reader would go on with
			if def, ok := s.(*ast.AssignStmt); ok && def.Tok == token.DEFINE {
				for _, x := range def.Lhs {
					if name := x.(*ast.Ident).Name; name != "_" {
						fmt.Fprintf(&unused, "_ = %s\n", name)
					}
				}
			}
		}
	}
	return "package " + pkg + "\n" + importing.String() + head + line + b.code + unused.String() + tail
}

var goRun = regexp.MustCompile(`go run (\./[\w/]+)`)

// TestDocsPrograms builds the programs that documents start, asks each for help, and runs communicator.
func TestDocsPrograms(t *testing.T) {
	tool := findGo(t)
	texts := documents(t)
	for _, want := range []string{"go run ./examples/communicator", "go test ./...", "go get " + modulePath} {
		if !strings.Contains(texts["README.md"], want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
	programs := t.TempDir()
	built := make(map[string]bool)
	for document, text := range texts {
		for _, m := range goRun.FindAllStringSubmatch(text, -1) {
			if built[m[1]] {
				continue
			}
			built[m[1]] = true
			program := filepath.Join(programs, path.Base(m[1])+".exe")
			if err := tool.run(t, ".", "build", "-mod=readonly", "-o", program, m[1]); err != nil {
				t.Errorf("%s runs %s: %v", document, m[1], err)
				continue
			}
			if out, err := exec.CommandContext(t.Context(), program, "-h").CombinedOutput(); err != nil || len(out) == 0 {
				t.Errorf("%s -h: %v\n%s", m[1], err, out)
			}
		}
	}
	t.Run("communicator", func(t *testing.T) {
		requireSockets(t)
		const rounds = 2
		cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "communicator.exe"), "-n", strconv.Itoa(rounds))
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(out), "\n") < rounds {
			t.Errorf("communicator -n %d: %v\n%s", rounds, err, out)
		}
	})
}

// exported returns the exported names of a package and, as Type.Name, those of its types' fields and methods.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				of := ""
				if n.Recv != nil {
					of = strings.TrimPrefix(types.ExprString(n.Recv.List[0].Type), "*") + "."
				}
				names[of+n.Name.Name] = true
				return false
			case *ast.ValueSpec:
				for _, id := range n.Names {
					names[id.Name] = true
				}
			case *ast.TypeSpec:
				names[n.Name.Name] = true
				if s, ok := n.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						for _, id := range field.Names {
							names[n.Name.Name+"."+id.Name] = true
						}
					}
				}
			}
			return true
		})
	}
	return names
}

var (
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	qualified = regexp.MustCompile(`\b(mcast|mcasttest|doctor|[A-Z]\w*)\.([A-Z]\w*)`)
)

func TestDocsNames(t *testing.T) {
	packages := map[string]map[string]bool{
		"mcast": exported(t, "."), "mcasttest": exported(t, "mcasttest"), "doctor": exported(t, "doctor"),
	}
	checked := 0
	for document, text := range documents(t) {
		for _, span := range codeSpan.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			for _, m := range qualified.FindAllStringSubmatch(span[1], -1) {
				ok := packages["mcast"][m[0]] || packages["mcasttest"][m[0]] || packages["doctor"][m[0]]
				if of := packages[m[1]]; of != nil {
					ok = of[m[2]]
				}
				if !ok {
					t.Errorf("%s says `%s`, but there is no %s", document, span[1], m[0])
				}
				checked++
			}
		}
	}
	if checked == 0 {
		t.Error("the documents quote no names")
	}
}

// TestDocsFindings looks for each finding of the doctor in the table that explains them.
func TestDocsFindings(t *testing.T) {
	source, err := os.ReadFile("doctor/doctor.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`\t[A-Z]\w+ += "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) == 0 {
		t.Fatal("doctor.go has no findings")
	}
	for _, code := range codes {
		if !strings.Contains(documents(t)["docs/troubleshooting.md"], "\n| `"+code[1]+"` |") {
			t.Errorf("docs/troubleshooting.md does not explain the finding %s", code[1])
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns those of a document's headings, as GitHub makes them.
func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

func TestDocsLinks(t *testing.T) {
	texts := documents(t)
	linked := map[string]bool{"README.md": true} // from README.md
	for document, text := range texts {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, found := strings.Cut(m[1], "#")
			target := path.Join(path.Dir(document), file)
			if file == "" {
				target = document
			}
			if _, err := os.Stat(filepath.FromSlash(target)); err != nil {
				t.Errorf("%s links to %s: %v", document, m[1], err)
			} else if found && !slices.Contains(anchors(texts[target]), anchor) {
				t.Errorf("%s links to %s, but there is no such heading", document, m[1])
			}
			if document == "README.md" {
				linked[target] = true
			}
		}
	}
	for document := range texts {
		if !linked[document] {
			t.Errorf("README.md does not link to %s", document)
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	const most = 12 << 10
	if got := len(documents(t)["README.md"]); got > most {
		t.Errorf("README.md has %d bytes, want at most %d: move details to docs/", got, most)
	}
}
