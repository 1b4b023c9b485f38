package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/image"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/layer"
)

// A memLayer is a layer of one file, in memory.
type memLayer struct {
	exporter.Layer
	tar []byte
	err error // of reading
}

func newLayer(name, content string) memLayer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
	io.WriteString(w, content)
	w.Close()
	return memLayer{tar: b.Bytes()}
}

func (l memLayer) DiffID(context.Context) (digest.Digest, error) { return digest.FromBytes(l.tar), nil }

func (l memLayer) bytes(gz bool) []byte {
	if !gz {
		return l.tar
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(l.tar)
	w.Close()
	return b.Bytes()
}

func (l memLayer) Blob(_ context.Context, f exporter.Form) (Descriptor, error) {
	b, t := l.bytes(f.Compression == exporter.Gzip), ocispec.MediaTypeImageLayerGzip
	if f.Compression == exporter.Uncompressed {
		t = ocispec.MediaTypeImageLayer
	}
	return Descriptor{MediaType: t, Digest: digest.FromBytes(b), Size: int64(len(b))}, nil
}

func (l memLayer) Open(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	for _, gz := range []bool{true, false} {
		if b := l.bytes(gz); digest.FromBytes(b) == d.Digest {
			if l.err != nil {
				return io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), errReader{l.err})), nil
			}
			return io.NopCloser(bytes.NewReader(b)), nil
		}
	}
	return nil, errors.New("gone")
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// mkImage makes an image of layers whose files have these contents.
func mkImage(t testing.TB, names []string, arch string, contents ...string) *exporter.Image {
	t.Helper()
	m := exporter.Manifest{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	c := ocispec.Image{Platform: m.Platform, RootFS: ocispec.RootFS{Type: "layers"}}
	for i, s := range contents {
		l := newLayer(fmt.Sprint("f", i), s)
		d, _ := l.DiffID(t.Context())
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, d)
		m.Layers = append(m.Layers, l)
	}
	m.Config, _ = json.Marshal(c)
	return &exporter.Image{Names: names, Manifests: []exporter.Manifest{m}}
}

