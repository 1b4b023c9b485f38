package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	apiregistry "github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// packed is a build context of one Dockerfile.
func packed(t *testing.T, dockerfile string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, dockerfile); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// A build of a tar tells its steps as docker's own builder does, and ends with the image's ID and names.
func TestBuild(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	run := func(dockerfile string, opt client.ImageBuildOptions) ([]string, string) {
		t.Helper()
		res, err := cli.ImageBuild(ctx, packed(t, dockerfile), opt)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return messages(t, res.Body)
	}
	const text = "FROM scratch\nRUN echo hello\nRUN warn [Warning] careful\nRUN progress\nRUN echo bye"
	texts, failure := run(text, client.ImageBuildOptions{Tags: []string{"built:1", "built"}, Labels: map[string]string{"a": "b"}})
	img, err := cli.ImageInspect(ctx, "built:1")
	if err != nil || img.Config.Labels["a"] != "b" {
		t.Fatalf("%+v, %v", img, err)
	}
	short := img.ID[len("sha256:"):][:12]
	if want := []string{
		"Step 1/5 : FROM scratch", "Step 2/5 : RUN echo hello", "hello", "Step 3/5 : RUN warn [Warning] careful", "[Warning] careful",
		"Step 4/5 : RUN progress", "sha256:abc Pulling fs layer", "sha256:abc Downloading", "sha256:abc Download complete",
		"Step 5/5 : RUN echo bye", "bye", `{"ID":"` + img.ID + `"}`, "Successfully built " + short, "Successfully tagged built:1",
		"Successfully tagged built:latest",
	}; failure != "" || !slices.Equal(slices.Compact(texts), want) {
		t.Errorf("got  %q\nwant %q\n%s", texts, want, failure)
	}
	if texts, _ := run(text, client.ImageBuildOptions{}); !slices.Contains(texts, "---> Using cache") {
		t.Errorf("once more: %q", texts)
	}
	if texts, _ := run(text, client.ImageBuildOptions{SuppressOutput: true}); len(texts) != 1 || !strings.HasPrefix(texts[0], "sha256:") {
		t.Errorf("quietly: %q", texts)
	}
	if texts, failure := run("FROM scratch\nRUN exit 7", client.ImageBuildOptions{}); failure != "The command '/bin/sh -c exit 7' returned a non-zero code: 7" {
		t.Errorf("%q %q", texts, failure)
	}
	conf := map[string]apiregistry.AuthConfig{"https://index.docker.io/v1/": {Username: "hub"}, "r.example": {Username: "r"}}
	texts, failure = run("FROM scratch\nRUN credentials r.example\nRUN credentials index.docker.io\nRUN credentials other.example", client.ImageBuildOptions{AuthConfigs: conf})
	if all := strings.Join(texts, "\n"); failure != "" || !strings.Contains(all, `r.example: "r"`) || !strings.Contains(all, `docker.io: "hub"`) || !strings.Contains(all, `other.example: ""`) {
		t.Errorf("%s %s", all, failure)
	}
}

