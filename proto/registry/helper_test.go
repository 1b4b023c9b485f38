package registry

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

const (
	testHost = "registry.test" // speaks TLS, with the network's CA
	octets   = "application/octet-stream"
)

// A world is a client on a network of its own with one registry, inside a synctest bubble: time stands still unless all
// are waiting, and then jumps.
type world struct {
	*testing.T
	net  *registrytest.Network
	reg  *registrytest.Registry // at testHost
	opts Options
	c    *Client
}

// inWorld runs f in a new world. setUp, which may be nil, changes it before the client is made.
func inWorld(t *testing.T, setUp func(*world), f func(ctx context.Context, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := registrytest.NewNetwork()
		w := &world{T: t, net: n, reg: registrytest.New(registrytest.Behaviour{})}
		w.opts = Options{Dial: n.Dial, Proxy: noProxy, Hosts: map[string]Host{testHost: {CA: n.CA()}}}
		if setUp != nil {
			setUp(w)
		}
		n.HTTPS(testHost+":443", w.reg)
		var err error
		if w.c, err = New(w.opts); err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		defer w.c.Close()
		f(t.Context(), w)
	})
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// trust makes the client verify a host with the network's CA.
func (w *world) trust(host string, h Host) {
	h.CA = w.net.CA()
	w.opts.Hosts[host] = h
}

// user gives the client one user's credentials for a host.
func (w *world) user(host, name, password string) {
	w.opts.Keychain = StaticKeychain(host, authn.AuthConfig{Username: name, Password: password})
}

func repoAt(host string) Repo { return Repo{host, "team/app"} }

func withDigest(t testing.TB, s string) (d Descriptor) {
	t.Helper()
	h, err := ParseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	d.Digest = h
	return d
}

// putBlob stores a blob in the test's repository and describes it.
func (w *world) putBlob(b []byte) Descriptor {
	d := withDigest(w, w.reg.PutBlob("team/app", b))
	d.Size, d.MediaType = int64(len(b)), octets
	return d
}

func describeBytes(b []byte) Descriptor {
	return Descriptor{MediaType: octets, Size: int64(len(b)), Digest: SumDigest(b)}
}

// opener returns what PushBlob wants for bytes.
func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(&slowBytes{b: b}), nil }
}

// slowBytes reads bytes in pieces, so that a body takes several reads.
type slowBytes struct{ b []byte }

func (s *slowBytes) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1000)], s.b)
	s.b = s.b[n:]
	return n, nil
}

// pattern returns n bytes that differ from place to place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

// overHTTP1 serves the registry without TLS, and so without HTTP/2, too, and returns the test's repository there. Some
// things can only happen to a connection that has one request at a time.
func (w *world) overHTTP1() Repo {
	w.net.HTTP("localhost:80", w.reg)
	return repoAt("localhost")
}

// readBlob reads a whole blob.
func (w *world) readBlob(ctx context.Context, d Descriptor) ([]byte, error) {
	r, err := w.c.Blob(ctx, repoAt(testHost), d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
