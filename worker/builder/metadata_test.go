package builder

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tonistiigi/fsutil/types"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// TestOnlyMetadata checks that the tree has the exceptions and a description of everything, and nothing else; and that the
// root follows both.
func TestOnlyMetadata(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.txt": "a", "sub/keep": "k", "sub/drop": "dropped", ".fsutil-metadata": "mine"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/keep", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	whole := func() treehash.Tree {
		src, err := filesync.Dir(dir, filesync.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { src.Close() })
		tree, err := src.Tree(ctx, filesync.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	tree, err := onlyMetadata(ctx, whole(), []string{"sub/keep"})
	if err != nil {
		t.Fatal(err)
	}
	items, err := treehash.Match(ctx, tree, &solver.Selector{Paths: []string{"/"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range items {
		got = append(got, it.Entry.Path)
	}
	slices.Sort(got)
	if want := []string{"/", "/.fsutil-metadata", "/sub", "/sub/keep"}; !slices.Equal(got, want) {
		t.Errorf("the tree has %q, want %q", got, want)
	}
	if want := []string{"a.txt 0640 1", "link L0777 8 sub/keep", "sub d0755 0", "sub/drop 0640 7", "sub/keep 0640 1"}; !slices.Equal(described(t, tree), want) {
		t.Errorf("it describes %q, want %q", described(t, tree), want)
	}
	if _, err := tree.Open(ctx, "/a.txt"); err == nil {
		t.Error("a file that is only described can be read")
	}
	if data := read(t, tree, "/sub/keep"); data != "k" {
		t.Errorf("the exception has %q", data)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub/drop"), []byte("longer than before"), 0o640); err != nil {
		t.Fatal(err)
	}
	other, err := onlyMetadata(ctx, whole(), []string{"sub/keep"})
	if err != nil {
		t.Fatal(err)
	}
	none, err := onlyMetadata(ctx, whole(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if tree.Root() == other.Root() || other.Root() == none.Root() {
		t.Error("different trees have the same root")
	}
}

func read(t *testing.T, tree treehash.Tree, p string) string {
	t.Helper()
	r, err := tree.Open(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// described decodes the file with the metadata.
func described(t *testing.T, tree treehash.Tree) (out []string) {
	t.Helper()
	data := []byte(read(t, tree, metadataFile))
	for len(data) > 0 {
		n := binary.LittleEndian.Uint32(data)
		var st types.Stat
		if err := st.UnmarshalVT(data[4 : 4+n]); err != nil {
			t.Fatal(err)
		}
		data = data[4+n:]
		out = append(out, strings.TrimSpace(strings.Join([]string{st.Path, modeOf(os.FileMode(st.Mode)), strconv.FormatInt(st.Size, 10), st.Linkname}, " ")))
	}
	return out
}

func modeOf(m os.FileMode) string {
	kind := ""
	switch {
	case m.IsDir():
		kind = "d"
	case m&os.ModeSymlink != 0:
		kind = "L"
	}
	return kind + "0" + string([]byte{'0' + byte(m.Perm()>>6), '0' + byte(m.Perm()>>3&7), '0' + byte(m.Perm()&7)})
}
