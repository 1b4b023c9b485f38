package buildkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// An entry is one of a layer.
type entry struct {
	name, link, text string
	kind             byte
	mode             int64
	records          map[string]string
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{
			Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Size: int64(len(e.text)), ModTime: time.Unix(1400000000, 0), PAXRecords: e.records,
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// winEntry is an entry as Windows' own tools write it: no permissions, and records.
func winEntry(name string, kind byte, content string) entry {
	e := entry{name: name, kind: kind, records: map[string]string{
		"LIBARCHIVE.creationtime": "1300000000.0", "MSWINDOWS.rawsd": "AQAEgBQAAAAkAAAAAAAAAA==", "MSWINDOWS.fileattr": "32",
	}}
	switch kind {
	case '0':
		e.mode, e.text = 1<<15, content
	case '5':
		e.mode, e.records["MSWINDOWS.fileattr"] = 1<<14, "16"
	case '1':
		e.link, e.records = content, nil // as hard links have in those layers
		e.mode = 1 << 15
	case '2':
		e.link, e.records["MSWINDOWS.fileattr"] = content, "1040"
	}
	return e
}

// windowsBase puts bases into a registry, and returns the digests of their layers.
func windowsBase(t *testing.T, r *registrytest.Registry) map[string]bool {
	t.Helper()
	lower := tarOf(t,
		winEntry("Files", '5', ""), winEntry("Files/License.txt", '0', "license\r\n"), winEntry("Files/ProgramData", '5', ""),
		winEntry("Files/ProgramData/old.txt", '0', "old"), winEntry("Files/ProgramData/keep.txt", '0', "keep"),
		winEntry("Files/Users", '5', ""), winEntry("Files/Documents and Settings", '2', "C:/Users"),
		winEntry("Files/Windows", '5', ""), winEntry("Files/Windows/System32", '5', ""), winEntry("Files/Windows/System32/cmd.exe", '0', "MZ"),
		winEntry("Files/Windows/System32/link.exe", '1', "Files/Windows/System32/cmd.exe"),
		winEntry("Hives", '5', ""), winEntry("Hives/Software_Base", '0', "regf"),
		winEntry("UtilityVM", '5', ""), winEntry("UtilityVM/Files", '5', ""), winEntry("UtilityVM/Files/x", '0', "vm"))
	upper := tarOf(t, winEntry("Files", '5', ""), winEntry("Files/ProgramData", '5', ""), winEntry("Files/ProgramData/.wh.old.txt", '0', ""),
		winEntry("Files/ProgramData/new.txt", '0', "new"), winEntry("Hives", '5', ""), winEntry("Hives/Software_Delta", '0', "regf"))
	bases := map[string]bool{}
	put := func(repo string, p ocispec.Platform, layers ...[]byte) ocispec.Descriptor {
		img := ocispec.Image{Platform: p}
		img.RootFS.Type = "layers"
		if p.OS == "windows" {
			img.Config.Cmd, img.Config.User = []string{`c:\windows\system32\cmd.exe`}, "ContainerUser"
		}
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
		m.SchemaVersion = 2
		blob := func(mediaType string, b []byte) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(r.PutBlob(repo, b)), Size: int64(len(b))}
		}
		for _, l := range layers {
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
			img.History = append(img.History, ocispec.History{CreatedBy: "Apply image"})
			d := blob(ocispec.MediaTypeImageLayerGzip, zipped(t, l))
			if repo == "foreign" {
				d.MediaType, d.URLs = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []string{"https://127.0.0.1:1/" + string(d.Digest)}
			}
			m.Layers = append(m.Layers, d)
			bases[string(m.Layers[len(m.Layers)-1].Digest)] = true
		}
		m.Config = blob(ocispec.MediaTypeImageConfig, document(t, img))
		text := document(t, m)
		d := r.PutManifest(repo, "1", m.MediaType, text)
		index := ocispec.Platform{OS: p.OS, Architecture: p.Architecture, OSVersion: p.OSVersion}
		return ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(d), Size: int64(len(text)), Platform: &index}
	}
	busybox, err := os.ReadFile(filepath.Join(os.Getenv("BOXBUILD_BASES"), "busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	for repo, platforms := range map[string][]string{
		"winsingle": {"10.0.20348.2000"}, "foreign": {"10.0.20348.2000"}, "win": {"10.0.20348.2000", "10.0.17763.1000"}, "linux": {""}, "multi": {"", "10.0.20348.2000"},
	} {
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
		index.SchemaVersion = 2
		for _, v := range platforms {
			p := ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: v, OSFeatures: []string{"win32k"}}
			layers := [][]byte{lower, upper}
			if v == "" {
				p, layers = ocispec.Platform{OS: "linux", Architecture: "amd64"}, [][]byte{busybox}
			}
			index.Manifests = append(index.Manifests, put(repo, p, layers...))
		}
		if repo == "win" || repo == "multi" {
			r.PutManifest(repo, "1", index.MediaType, document(t, index))
		}
	}
	return bases
}

