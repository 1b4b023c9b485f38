package fileop

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver/op"
)

// large says whether a tar has a file that takes long to read.
func large(data []byte) bool {
	z, _, err := layer.Decompress(bytes.NewReader(data))
	if err != nil {
		return false
	}
	defer z.Close()
	for r := tar.NewReader(io.LimitReader(z, 16<<20)); ; {
		h, err := r.Next()
		if err != nil {
			return false
		}
		if h.Size > 1<<20 {
			return true
		}
	}
}

// FuzzTarContext takes bytes for a build context that somebody sent: they are unpacked as the frontend has it done, and all
// of it is copied, once as a whole and once by each name at its root. Whatever the bytes are, nothing outside is changed,
// or copied, and nothing is left open.
func FuzzTarContext(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("needs root")
	}
	secret := filepath.Join(f.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("canary"), 0o600); err != nil {
		f.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	f.Add([]byte{})
	f.Add([]byte("FROM scratch\n"))
	f.Add(tarOf(f, tar.Header{Name: "Dockerfile", Linkname: "FROM scratch"}, tar.Header{Name: "d/f", Linkname: "x"}))
	f.Add(tarOf(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: secret}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l"}))
	f.Add(tarOf(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: up + secret}, tar.Header{Name: "l/f", Linkname: "x"}))
	f.Add(tarOf(f, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}))
	f.Add(tarOf(f, tar.Header{Name: up + secret, Linkname: "x"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: up + secret}))
	f.Add(tarOf(f, tar.Header{Name: "p", Typeflag: tar.TypeFifo}, tar.Header{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "/"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if large(data) {
			return // a sparse file takes no space, but all of it is read
		}
		before := openFiles(t)
		e := newEnv(t, plain)
		file := e.base(func(dir string) { _ = os.WriteFile(dir+"/context", data, 0o600) })
		unpacked, err := e.do(Empty, file, op.FileAction{Copy: &op.Copy{Src: "/context", Dst: "/", Unpack: true}})
		if err == nil {
			names := []string{"/"}
			entries, err := os.ReadDir(e.layers[unpacked][0])
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range entries[:min(len(entries), 20)] {
				names = append(names, "/"+x.Name())
			}
			for _, name := range names {
				r, err := e.do(Empty, unpacked, op.FileAction{Copy: dockerfile(name, "/to/")})
				if err != nil {
					continue // a loop of links, or one that leads nowhere
				}
				if got := e.dump(r); strings.Contains(got, `"canary"`) {
					t.Errorf("copying %q brings a file from outside:\n%s", name, got)
				}
			}
		}
		if got, err := os.ReadFile(secret); err != nil || string(got) != "canary" {
			t.Fatalf("a file outside has %q, %v", got, err)
		}
		if after := openFiles(t); after > before || e.open != 0 {
			t.Errorf("%d descriptors were open, and %d are; %d drafts", before, after, e.open)
		}
	})
}
