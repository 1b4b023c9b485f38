package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// logged begins a build whose only step writes what lines sends, and ends when lines is closed.
func logged(t *testing.T, s *Store, id string, lines <-chan []byte) (ended <-chan error) {
	t.Helper()
	begun, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
			v := vertex("step")
			send(solver.Event{Kind: solver.Declared, Vertex: v})
			close(begun)
			for line := range lines {
				send(solver.Event{Kind: solver.Logged, Vertex: v, Stream: 1, Data: line})
			}
			send(solver.Event{Kind: solver.Done, Vertex: v})
			return &worker.BuildResult{}, nil
		})).Build(context.Background(), &worker.BuildRequest{ID: id}, nil)
		done <- err
	}()
	<-begun
	return done
}

// Everybody who watches sees everything once and in order: those who came before, in the middle and after.
func TestManyWatch(t *testing.T) {
	s := open(t, Options{})
	const n = 2000
	var readers sync.WaitGroup
	read := func() {
		next := 0
		err := s.Watch(t.Context(), "a", time.Minute, func(ev solver.Event) error {
			if ev.Kind == solver.Logged {
				if want := fmt.Sprintf("line %d\n", next); string(ev.Data) != want {
					return fmt.Errorf("got %q, want %q", ev.Data, want)
				}
				next++
			}
			return nil
		})
		if err != nil || next != n {
			t.Errorf("saw %d lines: %v", next, err)
		}
	}
	for range 4 {
		readers.Go(read)
	}
	in := make(chan []byte)
	ended := logged(t, s, "a", in)
	for i := range n {
		if i%500 == 250 {
			readers.Go(read)
		}
		in <- fmt.Appendf(nil, "line %d\n", i)
	}
	close(in)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	readers.Go(read)
	readers.Wait()
}

