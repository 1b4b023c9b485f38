package layer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What follows the compressed stream of a user's archive, or is missing after the end of its tar, changes nothing, and is
// read, for a reader that verifies. In a layer it is an error. A wrong checksum, and a reader's own error, always are.
func TestArchivePadding(t *testing.T) {
	body := strings.Repeat("some text\n", 1000)
	b := mkTar(t, file("f", body))
	archives := compressed(t, b)
	if c := exec.Command("bzip2"); c.Err == nil {
		c.Stdin = bytes.NewReader(b)
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		archives[Bzip2] = out
	}
	delete(archives, Uncompressed)
	apply := func(r io.Reader, opt Options) (string, error) {
		dir := t.TempDir()
		if _, err := Apply(t.Context(), Target{Dir: dir}, r, opt); err != nil {
			return "", err
		}
		got, err := os.ReadFile(filepath.Join(dir, "f"))
		return string(got), err
	}
	why := errors.New("why")
	for name, c := range archives {
		for _, tail := range []string{"\x00", strings.Repeat("\x00", 512), strings.Repeat("\x00", 300_000), "junk", "\n", "-----BEGIN SIGNATURE-----\n" + body} {
			in := bytes.NewReader(append(bytes.Clone(c), tail...))
			if got, err := apply(in, Options{Archive: true}); err != nil || got != body {
				t.Errorf("%s and %d times %.1q: got %.20q, %v", name, len(tail), tail, got, err)
			}
			if in.Len() > 0 {
				t.Errorf("%s and %d times %.1q: %d bytes are not read", name, len(tail), tail, in.Len())
			}
			if _, err := apply(bytes.NewReader(append(bytes.Clone(c), tail...)), Options{}); err == nil && (name != Xz || len(tail)%4 != 0) {
				t.Errorf("%s and %d times %.1q: no error for a layer", name, len(tail), tail) // zeros by fours are a part of xz
			}
			late := io.MultiReader(bytes.NewReader(c), strings.NewReader(tail), readFunc(func([]byte) (int, error) { return 0, why }))
			if _, err := apply(late, Options{Archive: true}); !errors.Is(err, why) {
				t.Errorf("%s and %d times %.1q: got %v, want the reader's error", name, len(tail), tail, err)
			}
		}
	}
	wrong := func(name Compression, at int) {
		c := bytes.Clone(archives[name])
		c[at] ^= 1
		if _, err := apply(bytes.NewReader(c), Options{Archive: true}); err == nil {
			t.Errorf("%s: no error for a wrong checksum", name)
		}
	}
	wrong(Gzip, len(archives[Gzip])-8)
	wrong(Zstd, len(archives[Zstd])-1)
	wrong(Xz, len(archives[Xz])-12) // of the index
	if archives[Bzip2] != nil {
		wrong(Bzip2, 10) // of the first block
	}
	if got, err := apply(bytes.NewReader(archives[Gzip][:len(archives[Gzip])-8]), Options{Archive: true}); err != nil || got != body {
		t.Errorf("gzip without a trailer: got %.20q, %v", got, err)
	}
}
