package crash

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// hostile returns archives that want to leave the directory that they are unpacked in.
func hostile(c *canary) map[string][]entry {
	up := strings.Repeat("../", 30)
	out := c.dir[1:]
	return map[string][]entry{
		"parents":              {file(up+out+"/new", "x"), file(up+out+"/file", "x")},
		"parents inside":       {file("a/b/"+up+out+"/file", "x")},
		"absolute":             {file(c.dir+"/new", "x"), file(c.dir+"/file", "x")},
		"symlink, then write":  {link(tar.TypeSymlink, "l", c.dir), file("l/new", "x"), file("l/file", "x")},
		"relative symlink":     {link(tar.TypeSymlink, "l", up+out), file("l/new", "x"), file("l/file", "x")},
		"symlink to a file":    {link(tar.TypeSymlink, "l", c.dir+"/file"), file("l", "x")},
		"chain of symlinks":    {link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", c.dir), file("a/new", "x")},
		"hard link out":        {link(tar.TypeLink, "h", c.dir+"/file"), file("h", "x")},
		"hard link up":         {link(tar.TypeLink, "h", up+out+"/file"), file("h", "x")},
		"hard link by symlink": {link(tar.TypeSymlink, "l", c.dir), link(tar.TypeLink, "h", "l/file"), file("h", "x")},
		"hard link there":      {link(tar.TypeSymlink, "l", c.dir), file("x", "x"), link(tar.TypeLink, "l/new", "x")},
		"link to itself":       {link(tar.TypeLink, "h", "h")},
		"root is a symlink":    {link(tar.TypeSymlink, ".", c.dir), file("new", "x")},
		"root is a symlink 2":  {link(tar.TypeSymlink, "/", c.dir), link(tar.TypeSymlink, "./", c.dir), file("./new", "x")},
		"whiteouts":            {link(tar.TypeSymlink, "d", c.dir), file("d/.wh.file", ""), file("d/d/.wh..wh..opq", "")},
		"whiteout up":          {file(up+out+"/.wh.file", ""), file(".wh...", ""), file(".wh..", "")},
		"modes": {
			link(tar.TypeSymlink, "l", c.dir+"/file"),
			{tar.Header{Typeflag: tar.TypeDir, Name: "l/", Mode: 0o4777, Uid: 1, Gid: 1}, ""},
			{tar.Header{Typeflag: tar.TypeSymlink, Name: "m", Linkname: c.dir, Mode: 0o777, Uid: 5, Gid: 5}, ""},
			{tar.Header{Typeflag: tar.TypeDir, Name: "m", Mode: 0o700, Uid: 5, Gid: 5}, ""},
		},
		"attributes": {
			link(tar.TypeSymlink, "l", c.dir+"/file"),
			{tar.Header{Name: "l", PAXRecords: map[string]string{"SCHILY.xattr.user.evil": "1"}}, "x"},
		},
		"device": {
			{tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8, Mode: 0o666}, ""},
			{tar.Header{Typeflag: tar.TypeChar, Name: "kmsg", Devmajor: 1, Devminor: 11, Mode: 0o666}, ""},
			{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o666}, ""},
			file("kmsg", "x"), file("fifo", "x"),
		},
		"long names": {file(strings.Repeat("../", 200)+out+"/new", "x"), file(strings.Repeat("a/", 2000)+"x", "x")},
	}
}

// TestHostileArchives feeds archives that want to break out, in every way that archives come in. What is refused and
// what is confined is told elsewhere; here nothing outside may change, nothing of it be read, and the daemon goes on.
func TestHostileArchives(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	reg := registrytest.New(registrytest.Behaviour{})
	addr := registrytest.Start(t, reg)
	accepted := 0
	for name, entries := range hostile(c) {
		data := writeTar(entries...)
		dir := h.context(map[string]string{
			"Dockerfile":  "FROM busybox\nADD x.tar /\nADD x.tar /dir/\nRUN cat /l /h /l/file /h/file /dir/h 2>/dev/null; true\n",
			"Dockerfile2": "FROM scratch\nADD x.tar /\n",
			"x.tar":       string(data),
		})
		var said []string
		run := func(stdin string, args ...string) {
			t.Helper()
			r := h.run(stdin, args...)
			if r.err == nil {
				accepted++
			}
			said = append(said, r.stdout, r.stderr)
		}
		run("", "build", "--progress", "plain", "--no-cache", dir)
		run("", "build", "-q", "-f", dir+"/Dockerfile2", "-o", filepath.Join(t.TempDir(), "out"), dir)
		run("", "build", "-q", "-f", dir+"/Dockerfile2", "-o", "-", dir)
		run(string(data), "import", "-", "hostile")
		run("FROM hostile\nCOPY --from=busybox /bin/sh /bin/sh\nCOPY --from=busybox /bin/cat /bin/cat\nRUN cat /l /h /l/file\n", "build", "--progress", "plain", "-")
		run(string(data), "load")
		run(string(data), "build", "--progress", "plain", "-")
		run(string(dockerArchive(t, data)), "load")
		run("FROM hostile:load\nCOPY --from=busybox /bin/sh /bin/sh\nCOPY --from=busybox /bin/cat /bin/cat\nRUN cat /l /h /l/file\n", "build", "--progress", "plain", "-")
		reg.PutImage("hostile", "pull", config(t, registrytest.Digest(data)), data)
		run("", "pull", addr+"/hostile:pull")
		c.check(t, name, said...)
		h.run("", "rmi", "-f", "hostile", "hostile:load", addr+"/hostile:pull")
	}
	t.Logf("%d calls were served, within their bounds", accepted)
	h.must("", "version")
	h.must("FROM busybox\nRUN true\n", "build", "-q", "-")
	h.checkEmpties()
}

