package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/eventlog"
	"github.com/boxbuild/boxbuild/worker/workertest"
)

// A world is a Server on the fakes, at a socket.
type world struct {
	*Server
	t          *testing.T
	addr       string
	images     *workertest.Images
	containers *workertest.Containers
	events     *eventlog.Log
}

// serveFuzz returns a Server on the fakes without a socket.
func serveFuzz(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	t.Cleanup(w.Close)
	return w
}

// newWorld puts a Server on the fakes; change may change the options.
func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, images: &workertest.Images{}, events: &eventlog.Log{}, addr: filepath.Join(t.TempDir(), "s")}
	w.containers = &workertest.Containers{Images: w.images, Events: w.events}
	opt := Options{
		Images: w.images, Builder: &workertest.Builder{Images: w.images}, Events: w.events, Containers: w.containers,
		Volumes: &workertest.Volumes{}, Networks: &workertest.Networks{},
		Platform: op.Platform{OS: "linux", Architecture: "amd64"}, Version: "1.2.3", Commit: "abc",
		Login: workertest.Login, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Info: func(context.Context) *system.Info { return &system.Info{KernelVersion: "6.1", Name: "host"} },
	}
	for _, f := range change {
		f(&opt)
	}
	w.Server = New(opt)
	return w
}

// serve serves the fakes at a socket.
func serve(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := newWorld(t, change...)
	l, err := net.Listen("unix", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: w.Server}}
	srv.Start()
	t.Cleanup(func() {
		w.Close()
		srv.Close()
	})
	return w
}

