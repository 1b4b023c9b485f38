package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/client/buildid"
	pb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	opspb "github.com/moby/buildkit/solver/pb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// An env is a builder whose results are trees of one file each: that of a Mkfile.
type env struct {
	warnings []solver.Warning
	made     int   // by Evaluate
	broken   error // of Evaluate
}

func (e *env) Pin(_ context.Context, src op.Source) (op.Source, error) { return src, nil }

func (e *env) ImageConfig(context.Context, *op.Image) (*frontend.ImageConfig, error) {
	return &frontend.ImageConfig{}, nil
}

func (e *env) ReadFile(ctx context.Context, in solver.Input, path string) ([]byte, error) {
	return e.ReadRange(ctx, in, path, 0, 0)
}

func (e *env) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}

func (e *env) Warn(w solver.Warning) { e.warnings = append(e.warnings, w) }

func (e *env) Evaluate(ctx context.Context, _ ...solver.Input) error {
	e.made++
	if e.broken != nil {
		return e.broken
	}
	return ctx.Err()
}

func (e *env) ReadRange(_ context.Context, in solver.Input, path string, _, _ int64) ([]byte, error) {
	f, ok := in.Vertex.Op().(*op.File)
	if !ok || f.Actions[0].Mkfile.Path != path {
		return nil, fs.ErrNotExist
	}
	return f.Actions[0].Mkfile.Data, nil
}

func (e *env) ReadDir(context.Context, solver.Input, string, string) ([]frontend.FileInfo, error) {
	return []frontend.FileInfo{{Path: "x", Mode: 0o104755}}, nil
}

func (e *env) StatFile(context.Context, solver.Input, string) (*frontend.FileInfo, error) {
	return &frontend.FileInfo{Path: "x", Mode: 0o120777, Link: "target"}, nil
}

// notDocker is a frontend for Dockerfiles that makes images of one file.
type notDocker struct{}

func (notDocker) Translate(_ context.Context, req *frontend.Request, _ frontend.Env) (*frontend.Output, error) {
	out := &frontend.Output{Multi: len(req.Platforms) > 1}
	for _, p := range req.Platforms {
		in := file(p.Architecture)
		img := frontend.Image{Platform: p, Root: &in}
		img.Config.Platform = p
		out.Images = append(out.Images, img)
	}
	return out, nil
}

func file(data string) solver.Input {
	write := &op.File{Actions: []op.FileAction{{Input: op.NoInput, Second: op.NoInput, Mkfile: &op.Mkfile{Path: "/f", Mode: 0o644, Data: []byte(data)}}}}
	return solver.Input{Vertex: solver.NewVertex(write, nil, solver.Meta{})}
}

func newBridge(t *testing.T, opt Options) *Bridge {
	t.Helper()
	opt.Dockerfile, opt.Platform, opt.Log = notDocker{}, op.Platform{OS: "linux", Architecture: "amd64"}, slog.New(slog.DiscardHandler)
	b, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// talk begins a conversation that ends with the test.
func talk(t *testing.T, e *env) *conversation {
	t.Helper()
	c := newBridge(t, Options{}).converse(t.Context(), &frontend.Request{}, e)
	t.Cleanup(c.end)
	return c
}

// of is the context of a call for a build.
func of(ctx context.Context, id string) context.Context {
	out, _ := metadata.FromOutgoingContext(buildid.AppendToOutgoingContext(ctx, id))
	return metadata.NewIncomingContext(ctx, out)
}

// TestLookup checks that a call waits for its build to begin, but not for ever, and that what is over is over at once.
func TestLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBridge(t, Options{})
		c := b.converse(t.Context(), &frontend.Request{}, &env{})
		defer c.end()
		begin := time.Now()
		if _, err := b.lookup(t.Context()); err == nil {
			t.Error("a call without a build is answered")
		}
		var unknown *errdefs.UnknownJobError
		if _, err := b.lookup(of(t.Context(), "never")); !errors.As(err, &unknown) || time.Since(begin) != patience {
			t.Errorf("a build that never comes: %v after %v", err, time.Since(begin))
		}
		if len(b.builds) != 0 {
			t.Errorf("it is remembered: %v", b.builds)
		}
		go func() {
			time.Sleep(time.Second)
			e, err := b.announce("late")
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Second)
			if err := e.open(c); err != nil {
				t.Error(err)
			}
		}()
		if got, err := b.lookup(of(t.Context(), "late")); got != c || err != nil {
			t.Errorf("a build that comes: %v, %v", got, err)
		}
		if _, err := b.announce("late"); err == nil {
			t.Error("two builds have one ID")
		}
		_, done, err := b.Direct("short", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		time.AfterFunc(time.Second, done)
		if _, err := b.lookup(of(t.Context(), "short")); !errors.As(err, &unknown) || time.Since(begin) != time.Second {
			t.Errorf("a build that is over: %v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := b.lookup(of(ctx, "another")); !errors.Is(err, context.Canceled) {
			t.Errorf("a call that is given up: %v", err)
		}
		if b.builds["another"] != nil {
			t.Error("the build that it asked for is remembered")
		}
		first := time.Now()
		go func() { _, _ = b.lookup(of(t.Context(), "shared")) }()
		time.Sleep(patience - time.Second)
		if _, err := b.lookup(of(t.Context(), "shared")); !errors.As(err, &unknown) || time.Since(first) != 2*patience-time.Second {
			t.Errorf("a call that waits beside an earlier one: %v after %v", err, time.Since(first))
		}
		if b.builds["shared"] != nil {
			t.Error("the build that both waited for is remembered")
		}
	})
}

