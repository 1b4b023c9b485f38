package fileop

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// unpack extracts the source if it is an archive, going by its content alone, and says whether it was one. The
// destination is a directory then, whatever its name looks like. All of it, decompression included, happens in this
// process, and below the destination's descriptor.
func (cp *copying) unpack(ctx context.Context, it *treehash.Item) (bool, error) {
	ok, err := cp.isArchive(ctx, it.Entry)
	if err != nil || !ok {
		return false, err
	}
	s, err := cp.resolve(cp.c.Dst)
	if err != nil {
		return true, err
	}
	p, err := cp.mkdirs(s, attrs{mode: 0o755, owner: cp.owner, time: cp.c.Time})
	if err != nil {
		return true, err
	}
	if err := cp.touch(p); err != nil {
		return true, err
	}
	r, err := cp.src.Open(ctx, it.Entry.Path)
	if err != nil {
		return true, err
	}
	defer r.Close()
	opt := layer.Options{Archive: true}
	if cp.owner != nil {
		opt.Owner = &layer.Owner{UID: cp.owner.uid, GID: cp.owner.gid}
	}
	// The dot makes the kernel go through the descriptor to the directory itself.
	to := layer.Target{Dir: fmt.Sprintf("/proc/self/fd/%d/.", p.up), Form: layer.Plain}
	res, err := layer.Apply(ctx, to, r, opt)
	if err != nil {
		return true, fmt.Errorf("extracting %q to %q: %w", it.Entry.Path, p.path, err)
	}
	if res.Unsayable != "" {
		cp.leftOut(fmt.Sprintf("%q of %q", res.Unsayable, it.Entry.Path))
	}
	return true, nil
}

// isArchive says whether a file is a tar, compressed or not: one whose first entry can be read. A file that is
// compressed but holds something else is none, nor is an empty one.
func (cp *copying) isArchive(ctx context.Context, e *treehash.Entry) (bool, error) {
	if e.Size == 0 {
		return false, nil
	}
	r, err := cp.open(ctx, e)
	if err != nil {
		return false, err
	}
	defer r.Close()
	z, _, err := layer.Decompress(r)
	if err != nil {
		return false, nil //nolint:nilerr // what cannot be decompressed is no archive
	}
	defer z.Close()
	_, err = tar.NewReader(io.LimitReader(z, maxHead)).Next()
	return err == nil || errors.Is(err, tar.ErrInsecurePath), ctx.Err()
}

// maxHead is how much of an archive its first entry's headers may take, in bytes.
const maxHead = 8 << 20

// open opens a file whose beginning alone is of interest, so that its content is not verified.
func (cp *copying) open(ctx context.Context, e *treehash.Entry) (io.ReadCloser, error) {
	f, ok := cp.src.(treehash.Filer)
	if !ok {
		return cp.src.Open(ctx, e.Path)
	}
	fd, _, err := f.File(ctx, e)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.Path), nil
}
