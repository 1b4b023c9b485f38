package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

var quiet = slog.New(slog.DiscardHandler)

// build performs a build that calls during, if it is not nil, and whose metadata have its ID.
func build(t *testing.T, s *Store, id string, during func()) {
	t.Helper()
	_, err := s.Wrap(script(func(_ context.Context, req *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		v := vertex(id)
		send(solver.Event{Kind: solver.Declared, Vertex: v})
		send(solver.Event{Kind: solver.Done, Vertex: v})
		if during != nil {
			during()
		}
		return &worker.BuildResult{Metadata: map[string]string{"k": req.ID}}, nil
	})).Build(t.Context(), &worker.BuildRequest{ID: id}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func ids(s *Store) string {
	var out []string
	for _, rec := range s.List() {
		out = append(out, rec.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Records go when there are too many or when they are too old; not those that are pinned or run; and all that belonged to
// them goes with them.
func TestLimits(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Options{Dir: dir, MaxEntries: 3, MaxAge: time.Hour, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		build(t, s, "a", nil)
		if err := s.Pin("a", true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Attach("a", "x", "text/plain", writes("attached")); err != nil {
			t.Fatal(err)
		}
		build(t, s, "r", func() {
			for _, id := range []string{"b", "c", "d", "e"} {
				time.Sleep(time.Second)
				build(t, s, id, nil)
			}
			time.Sleep(time.Minute)
			if got := ids(s); got != "a c d e r" {
				t.Errorf("too many: left %q", got)
			}
			time.Sleep(time.Hour)
			if got := ids(s); got != "a r" {
				t.Errorf("too old: left %q", got)
			}
		})
		if err := s.Pin("a", false); err != nil {
			t.Fatal(err)
		}
		if got := ids(s); got != "r" {
			t.Errorf("no longer pinned: left %q", got)
		}
		synctest.Wait()
	})
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 || filepath.Base(files[0]) != "r.log" {
		t.Errorf("files left: %v, %v", files, err)
	}
}

func writes(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// A second build of an ID is refused, while the first runs and afterwards, and what is recorded of that stays; once the
// record is removed the ID is free.
func TestSameID(t *testing.T) {
	s := open(t, Options{})
	build(t, s, "a", func() {
		_, err := s.Wrap(script(nil)).Build(t.Context(), &worker.BuildRequest{ID: "a"}, nil)
		if !errors.Is(err, worker.ErrRunning) {
			t.Errorf("got %v, want ErrRunning", err)
		}
		if err := s.Remove("a"); !errors.Is(err, worker.ErrRunning) {
			t.Errorf("removing it: got %v, want ErrRunning", err)
		}
	})
	first, err := s.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	events := watch(t, s, "a")
	_, err = s.Wrap(script(nil)).Build(t.Context(), &worker.BuildRequest{ID: "a", Begun: func() { t.Error("it has begun") }}, nil)
	if !errors.Is(err, worker.ErrRecorded) {
		t.Errorf("got %v, want ErrRecorded", err)
	}
	if second, err := s.Get("a"); err != nil || !reflect.DeepEqual(second, first) || len(watch(t, s, "a")) != len(events) {
		t.Errorf("got %+v after %+v, %v", second, first, err)
	}
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	build(t, s, "a", nil)
	second, err := s.Get("a")
	if err != nil || !second.Created.After(first.Created) || ids(s) != "a" {
		t.Errorf("got %+v after %+v, %v", second, first, err)
	}
	if got := watch(t, s, "a"); len(got) != len(events) {
		t.Errorf("events of both: %s", lines(got))
	}
}

// IDs are the clients' to choose, and no path.
func TestOddIDs(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	odd := []string{"../../etc/x", ".hidden", "a/b", "a.json", "a.log", "a", strings.Repeat("x", 4000), "ü \x00", "~tilde"}
	for _, id := range odd {
		build(t, s, id, nil)
	}
	s.Close()
	s = open(t, Options{Dir: dir})
	for _, id := range odd {
		if rec, err := s.Get(id); err != nil || rec.Result.Metadata["k"] != id {
			t.Errorf("%.20q: %+v, %v", id, rec, err)
		}
	}
	if got := len(s.List()); got != len(odd) {
		t.Errorf("got %d records, want %d", got, len(odd))
	}
	up, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*.log"))
	if err != nil || len(up) > 0 {
		t.Errorf("files outside: %v, %v", up, err)
	}
}

// How a build ends is what its record says: with its error in the forms that services asked for.
func TestOutcomes(t *testing.T) {
	dir := t.TempDir()
	forms := map[string]func(error) []byte{"upper": func(err error) []byte { return []byte(strings.ToUpper(err.Error())) }}
	s := open(t, Options{Dir: dir, Errors: forms})
	cause := errors.New("somebody pulled the plug")
	for id, c := range map[string]struct {
		err    error
		status Status
	}{
		"ok":       {nil, Completed},
		"failed":   {errors.New("no such file"), Failed},
		"canceled": {fmt.Errorf("solving: %w", context.Canceled), Canceled},
		"cause":    {context.Canceled, Canceled},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := s.Wrap(script(func(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
			if id == "cause" {
				cancel(cause)
			}
			return nil, c.err
		})).Build(ctx, &worker.BuildRequest{ID: id}, nil)
		cancel(nil)
		if !errors.Is(err, c.err) || id == "cause" && !errors.Is(err, cause) {
			t.Errorf("%s: Build returned %v", id, err)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = s.Wrap(script(func(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
			panic("oh")
		})).Build(t.Context(), &worker.BuildRequest{ID: "panic"}, nil)
	}()
	s.Close()
	s = open(t, Options{Dir: dir})
	want := map[string]Status{"ok": Completed, "failed": Failed, "canceled": Canceled, "cause": Canceled, "panic": Failed}
	for id, status := range want {
		rec, err := s.Get(id)
		if err != nil || rec.Status != status || (rec.Error == nil) != (status == Completed) {
			t.Errorf("%s: got %+v, %v, want %s", id, rec, err, status)
			continue
		}
		if rec.Error == nil {
			continue
		}
		if got := string(rec.Error.Form("upper")); got != strings.ToUpper(rec.Error.Error()) || got == "" {
			t.Errorf("%s: form %q of %q", id, got, rec.Error.Error())
		}
		if errors.Is(rec.Error, context.Canceled) != (status == Canceled) {
			t.Errorf("%s: %v is canceled or not", id, rec.Error)
		}
	}
	if rec, _ := s.Get("cause"); !strings.Contains(rec.Error.Message, cause.Error()) {
		t.Errorf("the cause is not in %q", rec.Error.Message)
	}
}

// A request that is larger than what is kept in memory of a log is recorded like any other, and its build runs.
func TestLargeRequest(t *testing.T) {
	s := open(t, Options{})
	large := strings.Repeat("x", 2*flushSize)
	ran := false
	b := s.Wrap(script(func(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
		ran = true
		return &worker.BuildResult{}, nil
	}))
	req := &worker.BuildRequest{ID: "large", Origin: worker.Origin{Attrs: map[string]string{"filename": large}}}
	if _, err := b.Build(t.Context(), req, func(solver.Event) {}); err != nil || !ran {
		t.Errorf("the build ran: %v, %v", ran, err)
	}
	if rec, err := s.Get("large"); err != nil || rec.Origin.Attrs["filename"] != large {
		t.Errorf("the record is not whole: %v", err)
	}
}

// A build is known when it says that it has begun.
func TestBegun(t *testing.T) {
	s := open(t, Options{})
	known := errors.New("it was not called")
	_, err := s.Wrap(script(func(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
		return nil, known
	})).Build(t.Context(), &worker.BuildRequest{ID: "a", Begun: func() { _, known = s.Get("a") }}, nil)
	if err != nil {
		t.Error(err)
	}
}

// Credentials in URLs are not recorded.
func TestRedacted(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	origin := worker.Origin{
		Attrs: map[string]string{
			"context": "https://user:hunter2@example.com/r.git#main", "context:x": "https://hunter2@example.com/r.git",
			"build-arg:A": "plain@text", "context:y": "git@github.com:a/b", "context:z": "ssh://git@host/a",
		},
		Outputs: []worker.OriginOutput{{Type: "image", Attrs: map[string]string{"ref": "http://a:hunter2@r"}}},
	}
	_, err := s.Wrap(script(func(context.Context, *worker.BuildRequest, func(solver.Event)) (*worker.BuildResult, error) {
		return nil, nil
	})).Build(t.Context(), &worker.BuildRequest{ID: "a", Origin: origin}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "a.log"))
	if err != nil || strings.Contains(string(raw), "hunter2") {
		t.Errorf("the log has the password, or cannot be read: %v", err)
	}
	rec, err := s.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"context": "https://user:xxxxx@example.com/r.git#main", "context:x": "https://xxxxx@example.com/r.git",
		"build-arg:A": "plain@text", "context:y": "git@github.com:a/b", "context:z": "ssh://git@host/a",
	} {
		if got := rec.Origin.Attrs[key]; got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	if !strings.Contains(origin.Attrs["context"], "hunter2") {
		t.Error("the request itself was changed")
	}
}

// Find takes a beginning of an ID that only one build has.
func TestFind(t *testing.T) {
	s := open(t, Options{})
	for _, id := range []string{"abc", "abcd", "b1", "b2"} {
		build(t, s, id, nil)
	}
	for ref, want := range map[string]string{"abc": "abc", "abcd": "abcd", "b1": "b1"} {
		if rec, err := s.Find(ref); err != nil || rec.ID != want {
			t.Errorf("%s: got %+v, %v", ref, rec, err)
		}
	}
	for ref, want := range map[string]error{"b": ErrAmbiguous, "x": ErrNotFound, "": ErrNotFound, "ab": ErrAmbiguous} {
		if _, err := s.Find(ref); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", ref, err, want)
		}
	}
}

// An attachment is there after a restart, is replaced by one of the same name, and goes with its build.
func TestAttach(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	build(t, s, "a", nil)
	old, err := s.Attach("a", "x", "text/plain", writes("old"))
	if err != nil || old.Digest != digest.FromString("old") || old.Size != 3 || old.MediaType != "text/plain" {
		t.Fatalf("got %+v, %v", old, err)
	}
	desc, err := s.Attach("a", "x", "text/plain", writes("new"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenBlob(old.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("what was replaced: %v", err)
	}
	if _, err := s.Attach("a", "y", "text/plain", func(io.Writer) error { return io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	s.Close()
	s = open(t, Options{Dir: dir})
	f, err := s.OpenBlob(desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "new" {
		t.Errorf("got %q, %v", got, err)
	}
	if u := s.Usage(); u.Builds != 1 || u.Running != 0 || u.Size < 3 || u.Reclaimable != u.Size {
		t.Errorf("usage: %+v", u)
	}
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Attach("a", "x", "text/plain", writes("late")); !errors.Is(err, ErrNotFound) {
		t.Errorf("attaching to what is gone: %v", err)
	}
	s.Close()
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

// Changes tells of builds that come, end, change and go, in this order, also to who asks late.
func TestChanges(t *testing.T) {
	s := open(t, Options{})
	build(t, s, "a", nil)
	list, at := s.Snapshot()
	if len(list) != 1 {
		t.Fatalf("got %v", list)
	}
	next := func() string {
		t.Helper()
		changes, rank, err := s.Changes(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		at = rank
		var out []string
		for _, c := range changes {
			out = append(out, fmt.Sprint(c.Record.ID, c.Record.Status, c.Removed, c.Record.Pinned))
		}
		return strings.Join(out, "; ")
	}
	build(t, s, "b", func() {
		if got := next(); got != "brunningfalse false" {
			t.Errorf("begun: %s", got)
		}
	})
	if got := next(); got != "bcompletedfalse false" {
		t.Errorf("ended: %s", got)
	}
	if err := errors.Join(s.Pin("a", true), s.Remove("b")); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "acompletedfalse true; bcompletedtrue false" {
		t.Errorf("changed: %s", got)
	}
	done := make(chan error)
	go func() {
		_, _, err := s.Changes(t.Context(), at)
		done <- err
	}()
	s.Hush()
	s.Hush()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("hushed: got %v", err)
	}
	build(t, s, "c", nil)
	if got := next(); got != "ccompletedfalse false" {
		t.Errorf("hushed, but with news: %s", got)
	}
}
