package telemetry

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// An Engine has the numbers of containers under the names that docker's daemon gives them, so that its dashboards and alerts
// work. It is there before the containers are; Metrics.Engine shows it. It is safe for concurrent use.
type Engine struct {
	containers, networks, images *prometheus.HistogramVec
	host                         *prometheus.HistogramVec
	probes, failures             prometheus.Counter
	prepared                     prometheus.Histogram
	events                       prometheus.Counter
	subscribers                  prometheus.Gauge
}

// NewEngine returns an Engine that has counted nothing.
func NewEngine() *Engine {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "engine", Subsystem: "daemon", Name: name, Help: help}
	}
	timers := func(name, help, label string) *prometheus.HistogramVec {
		o := opts(name, help)
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: o.Namespace, Subsystem: o.Subsystem, Name: o.Name, Help: o.Help,
		}, []string{label})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	e := &Engine{
		containers: timers("container_actions_seconds", "The number of seconds it takes to process each container action", "action"),
		networks:   timers("network_actions_seconds", "The number of seconds it takes to process each network action", "action"),
		images:     timers("image_actions_seconds", "The number of seconds it takes to process each image action", "action"),
		host: timers("host_info_functions_seconds", "The number of seconds it takes to call functions gathering info about the host",
			"function"),
		probes:   counter("health_checks_total", "The total number of health checks"),
		failures: counter("health_checks_failed_total", "The total number of failed health checks"),
		prepared: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "engine", Subsystem: "daemon", Name: "health_check_start_duration_seconds",
			Help: "The number of seconds it takes to prepare to run health checks",
		}),
		events:      counter("events_total", "The number of events logged"),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts(opts("events_subscribers_total", "The number of current subscribers to events"))),
	}
	// As in docker, with one observation each that took no time, so that they are there.
	for _, a := range []string{"start", "changes", "commit", "create", "delete"} {
		e.containers.WithLabelValues(a).Observe(0)
	}
	return e
}

// ContainerAction counts what was done with a container: create, start, changes, commit or delete.
func (e *Engine) ContainerAction(action string, took time.Duration) {
	e.containers.WithLabelValues(action).Observe(took.Seconds())
}

// NetworkAction counts what was done with the network of a container: allocate, connect or release. Docker's update is of links
// that are removed, which there is none of here.
func (e *Engine) NetworkAction(action string, took time.Duration) {
	e.networks.WithLabelValues(action).Observe(took.Seconds())
}

// HostInfo counts an answer to what the daemon runs on: system_info or system_version.
func (e *Engine) HostInfo(function string, took time.Duration) {
	e.host.WithLabelValues(function).Observe(took.Seconds())
}

// HealthCheck counts a check, which took so long until its command ran.
func (e *Engine) HealthCheck(prepared time.Duration, failed bool) {
	e.probes.Inc()
	e.prepared.Observe(prepared.Seconds())
	if failed {
		e.failures.Inc()
	}
}

// Events returns ev with its events and those who watch counted.
func (e *Engine) Events(ev worker.Events) worker.Events { return &countedEvents{ev, e} }

type countedEvents struct {
	worker.Events
	e *Engine
}

// Publish implements worker.Events.
func (c *countedEvents) Publish(m events.Message) {
	c.e.events.Inc()
	c.Events.Publish(m)
}

// Watch implements worker.Events.
func (c *countedEvents) Watch(
	ctx context.Context, since, until time.Time, filters worker.Filters, fn func(events.Message) error,
) error {
	c.e.subscribers.Inc()
	defer c.e.subscribers.Dec()
	return c.Events.Watch(ctx, since, until, filters, fn)
}

// Images returns i with what docker measures of it measured: what succeeds of pull, push, delete and history.
func (e *Engine) Images(i worker.Images) worker.Images { return &timedImages{i, e} }

type timedImages struct {
	worker.Images
	e *Engine
}

func (t *timedImages) done(action string, begin time.Time, err error) {
	if err == nil {
		t.e.images.WithLabelValues(action).Observe(time.Since(begin).Seconds())
	}
}

// Pull implements worker.Images.
func (t *timedImages) Pull(ctx context.Context, ref string, opt worker.TransferOptions) (_ *worker.PullResult, err error) {
	begin := time.Now()
	defer func() { t.done("pull", begin, err) }()
	return t.Images.Pull(ctx, ref, opt)
}

// Push implements worker.Images.
func (t *timedImages) Push(ctx context.Context, ref string, opt worker.TransferOptions) (_ ocispec.Descriptor, err error) {
	begin := time.Now()
	defer func() { t.done("push", begin, err) }()
	return t.Images.Push(ctx, ref, opt)
}

// Remove implements worker.Images.
func (t *timedImages) Remove(ctx context.Context, ref string, opt worker.RemoveOptions) (_ []worker.Removed, err error) {
	begin := time.Now()
	defer func() { t.done("delete", begin, err) }()
	return t.Images.Remove(ctx, ref, opt)
}

// History implements worker.Images.
func (t *timedImages) History(ctx context.Context, ref string, p *op.Platform) (_ []worker.HistoryEntry, err error) {
	begin := time.Now()
	defer func() { t.done("history", begin, err) }()
	return t.Images.History(ctx, ref, p)
}

// EngineInfo is what a daemon says of itself in Metrics.Engine.
type EngineInfo struct {
	ID, Version, Commit string
	Info                *system.Info
	// Containers lists the containers; it may be nil.
	Containers worker.Containers
}

// Engine adds the numbers of e, and what is known of the daemon.
func (m *Metrics) Engine(e *Engine, about EngineInfo) {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "engine", Subsystem: "daemon", Name: name, Help: help}, labels)
	}
	info := gauge("engine_info", "The information related to the engine and the OS it is running on",
		"version", "commit", "architecture", "graphdriver", "kernel", "os", "os_type", "os_version", "daemon_id")
	i := about.Info
	info.WithLabelValues(about.Version, about.Commit, i.Architecture, i.Driver, i.KernelVersion, i.OperatingSystem, i.OSType,
		i.OSVersion, about.ID).Set(1)
	cpus := gauge("engine_cpus_cpus", "The number of cpus that the host system of the engine has")
	cpus.WithLabelValues().Set(float64(i.NCPU))
	memory := gauge("engine_memory_bytes", "The number of bytes of memory that the host system of the engine has")
	memory.WithLabelValues().Set(float64(i.MemTotal))
	m.registry.MustRegister(info, cpus, memory, e.containers, e.networks, e.images, e.host, e.probes, e.failures, e.prepared, e.events,
		e.subscribers)
	if about.Containers != nil {
		m.registry.MustRegister(&states{about.Containers})
	}
}

// states is a collector of how many containers there are.
type states struct{ containers worker.Containers }

var containerStates = prometheus.NewDesc("engine_daemon_container_states_containers", "The count of containers in various states",
	[]string{"state"}, nil)

// Describe implements prometheus.Collector.
func (s *states) Describe(out chan<- *prometheus.Desc) { out <- containerStates }

// Collect implements prometheus.Collector.
func (s *states) Collect(out chan<- prometheus.Metric) {
	list, err := s.containers.List(context.Background(), worker.ListContainersOptions{All: true})
	if err != nil {
		out <- prometheus.NewInvalidMetric(containerStates, err)
		return
	}
	count := map[string]int{"running": 0, "paused": 0, "stopped": 0}
	for i := range list {
		switch list[i].State {
		case container.StateRunning, container.StateRestarting:
			count["running"]++
		case container.StatePaused:
			count["paused"]++
		default:
			count["stopped"]++
		}
	}
	for state, n := range count {
		out <- prometheus.MustNewConstMetric(containerStates, prometheus.GaugeValue, float64(n), state)
	}
}

// The reasons of failed builds that docker tells apart.
const (
	reasonOther     = "error_processing_commands_error"
	reasonCancelled = "build_canceled"
	reasonSyntax    = "dockerfile_syntax_error"
)

// buildReasons are the reasons with words that errors of that kind have; the first that fits counts.
var buildReasons = []struct{ reason, words string }{
	{"dockerfile_empty_error", "file with no instructions"},
	{"unknown_instruction_error", "unknown instruction"},
	{"build_target_not_reachable_error", "target stage"},
	{"missing_onbuild_arguments_error", "ONBUILD requires at least one argument"},
	{reasonSyntax, "dockerfile parse error"},
}

// buildReason is why a build failed, as docker's metrics call it.
func buildReason(ctx context.Context, err error) string {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, worker.ErrDraining) {
		return reasonCancelled
	}
	for _, r := range buildReasons {
		if strings.Contains(err.Error(), r.words) {
			return r.reason
		}
	}
	return reasonOther
}

// buildCounters are docker's numbers of builds.
func buildCounters() (triggered prometheus.Counter, failed *prometheus.CounterVec) {
	triggered = prometheus.NewCounter(prometheus.CounterOpts{Name: "builder_builds_triggered_total", Help: "Number of triggered image builds"})
	failed = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "builder_builds_failed_total", Help: "Number of failed image builds"},
		[]string{"reason"})
	for _, r := range buildReasons {
		failed.WithLabelValues(r.reason)
	}
	for _, r := range []string{reasonOther, reasonCancelled, "command_not_supported_error"} {
		failed.WithLabelValues(r)
	}
	return triggered, failed
}
