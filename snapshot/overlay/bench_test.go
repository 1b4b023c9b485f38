package overlay

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/mount"
)

// benchChain makes a chain of n layers, each with one file or with none.
func benchChain(b *testing.B, s *Snapshotter, n int, empty bool) snapshot.ID {
	b.Helper()
	parent := snapshot.ID("")
	for i := range n {
		id := snapshot.ID(fmt.Sprintf("layer%d", i))
		if _, err := s.Prepare(b.Context(), "d", parent); err != nil {
			b.Fatal(err)
		}
		if !empty || i == 0 {
			dir, _, err := s.DraftUpper(b.Context(), "d")
			if err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Commit(b.Context(), "d", id); err != nil {
			b.Fatal(err)
		}
		parent = id
	}
	return parent
}

// What a RUN that changes nothing costs here: a draft is prepared, mounted, unmounted and committed.
func BenchmarkStep(b *testing.B) {
	for _, c := range []struct {
		name  string
		depth int
		empty bool
	}{{"1", 1, false}, {"50-empty", 50, true}, {"50", 50, false}, {"400", 400, false}} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b, b.TempDir())
			defer s.Close()
			parent := benchChain(b, s, c.depth, c.empty)
			var prepare, mounted, closed, commit time.Duration
			i := 0
			for b.Loop() {
				t0 := time.Now()
				mounts, err := s.Prepare(b.Context(), "d", parent)
				if err != nil {
					b.Fatal(err)
				}
				t1 := time.Now()
				f, err := mount.Open(b.Context(), mounts)
				if err != nil {
					b.Fatal(err)
				}
				t2 := time.Now()
				f.Close()
				t3 := time.Now()
				if err := s.Commit(b.Context(), "d", snapshot.ID(fmt.Sprintf("x%d", i))); err != nil {
					b.Fatal(err)
				}
				prepare, mounted, closed, commit = prepare+t1.Sub(t0), mounted+t2.Sub(t1), closed+t3.Sub(t2), commit+time.Since(t3)
				i++
			}
			for name, d := range map[string]time.Duration{"prepare": prepare, "mount": mounted, "unmount": closed, "commit": commit} {
				b.ReportMetric(float64(d.Microseconds())/float64(i), "µs-"+name)
			}
		})
	}
}