// What a request says is what the builder is asked for.
func TestBuildRequest(t *testing.T) {
	w := serve(t)
	value := "v"
	res, err := w.client().ImageBuild(t.Context(), packed(t, "FROM scratch\nRUN request"), client.ImageBuildOptions{
		Target: "tgt", BuildArgs: map[string]*string{"a": &value, "none": nil}, NoCache: true, PullParent: true, NetworkMode: "host",
		ExtraHosts: []string{"h:1.2.3.4", "i=::1"}, CgroupParent: "cg", ShmSize: 1 << 20, Memory: 1 << 30, CPUShares: 7,
		Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	texts, failure := messages(t, res.Body)
	if failure != "" {
		t.Fatal(failure)
	}
	all := strings.Join(texts, "\n")
	for _, part := range []string{
		`"Target":"tgt"`, `"BuildArgs":{"a":"v"}`, `"NoCache":true`, `"Pull":true`, `{"Host":"h","IP":"1.2.3.4"}`, `{"Host":"i","IP":"::1"}`,
		`"CgroupParent":"cg"`, `"ShmSize":1048576`, `"Memory":1073741824`, `"CPUShares":7`, `{"Name":"nofile","Soft":1,"Hard":2}`,
		`"Entitlements":["network.host"]`,
	} {
		if !strings.Contains(all, part) {
			t.Errorf("%s is not in\n%s", part, all)
		}
	}
	for query, part := range map[string]string{
		"version=3": `invalid version \"3\"`, "securityopt=x": "not supported on linux", "squash=1": "experimental", "isolation=hyperv": "unsupported isolation",
		"buildargs=x": "error reading build args", "labels=x": "error reading labels", "ulimits=x": "error reading ulimit", "outputs=x": "invalid outputs",
		"t=A": "invalid tag", "t=a@sha256:" + strings.Repeat("a", 64): "cannot contain a digest", "networkmode=container:x": "not supported by builder",
		"extrahosts=x": "invalid host", "remote=client-session": "names none", "remote=foo": "neither a URL nor a Git", "platform=a/b/c/d": "failed to parse target platform",
		`outputs=[{"Type":"local"}]`: "needs a session", "shmsize=x": "failed to parse shm size",
		"memory=100": "Minimum memory limit allowed is 6MB",
	} {
		w.want("POST /build?"+query, "", 400, part)
	}
	w.want("POST /build?session=x", "", 501, "builds nothing from sessions")
}

// A build ends when its client asks for it, or goes, or is not there to listen, and then another one may have its ID.
func TestBuildCancel(t *testing.T) {
	w := serve(t)
	cli := w.client()
	begin := func(ctx context.Context) client.ImageBuildResult {
		t.Helper()
		res, err := cli.ImageBuild(ctx, packed(t, "FROM scratch\nRUN sleep"), client.ImageBuildOptions{BuildID: "id"})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := begin(t.Context())
	w.want("POST /build?buildid=id", "", 409, "a build of that ID is running")
	if _, err := cli.BuildCancel(t.Context(), "id", client.BuildCancelOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, failure := messages(t, res.Body); !strings.HasSuffix(failure, "the build was cancelled") {
		t.Errorf("it failed with %q", failure)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_ = begin(ctx).Body
	cancel()
	for w.Busy() > 0 {
		time.Sleep(time.Millisecond) // until the server has noticed
	}
	w.want("POST /build/cancel?id=none", "", 200, "")
	w.want("POST /build/cancel", "", 400, "build ID not provided")
}

// A builder that panics fails its build, and nothing is written after the answer.
func TestBuildPanic(t *testing.T) {
	w := serve(t, func(o *Options) { o.Log = slog.New(slog.DiscardHandler) })
	res, err := w.client().ImageBuild(t.Context(), packed(t, "FROM scratch\nRUN panic"), client.ImageBuildOptions{})
	if err == nil {
		_, err = io.ReadAll(res.Body)
	}
	if err == nil {
		t.Error("it came to an end")
	}
}

// Clients that draw themselves get BuildKit's messages.
func TestBuildTrace(t *testing.T) {
	w := serve(t)
	res, err := w.client().ImageBuild(t.Context(), packed(t, "FROM scratch\nRUN echo hello"), client.ImageBuildOptions{Version: build.BuilderBuildKit})
	if err != nil {
		t.Fatal(err)
	}
	checkTrace(t, res.Body, "hello\n")
}

// checkTrace checks that a stream has BuildKit's messages with a log, and the ID of an image.
func checkTrace(t *testing.T, r io.Reader, log string) {
	t.Helper()
	var logs, id string
	for dec := json.NewDecoder(r); ; {
		var m struct {
			ID    string
			Aux   json.RawMessage
			Error string
		}
		if err := dec.Decode(&m); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch m.ID {
		case "moby.buildkit.trace":
			var b []byte
			var st controlapi.StatusResponse
			if err := json.Unmarshal(m.Aux, &b); err != nil {
				t.Fatal(err)
			}
			if err := proto.Unmarshal(b, &st); err != nil {
				t.Fatal(err)
			}
			for _, l := range st.GetLogs() {
				logs += string(l.GetMsg())
			}
		case "moby.image.id":
			id = decode[build.Result](t, string(m.Aux)).ID
		default:
			t.Errorf("%+v", m)
		}
	}
	if logs != log || !strings.HasPrefix(id, "sha256:") {
		t.Errorf("log %q, image %q", logs, id)
	}
}

// A build from a session is one in BuildKit's words, and what it says comes from there.
func TestBuildSession(t *testing.T) {
	var asked *controlapi.SolveRequest
	v := solver.NewVertex(textOp(""), nil, solver.Meta{Name: "[1/1] RUN x"})
	w := serve(t, func(o *Options) {
		o.Solve = func(_ context.Context, in *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
			asked = in
			return &controlapi.SolveResponse{ExporterResponse: map[string]string{"containerimage.config.digest": "sha256:x"}}, nil
		}
		o.Watch = func(_ context.Context, _ string, _ time.Duration, fn func(solver.Event) error) error {
			for _, ev := range []solver.Event{
				{Kind: solver.Declared, Vertex: v}, {Kind: solver.Started, Vertex: v}, {Kind: solver.Logged, Vertex: v, Data: []byte("said\n")},
			} {
				if err := fn(ev); err != nil {
					return err
				}
			}
			return nil
		}
	})
	ask := func(more string) string {
		t.Helper()
		x := w.want("POST /build?version=2&session=s&remote=client-session&dockerfile=D&t=a:1"+more, "", 200, "moby.image.id")
		checkTrace(t, strings.NewReader(x.body), "said\n")
		return asked.GetExporters()[0].GetType() + " " + asked.GetExporters()[0].GetAttrs()["name"]
	}
	if got := ask(""); got != "image docker.io/library/a:1" || asked.GetSession() != "s" || asked.GetFrontendAttrs()["filename"] != "D" || asked.GetFrontendAttrs()["context"] != "" {
		t.Errorf("%s %v", got, asked)
	}
	if got := ask("&outputs=" + url.QueryEscape(`[{"Type":"local","Attrs":{"x":"y"}}]`)); got != "local " || asked.GetExporters()[0].GetAttrs()["x"] != "y" {
		t.Errorf("%s %v", got, asked)
	}
	if got := ask("&outputs=" + url.QueryEscape(`[{"Type":"moby"}]`) + "&cachefrom=" + url.QueryEscape(`["c"]`)); got != "image docker.io/library/a:1" || asked.GetFrontendAttrs()["cache-from"] != "c" {
		t.Errorf("%s %v", got, asked)
	}
}

// textOp is an operation that is a text.
type textOp string

// WriteKey implements solver.Op.
func (o textOp) WriteKey(h *solver.Hasher) { h.Str("op", string(o)) }

func (o textOp) String() string { return string(o) }

// What is pruned of the cache is said, and what is asked for is passed on.
func TestPruneCache(t *testing.T) {
	w := serve(t)
	cli, ctx := w.client(), t.Context()
	rep, err := cli.BuildCachePrune(ctx, client.BuildCachePruneOptions{All: true, Filters: client.Filters{}.Add("until", "24h").Add("type", "regular")})
	if err != nil || !slices.Equal(rep.Report.CachesDeleted, []string{"abcdefghijklmnop"}) || rep.Report.SpaceReclaimed != 2000 {
		t.Errorf("%+v, %v", rep, err)
	}
	// The cache is smaller than what is to be kept.
	w.want("POST /build/prune?reserved-space=1000000", "", 200, `"CachesDeleted":[]`)
	w.want("POST /v1.47/build/prune?keep-storage=1000000&reserved-space=x", "", 200, `"CachesDeleted":[]`)
	w.want("POST /build/prune?reserved-space=x", "", 400, "expects an integer")
	w.want(`POST /build/prune?filters={"x":["y"]}`, "", 400, "invalid filter 'x'")
	w.want(`POST /build/prune?filters={"id":["x","y"]}`, "", 400, "more than one value")
	for in, want := range map[string]string{
		`{"id":["x"]}`: "id~=x", `{"inuse":["true"],"type":["t"]}`: "type==t,inuse", `{}`: "",
	} {
		f, err := worker.ParseFilters(in)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := cacheFilters(f)
		if err != nil || strings.Join(got, ";") != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}

// A connection becomes one of gRPC with what the client has sent already; one that asks for something else does not.
func TestGRPC(t *testing.T) {
	got := make(chan string, 1)
	w := serve(t, func(o *Options) {
		o.GRPC = func(conn net.Conn, first []byte) {
			rest, _ := io.ReadAll(conn)
			got <- string(first) + string(rest)
			_ = conn.Close()
		}
	})
	conn, _, resp := w.raw("POST /grpc HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0")
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "h2c" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if _, err := io.WriteString(conn, " and more"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "PRI * HTTP/2.0 and more" {
		t.Errorf("%q", s)
	}
	w.want("POST /grpc", "", 400, "upgraded to h2c")
	w.want("POST /session", "", 501, "has no sessions")
	serve(t).want("POST /grpc", "", 501, "no gRPC services")
}

// A session is opened at its path, and refused without what it needs.
func TestSession(t *testing.T) {
	sessions := bksession.New(bksession.Options{})
	w := serve(t, func(o *Options) { o.Sessions = sessions })
	if x := w.send("POST /session", ""); x.code < 400 || x.code >= 500 {
		t.Errorf("%+v", x)
	}
	if n := sessions.Sessions(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// Every attribute of a request is one that the frontend reads.
func TestBuildAttrs(t *testing.T) {
	c := &call{version: current, form: url.Values{
		"dockerfile": {"D"}, "target": {"T"}, "shmsize": {"1"}, "nocache": {"1"}, "pull": {"true"}, "platform": {"linux/arm64"},
		"extrahosts": {"h:[::1]", `q"x,y:1.1.1.1`}, "networkmode": {"none"}, "cpusetcpus": {"0-1"}, "cpusetmems": {"0"}, "memory": {"0"}, "remote": {"https://example.com/x.git"},
	}}
	q, err := parseBuild(c)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"filename": "D", "target": "T", "shm-size": "1", "no-cache": "", "image-resolve-mode": "pull", "platform": "linux/arm64", "cpusetmems": "0",
		"add-hosts": `h=::1,"q""x,y=1.1.1.1"`, "force-network-mode": "none", "cpusetcpus": "0-1", "context": "https://example.com/x.git",
	}
	if !maps.Equal(q.attrs, want) {
		t.Errorf("got  %v\nwant %v", q.attrs, want)
	}
}

// A warning about the file, which is shown with the step that reads it, is told though that is none of the user's, on a
// line of its own.
func TestFileWarning(t *testing.T) {
	out := httptest.NewRecorder()
	n := newNarrator(&progress{w: &answer{ResponseWriter: out}}, &buildQuery{})
	load := solver.NewVertex(&op.Local{Name: "dockerfile"}, nil, solver.Meta{Name: "[internal] load build definition from Dockerfile", Internal: true})
	n.line = true
	const text = "[Warning] One or more build-args [NOPE] were not consumed"
	err := n.tell([]solver.Event{
		{Kind: solver.Declared, Vertex: load}, {Kind: solver.Warned, Vertex: load, Warning: solver.Warning{Short: text}},
	})
	if want := `{"stream":"\n"}` + "\r\n" + `{"stream":"` + text + `\n"}` + "\r\n"; err != nil || out.Body.String() != want {
		t.Errorf("%q, %v; want %q", out.Body.String(), err, want)
	}
}
