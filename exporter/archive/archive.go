// Package archive writes images to archives and reads archives that users load.
//
// Three forms are written: an OCI image layout as a directory, the same as a tar, and the tar that `docker load` reads,
// which is an OCI layout with manifest.json and repositories besides, as Docker itself has written since version 25. A tar is
// deterministic: its entries are sorted, and have no times, owners or names of users.
//
// Read takes all of these, and what Docker wrote before: layers in directories, some as links to others. What an archive
// says is believed only as far as digests bear it out; see Read.
//
// In a directory half-written files have no final name: they are written beside it and renamed.
package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/image"
)

// Descriptor names bytes.
type Descriptor = exporter.Descriptor

// imageName is the annotation in which containerd and Docker keep the whole name of an image; OCI's own has the tag only.
const imageName = "io.containerd.image.name"

// Names of files in archives.
const (
	layoutFile       = ocispec.ImageLayoutFile // "oci-layout"
	indexFile        = ocispec.ImageIndexFile  // "index.json"
	manifestFile     = "manifest.json"
	repositoriesFile = "repositories"
)

// Options say how an archive is written.
type Options struct {
	// Docker adds what `docker load` needs. Of an image with several manifests an old docker finds the one that Prefer is
	// the platform of, or else the first.
	Docker bool
	Prefer *ocispec.Platform
	// Created, if set, is noted with every image as the time it was written (org.opencontainers.image.created).
	Created *time.Time
	// Form is that of the layers. The zero value compresses what is not compressed yet; Docker reads any form.
	Form exporter.Form
	// Progress, if set, is told how much of each blob has been written.
	Progress exporter.Progress
	// Made, if set, is told what each image consists of once its layers are there in the form asked for, and before anything
	// is written.
	Made func(exporter.Contents)
	// Begin, if set, is told what the index says of the last image, before Write writes the first byte.
	Begin func(top Descriptor)
}

// An entry is a file of an archive.
type entry struct {
	size int64
	open func(ctx context.Context) (io.ReadCloser, error)
	id   string // of a blob, for progress; else empty
}

// A layout is a planned archive: its files by name. Nothing is read before it is written.
type layout struct {
	files map[string]entry
	index ocispec.Index
	// docker is the content of manifest.json, and repos that of repositories.
	docker []dockerImage
	repos  map[string]map[string]string
	top    Descriptor
}

// A dockerImage is an element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func bytesEntry(b []byte) entry {
	return entry{size: int64(len(b)), open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(b))), nil
	}}
}

// plan lays out images. Their layers are made into the form asked for.
func plan(ctx context.Context, opt Options, images []*exporter.Image) (*layout, error) {
	l := &layout{files: make(map[string]entry), repos: make(map[string]map[string]string)}
	l.index.SchemaVersion = 2
	l.index.MediaType = ocispec.MediaTypeImageIndex
	l.index.Manifests = []Descriptor{}
	for _, img := range images {
		if err := l.add(ctx, opt, img); err != nil {
			return nil, fmt.Errorf("writing archive: %w", err)
		}
	}
	return l, l.addDocuments(opt)
}

func (l *layout) add(ctx context.Context, opt Options, img *exporter.Image) error {
	all, top, err := image.AssembleAll(ctx, img, opt.Form)
	if err != nil {
		return err
	}
	if opt.Made != nil {
		opt.Made(image.Contents(all, top))
	}
	for _, a := range all {
		l.files[blobName(a.Manifest.Descriptor.Digest)] = bytesEntry(a.Manifest.Bytes)
		l.files[blobName(a.Config.Descriptor.Digest)] = bytesEntry(a.Config.Bytes)
		for i, d := range a.Blobs {
			ly := a.Layers[i]
			l.files[blobName(d.Digest)] = entry{
				size: d.Size, id: string(d.Digest),
				open: func(ctx context.Context) (io.ReadCloser, error) { return ly.Open(ctx, d) },
			}
		}
	}
	l.files[blobName(top.Descriptor.Digest)] = bytesEntry(top.Bytes)
	l.top = top.Descriptor
	l.top.Annotations = maps.Clone(top.Descriptor.Annotations)
	if _, set := l.top.Annotations[ocispec.AnnotationCreated]; opt.Created != nil && !set {
		if l.top.Annotations == nil {
			l.top.Annotations = make(map[string]string)
		}
		l.top.Annotations[ocispec.AnnotationCreated] = opt.Created.UTC().Format(time.RFC3339)
	}
	if err := l.addNames(img.Names, l.top); err != nil {
		return err
	}
	return l.addDocker(img.Names, preferred(all, opt.Prefer))
}

