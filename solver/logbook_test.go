package solver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A sink is a reader that collects what it reads, at its own pace.
type sink struct {
	*reader
	pace  time.Duration
	tasks sync.WaitGroup

	mu   sync.Mutex // guards got
	got  map[Stream][]byte
	warn int
	last Status
}

func newSink(pace time.Duration) *sink {
	s := &sink{pace: pace, got: make(map[Stream][]byte)}
	s.reader = newReader(&s.tasks, func(events []Event, ack chan<- struct{}) {
		s.tasks.Go(func() {
			time.Sleep(pace)
			s.mu.Lock()
			for _, e := range events {
				s.got[e.Stream] = append(s.got[e.Stream], e.Data...)
				if e.Kind == Warned {
					s.warn++
				}
				if e.Kind == Progress {
					s.last = e.Status
				}
			}
			s.mu.Unlock()
			ack <- struct{}{}
		})
	})
	return s
}

// Whatever the sizes of writes, the memory that there is and the paces of the readers, each reader gets each stream
// whole and in order, and memory stays bounded while there are slow ones.
func TestLogbook(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			limit := 1 << rng.IntN(17)
			k := newLogbook(limit, t.TempDir())
			var sinks []*sink
			want := make(map[Stream][]byte)
			writes := 20 + rng.IntN(100)
			for i := range writes {
				if i%20 == 0 {
					s := newSink(time.Duration(rng.IntN(3)) * time.Second)
					k.attach(s.reader)
					sinks = append(sinks, s)
				}
				stream := Stdout + Stream(rng.IntN(2))
				data := bytes.Repeat([]byte{byte(i)}, rng.IntN(1<<rng.IntN(18)))
				want[stream] = append(want[stream], data...)
				k.write(stream, data)
				clear(data) // the writer may use it again
				k.status(Status{ID: "a", Current: int64(i)})
				if n := len(k.tail); n > limit+entryHead+entryMax {
					t.Errorf("%d bytes in memory, the limit is %d", n, limit)
				}
				time.Sleep(time.Duration(rng.IntN(2)) * time.Second)
			}
			k.warn(Warning{})
			k.close()
			k.write(Stdout, []byte("too late"))
			for _, s := range sinks {
				s.drain()
				for _, stream := range []Stream{Stdout, Stderr} {
					if !bytes.Equal(s.got[stream], want[stream]) {
						t.Errorf("seed %d: got %d bytes, want %d", seed, len(s.got[stream]), len(want[stream]))
					}
				}
				if s.warn != 1 || s.last.Current != int64(writes-1) {
					t.Errorf("seed %d: got %d warnings and status %+v", seed, s.warn, s.last)
				}
				s.tasks.Wait()
			}
			k.discard()
		})
	}
}

// Concurrent writers do not mix within a write, and wait for the file rather than fill memory.
func TestLogbookConcurrentWriters(t *testing.T) {
	k := newLogbook(100, t.TempDir())
	s := newSink(0)
	k.attach(s.reader)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 500 {
				k.write(Stdout, []byte(fmt.Sprintf("%d:%d\n", w, i)))
			}
		})
	}
	wg.Wait()
	k.close()
	s.drain()
	s.tasks.Wait()
	k.discard()
	next := make(map[string]int)
	for _, line := range strings.Fields(string(s.got[Stdout])) {
		w, i, _ := strings.Cut(line, ":")
		if want := fmt.Sprint(next[w]); i != want {
			t.Fatalf("writer %s: got %s, want %s", w, i, want)
		}
		next[w]++
	}
	if len(next) != 4 || next["0"] != 500 {
		t.Errorf("got %v", next)
	}
}

// Without a place for the file, the log stays in memory and is whole. The file has no name.
func TestLogbookWithoutFile(t *testing.T) {
	for _, dir := range []string{filepath.Join(t.TempDir(), "missing"), t.TempDir()} {
		k := newLogbook(100, dir)
		want := strings.Repeat("0123456789", 1000)
		for i := range 100 {
			k.write(Stdout, []byte(want[i*100:(i+1)*100]))
		}
		s := newSink(0)
		k.attach(s.reader)
		k.close()
		s.drain()
		s.tasks.Wait()
		if got := string(s.got[Stdout]); got != want {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("%v was left", names)
		}
		k.discard()
	}
}

// A reader that is detached ends, even if nobody takes what it has read.
func TestDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newLogbook(100, t.TempDir())
		var tasks sync.WaitGroup
		r := newReader(&tasks, func([]Event, chan<- struct{}) {})
		k.attach(r)
		k.write(Stdout, []byte("hello"))
		synctest.Wait()
		k.detach(r)
		tasks.Wait()
		k.write(Stdout, []byte("hello"))
	})
}