// config is the config of an image with one layer.
func config(t testing.TB, diffID string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dockerArchive is what docker save writes for an image of one layer, named hostile:load.
func dockerArchive(t testing.TB, layer []byte) []byte {
	t.Helper()
	manifest := `[{"Config":"config.json","RepoTags":["hostile:load"],"Layers":["layer.tar"]}]`
	return writeTar(file("manifest.json", manifest), file("config.json", string(config(t, registrytest.Digest(layer)))),
		file("layer.tar", string(layer)))
}

// TestHostileLoads loads archives whose own structure lies.
func TestHostileLoads(t *testing.T) {
	h := newHost(t, "")
	c := newCanary(t)
	h.start()
	h.importBusybox()
	layer := string(writeTar(file("result", "x")))
	conf := string(config(t, registrytest.Digest([]byte(layer))))
	up := strings.Repeat("../", 30) + c.dir[1:]
	manifest := func(conf, tag string, layers ...string) entry {
		b, err := json.Marshal([]any{map[string]any{"Config": conf, "RepoTags": []string{tag}, "Layers": layers}})
		if err != nil {
			t.Fatal(err)
		}
		return file("manifest.json", string(b))
	}
	for name, entries := range map[string][]entry{
		"config outside":     {manifest(up+"/file", "evil", "layer.tar"), file("layer.tar", layer)},
		"layer outside":      {manifest("c", "evil", up+"/file"), file("c", conf)},
		"layer is a symlink": {manifest("c", "evil", "l"), file("c", conf), link(tar.TypeSymlink, "l", c.dir+"/file")},
		"wrong digest":       {manifest(strings.Repeat("0", 64)+".json", "evil", "l"), file("l", layer+"x"), file(strings.Repeat("0", 64)+".json", conf)},
		"layer differs":      {manifest("c", "evil", "l"), file("c", conf), file("l", string(writeTar(file("result", "other"))))},
		"too few layers":     {manifest("c", "evil"), file("c", conf)},
		"no config":          {manifest("", "evil", "l"), file("l", layer)},
		"null manifest":      {file("manifest.json", "[null]")},
		"bad name":           {manifest("c", "../../evil:x/y", "l"), file("c", conf), file("l", layer)},
		"OCI blob outside": {
			file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`),
			file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+up+`/file","size":13}]}`),
		},
		"OCI index of itself": {
			file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{"schemaVersion":2,"manifests":[{"size":-1}]}`),
		},
		"big manifest": {file("manifest.json", strings.Repeat(" ", 32<<20)+"[]")},
		"empty":        {},
	} {
		r := h.run(string(writeTar(entries...)), "load")
		if r.err == nil {
			t.Errorf("%s: is loaded: %s", name, r.stdout)
		}
		c.check(t, name, r.stdout, r.stderr)
	}
	if out := h.must("", "images", "-aq"); len(strings.Fields(out)) != 1 {
		t.Errorf("images after refused loads:\n%s", out)
	}
	h.must("", "version")
}

// TestBomb unpacks a gigabyte of zeros from a megabyte, on a file system that has no room for it: what it is for fails,
// the store stays as it was, and the daemon's memory too.
func TestBomb(t *testing.T) {
	disk := smallDisk(t, 48)
	h := newHost(t, disk)
	h.start()
	h.importBusybox()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	const size = 1 << 30
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := b.String()
	h.must("FROM busybox\nRUN true\n", "build", "-q", "-")
	before := h.rss()
	h.mustFail("", []string{"build", h.context(map[string]string{"Dockerfile": "FROM scratch\nADD x.tar.gz /\n", "x.tar.gz": bomb})}, "o space left")
	h.mustFail(bomb, []string{"import", "-", "bomb"}, "o space left")
	h.mustFail(string(dockerArchive(t, []byte(bomb))), []string{"load"}, "")
	if after := h.rss(); after > before+100 {
		t.Errorf("the daemon grew from %.0f to %.0f MiB", before, after)
	} else {
		t.Logf("memory: %.1f MiB before, %.1f after", before, after)
	}
	h.must("FROM busybox\nRUN echo\n", "build", "-q", "-")
	h.checkEmpties()
}

// zeros reads as zeros without end.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
