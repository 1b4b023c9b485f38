package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// half begins a build that has reported some events, which are on the disk, and does not end before the test does.
func half(t *testing.T, s *Store, id string) {
	t.Helper()
	reported, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
			sample(func(ev solver.Event) {
				if ev.Kind != solver.Failed {
					send(ev)
				}
			})
			close(reported)
			<-release
			return nil, nil
		})).Build(context.Background(), &worker.BuildRequest{ID: id, Tags: []string{"t"}}, nil)
	}()
	t.Cleanup(func() { close(release); <-ended })
	<-reported
	err := s.Read(t.Context(), id, ReadOptions{}, func(solver.Event) error { return nil }) // a reader has it flushed
	if err != nil {
		t.Fatal(err)
	}
}

// copyFiles is the disk as kill -9 leaves it: all that was written so far, at any moment.
func copyFiles(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A build that ran when the daemon was killed has failed with it, at the time of its last event, with all that it had
// reported; builds that had ended are as they were.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	build(t, s, "before", nil)
	half(t, s, "running")
	again := open(t, Options{Dir: copyFiles(t, dir)})
	rec, err := again.Get("running")
	if err != nil {
		t.Fatal(err)
	}
	if rec.Status != Failed || !errors.Is(rec.Error, ErrDaemonEnded) || rec.Ended.Before(rec.Created) || rec.Tags[0] != "t" {
		t.Errorf("got %+v, %v", rec, rec.Error)
	}
	if want := (Steps{Total: 2, Cached: 1, Completed: 1, Warnings: 1}); rec.Steps != want {
		t.Errorf("steps: got %+v, want %+v", rec.Steps, want)
	}
	if got := watch(t, again, "running"); len(got) != 7 || string(got[4].Data) != "hello\xff\x00" {
		t.Errorf("events: got\n%s", lines(got))
	}
	if rec, err := again.Get("before"); err != nil || rec.Status != Completed || rec.Result.Metadata["k"] != "before" {
		t.Errorf("the build before: %+v, %v", rec, err)
	}
}

// Wherever the log of a build is cut, and whatever byte of it is wrong, it opens: the record is right or the build is
// not there, and the events are the first ones.
func TestDamagedLog(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	_, _ = s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		sample(send)
		return &worker.BuildResult{}, nil
	})).Build(t.Context(), &worker.BuildRequest{ID: "one"}, nil)
	whole, err := os.ReadFile(filepath.Join(dir, "one.log"))
	if err != nil {
		t.Fatal(err)
	}
	want := lines(watch(t, s, "one"))
	check := func(what string, damaged []byte) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "one.log"), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Dir: dir, Log: quiet})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer s.Close()
		rec, err := s.Get("one")
		if errors.Is(err, ErrNotFound) {
			return
		}
		if err != nil || rec.Status == Running || rec.Status == Failed && !errors.Is(rec.Error, ErrDaemonEnded) {
			t.Errorf("%s: %+v, %v", what, rec, err)
		}
		if got := lines(watch(t, s, "one")); !strings.HasPrefix(want, got) {
			t.Errorf("%s: got\n%s", what, got)
		}
	}
	for n := 0; n < len(whole); n += 7 {
		check(fmt.Sprintf("cut at %d", n), whole[:n])
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x40
		check(fmt.Sprintf("wrong at %d", n), flipped)
	}
}

// What was being written or removed when the daemon was killed is swept, and nothing else.
func TestSweepAtOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	build(t, s, "kept", nil)
	if err := s.Pin("kept", true); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, name := range []string{newPrefix + "x", gonePrefix + "y", "other.json", "other.aa.blob"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, Options{Dir: dir})
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if got := strings.Join(names, " "); got != "kept.json kept.log" {
		t.Errorf("left: %s", got)
	}
	if rec, err := s.Get("kept"); err != nil || !rec.Pinned || rec.Status != Completed {
		t.Errorf("got %+v, %v", rec, err)
	}
}

// A pin of a build that runs is there after a crash, and after its end.
func TestPinRunning(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	half(t, s, "a")
	if err := s.Pin("a", true); err != nil {
		t.Fatal(err)
	}
	again := open(t, Options{Dir: copyFiles(t, dir)})
	if rec, err := again.Get("a"); err != nil || !rec.Pinned || rec.Status != Failed {
		t.Errorf("after a crash: %+v, %v", rec, err)
	}
	build(t, s, "b", func() {
		if err := s.Pin("b", true); err != nil {
			t.Error(err)
		}
	})
	again = open(t, Options{Dir: copyFiles(t, dir)})
	if rec, err := again.Get("b"); err != nil || !rec.Pinned || rec.Status != Completed || rec.Generation != 2 {
		t.Errorf("after the end: %+v, %v", rec, err)
	}
}