func newStore(t testing.TB) *blob.Store {
	t.Helper()
	s, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, opt Options, imgs ...*exporter.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(t.Context(), &b, opt, imgs...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// describe says what was read: names, and for each manifest the platform and the layers' contents as their diff IDs.
func describe(t testing.TB, s *blob.Store, imgs []Image) string {
	t.Helper()
	var out []string
	for _, img := range imgs {
		line := strings.Join(img.Names, ",")
		for _, m := range img.Manifests {
			line += " " + m.Platform.Architecture
			for _, l := range m.Layers {
				r, err := s.Open(l.Blob.Digest)
				if err != nil {
					t.Fatal(err)
				}
				dec, _, err := layer.Decompress(r)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(dec)
				if err != nil || digest.FromBytes(b) != l.DiffID {
					t.Errorf("layer %s: %v", l.Blob.Digest, err)
				}
				dec.Close()
				r.Close()
				tr := tar.NewReader(bytes.NewReader(b))
				tr.Next()
				body, _ := io.ReadAll(tr)
				line += ":" + string(body)
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

// What is written is read back, in every form and compression, with all names and platforms; and writing it again gives
// the same bytes.
func TestRoundTrip(t *testing.T) {
	a := mkImage(t, []string{"docker.io/library/a:1", "localhost:5000/x/y:z"}, "amd64", "one", "two")
	b := mkImage(t, nil, "amd64", "one", "three")
	multi := mkImage(t, []string{"docker.io/library/m:latest"}, "amd64", "one")
	multi.Manifests = append(multi.Manifests, mkImage(t, nil, "arm64", "four").Manifests...)
	const wantAB = "docker.io/library/a:1,localhost:5000/x/y:z amd64:one:two;  amd64:one:three"
	for _, tt := range []struct {
		name string
		opt  Options
		imgs []*exporter.Image
		want string
	}{
		{"oci", Options{}, []*exporter.Image{a, b}, wantAB},
		{"oci uncompressed", Options{Form: exporter.Form{Compression: exporter.Uncompressed}}, []*exporter.Image{a, b}, wantAB},
		{"docker", Options{Docker: true}, []*exporter.Image{a, b}, wantAB},
		{"docker with Docker's types", Options{Docker: true, Form: exporter.Form{Compression: exporter.Uncompressed, Docker: true}}, []*exporter.Image{a, b}, wantAB},
		{"platforms", Options{}, []*exporter.Image{multi}, "docker.io/library/m:latest amd64:one arm64:four"},
		{"docker, platforms", Options{Docker: true}, []*exporter.Image{multi}, "docker.io/library/m:latest amd64:one arm64:four"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := write(t, tt.opt, tt.imgs...)
			if !bytes.Equal(data, write(t, tt.opt, tt.imgs...)) {
				t.Error("a second time gives other bytes")
			}
			var gz, zs bytes.Buffer
			g := gzip.NewWriter(&gz)
			g.Write(data)
			g.Close()
			z, _ := zstd.NewWriter(&zs)
			z.Write(data)
			z.Close()
			for _, in := range [][]byte{data, gz.Bytes(), zs.Bytes()} {
				s := newStore(t)
				imgs, err := Read(t.Context(), bytes.NewReader(in), ReadOptions{Blobs: s})
				if err != nil {
					t.Fatal(err)
				}
				if got := describe(t, s, imgs); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
		})
	}
}

// Of several platforms an old docker finds the one that is preferred. The time of writing stands beside the name.
func TestPrefer(t *testing.T) {
	multi := mkImage(t, []string{"docker.io/library/m:latest"}, "amd64", "one")
	multi.Manifests = append(multi.Manifests, mkImage(t, nil, "arm64", "four").Manifests...)
	at := time.Unix(1e9, 0)
	for arch, want := range map[string]int{"arm64": 1, "amd64": 0, "s390x": 0} {
		opt := Options{Docker: true, Prefer: &ocispec.Platform{OS: "linux", Architecture: arch}, Created: &at}
		files := map[string][]byte{}
		tr := tar.NewReader(bytes.NewReader(write(t, opt, multi)))
		for hdr, err := tr.Next(); err == nil; hdr, err = tr.Next() {
			files[hdr.Name], _ = io.ReadAll(tr)
		}
		config := image.ConfigDocument(multi.Manifests[want].Config, false).Descriptor.Digest
		if got := files[manifestFile]; !bytes.Contains(got, []byte(config.Encoded())) {
			t.Errorf("%s: %s does not name %s", arch, got, config)
		}
		if got := files[indexFile]; !bytes.Contains(got, []byte(`"org.opencontainers.image.created":"2001-09-09T01:46:40Z"`)) {
			t.Errorf("the index has no time: %s", got)
		}
	}
}

// A pulled manifest comes through byte for byte.
func TestRawManifest(t *testing.T) {
	a := mkImage(t, []string{"docker.io/library/a:1"}, "amd64", "one")
	as, err := image.Assemble(t.Context(), &a.Manifests[0], exporter.Form{})
	if err != nil {
		t.Fatal(err)
	}
	odd := append([]byte(" "), as.Manifest.Bytes...)
	a.Manifests[0].Raw = &exporter.Raw{MediaType: ocispec.MediaTypeImageManifest, Bytes: odd}
	s := newStore(t)
	imgs, err := Read(t.Context(), bytes.NewReader(write(t, Options{Docker: true}, a)), ReadOptions{Blobs: s})
	if err != nil || !bytes.Equal(imgs[0].Manifests[0].Raw, odd) {
		t.Errorf("got %s, %v", imgs[0].Manifests[0].Raw, err)
	}
}

// A layout in a directory takes one image after the other; one of the same name replaces the earlier. What is there is
// never half-written, and nothing outside is touched.
func TestDir(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "out")
	read := func() string {
		t.Helper()
		s := newStore(t)
		imgs, err := ReadDir(t.Context(), dir, ReadOptions{Blobs: s})
		if err != nil {
			t.Fatal(err)
		}
		return describe(t, s, imgs)
	}
	e := NewDir(dir, Options{})
	steps := []struct {
		img  *exporter.Image
		want string
	}{
		{mkImage(t, []string{"docker.io/library/a:1"}, "amd64", "one"), "docker.io/library/a:1 amd64:one"},
		{mkImage(t, []string{"docker.io/library/b:1"}, "amd64", "two"), "docker.io/library/a:1 amd64:one; docker.io/library/b:1 amd64:two"},
		{mkImage(t, []string{"docker.io/library/a:1"}, "amd64", "three"), "docker.io/library/b:1 amd64:two; docker.io/library/a:1 amd64:three"},
		{mkImage(t, nil, "amd64", "four"), "docker.io/library/b:1 amd64:two; docker.io/library/a:1 amd64:three;  amd64:four"},
		{mkImage(t, nil, "amd64", "four"), "docker.io/library/b:1 amd64:two; docker.io/library/a:1 amd64:three;  amd64:four"},
	}
	for _, st := range steps {
		desc, err := e.Export(t.Context(), st.img)
		if err != nil || desc.Digest == "" {
			t.Fatal(err)
		}
		if got := read(); got != st.want {
			t.Errorf("got  %s\nwant %s", got, st.want)
		}
	}
	bad := mkImage(t, []string{"docker.io/library/a:1"}, "amd64", "five")
	l := bad.Manifests[0].Layers[0].(memLayer)
	l.err = errors.New("broken")
	bad.Manifests[0].Layers[0] = l
	if _, err := e.Export(t.Context(), bad); !errors.Is(err, l.err) {
		t.Errorf("got %v", err)
	}
	if got, want := read(), steps[4].want; got != want {
		t.Errorf("after a failure: %s", got)
	}
	filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error {
		if strings.Contains(p, ".tmp-") {
			t.Errorf("left %s", p)
		}
		return nil
	})

	canary := filepath.Join(base, "canary")
	os.Mkdir(canary, 0o755)
	evil := filepath.Join(base, "evil")
	os.Mkdir(evil, 0o755)
	os.Symlink("../canary", filepath.Join(evil, "blobs"))
	if _, err := NewDir(evil, Options{}).Export(t.Context(), steps[0].img); err == nil {
		t.Error("wrote through a symlink")
	}
	if ents, _ := os.ReadDir(canary); len(ents) != 0 {
		t.Errorf("canary has %v", ents)
	}
}

// What fails to be written, or to be read, is an error of Write.
func TestWriteFails(t *testing.T) {
	img := mkImage(t, nil, "amd64", "x")
	if _, err := Write(t.Context(), failWriter{}, Options{}, img); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	img.Manifests[0].Layers[0] = memLayer{tar: []byte("x"), err: broken}
	if _, err := Write(t.Context(), io.Discard, Options{}, img); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failWriter struct{}

func (failWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// skopeo reads what we write, in both forms, and we read what it writes.
func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("needs skopeo")
	}
	run := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %s: %v\n%s", args, err, out)
		}
		return out
	}
	tmp := t.TempDir()
	a := mkImage(t, []string{"docker.io/library/a:1"}, "amd64", "one", "two")
	oci, docker := filepath.Join(tmp, "oci.tar"), filepath.Join(tmp, "docker.tar")
	os.WriteFile(oci, write(t, Options{}, a), 0o600)
	os.WriteFile(docker, write(t, Options{Docker: true}, a), 0o600)
	if out := run("inspect", "docker-archive:"+docker+":a:1"); !bytes.Contains(out, []byte(`"Architecture": "amd64"`)) {
		t.Errorf("inspect: %s", out)
	}
	for i, c := range [][2]string{
		{"oci-archive:" + oci, "docker-archive:" + tmp + "/1:b:2"},
		{"docker-archive:" + docker, "oci-archive:" + tmp + "/2:b:2"},
		{"oci-archive:" + oci, "oci:" + tmp + "/3:localhost/b:2"},
	} {
		run("copy", c[0], c[1])
		s := newStore(t)
		var imgs []Image
		var err error
		p := filepath.Join(tmp, fmt.Sprint(i+1))
		if fi, _ := os.Stat(p); fi.IsDir() {
			imgs, err = ReadDir(t.Context(), p, ReadOptions{Blobs: s})
		} else {
			f, ferr := os.Open(p)
			if ferr != nil {
				t.Fatal(ferr)
			}
			imgs, err = Read(t.Context(), f, ReadOptions{Blobs: s})
			f.Close()
		}
		if err != nil {
			t.Errorf("%v: %v", c, err)
			continue
		}
		got := describe(t, s, imgs)
		if !strings.HasSuffix(got, "b:2 amd64:one:two") {
			t.Errorf("%v: got %q", c, got)
		}
	}
}

// A tarFile is an entry of an archive made by hand.
type tarFile struct{ name, body, link string }

func handmade(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.body))}
		if f.link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if f.link == "" {
			io.WriteString(w, f.body)
		}
	}
	w.Close()
	return b.Bytes()
}

