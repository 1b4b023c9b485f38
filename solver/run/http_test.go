package run_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/run/httpsource"
	"github.com/boxbuild/boxbuild/solver/session"
)

// A webRig is a runner that has what HTTP sources need, and a server.
type webRig struct {
	*testing.T
	snaps  *overlay.Snapshotter
	runner *run.Runner
	leases *lease.Manager
	lease  *lease.Lease
	dir    string

	content  atomic.Value // string: what the server has
	etag     atomic.Value // string
	modified atomic.Value // string
	sent     atomic.Int32 // bodies
	server   *httptest.Server
}

func newWebRig(t *testing.T) *webRig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	w := &webRig{T: t, dir: t.TempDir()}
	var err error
	if w.snaps, err = overlay.Open(t.Context(), filepath.Join(w.dir, "snapshots"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.snaps.Close(); err != nil {
			t.Error(err)
		}
	})
	w.leases = lease.New(lease.Snapshots(w.snaps))
	w.lease = w.leases.Acquire("test")
	w.restart(httpsource.Options{})
	w.content.Store("hello")
	w.etag.Store("")
	w.modified.Store("")
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if tag := w.etag.Load().(string); tag != "" {
			rw.Header().Set("ETag", tag)
			if r.Header.Get("If-None-Match") == tag {
				rw.WriteHeader(http.StatusNotModified)
				return
			}
		}
		if m := w.modified.Load().(string); m != "" {
			rw.Header().Set("Last-Modified", m)
		}
		rw.Header().Set("X-Auth", r.Header.Get("Authorization"))
		w.sent.Add(1)
		_, _ = io.WriteString(rw, strings.ReplaceAll(w.content.Load().(string), "AUTH", r.Header.Get("Authorization")))
	}))
	t.Cleanup(w.server.Close)
	return w
}

// restart makes a new runner on the same directories.
func (w *webRig) restart(opt httpsource.Options) {
	opt.Attempts = 1
	w.runner = run.New(run.Deps{Snapshots: w.snaps, FetchDir: filepath.Join(w.dir, "fetched"), HTTP: httpsource.New(opt)})
}

func (w *webRig) ctx() context.Context { return lease.With(w.Context(), w.lease) }

func (w *webRig) pin(src *op.HTTP) *op.HTTP {
	w.Helper()
	pinned, release, err := w.runner.PinHTTP(w.ctx(), src, nil)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(release)
	if !pinned.Pinned() || src.Pinned() {
		w.Errorf("pinned %v, source %v", pinned, src)
	}
	return pinned
}

// run performs a pinned source.
func (w *webRig) run(src *op.HTTP) (solver.Result, error) {
	v := solver.NewVertex(src, nil, solver.Meta{})
	out, err := w.runner.Run(w.ctx(), &solver.Step{Vertex: v, Key: v.Recipe()})
	if err != nil {
		return "", err
	}
	return out[0], nil
}

// file returns a file's content and entry.
func (w *webRig) file(res solver.Result, name string) (string, os.FileInfo) {
	w.Helper()
	tree, done, err := w.runner.Open(w.ctx(), res)
	if err != nil {
		w.Fatal(err)
	}
	defer done()
	r, err := tree.Open(w.Context(), "/"+name)
	if err != nil {
		w.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		w.Fatal(err)
	}
	id, _ := run.SnapshotOf(res)
	dir, ok, err := w.snaps.Upper(w.Context(), id)
	if err != nil || !ok {
		w.Fatal(ok, err)
	}
	st, err := os.Lstat(filepath.Join(dir, name))
	if err != nil {
		w.Fatal(err)
	}
	return string(data), st
}

// count returns how many snapshots and drafts there are.
func (w *webRig) count() int {
	n := 0
	for _, sub := range []string{"snapshots", "drafts"} {
		entries, _ := os.ReadDir(filepath.Join(w.dir, "snapshots", sub))
		n += len(entries)
	}
	for _, err := range w.snaps.All(w.Context()) {
		if err != nil {
			w.Error(err)
		}
		n++
	}
	return n
}

