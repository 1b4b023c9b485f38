package bksession

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	bkfilesync "github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// offer is what a client offers of the directory dir under the name "context".
func offer(t testing.TB, dir string) *counted {
	t.Helper()
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &counted{FS: fs}
}

func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tree(t testing.TB, src filesync.Source, sel filesync.Selection) treehash.Tree {
	t.Helper()
	tr, err := src.Tree(context.Background(), sel)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func root(t testing.TB, tr treehash.Tree) solver.Digest {
	t.Helper()
	return tr.(treehash.Rooted).Root()
}

func TestFirst(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1", "b/c": "2", "b/d/e": "3", "b.txt": "4"})
	m := New(patient(t))
	files := offer(t, dir)
	s, _ := open(t, m, "key", bkfilesync.NewFSSyncProvider(bkfilesync.StaticDirSource{"context": files}))
	src, err := s.Directory(context.Background(), "context")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got := root(t, tree(t, src, filesync.Selection{}))
	local, err := filesync.Dir(dir, filesync.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if want := root(t, tree(t, local, filesync.Selection{})); got != want {
		t.Errorf("root %s, want %s", got, want)
	}
}
