package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A Sink is where FetchBlob puts a blob: something that appends, and hashes what it gets. What it has already is taken
// for the blob's beginning.
type Sink interface {
	io.Writer
	// Offset returns how many bytes the sink has.
	Offset() int64
	// Reset throws away what the sink has.
	Reset() error
}

// copyBuffers keep large transfers from making garbage.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// FetchBlob appends to dst what it lacks of a blob. When it returns nil, dst has as many bytes as the blob; whether they
// are right is for dst to say, which hashes them anyway. If they are wrong, and dst was not empty at first, another call
// with an empty one may do better. After ErrDigest dst is empty; after any other error it has a beginning to go on from.
//
// What comes from mirrors is verified here, too, since only here it can be had from somebody else: dst then starts over.
func (c *Client) FetchBlob(ctx context.Context, repo Repo, desc Descriptor, dst Sink) error {
	if err := errors.Join(checkDescriptor(desc), repo.check()); err != nil {
		return fmt.Errorf("pulling %s: %w", repo, err)
	}
	if dst.Offset() > desc.Size {
		if err := dst.Reset(); err != nil {
			return err
		}
	}
	return withoutLiars(func(skip map[string]bool) error {
		err := c.fetchRest(ctx, repo, desc, fetchTo{skip, dst})
		if errors.Is(err, ErrDigest) {
			err = errors.Join(err, dst.Reset())
		}
		return err
	})
}

// A fetchTo is one attempt of FetchBlob: which mirrors are not to be asked, and where to.
type fetchTo struct {
	skip map[string]bool
	dst  Sink
}

func (c *Client) fetchRest(ctx context.Context, repo Repo, desc Descriptor, to fetchTo) error {
	at := to.dst.Offset()
	if at == desc.Size {
		return nil
	}
	b, err := c.openBlob(ctx, repo, desc, blobStart{offset: at, trusting: true, skip: to.skip})
	if err != nil {
		return fmt.Errorf("pulling %s: %w", repo.At(desc.Digest), err)
	}
	defer b.Close()
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	_, err = io.CopyBuffer(onlyWriter{to.dst}, b, buf[:])
	return err
}

// onlyWriter hides what else a writer can do, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }
