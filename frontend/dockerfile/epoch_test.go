package dockerfile

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A datedEnv knows the times of what is fetched: by URL, or by remote and ref.
type datedEnv struct {
	*fakeEnv
	times map[string]int64

	mu    sync.Mutex
	asked int
}

func (e *datedEnv) Pin(ctx context.Context, src op.Source) (op.Source, error) {
	if g, ok := src.(*op.Git); ok {
		pinned := *g
		pinned.Commit = strings.Repeat("a", 40)
		return &pinned, nil
	}
	return e.fakeEnv.Pin(ctx, src)
}

func (e *datedEnv) SourceTime(_ context.Context, src op.Source) (*time.Time, error) {
	e.mu.Lock()
	e.asked++
	e.mu.Unlock()
	if !src.Pinned() {
		return nil, errors.New("the source is not pinned")
	}
	var name string
	switch src := src.(type) {
	case *op.HTTP:
		name = src.URL
	case *op.Git:
		name = src.Remote + "#" + src.Ref
	}
	sec, ok := e.times[name]
	if !ok {
		return nil, nil
	}
	tm := time.Unix(sec, 999)
	return &tm, nil
}

// SOURCE_DATE_EPOCH may be a number or name what has a time. The stages then see the number, or nothing.
func TestEpochForms(t *testing.T) {
	const end = "\nFROM base AS last\nARG SOURCE_DATE_EPOCH\nLABEL e=${SOURCE_DATE_EPOCH:-none}\n"
	for _, tt := range []struct {
		name     string
		text     string
		arg      string // "-" for none
		contexts map[string]string
		context  op.Source
		args     map[string]string
		want     int64  // 0 for none
		err      string // where it is no number
		line     int
	}{
		{name: "none", arg: "-"},
		{name: "empty", arg: ""},
		{name: "a number", arg: "1000", want: 1000},
		{name: "before the epoch", arg: "-5", want: -5},
		{name: "a global argument", text: "ARG SOURCE_DATE_EPOCH=7", arg: "-", want: 7},
		{name: "the argument counts", text: "ARG SOURCE_DATE_EPOCH=7", arg: "8", want: 8},
		{name: "a directory as context", arg: "context"},
		{name: "a global argument that is a directory", text: "ARG SOURCE_DATE_EPOCH=context", arg: "-"},
		{name: "a repository as context", arg: "context", context: &op.Git{Remote: "https://host/c.git", Ref: "v1"}, want: 3000},
		{name: "an archive as context", arg: "context", context: &op.HTTP{URL: "http://host/c.tar"}, want: 4000},
		{name: "a file without a time as context", arg: "context", context: &op.HTTP{URL: "http://host/undated.tar"}},
		{name: "named repository", arg: "Src", contexts: map[string]string{"src": "https://host/c.git#v1"}, err: "invalid context name Src"},
		{name: "named repository, in lower case", arg: "src", contexts: map[string]string{"src": "https://host/c.git#v1"}, want: 3000},
		{name: "named file", arg: "src", contexts: map[string]string{"src": "http://host/c.tar"}, want: 4000},
		{name: "named image", arg: "src", contexts: map[string]string{"src": "docker-image://base"}},
		{name: "named before a stage", arg: "s", text: "FROM base AS s", contexts: map[string]string{"s": "http://host/c.tar"}, want: 4000},
		{name: "a stage", arg: "S", text: "FROM scratch AS s\nADD http://host/f /", want: 5000},
		{name: "a stage of a global argument", arg: "-", text: "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\nADD http://host/f /", want: 5000},
		{
			name: "a stage with arguments", arg: "s", args: map[string]string{"V": "1"}, want: 3000,
			text: "ARG B=scratch\nFROM $B AS s\nARG V\nARG H=host\nADD https://${H}/c.git#v${V} /",
		},
		{name: "a stage of a file without a time", arg: "s", text: "FROM scratch AS s\nADD http://host/undated /"},
		{name: "a target as context", arg: "nc", text: "FROM scratch AS s\nADD http://host/f /", contexts: map[string]string{"nc": "target:S"}, want: 5000},
		{name: "a target by number", arg: "nc", text: "FROM scratch\nADD http://host/f /", contexts: map[string]string{"nc": "target:0"}, want: 5000},
		{name: "a target of more than ADD", arg: "nc", text: "FROM base AS s\nADD http://host/f /", contexts: map[string]string{"nc": "target:s"}},
		{name: "no such target", arg: "nc", contexts: map[string]string{"nc": "target:lats"}, err: "could not be found (did you mean last?)"},
		{name: "not scratch", arg: "s", text: "FROM base AS s\nADD http://host/f /", err: "must use FROM scratch", line: 1},
		{name: "more than ADD", arg: "s", text: "FROM scratch AS s\nADD http://host/f /\nCOPY x /", err: "source-only requirements: unsupported COPY instruction", line: 1},
		{name: "two", arg: "s", text: "FROM scratch AS s\nADD http://host/f /\nADD http://host/f /", err: "exactly one remote ADD", line: 1},
		{name: "two sources", arg: "s", text: "FROM scratch AS s\nADD http://host/f http://host/g /", err: "exactly one remote ADD source", line: 1},
		{name: "a file of the context", arg: "s", text: "FROM scratch AS s\nADD f /", err: "must be a single HTTP(S) or Git ADD", line: 1},
		{name: "nothing", arg: "s", text: "FROM scratch AS s", err: "exactly one remote ADD", line: 1},
		{name: "a bad checksum", arg: "s", text: "FROM scratch AS s\nADD --checksum=x http://host/f /", err: "invalid checksum digest format", line: 1},
		{name: "unknown", arg: "nobody", err: "invalid SOURCE_DATE_EPOCH: nobody"},
		{name: "not quite a number", arg: "1e3", err: "invalid SOURCE_DATE_EPOCH: 1e3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.TrimPrefix(tt.text+end, "\n")
			e := &datedEnv{
				fakeEnv: &fakeEnv{
					images: map[string]string{"*": `{"os":"linux","architecture":"amd64"}`},
					dirs:   map[string]map[string]string{"context": {"Dockerfile": text}},
					urls:   map[string]string{"*": "\x1f\x8b\x08", "http://host/c.tar": "\x1f\x8b\x08", "http://host/undated.tar": "\x1f\x8b\x08"},
				},
				times: map[string]int64{"https://host/c.git#v1": 3000, "http://host/c.tar": 4000, "http://host/f": 5000},
			}
			req := &frontend.Request{
				Text: []byte(text), Context: tt.context, Contexts: tt.contexts, BuildArgs: map[string]string{},
				Platforms: []op.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
			}
			if req.Context == nil {
				req.Context = &op.Local{Name: "context"}
			}
			if tt.arg != "-" {
				req.BuildArgs["SOURCE_DATE_EPOCH"] = tt.arg
			}
			for k, v := range tt.args {
				req.BuildArgs[k] = v
			}
			out, err := New().Translate(t.Context(), req, e)
			if tt.err != "" {
				checkEpochError(t, err, tt.err, tt.line)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkEpoch(t, out, tt.want)
			if tt.arg != "-" && req.BuildArgs["SOURCE_DATE_EPOCH"] != tt.arg {
				t.Error("the request was changed")
			}
			if e.asked > 1 {
				t.Errorf("asked %d times for two platforms", e.asked)
			}
		})
	}
}

