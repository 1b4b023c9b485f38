package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
)

// fallbackChunk is the size of a chunk, in bytes, once a registry has refused a whole blob as too large for a request.
const fallbackChunk = 16 << 20

// A blobPush is one call of PushBlob.
type blobPush struct {
	c     *Client
	repo  Repo
	desc  Descriptor
	open  func() (io.ReadCloser, error)
	from  []Repo // to mount from; those that refused are gone
	chunk int64  // 0 to upload in one request
}

// attempt does everything from the beginning: after a failure it is not known what the registry has.
func (p *blobPush) attempt(ctx context.Context) (How, error) {
	has, err := p.c.hasBlob(ctx, p.repo, p.desc)
	if err != nil {
		return 0, err
	}
	if has {
		return Existed, nil
	}
	var at *url.URL
	for len(p.from) > 0 {
		at, err = p.c.mount(ctx, p.repo, p.desc, p.from[0])
		if err != nil {
			return 0, err
		}
		if at == nil {
			traceOf(ctx).mounted(p.desc.Digest, p.from[0])
			return Mounted, nil
		}
		p.from = p.from[1:]
		if len(p.from) > 0 {
			p.c.abandon(ctx, p.repo, at)
		}
	}
	if at == nil {
		if at, err = p.c.startUpload(ctx, p.repo, nil); err != nil {
			return 0, err
		}
	}
	if p.chunk > 0 && p.desc.Size > p.chunk {
		err = p.uploadChunks(ctx, at)
	} else {
		err = p.uploadWhole(ctx, at)
	}
	if err != nil && ctx.Err() != nil {
		p.c.abandon(ctx, p.repo, at)
	}
	return Uploaded, err
}

// mount returns nil if the blob was mounted, and else where to upload it. A registry that does not let us read the
// other repository is not asked again, since not knowing whether the blob is there is no reason to fail.
func (c *Client) mount(ctx context.Context, repo Repo, desc Descriptor, from Repo) (*url.URL, error) {
	at, err := c.startUpload(ctx, repo, &mountOf{desc, from})
	var status *StatusError
	if errors.As(err, &status) && !serverFault(err) {
		return c.startUpload(ctx, repo, nil)
	}
	return at, err
}

type mountOf struct {
	desc Descriptor
	from Repo
}

// startUpload begins an upload session and returns where it goes on, or nil if the registry mounted m instead.
func (c *Client) startUpload(ctx context.Context, repo Repo, m *mountOf) (*url.URL, error) {
	rq := &request{
		method: http.MethodPost, repo: repo.Path, rest: "blobs/uploads/", scopes: []string{pushScope(repo.Path)},
		expect: []int{http.StatusAccepted}, about: repo.String(),
	}
	if m != nil {
		rq.query = url.Values{"mount": {m.desc.Digest.String()}, "from": {m.from.Path}}
		rq.scopes = append(rq.scopes, pullScope(m.from.Path))
		rq.expect = append(rq.expect, http.StatusCreated)
	}
	resp, err := c.once(ctx, c.origin(repo.Host), rq)
	if err != nil {
		return nil, err
	}
	defer drain(resp.Body)
	if resp.StatusCode == http.StatusCreated {
		return nil, nil
	}
	return uploadLocation(resp)
}

// uploadLocation returns where a session goes on. It may be another host, which gets the blob but no credentials.
func uploadLocation(resp *http.Response) (*url.URL, error) {
	loc := resp.Header.Get("Location")
	u, err := resp.Request.URL.Parse(loc)
	if loc == "" || err != nil {
		return nil, fmt.Errorf("%s does not say where to upload to", resp.Request.URL.Host)
	}
	if err := followable(resp.Request.URL, u); err != nil {
		return nil, fmt.Errorf("uploading where %s says: %w", resp.Request.URL.Host, err)
	}
	u.User, u.Fragment = nil, ""
	return u, nil
}

