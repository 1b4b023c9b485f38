package buildkit

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
)

// TestExitCode checks the error of a command that fails: its code, the lines of the file, and the vertex.
func TestExitCode(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo before\nRUN echo no; exit 7\n"})
	_, p, err := d.solve(t.Context(), opt)
	var exit *gatewaypb.ExitError
	if !errors.As(err, &exit) || exit.ExitCode != 7 {
		t.Fatalf("got %v", err)
	}
	if want := `process "/bin/sh -c echo no; exit 7" did not complete successfully: exit code: 7`; !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want %q in it", err, want)
	}
	src := errdefs.Sources(err)
	if len(src) != 1 || src[0].Info.Filename != "Dockerfile" || src[0].Ranges[0].Start.Line != 3 ||
		!strings.HasPrefix(string(src[0].Info.Data), "FROM busybox\n") {
		t.Errorf("the sources are %v", src)
	}
	run := p.has("RUN echo no")
	if run == nil || !strings.Contains(run.Error, "exit code: 7") || run.Completed == nil {
		t.Fatalf("the step is %+v", run)
	}
	var v *errdefs.VertexError
	if !errors.As(err, &v) || v.Digest != run.Digest.String() {
		t.Errorf("the error is of vertex %v, the step %s", v, run.Digest)
	}
	if p.logs[run.Name] != "no\n" {
		t.Errorf("the log is %q", p.logs[run.Name])
	}
}

// TestBadFile checks the error of a file that cannot be parsed.
func TestBadFile(t *testing.T) {
	d := start(t)
	_, _, err := d.solve(t.Context(), opts(t, map[string]string{"Dockerfile": "FROM scratch\nFROBNICATE\n"}))
	src := errdefs.Sources(err)
	if len(src) != 1 || src[0].Ranges[0].Start.Line != 2 || !strings.Contains(err.Error(), "unknown instruction: FROBNICATE") {
		t.Errorf("got %v with %v", err, src)
	}
}

// TestBadRequests checks the errors of requests that cannot be met whatever the files say.
func TestBadRequests(t *testing.T) {
	d := start(t)
	for name, c := range map[string]struct {
		change func(*client.SolveOpt)
		want   string
	}{
		"frontend":     {func(o *client.SolveOpt) { o.Frontend = "cobol.v0" }, "invalid frontend: cobol.v0"},
		"target":       {func(o *client.SolveOpt) { o.FrontendAttrs["target"] = "nowhere" }, `target stage "nowhere" could not be found`},
		"platform":     {func(o *client.SolveOpt) { o.FrontendAttrs["platform"] = "a/b/c/d/e" }, "failed to parse target platform"},
		"network":      {func(o *client.SolveOpt) { o.FrontendAttrs["force-network-mode"] = "pigeon" }, "invalid netmode pigeon"},
		"entitlement":  {func(o *client.SolveOpt) { o.AllowedEntitlements = []string{"security.insecure"} }, "granting entitlement security.insecure is not allowed by build daemon configuration"},
		"cache export": {func(o *client.SolveOpt) { o.CacheExports = twice("registry", "r/a") }, "duplicate cache exports [registry]"},
		"attestation":  {func(o *client.SolveOpt) { o.FrontendAttrs["attest:horoscope"] = "" }, `unknown attestation type "horoscope"`},
	} {
		t.Run(name, func(t *testing.T) {
			opt := opts(t, small)
			c.change(&opt)
			if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func twice(kind, ref string) []client.CacheOptionsEntry {
	e := client.CacheOptionsEntry{Type: kind, Attrs: map[string]string{"ref": ref}}
	return []client.CacheOptionsEntry{e, e}
}

// TestMissing checks the typed errors for what a frontend has not.
func TestMissing(t *testing.T) {
	d := start(t)
	opt := opts(t, small)
	opt.FrontendAttrs["requestid"] = "frontend.horoscope"
	var call *errdefs.UnsupportedSubrequestError
	if _, _, err := d.solve(t.Context(), opt); !errors.As(err, &call) || call.Name != "frontend.horoscope" {
		t.Errorf("got %v", err)
	}
	opt = opts(t, small)
	opt.FrontendAttrs["frontend.caps"] = "moby.buildkit.frontend.contexts,moby.buildkit.frontend.telepathy"
	var missing *errdefs.UnsupportedFrontendCapError
	_, _, err := d.solve(t.Context(), opt)
	if !errors.As(err, &missing) || missing.Name != "moby.buildkit.frontend.telepathy" || grpcerrors.Code(err) != codes.Unimplemented {
		t.Errorf("got %v with code %s", err, grpcerrors.Code(err))
	}
}

// TestCancel checks that a build which its client gives up ends, with its processes, and that the client sees why.
func TestCancel(t *testing.T) {
	d := start(t)
	d.load()
	marker := d.seconds("73")
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo up; sleep " + marker + "\n"})
	ctx, cancel := context.WithCancel(t.Context())
	ch := make(chan *client.SolveStatus)
	go func() {
		for s := range ch {
			for _, l := range s.Logs {
				if strings.Contains(string(l.Data), "up") {
					cancel()
				}
			}
		}
	}()
	_, err := d.c.Solve(ctx, nil, opt, ch)
	if !errors.Is(err, context.Canceled) && grpcerrors.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if err := d.settled("sleep " + marker); err != nil {
		t.Error(err)
	}
}
