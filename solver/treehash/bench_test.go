package treehash

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkSnapshotCold is the first digest of a snapshot of 20,000 files: everything is listed and read.
func BenchmarkSnapshotCold(b *testing.B) {
	dir := b.TempDir()
	data := make([]byte, 11800)
	for i := range 20_000 {
		d := filepath.Join(dir, fmt.Sprintf("d%02d", i/400%50), fmt.Sprintf("e%02d", i/20%20))
		if i%20 == 0 {
			_ = os.MkdirAll(d, 0o755)
		}
		copy(data, fmt.Sprint(i))
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), data[:i*97%len(data)], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		digest(b, cached(b, NewCache(0), dir), nil)
	}
}

// BenchmarkSnapshotKnown is any later one.
func BenchmarkSnapshotKnown(b *testing.B) {
	dir := b.TempDir()
	write(b, dir, "a/b=1", "c=2")
	s := snapshot(b, dir)
	for b.Loop() {
		digest(b, s, nil)
	}
}
