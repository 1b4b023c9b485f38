package bksession

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	bkfilesync "github.com/moby/buildkit/session/filesync"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

// twenty makes the tree that all figures are about: 20,000 files, 118 MB.
func twenty(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	long := time.Now().Add(-time.Hour)
	for i := range 20_000 {
		p := filepath.Join(dir, fmt.Sprintf("d%02d/e%02d/file%d.txt", i%20, i/20%25, i))
		if i < 500 {
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		data := make([]byte, 5900)
		for k := range data {
			data[k] = byte(rng.Uint32())
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			b.Fatal(err)
		}
		if err := os.Chtimes(p, long, long.Add(time.Duration(i)*time.Microsecond)); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func BenchmarkDirectory(b *testing.B) {
	dir := twenty(b)
	transfer := func(b *testing.B, m *Manager, files *counted) {
		s, _ := open(b, m, "key", bkfilesync.NewFSSyncProvider(bkfilesync.StaticDirSource{"context": files}))
		src, err := s.Directory(context.Background(), "context")
		if err != nil {
			b.Fatal(err)
		}
		tree(b, src, filesync.Selection{})
		_ = src.Close()
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			m := New(patient(b))
			b.StartTimer()
			transfer(b, m, offer(b, dir))
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		m := New(patient(b))
		files := offer(b, dir)
		transfer(b, m, files)
		files.sent()
		for b.Loop() {
			transfer(b, m, files)
		}
		if n := len(files.sent()); n > 0 {
			b.Errorf("%d files were sent again", n)
		}
	})
}
