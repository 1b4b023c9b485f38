package main

import (
	"bytes"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// TestStartNeedsRoot checks that a user who cannot have a daemon is told so, and is left no directory.
func TestStartNeedsRoot(t *testing.T) {
	home := t.TempDir()
	var out, errs bytes.Buffer
	env := config.Env{Lookup: func(string) (string, bool) { return "", false }, UID: 987654, Home: home}
	for _, cmd := range []string{"images", "ps"} {
		errs.Reset()
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: env}
		if code := a.run(t.Context(), []string{cmd}); code != 1 || !strings.Contains(errs.String(), "only root can start one: use sudo") {
			t.Errorf("%s: code %d, %s", cmd, code, &errs)
		}
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
		t.Errorf("there is %v, %v", left, err)
	}
}

// TestDenied checks that the permission is named when that is what lacks.
func TestDenied(t *testing.T) {
	a := &app{cfg: &config.Client{Addr: "unix:///s"}}
	for err, want := range map[error]string{
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}:       "permission denied while trying to connect to the boxbuild daemon at unix:///s: ",
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}: "Cannot connect to the boxbuild daemon at unix:///s. Is boxbuildd running?",
	} {
		if got := a.unreachable(err).Error(); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

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
