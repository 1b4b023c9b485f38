package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/moby/moby/client"
)

// TestStatsAgain checks that the end of what was read of a container does not take away the row of one that has come since
// under the same name: a container that was started again.
func TestStatsAgain(t *testing.T) {
	daemon := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer daemon.Close()
	api, err := client.New(client.WithHost("tcp://" + daemon.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	m := &monitor{api: api, stream: true}
	newRow := func() *row {
		_, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		return &row{name: "c", first: make(chan struct{}), cancel: cancel}
	}
	old, now := newRow(), newRow()
	m.rows = []*row{now}
	m.read(t.Context(), old)
	if len(m.rows) != 1 || m.rows[0] != now {
		t.Errorf("got the rows %v, want %v", m.rows, now)
	}
	m.read(t.Context(), now)
	if !m.empty() {
		t.Errorf("got the rows %v, want none: it is gone", m.rows)
	}
}
