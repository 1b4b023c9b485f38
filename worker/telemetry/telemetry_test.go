package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

type line string

func (l line) WriteKey(h *solver.Hasher) { h.Version("line", 1); h.Str("text", string(l)) }
func (l line) String() string            { return string(l) }

func vertex(name string) *solver.Vertex {
	return solver.NewVertex(line(name), nil, solver.Meta{Name: name})
}

// play is a builder whose builds have these events, and this end.
type play struct {
	events []solver.Event
	err    error
	during func(ctx context.Context)
}

func (p *play) Build(ctx context.Context, _ *worker.BuildRequest, events func(solver.Event)) (*worker.BuildResult, error) {
	for _, ev := range p.events {
		events(ev)
	}
	if p.during != nil {
		p.during(ctx)
	}
	return &worker.BuildResult{}, p.err
}

// example has a step of each kind: run for two seconds, found, failed after one, cancelled, and one that never began.
func example() *play {
	begin := time.Now()
	at := func(d time.Duration, kind solver.EventKind, v *solver.Vertex) solver.Event {
		return solver.Event{Kind: kind, Time: begin.Add(d), Vertex: v}
	}
	run, found, failed, gone, never := vertex("run"), vertex("found"), vertex("failed"), vertex("gone"), vertex("never")
	hit := at(0, solver.Cached, found)
	hit.Hit = solver.StepHit
	bad := at(2*time.Second, solver.Failed, failed)
	bad.Err = errors.New("exit code: 3")
	warned := at(time.Second, solver.Warned, run)
	warned.Warning.Short = "careful"
	return &play{err: errors.New("it failed"), events: []solver.Event{
		at(0, solver.Declared, run), at(0, solver.Declared, found), at(0, solver.Declared, never),
		at(0, solver.Started, run), hit, warned, at(time.Second, solver.Started, failed), at(time.Second, solver.Started, gone),
		bad, at(2*time.Second, solver.Done, run), at(2*time.Second, solver.Canceled, gone), at(2*time.Second, solver.Canceled, never),
	}}
}

// collect performs a build and returns how many events have come through.
func collect(t *testing.T, b worker.Builder, req *worker.BuildRequest) int {
	t.Helper()
	n := 0
	res, err := b.Build(t.Context(), req, func(solver.Event) { n++ })
	if res == nil || err == nil {
		t.Errorf("the result has not come through: %v, %v", res, err)
	}
	return n
}

// The log has a line when a build begins, one for a step that fails, and one at the end, each with the build's ID.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	tel, err := New(t.Context(), Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	p := example()
	if n := collect(t, tel.Wrap(p), &worker.BuildRequest{ID: "b1"}); n != len(p.events) {
		t.Errorf("%d of %d events came through", n, len(p.events))
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{
		`msg="build began" build=b1 frontend=dockerfile.v0`, `msg="step failed" build=b1 step=failed error="exit code: 3"`,
		`run=1 cached=1 failed=1 canceled=2 error="it failed"`,
	} {
		if len(lines) != 3 || !strings.Contains(lines[i], want) {
			t.Errorf("got %q, want %q as line %d", out.String(), want, i+1)
		}
	}
}

// scrape returns what Prometheus gets.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

// The numbers are those of the events, and the store is counted once however often it is asked for.
func TestMetrics(t *testing.T) {
	counted := 0
	var usageErr error
	tel, err := New(t.Context(), Options{
		Version: "v1", Metrics: true, Log: slog.New(slog.DiscardHandler),
		Usage: func(context.Context) (*worker.DiskUsage, error) {
			counted++
			return &worker.DiskUsage{Images: worker.UsageClass{Size: 7}, BuildCache: worker.UsageClass{Size: 9, Reclaimable: 8, Total: 2}}, usageErr
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := example()
	p.during = func(context.Context) {
		if text := scrape(t, tel.Metrics); !strings.Contains(text, "boxbuild_builds_running 1\n") {
			t.Error("the build that runs is not counted")
		}
	}
	collect(t, tel.Wrap(p), &worker.BuildRequest{})
	p.err, p.during = context.Canceled, nil
	collect(t, tel.Wrap(p), &worker.BuildRequest{})
	tel.Metrics.Collected(100, nil)
	tel.Metrics.Gauge("things", "Things.", func() float64 { return 5 })
	text := scrape(t, tel.Metrics)
	for _, want := range []string{
		`boxbuild_info{version="v1"} 1`, `boxbuild_builds_running 0`, `boxbuild_builds_total{outcome="error"} 1`,
		`boxbuild_builds_total{outcome="canceled"} 1`, `boxbuild_builds_total{outcome="success"} 0`,
		`boxbuild_steps_total{outcome="done"} 2`, `boxbuild_steps_total{outcome="cached"} 2`, `boxbuild_steps_total{outcome="failed"} 2`,
		`boxbuild_steps_total{outcome="canceled"} 4`, `boxbuild_cache_hits_total{kind="step"} 2`, `boxbuild_warnings_total 2`,
		`boxbuild_step_duration_seconds_count 4`, `boxbuild_step_duration_seconds_sum 6`,
		`boxbuild_store_bytes{kind="images"} 7`, `boxbuild_store_bytes{kind="build_cache"} 9`,
		`boxbuild_store_reclaimable_bytes{kind="build_cache"} 8`, `boxbuild_store_records{kind="build_cache"} 2`,
		`boxbuild_gc_runs_total{outcome="success"} 1`, `boxbuild_gc_freed_bytes_total 100`, `boxbuild_things 5`, `boxbuild_sessions 0`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	if counted != 1 {
		t.Errorf("the store was counted %d times", counted)
	}
	// Each number has a help text, and names are as Prometheus wants them.
	for l := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(l, "# TYPE boxbuild_"); ok {
			name, _, _ = strings.Cut(name, " ")
			if !strings.Contains(text, "# HELP boxbuild_"+name+" ") {
				t.Errorf("%s has no help", name)
			}
		}
	}
}

// A store that cannot be counted leaves the other numbers.
func TestMetricsOfBrokenStore(t *testing.T) {
	m := newMetrics("v", func(context.Context) (*worker.DiskUsage, error) { return nil, errors.New("broken") })
	if text := scrape(t, m); !strings.Contains(text, "boxbuild_builds_running 0") || strings.Contains(text, "boxbuild_store_bytes{") {
		t.Errorf("got %s", text)
	}
}
