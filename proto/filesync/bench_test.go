package filesync

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// makeTree makes n small files, about 5.9 kB each, in directories of twenty.
func makeTree(tb testing.TB, root string, n int) {
	tb.Helper()
	data := make([]byte, 11800)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("d%02d", i/400%50), fmt.Sprintf("e%02d", i/20%20))
		if i%20 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		copy(data, fmt.Sprint(i))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%05d.txt", i)), data[:i*97%len(data)], 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}

func benchTree(b *testing.B, prepare func(dir, state string) *Cache) {
	dir, state := b.TempDir(), b.TempDir()
	makeTree(b, dir, 20_000)
	time.Sleep(2 * tick)
	warm := NewCache(state, 0)
	open := func(c *Cache) {
		s, err := Dir(dir, Options{Cache: c})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Tree(context.Background(), Selection{}); err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
	open(warm)
	_ = warm.Close()
	b.ReportAllocs()
	for b.Loop() {
		c := warm
		if prepare != nil {
			c = prepare(dir, state)
		}
		open(c)
		_ = c.Close()
	}
}

// BenchmarkUnchanged: budget 60 ms.
func BenchmarkUnchanged(b *testing.B) { benchTree(b, nil) }

// BenchmarkPersisted is the first walk of a new daemon: budget 120 ms.
func BenchmarkPersisted(b *testing.B) {
	benchTree(b, func(_, state string) *Cache { return NewCache(state, 0) })
}

// BenchmarkCold reads and hashes everything.
func BenchmarkCold(b *testing.B) {
	benchTree(b, func(string, string) *Cache { return NewCache("", 0) })
}
