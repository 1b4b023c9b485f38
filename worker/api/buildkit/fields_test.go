package buildkit

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// unread says of each field of a request that nothing here reads what it is to a client: why it may be ignored.
var unread = map[string]string{
	// BuildKit hands it on, and nothing there looks at it: there is one worker.
	"NewContainerRequest.constraints": "",
	// Of what a process is told in the message for a step, BuildKit reads the arguments, the environment, the directory and
	// the user; that stubs of mounts are removed is what is done anyway.
	"Meta.extraHosts":                "the container has them",
	"Meta.hostname":                  "the container has it",
	"Meta.cgroupParent":              "",
	"Meta.removeMountStubsRecursive": "",
	"Meta.validExitCodes":            "a process has one end, and its client looks at it",
	// Mounts of containers: what they write is thrown away, and they have an input by its ref.
	"Mount.input":        "resultID is",
	"Mount.output":       "",
	"Mount.contentCache": "",
	// Terminals and signals: all is read.
}

// requests are all that clients send, with the messages inside them that are not LLB.
var requests = []protoreflect.ProtoMessage{
	&controlapi.SolveRequest{}, &controlapi.CacheOptions{}, &controlapi.CacheOptionsEntry{}, &controlapi.Exporter{},
	&controlapi.PruneRequest{}, &controlapi.DiskUsageRequest{}, &controlapi.StatusRequest{}, &controlapi.ListWorkersRequest{},
	&controlapi.InfoRequest{}, &controlapi.BuildHistoryRequest{}, &controlapi.UpdateBuildHistoryRequest{}, &controlapi.BytesMessage{},
	&gatewaypb.ResolveImageConfigRequest{}, &gatewaypb.ResolveSourceMetaRequest{}, &gatewaypb.ResolveSourceImageRequest{},
	&gatewaypb.ResolveSourceGitRequest{}, &gatewaypb.ResolveSourceHTTPRequest{}, &gatewaypb.ChecksumRequest{},
	&gatewaypb.SolveRequest{}, &gatewaypb.CacheOptionsEntry{}, &gatewaypb.ReadFileRequest{}, &gatewaypb.FileRange{},
	&gatewaypb.ReadDirRequest{}, &gatewaypb.StatFileRequest{}, &gatewaypb.EvaluateRequest{}, &gatewaypb.PingRequest{},
	&gatewaypb.ReturnRequest{}, &gatewaypb.Result{}, &gatewaypb.InputsRequest{}, &gatewaypb.WarnRequest{},
	&gatewaypb.NewContainerRequest{}, &gatewaypb.ReleaseContainerRequest{}, &gatewaypb.ExecMessage{}, &gatewaypb.InitMessage{},
	&gatewaypb.FdMessage{}, &gatewaypb.ResizeMessage{}, &gatewaypb.SignalMessage{},
	&pb.Meta{}, &pb.Mount{}, &pb.TmpfsOpt{}, &pb.CacheOpt{}, &pb.SecretOpt{}, &pb.SSHOpt{}, &pb.ProxyEnv{}, &pb.HostIP{}, &pb.Ulimit{},
	&pb.SecretEnv{}, &pb.SourceInfo{}, &pb.Range{}, &pb.Position{}, &pb.Platform{},
}

// TestFields checks that each field of what clients send is read somewhere in the code of the service, or is among those of
// which it is known why not: a release of BuildKit that adds one is noticed, as is one whose reading is lost. What is refused
// by its name is read, too.
func TestFields(t *testing.T) {
	read := readFields(t, ".", "./bridge", "./policy", "./records", "./attrs", "./progress", "../../../proto/bksession")
	met := map[string]bool{}
	for _, m := range requests {
		d := m.ProtoReflect().Descriptor()
		path := reflect.TypeOf(m).Elem().PkgPath()
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			key := string(d.Name()) + "." + string(f.Name())
			met[key] = true
			is := read[path+"."+string(d.Name())+"."+goName(string(f.Name()))]
			if o := f.ContainingOneof(); o != nil { // those who look at a oneof look at all that it can be
				is = is || read[path+"."+string(d.Name())+"."+goName(string(o.Name()))]
			}
			switch _, ignored := unread[key]; {
			case !is && !ignored:
				t.Errorf("%s is read nowhere", key)
			case is && ignored:
				t.Errorf("%s is read, although it is among those that are not", key)
			}
		}
	}
	for key := range unread {
		if !met[key] {
			t.Errorf("there is no field %s", key)
		}
	}
}

// readFields returns which fields of messages the packages in dirs read, by the path of the message's package, its name and
// the field's.
func readFields(t *testing.T, dirs ...string) map[string]bool {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-deps", "-export", "-f", "{{.ImportPath}} {{.Export}}"}, dirs...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	fset := token.NewFileSet()
	from := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	read := map[string]bool{}
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		var files []*ast.File
		for _, n := range names {
			if strings.HasSuffix(n, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(fset, n, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}}
		if _, err := (&types.Config{Importer: from}).Check(dir, fset, files, info); err != nil {
			t.Fatal(err)
		}
		for at, sel := range info.Selections {
			typ := sel.Recv()
			if p, ok := typ.(*types.Pointer); ok {
				typ = p.Elem()
			}
			if n, ok := typ.(*types.Named); ok && n.Obj().Pkg() != nil {
				read[n.Obj().Pkg().Path()+"."+n.Obj().Name()+"."+strings.TrimPrefix(at.Sel.Name, "Get")] = true
			}
		}
	}
	return read
}

// goName is what the generated code calls a field.
func goName(field string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(field, "_") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}