// What a URL has becomes a tree with one file, downloaded once, with the attributes that were asked for.
func TestHTTP(t *testing.T) {
	w := newWebRig(t)
	w.modified.Store("Mon, 02 Jan 2023 03:04:05 GMT")
	src := &op.HTTP{URL: w.server.URL + "/dir/name.txt?query", Perm: 0o640, UID: 5, GID: 6}
	pinned := w.pin(src)
	if pinned.Digest != digest.FromString("hello") || pinned.Name != "name.txt" || pinned.Modified.Unix() != 1672628645 {
		t.Errorf("got %+v", pinned)
	}
	res, err := w.run(pinned)
	if err != nil {
		t.Fatal(err)
	}
	data, st := w.file(res, "name.txt")
	sys := st.Sys().(*syscall.Stat_t)
	if data != "hello" || st.Mode() != 0o640 || sys.Uid != 5 || sys.Gid != 6 || !st.ModTime().Equal(pinned.Modified) {
		t.Errorf("got %q, %v %d:%d %v", data, st.Mode(), sys.Uid, sys.Gid, st.ModTime())
	}
	if n := w.sent.Load(); n != 1 {
		t.Errorf("%d downloads", n)
	}
	// Without anything else said.
	w.modified.Store("")
	plain, err := w.run(w.pin(&op.HTTP{URL: w.server.URL, Filename: "../f"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, st := w.file(plain, "f"); st.Mode() != 0o600 || st.ModTime().Unix() != 0 {
		t.Errorf("got %v %v", st.Mode(), st.ModTime())
	}
}

// The key of what is pinned follows from the content, name and time, and from nothing else that was asked or answered.
func TestHTTPKey(t *testing.T) {
	at := time.Date(2023, 1, 2, 3, 4, 5, 0, time.UTC)
	base := op.HTTP{URL: "http://a/f", Filename: "f", Digest: digest.FromString("x"), Name: "f", Modified: at}
	key := func(s op.HTTP) solver.Key { return solver.NewVertex(&s, nil, solver.Meta{}).Recipe() }
	for name, c := range map[string]struct {
		change func(*op.HTTP)
		same   bool
	}{
		"url":       {func(s *op.HTTP) { s.URL = "https://b/g" }, true},
		"secret":    {func(s *op.HTTP) { s.AuthHeaderSecret = "s" }, true},
		"header":    {func(s *op.HTTP) { s.Header = []op.HTTPHeader{{Name: "Accept", Value: "*/*"}} }, true},
		"zone":      {func(s *op.HTTP) { s.Modified = at.In(time.FixedZone("x", 3600)) }, true},
		"digest":    {func(s *op.HTTP) { s.Digest = digest.FromString("y") }, false},
		"name":      {func(s *op.HTTP) { s.Name = "g" }, false},
		"time":      {func(s *op.HTTP) { s.Modified = at.Add(time.Second) }, false},
		"no time":   {func(s *op.HTTP) { s.Modified = time.Time{} }, false},
		"perm":      {func(s *op.HTTP) { s.Perm = 0o644 }, false},
		"user":      {func(s *op.HTTP) { s.UID = 1 }, false},
		"group":     {func(s *op.HTTP) { s.GID = 1 }, false},
		"no digest": {func(s *op.HTTP) { s.Digest = "" }, false},
	} {
		changed := base
		c.change(&changed)
		if (key(changed) == key(base)) != c.same {
			t.Errorf("%s: the key is the same: %v", name, !c.same)
		}
	}
}

// A second build asks whether the content has changed, also after a restart. Without its snapshot it is downloaded again.
func TestHTTPAgain(t *testing.T) {
	w := newWebRig(t)
	w.etag.Store(`"1"`)
	first := w.pin(&op.HTTP{URL: w.server.URL + "/f"})
	w.restart(httpsource.Options{})
	again := w.pin(&op.HTTP{URL: w.server.URL + "/f"})
	renamed := w.pin(&op.HTTP{URL: w.server.URL + "/f", Filename: "g"})
	if again.Digest != first.Digest || again.Name != "f" || renamed.Name != "g" || w.sent.Load() != 1 {
		t.Errorf("got %v, %v after %d downloads", again, renamed, w.sent.Load())
	}
	res, err := w.run(renamed)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := w.file(res, "g"); data != "hello" || w.sent.Load() != 2 {
		t.Errorf("got %q after %d downloads", data, w.sent.Load())
	}
	w.content.Store("changed")
	w.etag.Store(`"2"`)
	if got := w.pin(&op.HTTP{URL: w.server.URL + "/f"}); got.Digest != digest.FromString("changed") {
		t.Errorf("got %v", got)
	}
	// What the first build was pinned to is no more to be had.
	w.restart(httpsource.Options{})
	if _, err := w.run(again); err == nil || !strings.Contains(err.Error(), "the content changed during the build") {
		t.Errorf("got %v", err)
	}
}

// A checksum is believed without asking, and the content is checked against it before it is used, in every algorithm.
func TestHTTPChecksum(t *testing.T) {
	w := newWebRig(t)
	sum512, sum384 := sha512.Sum512([]byte("hello")), sha512.Sum384([]byte("hello"))
	for _, good := range []digest.Digest{
		digest.FromString("hello"), digest.NewDigestFromBytes(digest.SHA384, sum384[:]), digest.NewDigestFromBytes(digest.SHA512, sum512[:]),
	} {
		w.sent.Store(0)
		pinned := w.pin(&op.HTTP{URL: w.server.URL + "/f", Checksum: good})
		if pinned.Digest != good || w.sent.Load() != 0 {
			t.Errorf("got %v after %d downloads", pinned, w.sent.Load())
		}
		if res, err := w.run(pinned); err != nil {
			t.Errorf("%s: %v", good, err)
		} else if data, _ := w.file(res, "f"); data != "hello" {
			t.Errorf("got %q", data)
		}
		before := w.count()
		bad := good.Algorithm().FromString("other")
		_, err := w.run(w.pin(&op.HTTP{URL: w.server.URL + "/f", Checksum: bad}))
		if err == nil || !strings.Contains(err.Error(), "digest mismatch") || !strings.Contains(err.Error(), bad.String()) {
			t.Errorf("got %v", err)
		}
		if after := w.count(); after != before {
			t.Errorf("a wrong content left something: %d, then %d", before, after)
		}
	}
	for _, bad := range []digest.Digest{"sha256:12", "md5:00", "x"} {
		if _, _, err := w.runner.PinHTTP(w.ctx(), &op.HTTP{URL: w.server.URL, Checksum: bad}, nil); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// secrets are the session of a client that has these.
type secrets map[string]string

func (s secrets) Secret(_ context.Context, id string) ([]byte, error) {
	if id == "broken" {
		return nil, errors.New("the client answers no more")
	}
	v, ok := s[id]
	if !ok {
		return nil, &session.NotFoundError{Kind: "secret", ID: id}
	}
	return []byte(v), nil
}
func (s secrets) CheckSSH(context.Context, string) error { return errors.ErrUnsupported }
func (s secrets) DialSSH(context.Context, string) (session.Conn, error) {
	return nil, errors.ErrUnsupported
}

// The Authorization header comes from the client's secrets: the one that is named, or those that are called after the host.
func TestHTTPSecrets(t *testing.T) {
	w := newWebRig(t)
	w.content.Store("AUTH")
	for _, c := range []struct {
		secrets secrets
		name    string
		want    string
		err     string
	}{
		{secrets{}, "", "", ""},
		{secrets{"HTTP_AUTH_TOKEN_127.0.0.1": "t\n"}, "", "Bearer t", ""},
		{secrets{"HTTP_AUTH_HEADER_127.0.0.1": "Basic x\r\n"}, "", "Basic x", ""},
		{secrets{"HTTP_AUTH_HEADER_127.0.0.1": "Basic x", "HTTP_AUTH_TOKEN_127.0.0.1": "t"}, "", "Bearer t", ""},
		{secrets{"HTTP_AUTH_TOKEN_example.com": "t", "HTTP_AUTH_TOKEN_": "t"}, "", "", ""},
		{secrets{"mine": "Custom y", "HTTP_AUTH_TOKEN_127.0.0.1": "t"}, "mine", "Custom y", ""},
		{secrets{}, "mine", "", "secret mine: not found"},
		{secrets{}, "broken", "", "answers no more"},
		{secrets{"mine": "a\nX-Evil: hunter2"}, "mine", "", "invalid header field value"},
	} {
		ctx := session.With(w.ctx(), c.secrets)
		pinned, release, err := w.runner.PinHTTP(ctx, &op.HTTP{URL: w.server.URL, AuthHeaderSecret: c.name}, nil)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v: got %v", c.secrets, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.secrets, err)
			continue
		}
		release()
		if pinned.Digest != digest.FromString(c.want) {
			t.Errorf("%v: the server did not get %q", c.secrets, c.want)
		}
	}
}

// A download that fails, at whatever point, leaves nothing, and is not remembered.
func TestHTTPFailures(t *testing.T) {
	w := newWebRig(t)
	w.etag.Store(`"1"`)
	before := w.count()
	w.restart(httpsource.Options{MaxSize: 3})
	if _, _, err := w.runner.PinHTTP(w.ctx(), &op.HTTP{URL: w.server.URL + "/f"}, nil); !errors.Is(err, httpsource.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	w.restart(httpsource.Options{})
	ctx, cancel := context.WithCancelCause(w.ctx())
	cancel(errors.New("why"))
	if _, _, err := w.runner.PinHTTP(ctx, &op.HTTP{URL: w.server.URL + "/f"}, nil); err == nil {
		t.Error("a cancelled download succeeds")
	}
	broken := io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if _, _, err := w.runner.PinHTTP(w.ctx(), &op.HTTP{URL: "http://buildkit-session/x"}, broken); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if after := w.count(); after != before {
		t.Errorf("failures left something: %d, then %d", before, after)
	}
	w.sent.Store(0)
	w.pin(&op.HTTP{URL: w.server.URL + "/f"})
	if w.sent.Load() != 1 {
		t.Error("a download that failed is remembered")
	}
	if _, err := w.run(&op.HTTP{URL: w.server.URL}); err == nil {
		t.Error("a source that is not pinned is performed")
	}
}

// A download of some size says how far it is, from its beginning to its end, and a small one says nothing.
func TestHTTPProgress(t *testing.T) {
	w := newWebRig(t)
	var got []solver.Status
	ctx := run.WithStatus(w.ctx(), func(s solver.Status) { got = append(got, s) })
	pin := func() {
		_, release, err := w.runner.PinHTTP(ctx, &op.HTTP{URL: w.server.URL + "/f"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	pin()
	if len(got) != 0 {
		t.Errorf("a small file: %v", got)
	}
	const size = 5 << 20
	w.content.Store(strings.Repeat("x", size))
	pin()
	if len(got) < 3 {
		t.Fatalf("got %v", got)
	}
	for i, s := range got {
		last := i == len(got)-1
		if s.ID != "f" || s.Action != "downloading" || s.Started.IsZero() || s.Ended.IsZero() == last || (last && s.Current != size) {
			t.Errorf("status %d of %d is %+v", i, len(got), s)
		}
		if i > 0 && s.Current < got[i-1].Current {
			t.Errorf("it goes back: %v", got)
		}
	}
}

// What a client uploads is pinned by its content, and to be had as long as the build that has it.
func TestHTTPUpload(t *testing.T) {
	w := newWebRig(t)
	src := &op.HTTP{URL: "http://" + op.SessionHost + "/some-id", Filename: "context"}
	if id, ok := src.Upload(); !ok || id != "some-id" {
		t.Errorf("got %q, %v", id, ok)
	}
	for _, other := range []string{"http://" + op.SessionHost, "https://" + op.SessionHost + "/x", "http://x." + op.SessionHost + "/x", "http://h/" + op.SessionHost} {
		if id, ok := (&op.HTTP{URL: other}).Upload(); ok {
			t.Errorf("%s is upload %q", other, id)
		}
	}
	body := bytes.Repeat([]byte("x"), 1<<20)
	pinned, release, err := w.runner.PinHTTP(w.ctx(), src, io.NopCloser(bytes.NewReader(body)))
	if err != nil || pinned.Digest != digest.FromBytes(body) || pinned.Name != "context" {
		t.Fatalf("got %v, %v", pinned, err)
	}
	res, err := w.run(pinned)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := w.file(res, "context"); data != string(body) {
		t.Errorf("got %d bytes", len(data))
	}
	release()
	if _, err := w.run(pinned); err == nil || !strings.Contains(err.Error(), "has gone") {
		t.Errorf("got %v", err)
	}
	// No server can be asked in a client's stead, nor lead to it.
	w.restart(httpsource.Options{Transport: http.DefaultTransport})
	if _, _, err := w.runner.PinHTTP(w.ctx(), &op.HTTP{URL: src.URL}, nil); err == nil {
		t.Error("an upload is asked for in the network")
	}
}
