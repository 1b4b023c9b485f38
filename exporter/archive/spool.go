package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/layer"
)

// A spooled is a tar whose files are in the store.
type spooled struct {
	opt   ReadOptions
	files map[string]Descriptor
	links map[string]string // symlinks and hard links, to cleaned names
}

// spool reads a tar through and stores its files.
func spool(ctx context.Context, r io.Reader, opt ReadOptions) (*spooled, error) {
	s := &spooled{opt: opt, files: make(map[string]Descriptor), links: make(map[string]string)}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if n == 0 {
				return nil, fmt.Errorf("%w: %w", ErrFormat, err)
			}
			return nil, err
		}
		if n > maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", layer.ErrTooLarge, maxEntries)
		}
		if err := s.entry(ctx, hdr, tr); err != nil {
			return nil, &layer.EntryError{Name: hdr.Name, Err: err}
		}
	}
	_, err := io.Copy(io.Discard, r) // so that what verifies the stream gets to its end
	return s, err
}

func (s *spooled) entry(ctx context.Context, hdr *tar.Header, r io.Reader) error {
	name, err := inside(hdr.Name)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeRegA: //nolint:staticcheck // old tars have it
		desc, err := put(ctx, r, s.opt)
		if err != nil {
			return err
		}
		if d, ok := blobDigest(name); ok && d != desc.Digest {
			if d.Algorithm() != digest.SHA512 || !s.is(desc, d) {
				return fmt.Errorf("%w: it has %s", ErrDigest, desc.Digest)
			}
		}
		s.files[name] = desc
		delete(s.links, name)
	case tar.TypeSymlink, tar.TypeLink:
		to := hdr.Linkname
		if hdr.Typeflag == tar.TypeSymlink && !path.IsAbs(to) {
			to = path.Join(path.Dir(name), to)
		}
		if to, err = inside(to); err != nil {
			return fmt.Errorf("linking to %.300q: %w", hdr.Linkname, err)
		}
		s.links[name] = to
		delete(s.files, name)
	}
	return nil
}

// is says whether a stored blob has the digest d of another algorithm.
func (s *spooled) is(desc Descriptor, d digest.Digest) bool {
	r, err := s.opt.Blobs.Open(desc.Digest)
	if err != nil {
		return false
	}
	defer r.Close()
	v := d.Verifier()
	_, err = io.Copy(v, r)
	return err == nil && v.Verified()
}

// inside cleans a name and refuses one that leads out of the archive.
func inside(name string) (string, error) {
	c := path.Clean(strings.TrimLeft(name, "/"))
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", layer.ErrUnsafe
	}
	return c, nil
}

// blobDigest returns the digest that a file in blobs/ is named after.
func blobDigest(name string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(name, "blobs/")
	alg, hex, ok2 := strings.Cut(rest, "/")
	return digest.Digest(alg + ":" + hex), ok && ok2
}

func (s *spooled) blob(_ context.Context, name string) (Descriptor, error) {
	asked := name
	name, err := inside(asked)
	if err != nil {
		return Descriptor{}, fmt.Errorf("%.300q: %w", asked, err)
	}
	for range 10 {
		if d, ok := s.files[name]; ok {
			return d, nil
		}
		to, ok := s.links[name]
		if !ok {
			return Descriptor{}, fmt.Errorf("%.300q is not in the archive: %w", name, fs.ErrNotExist)
		}
		name = to
	}
	return Descriptor{}, fmt.Errorf("%.300q: too many links", name)
}

func (s *spooled) document(name string) ([]byte, error) {
	d, err := s.blob(context.Background(), name)
	if err != nil {
		return nil, err
	}
	return s.opt.Blobs.ReadAll(d.Digest, maxDocument)
}

// A dirSource is a layout in a directory.
type dirSource struct {
	root *os.Root
	opt  ReadOptions
}

func (d *dirSource) document(name string) ([]byte, error) { return readLimited(d.root, name) }

func (d *dirSource) blob(ctx context.Context, name string) (Descriptor, error) {
	f, err := openRegular(d.root, name)
	if err != nil {
		return Descriptor{}, err
	}
	defer f.Close()
	desc, err := put(ctx, f, d.opt)
	if err != nil {
		return Descriptor{}, err
	}
	if want, ok := blobDigest(name); ok && want.Algorithm() == desc.Digest.Algorithm() && want != desc.Digest {
		return Descriptor{}, fmt.Errorf("%s: %w: it has %s", name, ErrDigest, desc.Digest)
	}
	return desc, nil
}

// openRegular opens a regular file; opening a FIFO would wait for ever, and a device does something.
func openRegular(root *os.Root, name string) (*os.File, error) {
	fi, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return root.Open(name)
}

func readLimited(root *os.Root, name string) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s: %w: more than %d bytes", name, layer.ErrTooLarge, maxDocument)
	}
	return b, err
}
