package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// progressToForget is how many bytes a blob must get on by for an earlier failure not to count any more. A connection
// that breaks every few bytes ends the transfer; a long one may break as often as it likes.
const progressToForget = 1 << 20

// Blob opens a blob for reading. A connection that breaks is replaced without the reader noticing, from where it broke.
// At its end the reader compares size and digest, and withholds the last bytes with ErrDigest if they do not match:
// whoever has read all without an error has the content. URLs in desc are not used.
//
// The blob takes one of the registry's transfer slots until it has been read or closed. Cancelling ctx ends it.
func (c *Client) Blob(ctx context.Context, repo Repo, desc Descriptor) (io.ReadCloser, error) {
	b, err := c.openBlob(ctx, repo, desc, blobStart{})
	if err != nil {
		return nil, fmt.Errorf("pulling %s: %w", repo.At(desc.Digest), err)
	}
	return b, nil
}

// ReadBlob returns a small blob, such as a config. One over limit bytes is ErrTooLarge. It is read once more, from somebody
// else, if a mirror had something else under its digest.
func (c *Client) ReadBlob(ctx context.Context, repo Repo, desc Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("pulling %s: a blob of %d bytes: %w of %d", repo.At(desc.Digest), desc.Size, ErrTooLarge, limit)
	}
	var buf bytes.Buffer
	err := withoutLiars(func(skip map[string]bool) error {
		b, err := c.openBlob(ctx, repo, desc, blobStart{skip: skip})
		if err != nil {
			return fmt.Errorf("pulling %s: %w", repo.At(desc.Digest), err)
		}
		defer b.Close()
		buf.Reset()
		buf.Grow(int(desc.Size) + bytes.MinRead)
		_, err = buf.ReadFrom(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// withoutLiars calls read again for as long as it comes upon mirrors whose content is wrong. read gets the mirrors that are
// not to be asked, and adds those that it finds out.
func withoutLiars(read func(skip map[string]bool) error) error {
	skip := map[string]bool{}
	for {
		known := len(skip)
		if err := read(skip); !errors.Is(err, ErrDigest) || len(skip) == known { // it was the registry itself
			return err
		}
	}
}

// A blobStart is where a transfer begins.
type blobStart struct {
	offset   int64           // bytes that are there already
	trusting bool            // somebody else verifies; only what begins at a mirror is verified here, too
	skip     map[string]bool // mirrors that are not to be asked
}

// A blobReader reads one blob from as many answers as that takes. It is not safe for concurrent use.
type blobReader struct {
	desc  Descriptor
	ref   Ref
	hash  hash.Hash // of the bytes before off; nil if they are not verified
	off   int64
	trace *Trace
	skip  map[string]bool
	// open asks for the rest from off, and backOff waits before that is done again; both work for the context that the
	// blob was opened with.
	open     func() error
	backOff  func(err error, failures int) (bool, error)
	distrust func(*endpoint) // leaves a mirror alone
	release  func()
	body     io.ReadCloser // nil after it broke
	from     *endpoint     // that body comes from
	mirrors  []*endpoint   // that it came from, piece by piece
	failures int           // since failedAt moved on by progressToForget
	failedAt int64
	err      error // sticky; io.EOF once all is verified
}

func (c *Client) openBlob(ctx context.Context, repo Repo, desc Descriptor, start blobStart) (*blobReader, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if err := repo.check(); err != nil {
		return nil, err
	}
	release, err := c.acquire(ctx, slotKey{host: repo.Host})
	if err != nil {
		return nil, err
	}
	b := &blobReader{
		desc: desc, ref: repo.At(desc.Digest), off: start.offset, skip: start.skip,
		trace: traceOf(ctx), distrust: c.rest, release: sync.OnceFunc(release),
	}
	if !start.trusting {
		b.hash = hasher(desc.Digest)
	}
	if b.skip == nil {
		b.skip = map[string]bool{}
	}
	b.open = func() error {
		return c.pull(ctx, repo.Host, b.skip, func(ep *endpoint) error { return c.blobAt(ctx, ep, b) })
	}
	b.backOff = func(err error, failures int) (bool, error) {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if b.from.mirror() { // somebody else has the rest
			c.rest(b.from)
			return failures < c.opts.Retry.Attempts, err
		}
		return c.backOff(ctx, err, failures)
	}
	if err := b.open(); err != nil {
		b.release()
		return nil, err
	}
	return b, nil
}

// blobAt asks ep for what b lacks.
func (c *Client) blobAt(ctx context.Context, ep *endpoint, b *blobReader) error {
	rq := &request{
		method: http.MethodGet, repo: b.ref.Path, rest: "blobs/" + b.desc.Digest.String(),
		scopes: []string{pullScope(b.ref.Path)}, expect: []int{http.StatusOK}, about: b.ref.String(), header: http.Header{},
	}
	// A range that begins where the blob ends cannot be asked for; there is nothing left to ask for then, either.
	if b.off > 0 && b.off < b.desc.Size {
		rq.header.Set("Range", "bytes="+strconv.FormatInt(b.off, 10)+"-")
		rq.expect = append(rq.expect, http.StatusPartialContent)
	}
	resp, err := c.once(ctx, ep, rq)
	if err != nil {
		return err
	}
	if err := b.accept(resp); err != nil {
		resp.Body.Close()
		return err
	}
	b.body, b.from = resp.Body, ep
	if ep.mirror() {
		b.mirrors = append(b.mirrors, ep)
	}
	if b.hash == nil && b.off == 0 && ep.mirror() {
		b.hash = hasher(b.desc.Digest)
	}
	return nil
}

// accept checks that an answer is the rest of the blob, and moves it to where the rest begins.
func (b *blobReader) accept(resp *http.Response) error {
	rest := b.desc.Size - b.off
	if resp.StatusCode == http.StatusPartialContent {
		want := fmt.Sprintf("bytes %d-%d/", b.off, b.desc.Size-1)
		got := resp.Header.Get("Content-Range")
		if !strings.HasPrefix(got, want) {
			return fmt.Errorf("%w: got the range %q, want %s%d", ErrDigest, printable(got, 64), want, b.desc.Size)
		}
	} else {
		rest = b.desc.Size
	}
	if resp.ContentLength >= 0 && resp.ContentLength != rest {
		return fmt.Errorf("%w: %s has %d bytes of it, its descriptor says %d", ErrDigest, resp.Request.URL.Host,
			resp.ContentLength, rest)
	}
	if resp.StatusCode == http.StatusPartialContent {
		return nil
	}
	// The server does not do ranges: what is there already is read once more.
	if _, err := io.CopyN(io.Discard, resp.Body, b.off); err != nil {
		return &transportError{fmt.Errorf("reading a blob again up to where it broke: %w", err)}
	}
	return nil
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 && b.err == nil {
		return 0, nil
	}
	for b.err == nil {
		if b.off == b.desc.Size {
			b.finish()
			break
		}
		if b.body == nil {
			if err := b.open(); err != nil {
				b.fail(err)
				break
			}
		}
		n, err := b.body.Read(p[:min(int64(len(p)), b.desc.Size-b.off)])
		if b.hash != nil {
			b.hash.Write(p[:n])
		}
		b.off += int64(n)
		if n > 0 {
			b.trace.bytes(b.desc.Digest, b.off, b.desc.Size)
		}
		if b.off == b.desc.Size {
			b.finish()
			// With a wrong digest even these bytes are kept back: a reader that counts bytes would never ask for more.
			if errors.Is(b.err, io.EOF) && n > 0 {
				return n, nil
			}
			break
		}
		if err != nil {
			b.reconnect(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// reconnect drops a body that broke and waits before the next one is asked for.
func (b *blobReader) reconnect(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	b.body.Close()
	b.body = nil
	if b.off-b.failedAt >= progressToForget {
		b.failures = 0
	}
	if b.failures == 0 {
		b.failedAt = b.off
	}
	b.failures++
	err = &transportError{fmt.Errorf("%s broke off after %d of %d bytes: %w", b.from.addr, b.off, b.desc.Size, err)}
	if again, giveUp := b.backOff(err, b.failures); !again {
		b.fail(giveUp)
	}
}

// finish verifies what was read and gives the slot back.
func (b *blobReader) finish() {
	if err := b.verify(); err != nil {
		b.blame()
		b.fail(err)
		return
	}
	if b.body != nil {
		drain(b.body) // lets the connection be used again
		b.body = nil
	}
	b.err = io.EOF
	b.release()
}

// blame leaves alone the mirrors that wrong content may have come from. The last of several gets a chance to give all of it.
func (b *blobReader) blame() {
	liars := b.mirrors
	if b.from.mirror() && len(liars) > 1 {
		liars = liars[:len(liars)-1]
	}
	for _, ep := range liars {
		b.skip[ep.base()] = true
		b.distrust(ep)
	}
}

func (b *blobReader) verify() error {
	if b.hash == nil {
		return nil
	}
	return verify(b.hash, b.desc.Digest)
}

func (b *blobReader) fail(err error) {
	b.err = fmt.Errorf("pulling %s: %w", b.ref, err)
	b.Close()
}

// Close implements io.Closer. It is idempotent.
func (b *blobReader) Close() error {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
	if b.err == nil {
		b.err = errors.New("the blob is closed")
	}
	b.release()
	return nil
}
