package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/system"

	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/eventlog"
)

// someContainers are five, in these states.
type someContainers struct{ worker.Containers }

func (someContainers) List(context.Context, worker.ListContainersOptions) ([]container.Summary, error) {
	return []container.Summary{
		{State: container.StateRunning},
		{State: container.StateRestarting},
		{State: container.StatePaused},
		{State: container.StateExited},
		{State: container.StateCreated},
	}, nil
}

// someImages fails for what is called bad.
type someImages struct{ worker.Images }

func (someImages) Remove(_ context.Context, ref string, _ worker.RemoveOptions) ([]worker.Removed, error) {
	if ref == "bad" {
		return nil, errors.New("in use")
	}
	return nil, nil
}

// What docker's daemon counts is there under its names, of its types and with its labels.
func TestEngineMetrics(t *testing.T) {
	tel, err := New(t.Context(), Options{Version: "v1", Metrics: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine()
	tel.Metrics.Engine(e, EngineInfo{
		ID: "id", Version: "v1", Commit: "c", Containers: someContainers{}, Info: &system.Info{
			Architecture: "x86_64", Driver: "overlayfs", KernelVersion: "6", OperatingSystem: "Debian", OSType: "linux", OSVersion: "12",
			NCPU: 2, MemTotal: 1 << 20,
		},
	})
	e.ContainerAction("start", 2*time.Second)
	e.NetworkAction("allocate", time.Second)
	e.HostInfo("system_info", time.Second)
	e.HealthCheck(time.Second, false)
	e.HealthCheck(time.Second, true)
	ev := e.Events(new(eventlog.Log))
	ev.Publish(events.Message{Type: events.ContainerEventType, Action: "start"})
	ctx, cancel := context.WithCancel(t.Context())
	inside := ""
	err = ev.Watch(ctx, time.Unix(1, 0), time.Time{}, nil, func(events.Message) error {
		inside = scrape(t, tel.Metrics)
		cancel()
		return nil
	})
	if err != nil || !strings.Contains(inside, "\nengine_daemon_events_subscribers_total 1\n") {
		t.Errorf("watching: %v", err)
	}
	images := e.Images(someImages{})
	_, _ = images.Remove(ctx, "good", worker.RemoveOptions{})
	_, _ = images.Remove(ctx, "bad", worker.RemoveOptions{})
	b := tel.Wrap(&play{err: errors.New("dockerfile parse error on line 1: unknown instruction: FORM")})
	collect(t, b, &worker.BuildRequest{})
	text := scrape(t, tel.Metrics)
	for _, want := range []string{
		"# TYPE engine_daemon_container_actions_seconds histogram",
		`engine_daemon_container_actions_seconds_sum{action="start"} 2`,
		`engine_daemon_container_actions_seconds_count{action="start"} 2`,
		`engine_daemon_container_actions_seconds_count{action="delete"} 1`,
		`engine_daemon_container_actions_seconds_count{action="changes"} 1`,
		"# TYPE engine_daemon_container_states_containers gauge",
		`engine_daemon_container_states_containers{state="running"} 2`,
		`engine_daemon_container_states_containers{state="paused"} 1`,
		`engine_daemon_container_states_containers{state="stopped"} 2`,
		`engine_daemon_engine_info{architecture="x86_64",commit="c",daemon_id="id",graphdriver="overlayfs",kernel="6",os="Debian",os_type="linux",os_version="12",version="v1"} 1`,
		"engine_daemon_engine_cpus_cpus 2", "engine_daemon_engine_memory_bytes 1.048576e+06",
		"# TYPE engine_daemon_events_total counter", "engine_daemon_events_total 1", "engine_daemon_events_subscribers_total 0",
		"engine_daemon_health_checks_total 2", "engine_daemon_health_checks_failed_total 1",
		"engine_daemon_health_check_start_duration_seconds_sum 2",
		`engine_daemon_image_actions_seconds_count{action="delete"} 1`,
		`engine_daemon_network_actions_seconds_count{action="allocate"} 1`,
		`engine_daemon_host_info_functions_seconds_sum{function="system_info"} 1`,
		"builder_builds_triggered_total 1", `builder_builds_failed_total{reason="unknown_instruction_error"} 1`,
		`builder_builds_failed_total{reason="build_canceled"} 0`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
}

// A failed build counts under docker's reason.
func TestBuildReason(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context //nolint:containedctx // of one call
		err  string
		want string
	}{
		{t.Context(), "file with no instructions", "dockerfile_empty_error"},
		{t.Context(), "dockerfile parse error on line 3: FROM requires either one or three arguments", "dockerfile_syntax_error"},
		{t.Context(), `target stage "x" could not be found`, "build_target_not_reachable_error"},
		{t.Context(), "exit code: 1", "error_processing_commands_error"},
		{gone, "exit code: 1", "build_canceled"},
	} {
		if got := buildReason(c.ctx, errors.New(c.err)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.err, got, c.want)
		}
	}
}