// preferred returns the image for platform p, or the first.
func preferred(all []*image.Assembled, p *ocispec.Platform) *image.Assembled {
	for _, a := range all {
		if have := a.Manifest.Descriptor.Platform; p != nil && have != nil && have.OS == p.OS && have.Architecture == p.Architecture {
			return a
		}
	}
	return all[0]
}

// addNames adds an entry of the index for each name.
func (l *layout) addNames(names []string, top Descriptor) error {
	if len(names) == 0 {
		l.index.Manifests = append(l.index.Manifests, top)
		return nil
	}
	for _, n := range names {
		ref, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return fmt.Errorf("naming image %.300q: %w", n, err)
		}
		d := top
		d.Annotations = maps.Clone(top.Annotations)
		if d.Annotations == nil {
			d.Annotations = make(map[string]string)
		}
		ref = reference.TagNameOnly(ref)
		d.Annotations[imageName] = ref.String()
		if t, ok := ref.(reference.Tagged); ok {
			d.Annotations[ocispec.AnnotationRefName] = t.Tag()
		}
		l.index.Manifests = append(l.index.Manifests, d)
	}
	return nil
}

func (l *layout) addDocker(names []string, a *image.Assembled) error {
	d := dockerImage{Config: blobName(a.Config.Descriptor.Digest), Layers: []string{}}
	last := ""
	for _, b := range a.Blobs {
		d.Layers = append(d.Layers, blobName(b.Digest))
		last = b.Digest.Encoded()
	}
	for _, n := range names {
		ref, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return fmt.Errorf("naming image %.300q: %w", n, err)
		}
		ref = reference.TagNameOnly(ref)
		d.RepoTags = append(d.RepoTags, reference.FamiliarString(ref))
		if t, ok := ref.(reference.Tagged); ok && last != "" {
			repo := reference.FamiliarName(ref)
			if l.repos[repo] == nil {
				l.repos[repo] = make(map[string]string)
			}
			l.repos[repo][t.Tag()] = last
		}
	}
	for i := range l.docker {
		if l.docker[i].Config == d.Config { // the same image again, under another name
			l.docker[i].RepoTags = append(l.docker[i].RepoTags, d.RepoTags...)
			return nil
		}
	}
	l.docker = append(l.docker, d)
	return nil
}

// addDocuments adds the files that say what the others are.
func (l *layout) addDocuments(opt Options) error {
	docs := map[string]any{
		indexFile:  l.index,
		layoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
	}
	if opt.Docker {
		docs[manifestFile] = l.docker
		if len(l.repos) > 0 {
			docs[repositoriesFile] = l.repos
		}
	}
	for name, v := range docs {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("writing archive: %s: %w", name, err)
		}
		l.files[name] = bytesEntry(b)
	}
	return nil
}

// names returns the files' names, sorted.
func (l *layout) names() []string { return slices.Sorted(maps.Keys(l.files)) }

// dirs returns the directories that files lie in, parents first.
func (l *layout) dirs() []string {
	set := make(map[string]bool)
	for name := range l.files {
		for i, c := range name {
			if c == '/' {
				set[name[:i]] = true
			}
		}
	}
	out := slices.Collect(maps.Keys(set))
	sort.Strings(out)
	return out
}

// copyEntry writes the content of a file to w, and makes sure that it is as long as was said.
func copyEntry(ctx context.Context, w io.Writer, e entry, progress exporter.Progress) error {
	r, err := e.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, 256<<10)
	var n int64
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m, err := r.Read(buf)
		if m > 0 {
			if n += int64(m); n > e.size {
				return fmt.Errorf("more than %d bytes", e.size)
			}
			if _, werr := w.Write(buf[:m]); werr != nil {
				return werr
			}
			if progress != nil && e.id != "" {
				progress(e.id, n, e.size, false)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if n != e.size {
		return io.ErrUnexpectedEOF
	}
	if progress != nil && e.id != "" {
		progress(e.id, n, e.size, true)
	}
	return nil
}