// Who does not read holds up neither the build nor others who watch.
func TestSlowReader(t *testing.T) {
	s := open(t, Options{})
	in := make(chan []byte)
	ended := logged(t, s, "a", in)
	stuck, release, slow := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		first := true
		slow <- s.Watch(t.Context(), "a", 0, func(solver.Event) error {
			if first {
				first = false
				close(stuck)
				<-release
			}
			return nil
		})
	}()
	<-stuck
	line := bytes.Repeat([]byte("x"), 32<<10)
	for range 400 { // more than all buffers
		in <- line
	}
	close(in)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := len(watch(t, s, "a")); got != 402 {
		t.Errorf("another one saw %d events, want 402", got)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

// A log of 100 MB is on the disk in full, and not in memory: neither while it is written nor while it is read.
func TestBigLog(t *testing.T) {
	s := open(t, Options{})
	in := make(chan []byte)
	ended := logged(t, s, "a", in)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var chunks [2][32 << 10]byte // one is written while the other is taken
	var sum uint32
	for i := range 3200 {
		chunk := chunks[i%2][:]
		for j := range chunk {
			chunk[j] = byte(i + j*7)
		}
		sum = crc32.Update(sum, castagnoli, chunk)
		in <- chunk
	}
	if got := heap(); got > before+16<<20 {
		t.Errorf("writing: the heap has grown by %d bytes", got-before)
	}
	close(in)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var got uint32
	size := 0
	err := s.Watch(t.Context(), "a", 0, func(ev solver.Event) error {
		got = crc32.Update(got, castagnoli, ev.Data)
		if size += len(ev.Data); size == 50<<20 && heap() > before+16<<20 {
			t.Error("reading: the heap has grown")
		}
		return nil
	})
	if err != nil || got != sum || size != 3200*len(chunks[0]) {
		t.Errorf("read %d bytes with sum %x, want %x: %v", size, got, sum, err)
	}
}

// Watch waits as long as it is told for a build that is not known yet, and no longer.
func TestWatchWaits(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Options{Dir: dir, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		nothing := func(solver.Event) error { return nil }
		began := time.Now()
		if err := s.Watch(t.Context(), "never", 6*time.Second, nothing); !errors.Is(err, ErrNotFound) || time.Since(began) != 6*time.Second {
			t.Errorf("after %v: got %v, want ErrNotFound", time.Since(began), err)
		}
		got := make(chan error)
		events := 0
		go func() {
			got <- s.Watch(t.Context(), "late", 6*time.Second, func(solver.Event) error { events++; return nil })
		}()
		time.Sleep(5 * time.Second)
		build(t, s, "late", func() { time.Sleep(time.Hour) })
		if err := <-got; err != nil || events != 2 {
			t.Errorf("saw %d events, want 2: %v", events, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Watch(ctx, "never", time.Hour, nothing); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v", err)
		}
	})
}

// Watch ends with what its function returns, and with its context, also in the middle of a build.
func TestWatchEnds(t *testing.T) {
	s := open(t, Options{})
	in := make(chan []byte)
	ended := logged(t, s, "a", in)
	stop := errors.New("enough")
	if err := s.Watch(t.Context(), "a", 0, func(solver.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Watch(ctx, "a", 0, func(solver.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	close(in)
	<-ended
}

// Read gives of a build what it is asked for: some steps only, or everything but output.
func TestReadSome(t *testing.T) {
	s := open(t, Options{})
	_, err := s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		for _, name := range []string{"a", "b"} {
			v := vertex(name)
			send(solver.Event{Kind: solver.Declared, Vertex: v})
			send(solver.Event{Kind: solver.Logged, Vertex: v, Data: []byte(name)})
			send(solver.Event{Kind: solver.Done, Vertex: v})
		}
		return &worker.BuildResult{}, nil
	})).Build(t.Context(), &worker.BuildRequest{ID: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for want, opt := range map[string]ReadOptions{
		"D[a] D[b] L[b] E[b] ":           {Steps: []int{2}},
		"D[a] E[a] D[b] E[b] ":           {NoLogs: true},
		"D[a] L[a] E[a] D[b] L[b] E[b] ": {},
		"D[a] D[b] ":                     {Steps: []int{9}},
	} {
		got := ""
		err := s.Read(t.Context(), "x", opt, func(ev solver.Event) error {
			got += map[solver.EventKind]string{solver.Declared: "D", solver.Logged: "L", solver.Done: "E"}[ev.Kind] + ev.Vertex.Name() + " "
			return nil
		})
		if err != nil || got != want {
			t.Errorf("%+v: got %q, want %q: %v", opt, got, want, err)
		}
	}
}

// Cancel ends a build whoever asked for it, and the record says why.
func TestCancel(t *testing.T) {
	s := open(t, Options{})
	var asked atomic.Bool
	_, err := s.Wrap(script(func(ctx context.Context, _ *worker.BuildRequest, _ func(solver.Event)) (*worker.BuildResult, error) {
		asked.Store(true)
		if err := s.Cancel("a"); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})).Build(t.Context(), &worker.BuildRequest{ID: "a"}, nil)
	if !errors.Is(err, context.Canceled) || !asked.Load() {
		t.Errorf("got %v", err)
	}
	if rec, err := s.Wait(t.Context(), "a"); err != nil || rec.Status != Canceled {
		t.Errorf("got %+v, %v", rec, err)
	}
	if err := s.Cancel("a"); err != nil {
		t.Errorf("of one that has ended: %v", err)
	}
	if err := s.Cancel("b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of none: %v", err)
	}
}

// Of what a vertex reports of its progress the last state is recorded, and no more than ten states a second.
func TestProgressIsThinned(t *testing.T) {
	s := open(t, Options{})
	_, err := s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		v := vertex("a")
		at := time.Unix(1700000000, 0)
		for i := range 1000 {
			st := solver.Status{ID: "x", Current: int64(i), Total: 1000}
			send(solver.Event{Kind: solver.Progress, Vertex: v, Status: st, Time: at.Add(time.Duration(i) * time.Millisecond)})
		}
		send(solver.Event{Kind: solver.Done, Vertex: v, Time: at.Add(time.Second)})
		return &worker.BuildResult{}, nil
	})).Build(t.Context(), &worker.BuildRequest{ID: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen []int64
	for _, ev := range watch(t, s, "x") {
		if ev.Kind == solver.Progress {
			seen = append(seen, ev.Status.Current)
		}
	}
	if len(seen) != 11 || seen[0] != 0 || seen[10] != 999 {
		t.Errorf("recorded %v", seen)
	}
}

// A disk that cannot be written to does not keep a build from being built; the record says what the log lacks.
func TestDiskFails(t *testing.T) {
	j := newJournal()
	broken := errors.New("no space left")
	if err := j.open(noFile(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	for range 1000 {
		j.add(head{kind: kindLogged}, make([]byte, 64<<10))
	}
	if err := j.end(time.Now(), nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