func checkEpochError(t *testing.T, err error, want string, line int) {
	t.Helper()
	var src *frontend.SourceError
	var use *frontend.UsageError
	switch {
	case err == nil || !strings.Contains(err.Error(), want):
		t.Fatalf("got %v, want %q", err, want)
	case line > 0 && (!errors.As(err, &src) || len(src.Ranges) == 0 || src.Ranges[0].Start != line):
		t.Errorf("%v is not of line %d", err, line)
	case strings.HasPrefix(want, "invalid SOURCE_DATE_EPOCH") && !errors.As(err, &use):
		t.Errorf("%v is no error of the request", err)
	}
}

func checkEpoch(t *testing.T, out *frontend.Output, want int64) {
	t.Helper()
	label := "none"
	if want != 0 {
		label = strconv.FormatInt(want, 10)
	}
	for _, img := range out.Images {
		switch {
		case want == 0 && img.Epoch != nil, want != 0 && (img.Epoch == nil || !img.Epoch.Equal(time.Unix(want, 0))):
			t.Errorf("the epoch is %v, want %d", img.Epoch, want)
		}
		if got := img.Config.Config.Labels["e"]; got != label {
			t.Errorf("a stage sees %q, want %q", got, label)
		}
	}
}

// A tree that is given to a build has the time of what it is made of, if that is one repository or file.
func TestEpochOfInput(t *testing.T) {
	vertex := func(o solver.Op, in ...*solver.Vertex) *solver.Vertex {
		var inputs []solver.Input
		for _, v := range in {
			inputs = append(inputs, solver.Input{Vertex: v})
		}
		return solver.NewVertex(o, inputs, solver.Meta{})
	}
	repo := &op.Git{Remote: "https://host/c.git", Ref: "v1", Commit: strings.Repeat("a", 40)}
	fileOp := &op.File{Actions: []op.FileAction{{Input: 0, Second: op.NoInput, Mkdir: &op.Mkdir{Path: "/d"}}}}
	for name, tt := range map[string]struct {
		root *solver.Vertex
		want op.Source
	}{
		"nothing":          {vertex(&op.File{}), nil},
		"a repository":     {vertex(repo), repo},
		"one and steps":    {vertex(fileOp, vertex(fileOp, vertex(repo)), vertex(repo)), repo},
		"two":              {vertex(fileOp, vertex(repo), vertex(&op.HTTP{URL: "http://host/f"})), nil},
		"a directory":      {vertex(&op.Local{Name: "x"}), nil},
		"one and an image": {vertex(fileOp, vertex(repo), vertex(&op.Image{Ref: "x"})), nil},
	} {
		if got := onlySource(solver.Input{Vertex: tt.root}); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
		for arg, tree := range map[string]string{"context": "context", "nc": "it"} {
			e := &datedEnv{
				fakeEnv: &fakeEnv{images: map[string]string{"*": `{"os":"linux","architecture":"amd64"}`}},
				times:   map[string]int64{"https://host/c.git#v1": 3000},
			}
			req := &frontend.Request{
				Text:      []byte("FROM base\nARG SOURCE_DATE_EPOCH\nLABEL e=${SOURCE_DATE_EPOCH:-none}\n"),
				BuildArgs: map[string]string{"SOURCE_DATE_EPOCH": arg}, Contexts: map[string]string{"nc": "input:it"},
				Inputs:  map[string]frontend.Tree{tree: {Root: &solver.Input{Vertex: tt.root}}},
				Default: op.Platform{OS: "linux", Architecture: "amd64"},
			}
			out, err := New().Translate(t.Context(), req, e)
			if err != nil {
				t.Fatalf("%s as %s: %v", name, arg, err)
			}
			want := int64(0)
			if tt.want != nil {
				want = 3000
			}
			checkEpoch(t, out, want)
		}
	}
}
