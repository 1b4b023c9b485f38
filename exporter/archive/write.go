package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
)

// Write writes images as one tar to w. After an error w has a part of it.
func Write(ctx context.Context, w io.Writer, opt Options, images ...*exporter.Image) (Descriptor, error) {
	l, err := plan(ctx, opt, images)
	if err != nil {
		return Descriptor{}, err
	}
	if opt.Begin != nil {
		opt.Begin(l.top)
	}
	bw := bufio.NewWriterSize(w, 128<<10)
	tw := tar.NewWriter(bw)
	for _, d := range l.dirs() {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return Descriptor{}, fmt.Errorf("writing archive: %w", err)
		}
	}
	for _, name := range l.names() {
		e := l.files[name]
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: e.size, ModTime: time.Unix(0, 0)})
		if err == nil {
			err = copyEntry(ctx, tw, e, opt.Progress)
		}
		if err != nil {
			return Descriptor{}, fmt.Errorf("writing archive: %s: %w", name, err)
		}
	}
	if err := errors.Join(tw.Close(), bw.Flush()); err != nil {
		return Descriptor{}, fmt.Errorf("writing archive: %w", err)
	}
	return l.top, nil
}

// A dirExporter writes a layout to a directory.
type dirExporter struct {
	dir string
	opt Options
}

// NewDir returns an Exporter that writes an OCI layout to a directory, which is made if need be. If it has a layout
// already the image is added to it, and replaces one of the same name; other images stay.
//
// All of it happens inside dir, whatever symlinks there are in it.
func NewDir(dir string, opt Options) exporter.Exporter { return &dirExporter{dir, opt} }

// Export implements exporter.Exporter.
func (e *dirExporter) Export(ctx context.Context, img *exporter.Image) (Descriptor, error) {
	l, err := plan(ctx, e.opt, []*exporter.Image{img})
	if err != nil {
		return Descriptor{}, err
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return Descriptor{}, fmt.Errorf("writing layout: %w", err)
	}
	root, err := os.OpenRoot(e.dir)
	if err != nil {
		return Descriptor{}, fmt.Errorf("writing layout: %w", err)
	}
	defer root.Close()
	if err := e.write(ctx, root, l); err != nil {
		return Descriptor{}, fmt.Errorf("writing layout %s: %w", e.dir, err)
	}
	return l.top, nil
}

func (e *dirExporter) write(ctx context.Context, root *os.Root, l *layout) error {
	if err := l.merge(root); err != nil {
		return err
	}
	for _, d := range l.dirs() {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, name := range l.names() { // the documents come after the blobs that they name, and the index after all
		if name == indexFile {
			continue
		}
		f := l.files[name]
		if fi, err := root.Lstat(name); err == nil && strings.HasPrefix(name, "blobs/") && fi.Mode().IsRegular() && fi.Size() == f.size {
			continue
		}
		if err := putFile(ctx, root, name, f, e.opt.Progress); err != nil {
			return err
		}
	}
	return putFile(ctx, root, indexFile, l.files[indexFile], nil)
}

// merge adds the images that a directory has to the index.
func (l *layout) merge(root *os.Root) error {
	b, err := readLimited(root, indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old ocispec.Index
	if err := json.Unmarshal(b, &old); err != nil {
		return fmt.Errorf("reading %s: %w", indexFile, err)
	}
	kept := []Descriptor{}
	for _, d := range old.Manifests {
		replaced := false
		for _, n := range l.index.Manifests {
			sameName := d.Annotations[imageName] == n.Annotations[imageName] && d.Annotations[ocispec.AnnotationRefName] == n.Annotations[ocispec.AnnotationRefName]
			replaced = replaced || sameName && (len(n.Annotations) > 0 || d.Digest == n.Digest)
		}
		if !replaced {
			kept = append(kept, d)
		}
	}
	l.index.Manifests = append(kept, l.index.Manifests...)
	if b, err = json.Marshal(l.index); err != nil {
		return err
	}
	l.files[indexFile] = bytesEntry(b)
	return nil
}

// putFile writes a file under another name and renames it.
func putFile(ctx context.Context, root *os.Root, name string, e entry, progress exporter.Progress) (err error) {
	tmp := path.Join(path.Dir(name), ".tmp-"+strings.ToLower(rand.Text()))
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = copyEntry(ctx, f, e, progress)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // the error that matters is the first
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
