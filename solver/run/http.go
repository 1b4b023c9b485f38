package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/httpsource"
	"github.com/boxbuild/boxbuild/solver/session"
)

// fetched are the snapshots of the files that builds which run now have downloaded to pin them, so that running the
// pinned operation need not download again. They are kept by the leases of these builds.
type fetched struct {
	mu sync.Mutex // guards m
	m  map[solver.Key][]snapshot.ID
}

func (f *fetched) add(key solver.Key, id snapshot.ID) (remove func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil {
		f.m = make(map[solver.Key][]snapshot.ID)
	}
	f.m[key] = append(f.m[key], id)
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.m[key] = slices.DeleteFunc(f.m[key], func(x snapshot.ID) bool { return x == id })
		if len(f.m[key]) == 0 {
			delete(f.m, key)
		}
	})
}

func (f *fetched) get(key solver.Key) []snapshot.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.m[key])
}

func keyOf(o solver.Op) solver.Key {
	var h solver.Hasher
	o.WriteKey(&h)
	return h.Sum()
}

// PinHTTP pins src: it asks the server whether the content is one that is remembered, and downloads it if it is not. A
// checksum is taken at its word, and costs nothing before the file is needed. Of an upload of the client's the content is
// body, which is closed; it is nil for any other source. release forgets the download and is called when the build ends;
// it is not nil.
func (r *Runner) PinHTTP(ctx context.Context, src *op.HTTP, body io.ReadCloser) (pinned *op.HTTP, release func(), err error) {
	out := *src
	if s := src.Signature; s != nil && (s.PublicKeys == "" || s.Signature == "") {
		return nil, nil, errors.New("http signature verification requires both pubkey and signature")
	}
	if body != nil {
		defer body.Close()
		out.Name = httpsource.FileName(src.URL, src.Filename, nil)
		d := r.newDownload(&out)
		defer d.discard(ctx)
		if err := d.upload(ctx, body); err != nil {
			return nil, nil, fmt.Errorf("receiving the build context from the client: %w", err)
		}
		return r.keep(ctx, &out, d)
	}
	if src.Checksum != "" {
		if err := src.Checksum.Validate(); err != nil {
			return nil, nil, err
		}
		out.Digest, out.Name = src.Checksum, httpsource.FileName(src.URL, src.Filename, nil)
		return &out, func() {}, nil
	}
	req, err := request(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	memory := memoryID(src)
	req.Known = r.remembered.Get(memory)
	d := r.newDownload(&out)
	d.report = StatusOf(ctx)
	defer d.discard(ctx)
	a, err := r.http.Fetch(ctx, req, func(a *httpsource.Answer) (httpsource.Sink, error) {
		out.Name, d.total = httpsource.FileName(src.URL, src.Filename, a.Header), a.Size
		return d, d.create(ctx, a.Modified())
	})
	if err != nil {
		return nil, nil, err
	}
	if a.Match >= 0 {
		k := req.Known[a.Match]
		out.Digest, out.Modified, out.Name = k.Digest, k.Modified, k.Name
		if src.Filename != "" {
			out.Name = op.SafeName(src.Filename)
		}
		return &out, func() {}, nil
	}
	out.Modified = a.Modified()
	pinned, release, err = r.keep(ctx, &out, d)
	if err != nil {
		return nil, nil, err
	}
	if k, ok := httpsource.KnownOf(a, out.Digest, httpsource.FileName(src.URL, "", a.Header)); ok {
		r.remembered.Put(memory, k)
	}
	return pinned, release, nil
}

// keep makes a snapshot of a complete download, and pins its source to it.
func (r *Runner) keep(ctx context.Context, out *op.HTTP, d *download) (*op.HTTP, func(), error) {
	out.Digest = digest.NewDigest(d.algorithm, d.hash)
	id, err := d.commit(ctx)
	if err != nil {
		return nil, nil, err
	}
	return out, r.fetched.add(keyOf(out), id), nil
}

// runHTTP makes the tree of a pinned source.
func (r *Runner) runHTTP(ctx context.Context, s *op.HTTP, report func(solver.Status)) ([]solver.Result, error) {
	if !s.Pinned() {
		return nil, fmt.Errorf("fetching %s: it is not pinned", s)
	}
	for _, id := range r.fetched.get(keyOf(s)) {
		if r.Hold(ctx, ResultOf(id)) == nil {
			return []solver.Result{ResultOf(id)}, nil
		}
	}
	if _, ok := s.Upload(); ok {
		return nil, errors.New("reading the build context: the client that sent it has gone")
	}
	req, err := request(ctx, s)
	if err != nil {
		return nil, err
	}
	d := r.newDownload(s)
	d.report = report
	defer d.discard(ctx)
	_, err = r.http.Fetch(ctx, req, func(a *httpsource.Answer) (httpsource.Sink, error) {
		modified := s.Modified
		d.total = a.Size
		if s.Checksum != "" {
			modified = a.Modified()
		}
		return d, d.create(ctx, modified)
	})
	if err != nil {
		return nil, err
	}
	if got := digest.NewDigest(d.algorithm, d.hash); got != s.Digest {
		err := fmt.Errorf("digest mismatch for %s: %s (expected: %s)", op.RedactURL(s.URL), got, s.Digest)
		if s.Checksum == "" {
			return nil, fmt.Errorf("%w: the content changed during the build", err)
		}
		return nil, err
	}
	id, err := d.commit(ctx)
	if err != nil {
		return nil, err
	}
	return []solver.Result{ResultOf(id)}, nil
}

// memoryID says what is asked for, for what is remembered of it.
func memoryID(s *op.HTTP) string {
	asked := op.HTTP{URL: s.URL, AuthHeaderSecret: s.AuthHeaderSecret, Header: s.Header}
	var h solver.Hasher
	asked.WriteKey(&h)
	return h.Document()
}

// request returns the request for src, with the secrets of the build's client that are for it.
func request(ctx context.Context, src *op.HTTP) (*httpsource.Request, error) {
	req := &httpsource.Request{URL: src.URL, Header: http.Header{}}
	for _, f := range src.Header {
		req.Header.Set(f.Name, f.Value)
	}
	s := session.From(ctx)
	if src.AuthHeaderSecret != "" {
		v, err := s.Secret(ctx, src.AuthHeaderSecret)
		if err != nil {
			return nil, fmt.Errorf("retrieving HTTP auth secret %s: %w", src.AuthHeaderSecret, err)
		}
		req.Authorization = headerValue(v)
		return req, nil
	}
	u, err := url.Parse(src.URL)
	if err != nil {
		return req, nil //nolint:nilerr // Fetch says it
	}
	// As in BuildKit the token counts where there are both.
	for _, c := range []struct{ id, prefix string }{{"HTTP_AUTH_HEADER_", ""}, {"HTTP_AUTH_TOKEN_", "Bearer "}} {
		v, err := s.Secret(ctx, c.id+u.Hostname())
		switch {
		case err == nil:
			req.Authorization = c.prefix + headerValue(v)
		case !errors.Is(err, session.ErrNotFound):
			return nil, fmt.Errorf("retrieving HTTP auth secret %s: %w", c.id+u.Hostname(), err)
		}
	}
	return req, nil
}

// headerValue returns a secret as a header's value: files end in a newline, which would be refused.
func headerValue(secret []byte) string { return strings.TrimRight(string(secret), "\r\n") }
