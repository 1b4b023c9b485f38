package layer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// manyFiles makes 20,000 files of 118 MB in 200 directories, as a context with a lot of sources has them.
func manyFiles(b *testing.B) string {
	root := b.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		d := filepath.Join(root, fmt.Sprintf("d%03d", i%200))
		if i < 200 {
			mkdir(b, d)
		}
		data := bytes.Repeat([]byte(fmt.Sprintf("line %d %d\n", i, r.Uint64())), 1+r.IntN(450))
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return root
}

func BenchmarkDiff20000(b *testing.B) {
	root := manyFiles(b)
	var below []string
	for range 10 {
		below = append(below, b.TempDir())
	}
	var n int64
	for b.Loop() {
		h := sha256.New()
		c := writeFunc(func(p []byte) (int, error) { n += int64(len(p)); return h.Write(p) })
		if err := Diff(b.Context(), Target{Dir: root, Lower: below, Form: Overlay}, c, DiffOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/float64(b.N)/1e6, "MB")
}

// BenchmarkDiffMerged has new files in directories that ten others below have as well: each is looked up in all of them.
func BenchmarkDiffMerged(b *testing.B) {
	root := manyFiles(b)
	var below []string
	for range 10 {
		d := b.TempDir()
		for i := range 200 {
			mkdir(b, filepath.Join(d, fmt.Sprintf("d%03d", i)))
		}
		below = append(below, d)
	}
	for b.Loop() {
		if err := Diff(b.Context(), Target{Dir: root, Lower: below, Form: Overlay}, io.Discard, DiffOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDiffSame has files that are the same below, all of which have to be read.
func BenchmarkDiffSame(b *testing.B) {
	root, below := manyFiles(b), b.TempDir()
	apply(b, Target{Dir: below}, diffOf(b, Target{Dir: root}))
	again := b.TempDir()
	apply(b, Target{Dir: again}, diffOf(b, Target{Dir: root}))
	for b.Loop() {
		if err := Diff(b.Context(), Target{Dir: again, Lower: []string{below}, Form: Overlay}, io.Discard, DiffOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDiffEmpty(b *testing.B) {
	root, below := b.TempDir(), b.TempDir()
	for b.Loop() {
		if err := Diff(b.Context(), Target{Dir: root, Lower: []string{below}, Form: Overlay}, io.Discard, DiffOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// benchApply applies what files there are in $LAYER, or else the 20,000.
func BenchmarkApply(b *testing.B) {
	var data []byte
	if f := os.Getenv("LAYER"); f != "" {
		var err error
		if data, err = os.ReadFile(f); err != nil {
			b.Fatal(err)
		}
	} else {
		data = diffOf(b, Target{Dir: manyFiles(b)})
	}
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		dir := mkdir(b, filepath.Join(b.TempDir(), fmt.Sprint(i)))
		res, err := Apply(b.Context(), Target{Dir: dir, Form: Overlay}, bytes.NewReader(data), Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(dir)
		b.ReportMetric(float64(res.Entries), "entries")
		b.StartTimer()
	}
}
