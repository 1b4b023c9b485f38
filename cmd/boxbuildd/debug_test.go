package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// The log says where metrics are to be had: the name of the socket, not the one that it was made under.
func TestDebugAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	var log bytes.Buffer
	fine := func(context.Context) error { return nil }
	d, err := startDebug(config.Address{Network: "unix", Name: path}, nil, probes{fine, fine}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	d.close()
	if want := "addr=unix://" + path + "\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("got %q, want %q", log.String(), want)
	}
}