// uploadWhole sends the blob in one request, which also ends the session.
func (p *blobPush) uploadWhole(ctx context.Context, at *url.URL) error {
	rq := p.request(http.MethodPut, at)
	rq.query = url.Values{"digest": {p.desc.Digest.String()}}
	rq.header.Set("Content-Type", "application/octet-stream")
	rq.expect = []int{http.StatusCreated, http.StatusOK, http.StatusNoContent, http.StatusAccepted}
	rq.size = p.desc.Size
	src := &source{blob: p.desc, trace: traceOf(ctx)}
	rq.body = func() (io.ReadCloser, error) {
		r, err := p.open()
		if err != nil {
			return nil, src.failed(err)
		}
		return &sourceReader{ReadCloser: r, src: src}, nil
	}
	resp, err := p.c.once(ctx, p.c.origin(p.repo.Host), rq)
	if err == nil {
		drain(resp.Body)
	}
	rq.sending.Wait() // open's owner may close what is behind it once we return
	if own := src.err.Load(); own != nil {
		return fmt.Errorf("reading the blob: %w", *own)
	}
	return err
}

// uploadChunks sends the blob in pieces of p.chunk bytes.
func (p *blobPush) uploadChunks(ctx context.Context, at *url.URL) error {
	r, err := p.open()
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, min(p.chunk, p.desc.Size))
	for off := int64(0); off < p.desc.Size; {
		n := min(int64(len(buf)), p.desc.Size-off)
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return fmt.Errorf("reading the blob: %w", err)
		}
		if at, err = p.uploadChunk(ctx, at, chunkOf{off, buf[:n]}); err != nil {
			return err
		}
		off += n
		traceOf(ctx).bytes(p.desc.Digest, off, p.desc.Size)
	}
	rq := p.request(http.MethodPut, at)
	rq.query = url.Values{"digest": {p.desc.Digest.String()}}
	rq.expect = []int{http.StatusCreated, http.StatusOK, http.StatusNoContent}
	resp, err := p.c.once(ctx, p.c.origin(p.repo.Host), rq)
	if err != nil {
		return err
	}
	drain(resp.Body)
	return nil
}

type chunkOf struct {
	off   int64
	bytes []byte
}

// uploadChunk sends one piece and returns where the next one goes.
func (p *blobPush) uploadChunk(ctx context.Context, at *url.URL, ch chunkOf) (*url.URL, error) {
	rq := p.request(http.MethodPatch, at)
	rq.header.Set("Content-Type", "application/octet-stream")
	last := ch.off + int64(len(ch.bytes)) - 1
	rq.header.Set("Content-Range", strconv.FormatInt(ch.off, 10)+"-"+strconv.FormatInt(last, 10))
	rq.expect = []int{http.StatusAccepted, http.StatusNoContent}
	rq.size = int64(len(ch.bytes))
	rq.body = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(ch.bytes)), nil }
	resp, err := p.c.once(ctx, p.c.origin(p.repo.Host), rq)
	if err != nil {
		return nil, err
	}
	defer drain(resp.Body)
	return uploadLocation(resp)
}

func (p *blobPush) request(method string, at *url.URL) *request {
	return &request{
		method: method, url: at, repo: p.repo.Path, scopes: []string{pushScope(p.repo.Path)}, header: http.Header{},
		about: p.repo.At(p.desc.Digest).String(), patience: commitPatience * p.c.opts.StallTimeout,
	}
}

// A source is a blob as it goes out. That it cannot be read is not for the network to make good, so the error is kept
// apart from those of the request that it spoils.
type source struct {
	blob  Descriptor
	trace *Trace
	err   atomic.Pointer[error]
}

func (s *source) failed(err error) error {
	s.err.CompareAndSwap(nil, &err)
	return err
}

// A sourceReader reads a source once and reports how far it is.
type sourceReader struct {
	io.ReadCloser
	src *source
	n   int64
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	if n > 0 {
		r.src.trace.bytes(r.src.blob.Digest, r.n, r.src.blob.Size)
	}
	ended := errors.Is(err, io.EOF)
	switch {
	case r.n > r.src.blob.Size || ended && r.n < r.src.blob.Size:
		return n, r.src.failed(fmt.Errorf("%w: it has not the %d bytes that it should", ErrDigest, r.src.blob.Size))
	case err != nil && !ended:
		return n, r.src.failed(err)
	}
	return n, err
}
