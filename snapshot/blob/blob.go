// Package blob stores immutable bytes by their digest, in the blobs directory of an OCI image layout: blobs/sha256/<hex>
// and blobs/sha512/<hex>.
//
// # Life cycle
//
// Bytes are written to a file without a final name, their digest and size are checked, and a rename makes them a blob: a
// blob is there whole or not at all. Two kinds of unfinished files exist. Temporary ones (blobs/ingest) are swept when
// the store is opened. Partial ones (blobs/partial/<algorithm>-<hex>) belong to a blob whose digest is known before its
// bytes are, a download; they survive so that the download can go on where it stopped, and are swept once they have not
// been written to for PartialAge.
//
// # Durability
//
// Nothing is synced by default, since nearly every blob can be fetched or made again, and a step that waits for the disk
// is slow. Before a name in a synced database is made to depend on blobs, their bytes are put on the disk with Sync.
// After a power cut a blob that was never synced may hold wrong bytes under a right name; every reader verifies the
// digest at its end, and Check drops such blobs at the first start after an unclean stop.
//
// A store is used by one process at a time, the one that holds the lock of the daemon's root directory. It is safe for
// concurrent use. Store.mu guards only the table of downloads and is never held across I/O.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "crypto/sha256" // the two algorithms that go-digest has to find
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor names a blob: media type, digest and size.
type Descriptor = ocispec.Descriptor

// PartialAge is how long a partial file waits for its download to go on.
const PartialAge = 24 * time.Hour

// UnknownSize is the size of an expected Descriptor whose size is not known.
const UnknownSize = -1

// Errors of a Store, found with errors.Is.
var (
	ErrNotFound = errors.New("no such blob")
	ErrExists   = errors.New("blob exists")
	ErrDigest   = errors.New("digest does not match")
	ErrSize     = errors.New("size does not match")
)

// A Store holds blobs.
type Store struct {
	dir string // the blobs directory

	mu        sync.Mutex
	downloads map[digest.Digest]chan struct{} // of partial files being written or removed; closed when that is done
}

// Info is what a store knows of a blob without reading it.
type Info struct {
	Digest  digest.Digest
	Size    int64
	Written time.Time
}

// Open opens the store in root, whose blobs directory is made if need be, and sweeps what an earlier process left
// unfinished.
func Open(root string) (*Store, error) {
	s := &Store{dir: filepath.Join(root, "blobs"), downloads: make(map[digest.Digest]chan struct{})}
	for _, d := range []string{"sha256", "sha512", "ingest", "partial"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("opening blob store: %w", err)
		}
	}
	if err := s.sweep(time.Now()); err != nil {
		return nil, fmt.Errorf("sweeping blob store: %w", err)
	}
	return s, nil
}

// sweep removes temporary files, and partial ones which are too old at the time now.
func (s *Store) sweep(now time.Time) error {
	for dir, age := range map[string]time.Duration{"ingest": 0, "partial": PartialAge} {
		ents, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			return err
		}
		for _, e := range ents {
			info, err := e.Info()
			if err != nil || (age > 0 && now.Sub(info.ModTime()) < age) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(s.dir, dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate says whether d may be used in a path: SHA-256 or SHA-512 with exactly as many lower-case hex digits as
// the algorithm has. Everything that comes from outside passes through here before it is joined to a path.
func Validate(d digest.Digest) error {
	alg, hex, ok := strings.Cut(string(d), ":")
	want := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if !ok || want == 0 || len(hex) != want {
		return fmt.Errorf("checking digest %q: %w", cut(string(d)), digest.ErrDigestInvalidFormat)
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("checking digest %q: %w", cut(string(d)), digest.ErrDigestInvalidFormat)
		}
	}
	return nil
}

// cut keeps hostile strings from filling error messages.
func cut(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// path returns where the blob d is, or an error if d is not a digest that may be used in a path.
func (s *Store) path(d digest.Digest) (string, error) {
	if err := Validate(d); err != nil {
		return "", err
	}
	return filepath.Join(s.dir, d.Algorithm().String(), d.Encoded()), nil
}

// Path returns the file that holds the blob d, for those who can do better with a file than with a reader. It must not
// be written to, and whoever reads it verifies the digest. The blob may not exist.
func (s *Store) Path(d digest.Digest) (string, error) { return s.path(d) }

// Stat describes the blob d; ErrNotFound if there is none.
func (s *Store) Stat(d digest.Digest) (Info, error) {
	p, err := s.path(d)
	if err != nil {
		return Info{}, err
	}
	fi, err := os.Lstat(p)
	if err != nil {
		return Info{}, notFound(d, err)
	}
	return Info{Digest: d, Size: fi.Size(), Written: fi.ModTime()}, nil
}

// Has says whether the blob d exists with that size; UnknownSize asks for none in particular.
func (s *Store) Has(desc Descriptor) bool {
	info, err := s.Stat(desc.Digest)
	return err == nil && (desc.Size < 0 || info.Size == desc.Size)
}

// Delete removes the blob d. Deleting one that does not exist is no error; who reads it already goes on reading.
func (s *Store) Delete(d digest.Digest) error {
	p, err := s.path(d)
	if err != nil {
		return err
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting blob %s: %w", d, err)
	}
	return nil
}

// All yields every blob, in no order.
func (s *Store) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for _, alg := range []string{"sha256", "sha512"} {
			ents, err := os.ReadDir(filepath.Join(s.dir, alg))
			if err != nil {
				yield(Info{}, fmt.Errorf("listing blobs: %w", err))
				return
			}
			for _, e := range ents {
				if ctx.Err() != nil {
					yield(Info{}, context.Cause(ctx))
					return
				}
				d := digest.Digest(alg + ":" + e.Name())
				if Validate(d) != nil {
					continue // not ours
				}
				fi, err := e.Info()
				if err != nil {
					continue // deleted meanwhile
				}
				if !yield(Info{Digest: d, Size: fi.Size(), Written: fi.ModTime()}, nil) {
					return
				}
			}
		}
	}
}

// Sync puts blobs on the disk, bytes and names. A caller does that before it makes something durable depend on them.
func (s *Store) Sync(digests ...digest.Digest) error {
	dirs := make(map[string]bool)
	for _, d := range digests {
		p, err := s.path(d)
		if err != nil {
			return err
		}
		if err := syncFile(p); err != nil {
			return fmt.Errorf("syncing blob: %w", notFound(d, err))
		}
		dirs[filepath.Dir(p)] = true
	}
	for d := range dirs {
		if err := syncFile(d); err != nil {
			return fmt.Errorf("syncing blobs: %w", err)
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Check reads every blob that was written at since or later and deletes those whose bytes are not what their name says;
// it returns what it deleted. It is for the first start after a power cut.
func (s *Store) Check(ctx context.Context, since time.Time) ([]digest.Digest, error) {
	var bad []digest.Digest
	for info, err := range s.All(ctx) {
		if err != nil {
			return bad, err
		}
		if info.Written.Before(since) {
			continue
		}
		err := s.verify(ctx, info.Digest)
		switch {
		case err == nil, errors.Is(err, ErrNotFound):
		case errors.Is(err, ErrDigest):
			if err := s.Delete(info.Digest); err != nil {
				return bad, err
			}
			bad = append(bad, info.Digest)
		default:
			return bad, fmt.Errorf("checking blob %s: %w", info.Digest, err)
		}
	}
	return bad, nil
}

func (s *Store) verify(ctx context.Context, d digest.Digest) error {
	r, err := s.Open(d)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	}))
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// notFound turns the error of a missing file into ErrNotFound with the digest.
func notFound(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	return err
}
