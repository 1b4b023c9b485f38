package blob

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// A Reader reads a blob and, at its end, verifies the digest: instead of io.EOF a blob whose bytes are wrong gives
// ErrDigest. Close does not verify.
type Reader struct {
	f    *os.File
	v    io.Reader
	size int64
}

// Open opens the blob d; ErrNotFound if there is none.
func (s *Store) Open(d digest.Digest) (*Reader, error) {
	p, err := s.path(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, notFound(d, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening blob %s: %w", d, err)
	}
	desc := Descriptor{Digest: d, Size: fi.Size()}
	return &Reader{f: f, v: Verify(f, desc), size: fi.Size()}, nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) { return r.v.Read(p) }

// Size returns the size of the blob in bytes.
func (r *Reader) Size() int64 { return r.size }

// Close closes the reader.
func (r *Reader) Close() error { return r.f.Close() }

// A ReaderAt reads a blob at any place. It cannot verify; who uses it trusts the disk, or verifies by itself.
type ReaderAt struct {
	*os.File
	size int64
}

// Size returns the size of the blob in bytes.
func (r *ReaderAt) Size() int64 { return r.size }

// ReaderAt opens the blob d for reading at any place; ErrNotFound if there is none.
func (s *Store) ReaderAt(d digest.Digest) (*ReaderAt, error) {
	r, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	return &ReaderAt{File: r.f, size: r.size}, nil
}

// ReadAll returns the bytes of the blob d, verified; an error if there are more than limit.
func (s *Store) ReadAll(d digest.Digest, limit int64) ([]byte, error) {
	r, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.size > limit {
		return nil, fmt.Errorf("reading blob %s: %d bytes are more than the limit of %d", d, r.size, limit)
	}
	b := make([]byte, 0, r.size+1)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading blob %s: %w", d, err)
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// Verify returns a reader of r which checks size and digest. It reads no more than one byte beyond desc.Size; where r
// ends it returns io.EOF only if all is as desc says, ErrSize or ErrDigest otherwise. A size of UnknownSize is not
// checked. An invalid digest is an error of the first Read.
func Verify(r io.Reader, desc Descriptor) io.Reader {
	v := &verifier{r: r, desc: desc}
	if v.err = Validate(desc.Digest); v.err == nil {
		v.h = desc.Digest.Algorithm().Hash()
	}
	return v
}

type verifier struct {
	r    io.Reader
	h    hash.Hash
	desc Descriptor
	n    int64
	err  error // sticky
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.n += int64(n)
	switch {
	case v.desc.Size >= 0 && v.n > v.desc.Size:
		n -= int(min(int64(n), v.n-v.desc.Size))
		v.err = fmt.Errorf("%w: %s is longer than %d bytes", ErrSize, v.desc.Digest, v.desc.Size)
		return n, v.err
	case err == io.EOF:
		v.err = v.check()
		return n, v.err
	}
	v.err = err
	return n, err
}

// check returns io.EOF if what was read is what was asked for.
func (v *verifier) check() error {
	if v.desc.Size >= 0 && v.n != v.desc.Size {
		return fmt.Errorf("%w: %s has %d bytes instead of %d", ErrSize, v.desc.Digest, v.n, v.desc.Size)
	}
	if got := digest.NewDigest(v.desc.Digest.Algorithm(), v.h); got != v.desc.Digest {
		return fmt.Errorf("%w: got %s instead of %s", ErrDigest, got, v.desc.Digest)
	}
	return io.EOF
}
