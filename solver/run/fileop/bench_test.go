package fileop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// makeTree makes n files, about 5.9 kB each, in directories of twenty.
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

// treeEnv is a testEnv with a client's directory as the second input.
type treeEnv struct {
	*testEnv
	tree treehash.Tree
}

func (e *treeEnv) Tree(ctx context.Context, r solver.Result) (treehash.Tree, func(), error) {
	if r == "local" {
		return e.tree, func() {}, nil
	}
	return e.testEnv.Tree(ctx, r)
}

func benchCopy(b *testing.B, w way, reuse bool) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	dir := b.TempDir()
	makeTree(b, dir, 20_000)
	src, err := filesync.Dir(dir, filesync.Options{Cache: filesync.NewCache("", 0)})
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	tree, err := src.Tree(context.Background(), filesync.Selection{})
	if err != nil {
		b.Fatal(err)
	}
	e := &treeEnv{testEnv: newEnv(b, w), tree: tree}
	base := e.base(func(dir string) { _ = os.Mkdir(dir+"/app", 0o755) })
	f := &op.File{Actions: []op.FileAction{{
		Input: 0, Second: 1, Output: 0,
		Copy: &op.Copy{Src: "/", Dst: "/app", DirContents: true, MkdirDst: true, Wildcard: true, EmptyWildcard: true, FollowSymlinks: true},
	}}}
	var cpu time.Duration
	run := func() {
		before := cpuTime()
		defer func() { cpu += cpuTime() - before }()
		out, err := Do(context.Background(), e, f, []solver.Result{base, "local"})
		if err != nil {
			b.Fatal(err)
		}
		if reuse {
			e.reuse = out[0]
		}
	}
	if reuse {
		run()
		if err := os.WriteFile(filepath.Join(dir, "d00/e00/file00003.txt"), []byte("changed"), 0o644); err != nil {
			b.Fatal(err)
		}
		if e.tree, err = src.Tree(context.Background(), filesync.Selection{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	var total time.Duration
	n := 0
	cpu = 0
	for b.Loop() {
		start := time.Now()
		run()
		total += time.Since(start)
		n++
		if !reuse {
			b.StopTimer()
			_ = os.RemoveAll(e.layers[solver.Result(fmt.Sprint("r", len(e.layers)-1))][0])
			b.StartTimer()
		}
	}
	// On a busy machine the time on the processors says more than that on the wall.
	b.ReportMetric(float64(total.Milliseconds())/float64(n), "ms/copy")
	b.ReportMetric(float64(cpu.Milliseconds())/float64(n), "cpu-ms/copy")
}

func cpuTime() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkCopyDirect: budget 600 ms.
func BenchmarkCopyDirect(b *testing.B) { benchCopy(b, direct, false) }

// BenchmarkCopyMounted is what it costs to go through overlayfs.
func BenchmarkCopyMounted(b *testing.B) { benchCopy(b, mounted, false) }

// BenchmarkCopyOneChanged: budget 300 ms.
func BenchmarkCopyOneChanged(b *testing.B) { benchCopy(b, direct, true) }
