package telemetry

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// Metrics are the numbers, which all begin with boxbuild_, or with engine_ or builder_ where docker has them too. It is safe for concurrent use.
type Metrics struct {
	registry     *prometheus.Registry
	builds       *prometheus.CounterVec
	building     prometheus.Gauge
	buildSeconds *prometheus.HistogramVec
	steps        *prometheus.CounterVec
	hits         *prometheus.CounterVec
	stepSeconds  prometheus.Histogram
	warnings     prometheus.Counter
	calls        *prometheus.CounterVec
	calling      *prometheus.GaugeVec
	collections  *prometheus.CounterVec
	collected    prometheus.Counter

	triggered prometheus.Counter // docker's, as the next
	failed    *prometheus.CounterVec
}

// sessionMethod is the call that is open for as long as a session of BuildKit's.
const sessionMethod = "/moby.buildkit.v1.Control/Session"

func newMetrics(version string, usage func(context.Context) (*worker.DiskUsage, error)) *Metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "boxbuild_" + name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		builds:   counters("builds_total", "Builds that have ended, by outcome: success, error or canceled.", "outcome"),
		building: prometheus.NewGauge(prometheus.GaugeOpts{Name: "boxbuild_builds_running", Help: "Builds that run."}),
		buildSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "boxbuild_build_duration_seconds", Help: "How long builds took, by outcome.",
			Buckets: prometheus.ExponentialBuckets(0.025, 2.5, 14), // to an hour
		}, []string{"outcome"}),
		steps: counters("steps_total", "Steps of builds, by outcome: done, cached, failed or canceled.", "outcome"),
		hits:  counters("cache_hits_total", "Steps found in the build cache, by kind: recipe (before the inputs were there) or step.", "kind"),
		stepSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "boxbuild_step_duration_seconds", Help: "How long steps took that ran to their end or failed.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 15),
		}),
		warnings: prometheus.NewCounter(prometheus.CounterOpts{Name: "boxbuild_warnings_total", Help: "Warnings that builds gave."}),
		calls:    counters("grpc_calls_total", "Calls that have ended, by method and code.", "method", "code"),
		calling: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "boxbuild_grpc_calls_running", Help: "Calls that run, by method.",
		}, []string{"method"}),
		collections: counters("gc_runs_total", "Runs of the garbage collection, by outcome: success or error.", "outcome"),
		collected:   prometheus.NewCounter(prometheus.CounterOpts{Name: "boxbuild_gc_freed_bytes_total", Help: "Bytes that it has freed."}),
	}
	m.triggered, m.failed = buildCounters()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "boxbuild_info", Help: "The daemon's version; its value is 1."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.builds, m.building, m.buildSeconds, m.steps, m.hits, m.stepSeconds, m.warnings, m.calls, m.calling,
		m.collections, m.collected, m.triggered, m.failed, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Gauge("sessions", "Sessions of BuildKit's clients.", func() float64 { return m.running(sessionMethod) })
	if usage != nil {
		m.registry.MustRegister(&store{usage: usage})
	}
	// What has not happened yet is there, as 0: a rate of what appears with its first event misses that event.
	for _, o := range []string{"success", "error", "canceled"} {
		m.builds.WithLabelValues(o)
	}
	for _, o := range []string{"done", "cached", "failed", "canceled"} {
		m.steps.WithLabelValues(o)
	}
	return m
}

// Gauge adds the number boxbuild_name, which f returns.
func (m *Metrics) Gauge(name, help string, f func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "boxbuild_" + name, Help: help}, f))
}

// Collected counts a run of the garbage collection.
func (m *Metrics) Collected(freed int64, err error) {
	m.collections.WithLabelValues(outcome(context.Background(), err)).Inc()
	m.collected.Add(float64(freed))
}

// Handler serves the numbers in Prometheus's format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		// A store that cannot be counted leaves the other numbers.
		ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true, MaxRequestsInFlight: 4,
	})
}

// running returns how many calls of a method run.
func (m *Metrics) running(method string) float64 {
	var v dto.Metric
	if err := m.calling.WithLabelValues(method).Write(&v); err != nil {
		return 0
	}
	return v.GetGauge().GetValue()
}

// measured counts builds and their steps.
type measured struct {
	builder worker.Builder
	metrics *Metrics
}