// A listing says what an OCI layout has, without what is another in each build.
type listing struct {
	t     *testing.T
	files map[string]string // of the layout
	base  map[string]bool   // layers that are named only
	since time.Time         // what is younger is new
	// asWindows has layers that have not the form for Windows listed as if they had.
	asWindows bool
	out       strings.Builder
}

func (l *listing) blob(d digest.Digest, v any) []byte {
	l.t.Helper()
	b, ok := l.files["blobs/sha256/"+d.Encoded()]
	if !ok || digest.FromString(b) != d {
		l.t.Fatalf("blob %s: there is %v", d, ok)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(b), v); err != nil {
			l.t.Fatal(err)
		}
	}
	return []byte(b)
}

func (l *listing) all() string {
	var index ocispec.Index
	if err := json.Unmarshal([]byte(l.files["index.json"]), &index); err != nil {
		l.t.Fatal(err)
	}
	for _, d := range index.Manifests {
		l.manifest(d)
	}
	return l.out.String()
}

func (l *listing) manifest(d ocispec.Descriptor) {
	if d.MediaType == ocispec.MediaTypeImageIndex {
		var index ocispec.Index
		l.blob(d.Digest, &index)
		fmt.Fprintf(&l.out, "index of %d\n", len(index.Manifests))
		for _, d := range index.Manifests {
			l.manifest(d)
		}
		return
	}
	var m ocispec.Manifest
	l.blob(d.Digest, &m)
	platform, err := json.Marshal(d.Platform)
	if err != nil {
		l.t.Fatal(err)
	}
	fmt.Fprintf(&l.out, "manifest for %s\n", platform)
	var config map[string]any
	l.blob(m.Config.Digest, &config)
	l.config(config)
	var img ocispec.Image
	l.blob(m.Config.Digest, &img)
	for i, d := range m.Layers {
		if l.base[string(d.Digest)] {
			fmt.Fprintf(&l.out, "layer %d is the base's, %s %v\n", i, d.MediaType, d.URLs)
			continue
		}
		fmt.Fprintf(&l.out, "layer %d\n", i)
		z, err := gzip.NewReader(bytes.NewReader(l.blob(d.Digest, nil)))
		if err != nil {
			l.t.Fatal(err)
		}
		h := digest.SHA256.Digester()
		l.layer(io.TeeReader(z, h.Hash()))
		if img.RootFS.DiffIDs[i] != h.Digest() {
			l.t.Errorf("layer %d is %s and is called %s", i, h.Digest(), img.RootFS.DiffIDs[i])
		}
	}
}

// config lists a configuration a line for each field, and for each entry of the history.
func (l *listing) config(c map[string]any) {
	delete(c, "rootfs")
	delete(c, "created")
	history, _ := c["history"].([]any)
	delete(c, "history")
	var lines []string
	for k, v := range c {
		b, err := json.Marshal(v)
		if err != nil {
			l.t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("  %s %s\n", k, b))
	}
	sort.Strings(lines)
	for _, h := range history {
		if m, ok := h.(map[string]any); ok {
			delete(m, "created")
		}
		b, err := json.Marshal(h)
		if err != nil {
			l.t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("  history %s\n", b))
	}
	l.out.WriteString(strings.Join(lines, ""))
}

