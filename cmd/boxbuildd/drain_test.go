package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/workertest"
)

// A second signal that comes when the drain has just ended lets the daemon stop in order; the third ends it at once.
func TestLateSignal(t *testing.T) {
	signals := make(chan os.Signal) // what is sent has been taken
	aborted, serving := make(chan struct{}), make(chan struct{})
	var once sync.Once
	root := filepath.Join(t.TempDir(), "r")
	closed := false
	worker := func(context.Context, *config.Daemon, *slog.Logger) (*daemon, error) {
		images := &workertest.Images{}
		close(serving)
		return &daemon{
			Builder: &workertest.Builder{Images: images}, Images: images, Platform: op.Platform{OS: "linux", Architecture: "amd64"},
			Close: func() error { // the drain is over
				signals <- syscall.SIGTERM
				select {
				case signals <- syscall.SIGTERM:
				case <-aborted:
					t.Error("the second signal ended the process at once")
					return nil
				}
				<-aborted
				closed = true
				return nil
			},
		}, nil
	}
	go func() {
		<-serving
		signals <- syscall.SIGTERM
	}()
	err := run([]string{"--root", root, "--addr", "unix://" + filepath.Join(root, "s")}, process{
		env:    config.Env{Lookup: func(string) (string, bool) { return "", false }, UID: os.Getuid()},
		stdout: io.Discard, stderr: t.Output(), signals: signals, worker: worker,
		abort: func() { once.Do(func() { close(aborted) }) },
	})
	if err != nil || !closed {
		t.Errorf("got %v; closed: %v", err, closed)
	}
}