// Build implements worker.Builder.
func (m *measured) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	begin := time.Now()
	m.metrics.building.Inc()
	m.metrics.triggered.Inc()
	defer m.metrics.building.Dec()
	started := map[*solver.Vertex]time.Time{}
	res, err := m.builder.Build(ctx, req, func(ev solver.Event) {
		m.metrics.step(&ev, started)
		events(ev)
	})
	if err != nil {
		m.metrics.failed.WithLabelValues(buildReason(ctx, err)).Inc()
	}
	how := outcome(ctx, err)
	m.metrics.builds.WithLabelValues(how).Inc()
	m.metrics.buildSeconds.WithLabelValues(how).Observe(time.Since(begin).Seconds())
	return res, err
}

// step counts what an event says of a step.
func (m *Metrics) step(ev *solver.Event, started map[*solver.Vertex]time.Time) {
	how := ""
	switch ev.Kind {
	case solver.Started:
		started[ev.Vertex] = ev.Time
	case solver.Warned:
		m.warnings.Inc()
	case solver.Done:
		how = "done"
	case solver.Failed:
		how = "failed"
	case solver.Canceled:
		how = "canceled"
	case solver.Cached:
		how = "cached"
		kind := "step"
		if ev.Hit == solver.RecipeHit {
			kind = "recipe"
		}
		m.hits.WithLabelValues(kind).Inc()
	default: // not counted
	}
	if how == "" {
		return
	}
	m.steps.WithLabelValues(how).Inc()
	if begin, ok := started[ev.Vertex]; ok && (how == "done" || how == "failed") {
		m.stepSeconds.Observe(ev.Time.Sub(begin).Seconds())
	}
	delete(started, ev.Vertex)
}

// serverOptions count the calls of a gRPC server. Methods that are not there are not counted: their names are the client's.
func (m *Metrics) serverOptions() []grpc.ServerOption {
	count := func(method string) func(error) {
		g := m.calling.WithLabelValues(method)
		g.Inc()
		return func(err error) {
			g.Dec()
			m.calls.WithLabelValues(method, status.Code(err).String()).Inc()
		}
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
		) (any, error) {
			end := count(info.FullMethod)
			resp, err := handler(ctx, req)
			end(err)
			return resp, err
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
		) error {
			end := count(info.FullMethod)
			err := handler(srv, stream)
			end(err)
			return err
		}),
	}
}

// usageAge is how old the count of the store may be: it looks at every record, and scrapers may be several.
const usageAge = 30 * time.Second

// store is a collector of what the store holds.
type store struct {
	usage func(context.Context) (*worker.DiskUsage, error)

	mu   sync.Mutex // guards all below
	last *worker.DiskUsage
	when time.Time
}

var (
	storeBytes = prometheus.NewDesc("boxbuild_store_bytes", "Bytes of the store, by kind: images or build_cache.", []string{"kind"}, nil)
	storeFree  = prometheus.NewDesc("boxbuild_store_reclaimable_bytes", "Bytes of the store that pruning would free, by kind.", []string{"kind"}, nil)
	storeItems = prometheus.NewDesc("boxbuild_store_records", "Images and records of the build cache, by kind.", []string{"kind"}, nil)
)

// Describe implements prometheus.Collector.
func (s *store) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{storeBytes, storeFree, storeItems} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *store) Collect(out chan<- prometheus.Metric) {
	du, err := s.count()
	if err != nil {
		out <- prometheus.NewInvalidMetric(storeBytes, err)
		return
	}
	for kind, c := range map[string]worker.UsageClass{"images": du.Images, "build_cache": du.BuildCache} {
		out <- prometheus.MustNewConstMetric(storeBytes, prometheus.GaugeValue, float64(c.Size), kind)
		out <- prometheus.MustNewConstMetric(storeFree, prometheus.GaugeValue, float64(c.Reclaimable), kind)
		out <- prometheus.MustNewConstMetric(storeItems, prometheus.GaugeValue, float64(c.Total), kind)
	}
}

func (s *store) count() (*worker.DiskUsage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && time.Since(s.when) < usageAge {
		return s.last, nil
	}
	du, err := s.usage(context.Background())
	if err != nil {
		return nil, err
	}
	s.last, s.when = &worker.DiskUsage{Images: du.Images, BuildCache: du.BuildCache}, time.Now()
	return s.last, nil
}
