package main

import (
	"slices"
	"testing"
)

// TestDaemonEnv checks what a daemon that a call starts is told of the caller's environment: where its traces, proxies and
// certificates are, and no secrets of the caller's.
func TestDaemonEnv(t *testing.T) {
	got := daemonEnv([]string{
		"PATH=/bin", "AWS_SECRET_ACCESS_KEY=x", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317", "OTEL_SERVICE_NAME=farm",
		"https_proxy=p", "GITHUB_TOKEN=y", "BOXBUILD_ROOT=/r", "TRACEPARENT=of this call",
	})
	want := []string{
		"PATH=/bin", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317", "OTEL_SERVICE_NAME=farm", "https_proxy=p", "BOXBUILD_ROOT=/r",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
