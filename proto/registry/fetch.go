package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// A Sink is where FetchBlob puts a blob: what an *os.File can do. What it holds already is taken for the blob's
// beginning.
type Sink interface {
	io.ReaderAt
	io.WriterAt
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
}

// copyBuffers keep large transfers from making garbage.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// FetchBlob puts a blob into dst, from where an earlier FetchBlob was interrupted. When it returns nil, dst holds the
// blob and nothing else, verified. After ErrDigest dst is empty. After any other error dst holds a beginning, to go on
// from. Content that proves wrong is thrown away and fetched once more, from elsewhere if it came from a mirror.
func (c *Client) FetchBlob(ctx context.Context, repo Repo, desc Descriptor, dst Sink) error {
	if err := checkDescriptor(desc); err != nil {
		return fmt.Errorf("pulling %s: %w", repo, err)
	}
	start := blobStart{skip: map[string]bool{}}
	resumed, err := start.resume(dst, desc)
	if err != nil {
		return fmt.Errorf("reading what is there of %s: %w", repo.At(desc.Digest), err)
	}
	for {
		if resumed && start.offset == desc.Size && verify(start.hash, desc.Digest) == nil {
			return nil
		}
		if start.offset == desc.Size && desc.Size > 0 { // complete and wrong
			start.offset, start.hash = 0, nil
			if err := dst.Truncate(0); err != nil {
				return err
			}
		}
		bad := len(start.skip)
		err := c.fetchRest(ctx, repo, desc, fetchTo{start, dst})
		if !errors.Is(err, ErrDigest) {
			return err
		}
		if err := dst.Truncate(0); err != nil {
			return err
		}
		// Another try makes sense only if something else will be read: what was there is gone, or a mirror is out.
		if !resumed && len(start.skip) == bad {
			return err
		}
		resumed, start.offset, start.hash = false, 0, nil
	}
}

// resume reads what dst holds. It says whether that is anything.
func (s *blobStart) resume(dst Sink, desc Descriptor) (bool, error) {
	info, err := dst.Stat()
	if err != nil {
		return false, err
	}
	n := info.Size()
	if n > desc.Size {
		if err := dst.Truncate(0); err != nil {
			return false, err
		}
		n = 0
	}
	if n == 0 {
		return false, nil
	}
	s.hash = hasher(desc.Digest)
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	s.offset, err = io.CopyBuffer(onlyWriter{s.hash}, io.NewSectionReader(dst, 0, n), buf[:])
	return s.offset > 0, err
}

// onlyWriter hides what else a writer can do, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// A fetchTo is one attempt of FetchBlob.
type fetchTo struct {
	blobStart
	dst Sink
}

func (c *Client) fetchRest(ctx context.Context, repo Repo, desc Descriptor, to fetchTo) error {
	at := to.offset
	b, err := c.openBlob(ctx, repo, desc, to.blobStart)
	if err != nil {
		return fmt.Errorf("pulling %s: %w", repo.At(desc.Digest), err)
	}
	defer b.Close()
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	if _, err := io.CopyBuffer(io.NewOffsetWriter(to.dst, at), b, buf[:]); err != nil {
		return err
	}
	return nil
}