// TestEnd checks that the end of a conversation cancels its calls and waits for them, and that a call ends with its caller.
func TestEnd(t *testing.T) {
	c := talk(t, &env{})
	ctx, leave := context.WithCancel(t.Context())
	joined, finish, err := c.call(ctx)
	if err != nil {
		t.Fatal(err)
	}
	leave()
	<-joined.Done()
	finish()
	joined, finish, err = c.call(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		c.end()
		close(ended)
	}()
	<-joined.Done()
	if !errors.Is(context.Cause(joined), errOver) {
		t.Errorf("the cause is %v", context.Cause(joined))
	}
	select {
	case <-ended:
		t.Error("it has not waited for the call")
	default:
	}
	finish()
	<-ended
	if _, err := c.Ping(t.Context(), &pb.PingRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call afterwards: %v", err)
	}
}

// TestReturn checks what becomes of what is returned: the first one counts, it must name refs that there are, and an error
// keeps its code and details.
func TestReturn(t *testing.T) {
	e := &env{}
	c := talk(t, e)
	bad := &pb.ReturnRequest{Result: &pb.Result{Result: &pb.Result_Ref{Ref: &pb.Ref{Id: "none"}}}}
	if _, err := c.Return(t.Context(), bad); status.Code(err) != codes.NotFound {
		t.Errorf("a ref that there is not: %v", err)
	}
	if _, err := c.Return(t.Context(), &pb.ReturnRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("nothing: %v", err)
	}
	id := c.add(newRef(file("x")))
	good := &pb.ReturnRequest{Result: &pb.Result{
		Result:       &pb.Result_RefDeprecated{RefDeprecated: id},
		Metadata:     map[string][]byte{keyConfig: []byte(`{"config":{"Labels":{"a":"b"}},"mine":1}`), "frontend.note": []byte("n"), keyEpoch: []byte("7")},
		Attestations: map[string]*pb.Attestations{"linux/amd64": {}},
	}}
	if _, err := c.Return(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Return(t.Context(), good); err == nil || !strings.Contains(err.Error(), "already set") {
		t.Errorf("twice: %v", err)
	}
	out, err := c.output()
	if err != nil {
		t.Fatal(err)
	}
	img := out.Images[0]
	if len(out.Images) != 1 || out.Multi || img.Root == nil || img.Epoch == nil || img.Epoch.Unix() != 7 || img.Platform.OS != "linux" ||
		img.Config.Config.Labels["a"] != "b" || !strings.Contains(string(img.Raw), `"mine":1`) || !strings.Contains(string(img.Raw), `"os":"linux"`) {
		t.Errorf("got %+v with %s", img, img.Raw)
	}
	if len(out.Metadata) != 1 || string(out.Metadata["frontend.note"]) != "n" {
		t.Errorf("got the metadata %v", out.Metadata)
	}
	if len(e.warnings) != 1 || !strings.Contains(e.warnings[0].Short, "attestations") {
		t.Errorf("got the warnings %+v", e.warnings)
	}
	c = talk(t, &env{})
	if _, err := c.Return(t.Context(), &pb.ReturnRequest{Error: &spb.Status{Code: int32(codes.NotFound), Message: "lost"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.output(); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "lost") {
		t.Errorf("got %v", err)
	}
}

// TestReturnsConfig checks what an image is for where what is returned says nothing, or nothing that makes sense: what the
// frontend that made it says counts, and a configuration that is none is an error of the build.
func TestReturnsConfig(t *testing.T) {
	arm := op.Platform{OS: "linux", Architecture: "arm64"}
	made := frontend.Image{Platform: arm}
	made.Config.Platform = arm
	for _, tc := range []struct {
		name, config string
		from         *frontend.Image
		want, err    string
	}{
		{name: "nothing", want: "linux/amd64"},
		{name: "of a frontend's", from: &made, want: "linux/arm64"},
		{name: "of its own", config: `{"os":"linux","architecture":"s390x"}`, want: "linux/s390x"},
		{name: "half a platform", config: `{"architecture":"s390x"}`, err: "os and architecture must be specified together"},
		{name: "null", config: "null", err: "null"},
		{name: "a list", config: "[]", err: "invalid image config"},
		{name: "broken", config: "{", err: "invalid image config"},
	} {
		c := talk(t, &env{})
		r := newRef(file("x"))
		r.image = tc.from
		res := &pb.Result{Result: &pb.Result_Ref{Ref: &pb.Ref{Id: c.add(r)}}, Metadata: map[string][]byte{}}
		if tc.config != "" {
			res.Metadata[keyConfig] = []byte(tc.config)
		}
		if _, err := c.Return(t.Context(), &pb.ReturnRequest{Result: res}); err != nil {
			t.Fatal(err)
		}
		out, err := c.output()
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		img := out.Images[0]
		if got, has := op.PlatformString(img.Platform), op.PlatformString(img.Config.Platform); got != tc.want || has != tc.want {
			t.Errorf("%s: got an image for %s with a configuration for %s, want %s", tc.name, got, has, tc.want)
		}
	}
}

// TestListed checks which platforms the refs of a result are for, and what is said of a list that does not fit.
func TestListed(t *testing.T) {
	// The entries of a list, each for Linux on amd64.
	of := func(ids ...string) string {
		for i, id := range ids {
			ids[i] = fmt.Sprintf(`{"ID":%q,"Platform":{"os":"linux","architecture":"amd64"}}`, id)
		}
		return `{"Platforms":[` + strings.Join(ids, ",") + `]}`
	}
	two := map[string]string{"linux/amd64": "1", "linux/arm64": "2"}
	for _, tc := range []struct {
		name  string
		ids   map[string]string
		multi bool
		list  string
		want  []string
		err   string
	}{
		{name: "none", ids: map[string]string{"": "1"}, want: []string{""}},
		{name: "one", ids: map[string]string{"": "1"}, list: of("a"), want: []string{"a"}},
		{name: "by name", ids: two, multi: true, want: []string{"linux/amd64", "linux/arm64"}},
		{name: "in order", ids: two, multi: true, list: of("linux/arm64", "linux/amd64"), want: []string{"linux/arm64", "linux/amd64"}},
		{
			name: "twice", ids: two, multi: true, list: of("linux/arm64", "linux/amd64", "linux/arm64"),
			want: []string{"linux/arm64", "linux/amd64", "linux/arm64"},
		},
		{name: "too few of one twice", ids: two, multi: true, list: of("linux/arm64", "linux/arm64"), err: "does not match references 1 2"},
		{name: "too few", ids: two, multi: true, list: of("linux/arm64"), err: "number of platforms does not match"},
		{name: "other", ids: two, multi: true, list: of("linux/arm64", "x"), err: "failed to find ref for ID x"},
		{name: "too many", ids: map[string]string{"": "1"}, list: of("a", "b"), err: "number of platforms does not match"},
		{name: "broken", ids: two, multi: true, list: `[`, err: "failed to parse platforms"},
		{name: "null", ids: map[string]string{"": "1"}, list: "null", err: "invalid empty platforms index"},
		{name: "empty", ids: map[string]string{"": "1"}, list: "{}", err: "invalid empty platforms index"},
		{name: "no ID", ids: map[string]string{"": "1"}, list: of(""), err: "invalid empty platform key"},
		{name: "no platform", ids: map[string]string{"": "1"}, list: `{"Platforms":[{"ID":"a"}]}`, err: "invalid platform value"},
		{name: "no architecture", ids: map[string]string{"": "1"}, list: `{"Platforms":[{"ID":"a","Platform":{"os":"linux"}}]}`, err: "invalid platform value"},
		{name: "no names", ids: map[string]string{"!": "1"}, multi: true, err: "missing platforms mapping"},
	} {
		md := map[string][]byte{}
		if tc.list != "" {
			md[keyPlatforms] = []byte(tc.list)
		}
		list, err := listed(tc.ids, tc.multi, md)
		var got []string
		for _, l := range list {
			got = append(got, l.ID)
		}
		if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) || tc.err == "" && (err != nil || !slices.Equal(got, tc.want)) {
			t.Errorf("%s: got %q, %v", tc.name, got, err)
		}
	}
}

// TestSolve checks the forms of an answer, for clients of all ages, and that a ref is made once, whatever asks for it.
func TestSolve(t *testing.T) {
	e := &env{}
	c := talk(t, e)
	ask := func(platform string, q *pb.SolveRequest) (*pb.SolveResponse, error) {
		q.Frontend, q.FrontendOpt = dockerfileV0, map[string]string{"platform": platform}
		return c.Solve(t.Context(), q)
	}
	one, err := ask("linux/amd64", &pb.SolveRequest{AllowResultReturn: true, AllowResultArrayRef: true, Evaluate: true})
	if err != nil {
		t.Fatal(err)
	}
	ref := one.GetResult().GetRef()
	if ref.GetId() == "" || len(ref.GetDef().GetDef()) == 0 || len(one.GetResult().GetMetadata()[keyConfig]) == 0 || e.made != 1 {
		t.Errorf("got %v after %d evaluations", one, e.made)
	}
	for range 2 {
		if data, err := c.ReadFile(t.Context(), &pb.ReadFileRequest{Ref: ref.GetId(), FilePath: "/f"}); err != nil || string(data.Data) != "amd64" {
			t.Errorf("got %v, %v", data, err)
		}
	}
	if e.made != 1 {
		t.Errorf("it was made %d times", e.made)
	}
	old, err := ask("linux/amd64", &pb.SolveRequest{})
	if err != nil || old.GetRef() == "" || old.GetRef() != old.GetResult().GetRefDeprecated() {
		t.Errorf("for old clients: got %v, %v", old, err)
	}
	many, err := ask("linux/amd64,linux/arm64", &pb.SolveRequest{AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil || len(many.GetResult().GetRefs().GetRefs()) != 2 || many.GetResult().GetRefs().GetRefs()["linux/arm64"].GetId() == "" {
		t.Errorf("for platforms: got %v, %v", many, err)
	}
	if len(e.warnings) != 0 {
		t.Errorf("got the warnings %v", e.warnings)
	}
	twice, err := ask("linux/arm64,linux/arm64/v8", &pb.SolveRequest{AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil || len(twice.GetResult().GetRefs().GetRefs()) != 1 || len(e.warnings) != 1 {
		t.Errorf("for a platform that is asked for twice: got %v, %v, the warnings %v", twice, err, e.warnings)
	}
	if _, err := ask("linux/amd64,linux/arm64", &pb.SolveRequest{}); err == nil {
		t.Error("a client that cannot read several refs gets them")
	}
	// A ref's definition can be solved.
	again, err := c.Solve(t.Context(), &pb.SolveRequest{Definition: ref.GetDef(), AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil || again.GetResult().GetRef().GetId() == "" {
		t.Errorf("the definition of a ref: got %v, %v", again, err)
	}
	if none, err := c.Solve(t.Context(), &pb.SolveRequest{AllowResultReturn: true, AllowResultArrayRef: true}); err != nil || none.GetResult().GetRef().GetId() != "" {
		t.Errorf("nothing: got %v, %v", none, err)
	}
	for _, q := range []*pb.SolveRequest{
		{Frontend: "other"}, {Definition: ref.GetDef(), Frontend: dockerfileV0}, {CacheImports: []*pb.CacheOptionsEntry{nil}}, {Frontend: gatewayV0},
	} {
		if _, err := c.Solve(t.Context(), q); err == nil {
			t.Errorf("%v is answered", q)
		}
	}
}

// TestFinal checks that a solve of an old client's is the build's result, with whatever attributes it comes.
func TestFinal(t *testing.T) {
	for attrs, ok := range map[string]bool{"": true, "null": true, `{"note":"eA=="}`: true, "[]": false} {
		c := talk(t, &env{})
		_, err := c.Solve(t.Context(), &pb.SolveRequest{
			Frontend: dockerfileV0, FrontendOpt: map[string]string{"platform": "linux/arm64"}, Final: true, ExporterAttr: []byte(attrs),
		})
		if (err == nil) != ok {
			t.Errorf("%s: %v", attrs, err)
		}
		if !ok {
			continue
		}
		out, err := c.output()
		if err != nil || len(out.Images) != 1 || out.Images[0].Platform.Architecture != "arm64" {
			t.Errorf("%s: got %+v, %v", attrs, out, err)
		}
	}
}

// TestBroken checks that why a ref cannot be made is found out once, and that to have given up is not remembered.
func TestBroken(t *testing.T) {
	e := &env{broken: errors.New("broken")}
	c := talk(t, e)
	id := c.add(newRef(file("x")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if _, err := c.Evaluate(ctx, &pb.EvaluateRequest{Ref: id}); err == nil {
			t.Error("it is made")
		}
	}
	e.made = 0
	for range 3 {
		if _, err := c.Evaluate(t.Context(), &pb.EvaluateRequest{Ref: id}); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("got %v", err)
		}
	}
	if e.made != 1 {
		t.Errorf("it was tried %d times", e.made)
	}
}

// TestStats checks how files are described.
func TestStats(t *testing.T) {
	for _, tc := range []struct {
		mode uint32
		want fs.FileMode
	}{
		{0o100644, 0o644},
		{0o104755, fs.ModeSetuid | 0o755},
		{0o041777, fs.ModeDir | fs.ModeSticky | 0o777},
		{0o120777, fs.ModeSymlink | 0o777},
		{0o020600, fs.ModeDevice | fs.ModeCharDevice | 0o600},
		{0o060600, fs.ModeDevice | 0o600},
		{0o010644, fs.ModeNamedPipe | 0o644},
		{0o140777, 0o777},
	} {
		if got := fileMode(tc.mode); got != tc.want {
			t.Errorf("%o: got %v, want %v", tc.mode, got, tc.want)
		}
	}
	if st := stat(&frontend.FileInfo{Mode: 0o040755, Size: 4096}); st.Size != 0 {
		t.Errorf("a directory has %d bytes", st.Size)
	}
}

// TestStdio checks that a program's standard streams carry the protocol, and that the end of the conversation is the end of
// its input.
func TestStdio(t *testing.T) {
	c := talk(t, &env{})
	p := &frontend.ProcessSpec{}
	end := serveStdio(c, p)
	out, ok := p.Stdout.(io.WriteCloser)
	if !ok {
		t.Fatal("the output cannot be closed")
	}
	theirs := &otherSide{r: p.Stdin, w: out}
	conn, err := grpc.NewClient("passthrough:stdio", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return theirs, nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pong, err := pb.NewLLBBridgeClient(conn).Ping(t.Context(), &pb.PingRequest{})
	if err != nil || len(pong.GetFrontendAPICaps()) == 0 || len(pong.GetLLBCaps()) == 0 {
		t.Errorf("got %v, %v", pong, err)
	}
	calls := pb.NewLLBBridgeClient(conn)
	c.b.opt.Workers = func(context.Context) []*apitypes.WorkerRecord { panic("a mistake") }
	if _, err := calls.Ping(t.Context(), &pb.PingRequest{}); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "a mistake") {
		t.Errorf("a call that panics: %v", err)
	}
	if _, err := calls.Inputs(t.Context(), &pb.InputsRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
	end()
	if _, err := out.Write([]byte("x")); !errors.Is(err, errClosed) {
		t.Errorf("writing afterwards: %v", err)
	}
}

// An otherSide is the program's side of its standard streams.
type otherSide struct {
	stdioConn
	r io.Reader
	w io.Writer
}

func (p *otherSide) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *otherSide) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *otherSide) Close() error                { return nil }

// TestGateway checks which sources of frontends are refused before anything is looked up.
func TestGateway(t *testing.T) {
	for _, tc := range []struct {
		opt   Options
		attrs map[string]string
		err   string
	}{
		{attrs: map[string]string{"source": "a/b"}},
		{attrs: map[string]string{}, err: "no source"},
		{attrs: map[string]string{"source": "a/b", "gateway-devel": ""}, err: "no longer supported"},
		{opt: Options{AllowedRepositories: []string{"docker.io/a/b:1"}}, attrs: map[string]string{"source": "a/b@sha256:" + strings.Repeat("a", 64)}},
		{opt: Options{AllowedRepositories: []string{"a/b"}}, attrs: map[string]string{"source": "other/a/b"}, err: "not an allowed gateway source"},
		{opt: Options{AllowedRepositories: []string{"a/b"}}, attrs: map[string]string{"source": "UPPER"}, err: "invalid gateway source"},
		{opt: Options{NoImages: true}, attrs: map[string]string{"source": "a/b"}, err: "does not allow"},
	} {
		_, err := newBridge(t, tc.opt).Gateway(tc.attrs, map[string]*opspb.Definition{})
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%v with %v: %v", tc.attrs, tc.opt.AllowedRepositories, err)
		}
	}
	if _, err := New(Options{Dockerfile: notDocker{}, AllowedRepositories: []string{"UPPER"}}); err == nil {
		t.Error("a repository that cannot be is taken")
	}
}