// old returns an archive as old versions of Docker wrote it, with two layers of which the second is a link.
func old(tag string) []tarFile {
	one := string(newLayer("f0", "one").tar)
	d := digest.FromString(one)
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q,%q]}}`, d, d)
	id := digest.FromString(config).Encoded()
	return []tarFile{
		{name: "aaaa/VERSION", body: "1.0"},
		{name: "aaaa/layer.tar", body: one},
		{name: "bbbb/layer.tar", link: "../aaaa/layer.tar"},
		{name: id + ".json", body: config},
		{name: "manifest.json", body: fmt.Sprintf(`[{"Config":"%s.json","RepoTags":[%q],"Layers":["aaaa/layer.tar","bbbb/layer.tar"]}]`, id, tag)},
		{name: "repositories", body: `{"lying":{"latest":"cccc"}}`},
	}
}

// Docker's old form is read, with its links; what repositories says counts for nothing.
func TestOldDocker(t *testing.T) {
	s := newStore(t)
	imgs, err := Read(t.Context(), bytes.NewReader(handmade(t, old("busybox:1")...)), ReadOptions{Blobs: s})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(t, s, imgs), "docker.io/library/busybox:1 amd64:one:one"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A config may have any name; one that is a digest is held to it.
func TestConfigNames(t *testing.T) {
	files := old("busybox:1")
	id := strings.TrimSuffix(files[3].name, ".json")
	for name, good := range map[string]bool{
		id: true, id + ".json": true, "sha256:" + id: true, "config.json": true, "./image.json": true, "blobs/sha256/" + id: true,
		strings.Repeat("0", 64): false, strings.Repeat("0", 64) + ".json": false, "sha256:" + strings.Repeat("0", 64): false,
	} {
		files[3].name = name
		files[4].body = fmt.Sprintf(`[{"Config":%q,"RepoTags":["busybox:1"],"Layers":["aaaa/layer.tar","bbbb/layer.tar"]}]`, name)
		_, err := Read(t.Context(), bytes.NewReader(handmade(t, files...)), ReadOptions{Blobs: newStore(t)})
		if (err == nil) != good {
			t.Errorf("config named %s: %v", name, err)
		}
	}
}

// Archives that contradict themselves, name what is outside or overstep limits are refused (CVE-2014-9358, CVE-2014-8178,
// CVE-2021-41190, CVE-2024-3727, CVE-2026-50195), and their last word is an error, not a crash.
func TestHostile(t *testing.T) {
	with := func(change func(f []tarFile) []tarFile) []byte { return handmade(t, change(old("a:1"))...) }
	replace := func(old, new string) []byte {
		return with(func(f []tarFile) []tarFile {
			f[4].body = strings.ReplaceAll(f[4].body, old, new)
			return f
		})
	}
	oci := func(index, manifest string) []byte {
		d := digest.FromString(manifest)
		index = strings.ReplaceAll(index, "M", fmt.Sprintf(`"digest":%q,"size":%d`, d, len(manifest)))
		return handmade(t, tarFile{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}, tarFile{name: "index.json", body: index}, tarFile{name: "blobs/sha256/" + d.Encoded(), body: manifest})
	}
	const mt = `"mediaType":"application/vnd.oci.image.manifest.v1+json"`
	plain := `{"manifests":[{` + mt + `,M}]}`
	for name, b := range map[string][]byte{
		"empty": {}, "no tar": []byte("hello"), "tar of nothing": handmade(t), "other files": handmade(t, tarFile{name: "x", body: "y"}),
		"config is not its digest": with(func(f []tarFile) []tarFile { f[3].body += " "; return f }),
		"config outside":           replace(".json\",\"RepoTags", ".json/../../../etc/passwd\",\"RepoTags"),
		"layer outside":            replace("aaaa/layer.tar", "../../layer.tar"),
		"layer missing":            replace("aaaa/layer.tar", "none"),
		"link outside":             with(func(f []tarFile) []tarFile { f[2].link = "../../aaaa/layer.tar"; return f }),
		"links in a ring":          with(func(f []tarFile) []tarFile { f[2].link = "layer.tar"; return f }),
		"entry outside":            with(func(f []tarFile) []tarFile { f[0].name = "../x"; return f }),
		"bad name":                 replace("a:1", "../../a:1"),
		"odd name":                 replace("a:1", "A b\\u0000:1"),
		"too few layers":           replace(`"aaaa/layer.tar",`, ""),
		"blob is not its digest":   handmade(t, tarFile{name: "blobs/sha256/" + strings.Repeat("a", 64), body: "x"}, tarFile{name: "index.json", body: "{}"}),
		"manifest.json is null":    handmade(t, tarFile{name: "manifest.json", body: `{"a":1}`}),
		"digest is a path":         oci(`{"manifests":[{`+mt+`,"digest":"sha256:../../index.json","size":5}]}`, "{}"),
		"index and manifest":       oci(plain, `{"manifests":[],"layers":[],"config":{}}`),
		"other media type":         oci(plain, `{"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}`),
		"unknown media type":       oci(`{"manifests":[{"mediaType":"text/plain",M}]}`, `{}`),
		"no config":                oci(plain, `{"layers":[]}`),
		"manifest is null":         oci(plain, `null`),
		"size lies":                oci(`{"manifests":[{`+mt+`,"digest":"`+string(digest.FromString("{}"))+`","size":50}]}`, `{}`),
		"huge document":            handmade(t, tarFile{name: "manifest.json", body: strings.Repeat(" ", maxDocument+1)}),
		"annotated with nonsense":  oci(`{"manifests":[{`+mt+`,M,"annotations":{"io.containerd.image.name":"../x"}}]}`, `{}`),
	} {
		if imgs, err := Read(t.Context(), bytes.NewReader(b), ReadOptions{Blobs: newStore(t)}); err == nil {
			t.Errorf("%s: got %v", name, imgs)
		}
	}
	limits := layer.Limits{Size: 1 << 20}
	big := handmade(t, tarFile{name: "x", body: strings.Repeat("x", 2<<20)})
	if _, err := Read(t.Context(), bytes.NewReader(big), ReadOptions{Blobs: newStore(t), Limits: limits}); !errors.Is(err, layer.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// A small archive that names one large config many times does not become large when it is read.
func TestRepeatedConfig(t *testing.T) {
	config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}` + strings.Repeat(" ", maxDocument-100)
	const one = `{"Config":"c.json","Layers":[]}`
	archive := handmade(t,
		tarFile{name: "c.json", body: config}, tarFile{name: "manifest.json", body: "[" + strings.Repeat(one+",", 30) + one + "]"})
	if imgs, err := Read(t.Context(), bytes.NewReader(archive), ReadOptions{Blobs: newStore(t)}); !errors.Is(err, layer.ErrTooLarge) {
		t.Errorf("%d images, error %v", len(imgs), err)
	}
}

// Indexes that lead to indexes are followed to a depth, and a fan of them to a number (CVE-2026-53493).
func TestIndexGraph(t *testing.T) {
	files := map[digest.Digest]string{}
	add := func(s string) string {
		d := digest.FromString(s)
		files[d] = s
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.index.v1+json","digest":%q,"size":%d}`, d, len(s))
	}
	at := add(`{"manifests":[]}`)
	for range maxDepth { // each leads to the one below thirty times
		at = add(`{"manifests":[` + strings.Repeat(at+",", 29) + at + `]}`)
	}
	ents := []tarFile{{name: "index.json", body: `{"manifests":[` + at + `]}`}}
	for d, s := range files {
		ents = append(ents, tarFile{name: blobName(d), body: s})
	}
	if _, err := Read(t.Context(), bytes.NewReader(handmade(t, ents...)), ReadOptions{Blobs: newStore(t)}); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

// Keep is asked before each blob is there, and its error ends the reading.
func TestKeep(t *testing.T) {
	s := newStore(t)
	no := errors.New("no")
	var kept []digest.Digest
	opt := ReadOptions{Blobs: s, Keep: func(_ context.Context, d digest.Digest) error {
		if s.Has(Descriptor{Digest: d, Size: blob.UnknownSize}) && !slices.Contains(kept, d) {
			t.Errorf("%s is there before it is kept", d)
		}
		if kept = append(kept, d); len(kept) > 3 {
			return no
		}
		return nil
	}}
	if _, err := Read(t.Context(), bytes.NewReader(handmade(t, old("a:1")...)), opt); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(handmade(f, old("a:1")...))
	a := mkImage(f, []string{"docker.io/library/a:1"}, "amd64", "one")
	f.Add(write(f, Options{Docker: true}, a))
	f.Add(write(f, Options{}, a))
	s := newStore(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		imgs, err := Read(t.Context(), bytes.NewReader(b), ReadOptions{Blobs: s, Limits: layer.Limits{Size: 1 << 20}})
		if err != nil {
			return
		}
		for _, img := range imgs {
			for _, m := range img.Manifests {
				for _, l := range m.Layers {
					if _, err := s.Stat(l.Blob.Digest); err != nil {
						t.Errorf("a layer is not there: %v", err)
					}
				}
			}
		}
	})
}
