package filesync

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A file that is larger than what is read of it is refused by its size, before anything of it is read or sent, whatever the way
// it would come; what is not selected may be of any size, and the next selection is answered as if there had been none.
func TestLargest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f=small", "d/g=medium")
	// So large that nobody would read it in the time of a test.
	big, err := os.Create(filepath.Join(dir, "d", "huge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(big.Truncate(1<<42), big.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("d/huge", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	src := source(t, dir, nil)
	for _, tt := range []struct {
		name string
		sel  Selection
		path string // of the file that is refused; none if there is nothing to refuse
	}{
		{"file", Selection{Follow: []string{"d/huge"}, Largest: 100}, "/d/huge"},
		{"link", Selection{Follow: []string{"link"}, Largest: 100}, "/d/huge"},
		{"directory", Selection{Follow: []string{"d"}, Largest: 100}, "/d/huge"},
		{"by a byte", Selection{Follow: []string{"f"}, Largest: 4}, "/f"},
		{"exactly", Selection{Follow: []string{"f"}, Largest: 5}, ""},
		{"others", Selection{Follow: []string{"f", "d/g"}, Largest: 6}, ""},
	} {
		tr, err := src.Tree(t.Context(), tt.sel)
		var large *LargeFileError
		switch {
		case tt.path == "" && (err != nil || paths(t, tr) == ""):
			t.Errorf("%s: %v", tt.name, err)
		case tt.path != "" && (!errors.As(err, &large) || large.Path != tt.path || large.Max != tt.sel.Largest):
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

// So it is with a client that sends its files; the stream can be used afterwards, and of what is refused nothing has come.
func TestRemoteLargest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f=small", "d/g=larger than that")
	src, _, client := connect(t, dir, newStore(t))
	var large *LargeFileError
	if _, err := src.Tree(t.Context(), Selection{Largest: 5}); !errors.As(err, &large) || large.Size != 16 {
		t.Errorf("got %v", err)
	}
	if want := 2; *client.sent != want { // the root, and the listings
		t.Errorf("the client has sent %d messages, want %d", *client.sent, want)
	}
	if got := paths(t, tree(t, src, Selection{Follow: []string{"f"}, Largest: 5})); got == "" {
		t.Error("nothing comes afterwards")
	}
}

// Of one that lists first and is asked then, such a file is not asked for, even if it would be known.
func TestIntakeLargest(t *testing.T) {
	s := newIntakeStore(t)
	files := []sentFile{{path: "d/"}, {path: "d/g", text: "larger than that", at: 1}, {path: "f", text: "small", at: 1}}
	var large *LargeFileError
	for range 2 {
		_, asked, _, err := sendAll(t, s, IntakeRequest{Key: "k", Select: Selection{Largest: 5}}, files)
		if !errors.As(err, &large) || large.Path != "/d/g" || len(asked) > 0 {
			t.Errorf("got %v, and %q was asked for", err, asked)
		}
		if _, _, _, err := sendAll(t, s, IntakeRequest{Key: "k", Select: Selection{Largest: 16}}, files); err != nil {
			t.Errorf("what is just as large: %v", err)
		}
	}
}