// client returns a client that speaks a version, or whatever the daemon does.
func (w *world) client(version ...string) *client.Client {
	w.t.Helper()
	opts := []client.Opt{client.WithHost("unix://" + w.addr)}
	if len(version) > 0 {
		opts = append(opts, client.WithAPIVersion(version[0]))
	}
	c, err := client.New(opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// image puts an image into the store.
func (w *world) image(name string) string {
	w.t.Helper()
	id, err := w.images.Import(w.t.Context(), strings.NewReader(name), worker.ImportOptions{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return id.String()
}

// create makes a container that runs a command.
func (w *world) create(req worker.ContainerCreate, args ...string) string {
	w.t.Helper()
	if _, err := w.images.Inspect(w.t.Context(), "busybox", nil); err != nil {
		w.image("busybox")
	}
	if req.Config == nil {
		req.Config = &container.Config{}
	}
	req.Config.Image, req.Config.Cmd = "busybox", args
	res, err := w.containers.Create(w.t.Context(), &req)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.ID
}

// start starts a container.
func (w *world) begin(id string) {
	w.t.Helper()
	if err := w.containers.Start(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
}

// An exchange is an answer to a request without a client.
type exchange struct {
	code   int
	header http.Header
	body   string
}

// send sends a request: "POST /path", with headers as "Name: value" and a body.
func (w *world) send(request, body string, headers ...string) exchange {
	w.t.Helper()
	method, path, _ := strings.Cut(request, " ")
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", w.addr) }}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Fatalf("%s: %v", request, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s: %v", request, err)
	}
	return exchange{resp.StatusCode, resp.Header, string(b)}
}

// want checks a code and what is in the body.
func (w *world) want(request, body string, code int, part string, headers ...string) exchange {
	w.t.Helper()
	got := w.send(request, body, headers...)
	if got.code != code || !strings.Contains(got.body, part) {
		w.t.Errorf("%s: %d %q, want %d and %q", request, got.code, got.body, code, part)
	}
	return got
}

// A path and a method belong to one endpoint, names of images may have slashes, and what there is not is 404, whatever the
// method.
func TestFind(t *testing.T) {
	for _, tt := range []struct{ request, vars string }{
		{"GET /_ping", ""},
		{"HEAD /_ping", ""},
		{"GET /images/json", ""},
		{"GET /images/a/json", "a"},
		{"GET /images/localhost:5000/a/b:c/json", "localhost:5000/a/b:c"},
		{"GET /images/json/json", "json"},
		{"DELETE /images/a/b/c", "a/b/c"},
		{"GET /containers/json", ""},
		{"GET /containers/x/json", "x"},
		{"DELETE /containers/x/checkpoints/y", "x y"},
		{"POST /plugins/a/b/enable", "a/b"},
		{"GET /networks/a/b", "a/b"},
	} {
		method, path, _ := strings.Cut(tt.request, " ")
		do, vars := find(method, path)
		if got := strings.Join(vars, " "); do == nil || got != tt.vars {
			t.Errorf("%s: %v %q, want %q", tt.request, do != nil, got, tt.vars)
		}
	}
	for _, request := range []string{
		"GET /", "GET /nothing", "POST /_ping", "GET /images//json", "GET /containers/", "GET /containers//json", "PUT /containers/json",
		"GET /containers/a/b/json", "GET /_ping/", "DELETE /images/", "POST /images/a",
	} {
		method, path, _ := strings.Cut(request, " ")
		if do, _ := find(method, path); do != nil {
			t.Errorf("%s is found", request)
		}
	}
}

// Every path of docker's own description of the API is there.
func TestPaths(t *testing.T) {
	w := serve(t)
	for line := range strings.Lines(paths) {
		request := strings.NewReplacer("{id}", "x", "{name}", "x", "/events", "/events?until=1").Replace(strings.TrimSpace(line))
		if got := w.send(request, ""); got.code == http.StatusNotFound && strings.Contains(got.body, "page not found") {
			t.Errorf("%s: %s", request, got.body)
		}
	}
}

// A client that is too old or too new is told so, in docker's words; whatever is between is answered, with or without a
// version.
func TestVersions(t *testing.T) {
	w := serve(t)
	for path, want := range map[string]string{
		"/v1.23/version":                  "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
		"/v1.57/version":                  "client version 1.57 is too new. Maximum supported API version is 1.56",
		"/v2/version":                     "client version 2.0 is too new. Maximum supported API version is 1.56",
		"/v9999999999999999999.1/version": "page not found",
		"/v./version":                     "page not found",
		"/vx/version":                     "page not found",
	} {
		var got struct{ Message string }
		code := http.StatusBadRequest
		if want == "page not found" {
			code = http.StatusNotFound
		}
		x := w.send("GET "+path, "")
		if err := json.Unmarshal([]byte(x.body), &got); err != nil || got.Message != want || x.code != code {
			t.Errorf("%s: %d %q", path, x.code, x.body)
		}
	}
	for _, path := range []string{"/version", "/v1.24/version", "/v1.40/version", "/v1.56/version"} {
		x := w.want("GET "+path, "", http.StatusOK, `"ApiVersion":"1.56"`)
		if got := x.header.Get("Api-Version") + " " + x.header.Get("Ostype"); got != "1.56 linux" {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// Classes of errors have docker's codes, and a body that says what is wrong, unless there may be none.
func TestErrors(t *testing.T) {
	w := serve(t)
	w.want("GET /containers/x/json", "", 404, `{"message":"No such container: x"}`)
	w.want("HEAD /containers/x/archive?path=/", "", 404, "")
	id := w.create(worker.ContainerCreate{Name: "x"}, "sleep")
	w.want("POST /containers/x/kill", "", 409, "is not running")
	w.begin(id)
	w.want("POST /containers/x/start", "", 304, "")
	w.want("POST /containers/x/rename", "", 400, "Neither old nor new names may be empty")
	w.want("GET /containers/json?filters=nonsense", "", 400, "invalid filter")
	w.want("GET /containers/json?limit=many", "", 400, "it is no number")
	w.want("GET /containers/json?%zz", "", 400, "invalid URL escape")
	w.want("POST /volumes/create", "{", 400, "invalid JSON")
	w.want("POST /volumes/create", "{}{}", 400, "unexpected content after JSON")
	w.want("POST /volumes/create", "{}", 400, "unsupported Content-Type header (text/plain): must be 'application/json'", "Content-Type: text/plain")
	w.want("POST /volumes/create", "{}", 400, "malformed Content-Type header", "Content-Type: ;")
	w.want("POST /containers/create", "", 400, "got EOF")
	w.want("POST /containers/create", "{}", 400, "config cannot be empty")
	w.want("POST /volumes/create", `{"Name":"`+strings.Repeat("x", maxJSON)+`"}`, 413, "too large")
	w.want("GET /swarm", "", 503, "This node is not a swarm manager.")
	w.want("GET /plugins", "", 200, "[]")
	w.want("OPTIONS /containers/json", "", 200, "")
	w.want("POST /containers/x/checkpoints", "{}", 501, "experimental")
}

// A panic ends one request, with an answer, and no other.
func TestPanic(t *testing.T) {
	w := serve(t, func(o *Options) { o.Images = broken{}; o.Log = slog.New(slog.DiscardHandler) })
	w.want("GET /images/json", "", 500, "error of its own")
	w.want("GET /_ping", "", 200, "OK")
	if n := w.Busy(); n != 0 {
		t.Errorf("%d requests are counted", n)
	}
}

type broken struct{ worker.Images }

// Whom Authorize refuses gets no further, and what needs no decision is answered.
func TestAuthorize(t *testing.T) {
	w := serve(t, func(o *Options) {
		o.Authorize = func(*http.Request) error { return &frontend.UsageError{Message: "not you"} }
	})
	w.want("GET /info", "", 400, "not you")
	w.want("POST /containers/x/start", "", 400, "not you")
}

// Close ends what would go on for ever, and refuses what comes later.
func TestClose(t *testing.T) {
	w := serve(t)
	id := w.create(worker.ContainerCreate{}, "sleep")
	w.begin(id)
	cli := w.client()
	if _, err := cli.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		t.Fatal(err)
	}
	logs, err := cli.ContainerLogs(t.Context(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	att, err := cli.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	events := cli.Events(t.Context(), client.EventsListOptions{})
	for w.Busy() < 3 {
		time.Sleep(time.Millisecond) // the events are asked for in the background
	}
	w.Close()
	if b, _ := io.ReadAll(logs); len(b) != 0 {
		t.Errorf("logs: %q", b)
	}
	if b, _ := io.ReadAll(att.Reader); len(b) != 0 {
		t.Errorf("attached: %q", b)
	}
	if err := <-events.Err; err == nil {
		t.Error("the events have no end")
	}
	w.want("GET /_ping", "", 503, "going down")
}

// lines are the lines of a body without a version of time.
func decode[T any](t *testing.T, body string) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(bytes.NewReader([]byte(body)))
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return v
}
