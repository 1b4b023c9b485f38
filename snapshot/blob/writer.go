package blob

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// A Writer writes one blob: Write, then Commit; Close in any case. It is not safe for concurrent use.
type Writer struct {
	s       *Store
	f       *os.File
	alg     digest.Algorithm
	h       hash.Hash
	n       int64
	desc    Descriptor // what is expected of a download; the zero value otherwise
	release func()     // lets the next writer of the same download in; nil for temporary files
	done    bool       // the file is gone: renamed or removed
	full    bool       // there is no room for it
}

// Create begins a blob whose digest is not known yet; it will be a SHA-256. What is not committed is removed by Close.
func (s *Store) Create() (*Writer, error) { return s.create(digest.SHA256) }

func (s *Store) create(alg digest.Algorithm) (*Writer, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "ingest"), "")
	if err != nil {
		return nil, fmt.Errorf("creating blob: %w", err)
	}
	return &Writer{s: s, f: f, alg: alg, h: alg.Hash()}, nil
}

// Resume begins, or goes on with, the download of the blob that desc names; its size may be UnknownSize. Offset says
// how many bytes are there already. What is not committed stays for the next Resume. Where another writer downloads the
// same blob Resume waits for it to end; ErrExists if the blob exists, then or already. What has filled the disk does not
// stay: others need the room, and the next Resume would fill it again.
func (s *Store) Resume(ctx context.Context, desc Descriptor) (*Writer, error) {
	if err := Validate(desc.Digest); err != nil {
		return nil, err
	}
	release, err := s.acquire(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if s.Has(desc) {
		release()
		return nil, fmt.Errorf("%w: %s", ErrExists, desc.Digest)
	}
	w := &Writer{s: s, alg: desc.Digest.Algorithm(), desc: desc, release: release}
	if err := w.openPartial(); err != nil {
		release()
		return nil, fmt.Errorf("resuming blob %s: %w", desc.Digest, err)
	}
	return w, nil
}

// acquire waits until nobody else writes the partial file of d.
func (s *Store) acquire(ctx context.Context, d digest.Digest) (release func(), err error) {
	for {
		s.mu.Lock()
		busy, ok := s.downloads[d]
		if !ok {
			mine := make(chan struct{})
			s.downloads[d] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.downloads, d)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// openPartial opens the partial file and hashes what it has.
func (w *Writer) openPartial() error {
	d := w.desc.Digest
	name := filepath.Join(w.s.dir, "partial", partialName(d))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	w.f, w.h = f, w.alg.Hash()
	w.n, err = io.Copy(w.h, f)
	if err == nil && w.desc.Size >= 0 && w.n > w.desc.Size {
		err = w.Reset() // of another size: not what we are looking for
	}
	if err != nil {
		f.Close()
	}
	return err
}

// Offset returns how many bytes the blob has so far.
func (w *Writer) Offset() int64 { return w.n }

// Write appends to the blob. More bytes than expected are ErrSize, before they are written.
func (w *Writer) Write(p []byte) (int, error) {
	if w.release != nil && w.desc.Size >= 0 && w.n+int64(len(p)) > w.desc.Size {
		return 0, fmt.Errorf("writing blob: %w: %s is longer than %d bytes", ErrSize, w.desc.Digest, w.desc.Size)
	}
	n, err := w.f.Write(p)
	w.h.Write(p[:n])
	w.n += int64(n)
	w.full = w.full || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	return n, err
}

// Digest returns the digest of what has been written so far.
func (w *Writer) Digest() digest.Digest { return digest.NewDigest(w.alg, w.h) }

// Reset throws away what was written, for a server that cannot go on where an earlier one stopped.
func (w *Writer) Reset() error {
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.h.Reset()
	w.n = 0
	return w.f.Truncate(0)
}

// Commit makes what was written a blob and describes it. It checks it against want first: an empty digest there (and,
// for a writer from Resume, always) stands for the one the writer has, and a size of 0 with an empty digest, or
// UnknownSize, for any. On ErrDigest and ErrSize the bytes are thrown away: no more of them would make them right, except
// that a partial file which is merely too short stays. A blob that exists is replaced, by the same bytes.
func (w *Writer) Commit(want Descriptor) (Descriptor, error) {
	if w.release != nil {
		want = w.desc
	}
	got := Descriptor{MediaType: want.MediaType, Digest: digest.NewDigest(w.alg, w.h), Size: w.n}
	if want.Digest != "" {
		if err := Validate(want.Digest); err != nil {
			return Descriptor{}, err
		}
		if want.Size >= 0 && want.Size != got.Size {
			if w.release == nil || got.Size > want.Size {
				w.discard()
			}
			return Descriptor{}, fmt.Errorf("%w: %s has %d bytes instead of %d", ErrSize, want.Digest, got.Size, want.Size)
		}
		if want.Digest != got.Digest {
			w.discard()
			return Descriptor{}, fmt.Errorf("%w: got %s instead of %s", ErrDigest, got.Digest, want.Digest)
		}
	} else if want.Size > 0 && want.Size != got.Size {
		w.discard()
		return Descriptor{}, fmt.Errorf("%w: %d bytes instead of %d", ErrSize, got.Size, want.Size)
	}
	p, err := w.s.path(got.Digest)
	if err != nil {
		return Descriptor{}, err
	}
	// The mode says what the rule is: a blob is never written to. Rename replaces an equal blob by an equal blob, which
	// also repairs one that a power cut damaged.
	if err := w.f.Chmod(0o400); err != nil {
		return Descriptor{}, fmt.Errorf("committing blob %s: %w", got.Digest, err)
	}
	if err := os.Rename(w.f.Name(), p); err != nil {
		return Descriptor{}, fmt.Errorf("committing blob %s: %w", got.Digest, err)
	}
	w.done = true
	return got, nil
}

func (w *Writer) discard() {
	os.Remove(w.f.Name())
	w.done = true
}

// Close ends the writer. Without a Commit before it the bytes of a download stay, unless they have filled the disk, and
// all others are removed. It may be called twice.
func (w *Writer) Close() error {
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	if !w.done && (w.release == nil || w.full) {
		if rerr := os.Remove(w.f.Name()); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	w.f = nil
	if w.release != nil {
		w.release()
	}
	return err
}

// Ingest stores all of r as a blob and describes it. Of want an empty digest means that it is computed (SHA-256) and
// any size will do; otherwise digest and size are checked (UnknownSize: only the digest), and no more than the size is
// read. A blob that exists is written again, which mends it if a power cut has damaged it.
func (s *Store) Ingest(ctx context.Context, r io.Reader, want Descriptor) (Descriptor, error) {
	alg := digest.SHA256
	if want.Digest != "" {
		if err := Validate(want.Digest); err != nil {
			return Descriptor{}, err
		}
		alg = want.Digest.Algorithm()
		if want.Size >= 0 {
			r = io.LimitReader(r, want.Size+1) // one byte too many is enough to know
		}
	}
	w, err := s.create(alg)
	if err != nil {
		return Descriptor{}, err
	}
	defer w.Close()
	if err := copyTo(ctx, w, r); err != nil {
		return Descriptor{}, fmt.Errorf("storing blob %s: %w", want.Digest, err)
	}
	return w.Commit(want)
}

func copyTo(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Put stores b and returns its descriptor, for manifests and configs. With sync it is on the disk when Put returns.
func (s *Store) Put(mediaType string, b []byte, sync bool) (Descriptor, error) {
	desc := Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if !s.Has(desc) {
		w, err := s.Create()
		if err != nil {
			return Descriptor{}, err
		}
		defer w.Close()
		if _, err := w.Write(b); err != nil {
			return Descriptor{}, fmt.Errorf("storing blob %s: %w", desc.Digest, err)
		}
		if _, err := w.Commit(desc); err != nil {
			return Descriptor{}, err
		}
	}
	if sync {
		if err := s.Sync(desc.Digest); err != nil {
			return Descriptor{}, err
		}
	}
	return desc, nil
}