// layer lists the entries of a layer.
func (l *listing) layer(r io.Reader) {
	form := ""
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			l.t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			l.t.Fatal(err)
		}
		if form == "" {
			form = "linux"
			if h.Name == "Hives" {
				form = "windows"
			} else if l.asWindows {
				l.toWindows(&tar.Header{Typeflag: tar.TypeDir, Name: "Hives"}, nil)
				l.toWindows(&tar.Header{Typeflag: tar.TypeDir, Name: "Files"}, nil)
			}
		}
		if form == "linux" && l.asWindows {
			h.Name = "Files/" + h.Name
			l.toWindows(h, text)
			continue
		}
		l.entry(h, text)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		l.t.Fatal(err)
	}
}

// toWindows lists an entry with what TestWindows' other cases show that each of its kind has.
func (l *listing) toWindows(h *tar.Header, text []byte) {
	h.PAXRecords = map[string]string{"LIBARCHIVE.creationtime": fmt.Sprintf("%d.0", h.ModTime.Unix())}
	switch h.Typeflag {
	case tar.TypeDir:
		h.Mode |= 1 << 14
		h.PAXRecords["MSWINDOWS.fileattr"], h.PAXRecords["MSWINDOWS.rawsd"] = "16", directorySD
	case tar.TypeReg:
		h.Mode |= 1 << 15
		h.PAXRecords["MSWINDOWS.fileattr"], h.PAXRecords["MSWINDOWS.rawsd"] = "32", fileSD
	}
	if h.Name == "Hives" || h.Name == "Files" {
		delete(h.PAXRecords, "MSWINDOWS.rawsd")
	}
	l.entry(h, text)
}

// Security descriptors, of which listings say only which it is.
const (
	directorySD = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgCoAAcAAAAAAxgA/wEfAAECAAAAAAAFIAAAACACAAAA" +
		"AxQA/wEfAAEBAAAAAAAFEgAAAAAAGAD/AR8AAQIAAAAAAAUgAAAAIAIAAAALFAAAAAAQAQEAAAAAAAMAAAAAAAMYAKkAEgABAgAAAAAABSAAAAAhAgAA" +
		"AAIYAAQAAAABAgAAAAAABSAAAAAhAgAAAAIYAAIAAAABAgAAAAAABSAAAAAhAgAA"
	fileSD = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACACAAAA" +
		"ABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA=="
)

// entry lists an entry: where the time is that of the build, or of no file, it says only whether both times are the same.
func (l *listing) entry(h *tar.Header, text []byte) {
	when := fmt.Sprint(h.ModTime.Unix())
	if h.Name == "Hives" || h.Name == "Files" {
		when = "any"
	} else if h.ModTime.After(l.since) {
		when = "new"
	}
	fmt.Fprintf(&l.out, "  %c %s %o %d:%d %q %s", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Uname+h.Gname, when)
	if h.Linkname != "" {
		to := h.Linkname
		if h.Typeflag == tar.TypeSymlink {
			to = strings.TrimPrefix(to, "Files/")
		}
		fmt.Fprintf(&l.out, " -> %s", to)
	}
	if h.Typeflag == tar.TypeReg {
		fmt.Fprintf(&l.out, " %q", text)
	}
	var records []string
	for k, v := range h.PAXRecords {
		switch {
		case k == "mtime", k == "path", k == "linkpath":
			continue
		case k == "LIBARCHIVE.creationtime":
			if sec, _, _ := strings.Cut(v, "."); sec == fmt.Sprint(h.ModTime.Unix()) {
				v = "the same"
			}
		case v == directorySD:
			v = "a directory's"
		case v == fileSD:
			v = "a file's"
		}
		records = append(records, fmt.Sprintf(" [%s %s]", k, v))
	}
	sort.Strings(records)
	l.out.WriteString(strings.Join(records, "") + "\n")
}
