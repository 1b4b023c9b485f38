package history

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/snapshot/lease"
)

// Attach keeps what write writes with a build, under a name of the caller's, and describes it. What was kept under that name
// before is replaced. It is no change that Changes tells of.
func (s *Store) Attach(id, name, mediaType string, write func(io.Writer) error) (desc ocispec.Descriptor, err error) {
	e := s.lookup(id)
	if e == nil {
		return desc, notFound(id)
	}
	f, err := os.CreateTemp(s.opt.Dir, newPrefix)
	if err != nil {
		return desc, fmt.Errorf("keeping the %s of build %s: %w", name, id, err)
	}
	defer func() {
		_ = f.Close() // what matters is flushed below
		if err != nil {
			_ = os.Remove(f.Name()) // or the next removal does
			err = fmt.Errorf("keeping the %s of build %s: %w", name, id, err)
		}
	}()
	hash := sha256.New()
	out := bufio.NewWriterSize(f, 64<<10)
	count := &counting{w: io.MultiWriter(out, hash)}
	if err := write(count); err != nil {
		return desc, err
	}
	if err := out.Flush(); err != nil {
		return desc, err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	desc = ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigestFromEncoded(digest.SHA256, sum), Size: count.n}
	return desc, s.adopt(e, f.Name(), name, desc)
}

// adopt makes the file at path the attachment name of e.
func (s *Store) adopt(e *entry, path, name string, desc ocispec.Descriptor) error {
	e.writing <- struct{}{}
	defer func() { <-e.writing }()
	if e.gone {
		return ErrNotFound
	}
	if err := os.Rename(path, e.blobPath(desc.Digest)); err != nil {
		return err
	}
	s.mu.Lock()
	rec := e.rec.clone()
	if rec.Attachments == nil {
		rec.Attachments = map[string]ocispec.Descriptor{}
	}
	old, had := rec.Attachments[name]
	rec.Attachments[name] = desc
	e.rec = rec
	s.mu.Unlock()
	if err := s.writeRecord(e, rec); err != nil {
		return err
	}
	for _, d := range rec.Attachments {
		had = had && d.Digest != old.Digest
	}
	if !had {
		return nil
	}
	return os.Remove(e.blobPath(old.Digest))
}

// A counting counts what is written.
type counting struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// A Blob is an attachment of some build.
type Blob struct {
	ocispec.Descriptor
	Build string // the ID
}

// Blobs returns the attachments of all builds, in no order; of those with one digest all.
func (s *Store) Blobs() []Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Blob
	for id, e := range s.entries {
		for _, d := range e.rec.Attachments {
			out = append(out, Blob{d, id})
		}
	}
	return out
}

// OpenBlob opens the attachment with that digest; ErrNotFound if no build has it.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	s.mu.Lock()
	var path string
	for _, e := range s.entries {
		for _, have := range e.rec.Attachments {
			if have.Digest == d {
				path = e.blobPath(d)
			}
		}
	}
	s.mu.Unlock()
	if path == "" {
		return nil, fmt.Errorf("%w with content %s", ErrNotFound, d)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", d, err)
	}
	return f, nil
}

// A Usage is what the history takes on the disk.
type Usage struct {
	Builds, Running   int
	Size, Reclaimable int64 // bytes; what Remove can free of builds that have ended and are not pinned
}

// Usage returns what the history takes on the disk.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	type files struct {
		paths     []string
		removable bool
	}
	var all []files
	var u Usage
	for _, e := range s.entries {
		f := files{[]string{e.logPath(), e.recordPath()}, e.live == nil && !e.rec.Pinned}
		for _, d := range e.rec.Attachments {
			f.paths = append(f.paths, e.blobPath(d.Digest))
		}
		all = append(all, f)
		u.Builds++
		if e.live != nil {
			u.Running++
		}
	}
	s.mu.Unlock()
	for _, f := range all {
		for _, path := range f.paths {
			fi, err := os.Stat(path)
			if err != nil {
				continue // it has no such file, or is gone
			}
			u.Size += fi.Size()
			if f.removable {
				u.Reclaimable += fi.Size()
			}
		}
	}
	return u
}

// Leases is what a lease.Manager has to know of the history: each record keeps the documents of the images that were built,
// though not their layers.
func (s *Store) Leases(has func(digest.Digest) bool) lease.Source {
	return lease.Source{
		Kind: lease.Build, Class: lease.Pinned,
		List: func(context.Context) iter.Seq2[lease.Info, error] {
			return func(yield func(lease.Info, error) bool) {
				for _, rec := range s.List() {
					info := lease.Info{Item: lease.Item{Kind: lease.Build, Name: rec.ID}, Created: rec.Created, Used: rec.Ended}
					for _, d := range rec.results() {
						if has(d) {
							info.Refs = append(info.Refs, lease.Item{Kind: lease.Blob, Name: d.String()})
						}
					}
					if !yield(info, nil) {
						return
					}
				}
			}
		},
	}
}

// results returns the digests of documents that the result names.
func (r *Record) results() []digest.Digest {
	if r.Result == nil {
		return nil
	}
	out := slices.Clone(r.Result.Documents)
	for _, key := range []string{"containerimage.digest", "containerimage.config.digest"} {
		if d, err := digest.Parse(r.Result.Metadata[key]); err == nil {
			out = append(out, d)
		}
	}
	return out
}

// ignoreGone makes no error of what was removed while it was looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
