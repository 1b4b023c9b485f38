package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// Credentials never go along a redirect, also if the other host asks for them, and also if it sends the request back
// (CVE-2020-15157).
func TestRedirectGetsNoCredentials(t *testing.T) {
	storage := registrytest.New(registrytest.Behaviour{})
	setUp := func(w *world) {
		w.reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
		w.opts.Keychain = everywhere{authn.AuthConfig{Username: "ann", Password: "secret"}}
		w.reg.RedirectTo = "https://user:password@storage.test"
		w.net.HTTPS("storage.test:443", storage)
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		content := pattern(100_000)
		d := w.putBlob(content)
		storage.PutBlob("team/app", content)
		storage.Fail(registrytest.Fault{CutAfter: 50_000, Times: 1})
		if _, err := w.readBlob(ctx, d); err != nil {
			t.Fatal(err)
		}
		if n := storage.Count("", ""); n != 2 {
			t.Errorf("%d requests at the storage, want 2", n)
		}
		storage.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
		if _, err := w.readBlob(ctx, d); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("a storage that wants credentials: %v", err)
		}
		for _, r := range storage.Requests() {
			if r.Authorization != "" {
				t.Errorf("the storage got %q", r.Authorization)
			}
		}
		// Back to the registry, which now finds no credentials.
		storage.Auth, storage.RedirectTo = nil, "https://"+testHost
		w.reg.Forget()
		if _, err := w.readBlob(ctx, d); err == nil {
			t.Error("a circle of redirects ends well")
		}
		for i, r := range w.reg.Requests() {
			if i > 0 && r.Authorization != "" {
				t.Errorf("sent back with %q", r.Authorization)
			}
		}
	})
}

// How another host wants to be authenticated with is not answered, and not remembered as the registry's wish.
func TestRedirectCannotChallenge(t *testing.T) {
	var asked atomic.Int64
	setUp := func(w *world) {
		w.opts.Keychain = everywhere{authn.AuthConfig{Username: "ann", Password: "secret"}}
		w.reg.RedirectTo = "https://storage.registry.test"
		w.net.HTTPS("storage.registry.test:443", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				asked.Add(1)
			}
			rw.Header().Set("WWW-Authenticate", `Bearer realm="https://storage.registry.test/token"`)
			rw.WriteHeader(http.StatusUnauthorized)
		}))
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		for range 2 {
			if _, err := w.readBlob(ctx, w.putBlob([]byte("x"))); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
		}
		if n := asked.Load(); n != 0 {
			t.Errorf("%d tokens were asked for", n)
		}
	})
}

// everywhere is a keychain that has credentials for every host, as a careless one might.
type everywhere struct{ conf authn.AuthConfig }

func (k everywhere) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(k.conf), nil
}

// An upload's location on another host gets the blob, but no credentials.
func TestUploadElsewhere(t *testing.T) {
	upload := http.NewServeMux()
	var authz atomic.Value
	setUp := func(w *world) {
		w.reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
		w.user(testHost, "ann", "secret")
		w.reg.UploadTo = "https://upload.test"
		w.net.HTTPS("upload.test:443", upload)
		upload.HandleFunc("PUT /", func(rw http.ResponseWriter, r *http.Request) {
			authz.Store(r.Header.Get("Authorization"))
			r.SetBasicAuth("ann", "secret") // as the registry's own upload server would know
			w.reg.ServeHTTP(rw, r)
		})
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		b := []byte("content")
		if _, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes(b), opener(b), nil); err != nil {
			t.Fatal(err)
		}
		if got := authz.Load(); got != "" {
			t.Errorf("the upload server got %q", got)
		}
	})
}

// URLs inside manifests are never asked for anything (CVE-2020-15157).
func TestForeignLayersAreNotFetched(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		foreign := registrytest.New(registrytest.Behaviour{})
		w.net.HTTPS("foreign.test:443", foreign)
		d := describeBytes([]byte("x"))
		d.URLs = []string{"https://foreign.test/v2/team/app/blobs/" + d.Digest.String(), "http://foreign.test/"}
		foreign.PutBlob("team/app", []byte("x"))
		if _, err := w.readBlob(ctx, d); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if n := w.net.Dials("foreign.test:443") + w.net.Dials("foreign.test:80"); n != 0 {
			t.Errorf("%d dials", n)
		}
	})
}

// A token server that may not speak for the registry gets no password, and the error says how to change that
// (CVE-2026-33540).
func TestForeignRealm(t *testing.T) {
	for _, tt := range []struct {
		realm string
		dials string
		asked bool
	}{
		{"https://evil.test/token", "evil.test:443", true}, // of the same public suffix only
		{"http://registry.test/token", "registry.test:80", false},
		{"https://registry.test:5001/token", "registry.test:5001", true},
	} {
		t.Run(tt.realm, func(t *testing.T) {
			s := &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}, Public: true}
			setUp := func(w *world) {
				w.reg.Auth = &registrytest.Auth{Tokens: s, Realm: tt.realm}
				w.user(testHost, "ann", "secret")
				w.trust("evil.test", Host{})
				w.net.HTTPS("evil.test:443", s)
				w.net.HTTPS("registry.test:5001", s)
				w.net.HTTP("registry.test:80", s)
			}
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				w.reg.PutBlob("team/app", []byte("x"))
				_, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes([]byte("y")), opener([]byte("y")), nil)
				own := strings.Contains(tt.realm, ":5001")
				if (err == nil) != own {
					t.Errorf("got %v", err)
				}
				if !own && (!errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "token server")) {
					t.Errorf("the error does not help: %v", err)
				}
				for _, r := range s.Requests() {
					if !own && (r.Authorization != "" || strings.Contains(r.Query, "ann")) {
						t.Errorf("it got %+v", r)
					}
				}
				if asked := w.net.Dials(tt.dials) > 0; asked != tt.asked {
					t.Errorf("dialled: %v, want %v", asked, tt.asked)
				}
			})
		})
	}
}

// The same server gets the password if the configuration lists it.
func TestListedRealm(t *testing.T) {
	s := &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}}
	setUp := func(w *world) {
		w.reg.Auth = &registrytest.Auth{Tokens: s, Realm: "https://elsewhere.test/token"}
		w.trust(testHost, Host{TokenServers: []string{"elsewhere.test"}})
		w.user(testHost, "ann", "secret")
		w.net.HTTPS("elsewhere.test:443", s)
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		if err := w.c.Ping(ctx, testHost); err != nil {
			t.Error(err)
		}
	})
}

// After TLS fails nothing is said in plain text, to the registry, the token server or a mirror, whatever the names
// resolve to (CVE-2014-5277, CVE-2026-92543).
func TestNoPlainText(t *testing.T) {
	for _, host := range []string{"registry.example", "registry.example:5000", "registry.example:80", "10.0.0.1:5000", "localhost.example"} {
		var plain atomic.Int64
		setUp := func(w *world) {
			// All ports lead to a server that only knows plain HTTP and would take anything.
			w.opts.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := w.net.Dial(ctx, network, "plain:80")
				return conn, err
			}
			w.net.HTTP("plain:80", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				plain.Add(1)
				rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				rw.WriteHeader(http.StatusUnauthorized)
			}))
			w.opts.Keychain = everywhere{authn.AuthConfig{Username: "ann", Password: "secret"}}
			w.opts.Hosts[host] = Host{Mirrors: []string{"mirror.example"}}
		}
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			for name, call := range map[string]func() error{
				"Resolve": func() error { _, err := w.c.Resolve(ctx, repoAt(host).Tag("1")); return err },
				"Ping":    func() error { return w.c.Ping(ctx, host) },
				"PushBlob": func() error {
					_, err := w.c.PushBlob(ctx, repoAt(host), describeBytes(nil), opener(nil), nil)
					return err
				},
			} {
				if err := call(); err == nil || errors.Is(err, ErrUnauthorized) {
					t.Errorf("%s of %s: %v", name, host, err)
				}
			}
			if n := plain.Load(); n != 0 {
				t.Errorf("%s: %d requests in plain text", host, n)
			}
		})
	}
}

// TLS is left out for configured and local names, and certificates unverified for configured names: for the names as
// they are written, and no others.
func TestInsecure(t *testing.T) {
	plain := registrytest.New(registrytest.Behaviour{})
	selfSigned := registrytest.New(registrytest.Behaviour{})
	strict := registrytest.New(registrytest.Behaviour{})
	setUp := func(w *world) {
		for _, addr := range []string{"localhost:5000", "127.0.0.5:80", "[::1]:5000", "plain.test:80", "either.test:443"} {
			w.net.HTTP(addr, plain)
		}
		w.net.HTTPS("unverified.test:443", selfSigned)
		w.net.HTTPS("localhost:5443", strict)
		cert, key := w.net.ClientCert()
		w.opts.Hosts["plain.test"] = Host{PlainHTTP: true}
		w.opts.Hosts["unverified.test"] = Host{Insecure: true}
		w.opts.Hosts["either.test"] = Host{Insecure: true}
		w.trust("localhost:5443", Host{KeyPairs: []KeyPair{{cert, key}}})
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		for host, port80 := range map[string]string{
			"localhost:5000": "", "127.0.0.5": "", "[::1]:5000": "", "plain.test": "", "unverified.test": "", "localhost:5443": "",
			"either.test": "either.test:80",
		} {
			if port80 != "" {
				w.net.HTTP(port80, plain)
			}
			if err := w.c.Ping(ctx, host); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
		if r := strict.Requests(); len(r) != 1 || !r[0].TLS || !r[0].ClientCert {
			t.Errorf("with a client certificate: %+v", r)
		}
		for _, host := range []string{"other.plain.test", "localhost:5999"} {
			if err := w.c.Ping(ctx, host); err == nil {
				t.Errorf("%s answers", host)
			}
		}
		if n := w.net.Dials("other.plain.test:80"); n != 0 {
			t.Errorf("a name that is not configured was dialled in plain text %d times", n)
		}
	})
}

// A client for one push trusts the hosts that it is made for, and the one that it is made of trusts them no more than
// before.
func TestInsecureClient(t *testing.T) {
	reg := registrytest.New(registrytest.Behaviour{})
	setUp := func(w *world) {
		w.net.HTTPS("unknown.test:443", reg)
		w.net.HTTPS("other.test:443", reg)
		w.net.HTTP("plain.test:443", reg)
		w.net.HTTP("plain.test:80", reg)
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		trusting, err := w.c.Insecure("unknown.test", "plain.test")
		if err != nil {
			t.Fatal(err)
		}
		defer trusting.Close()
		for _, host := range []string{"unknown.test", "plain.test"} {
			if err := trusting.Ping(ctx, host); err != nil {
				t.Errorf("%s: %v", host, err)
			}
			if err := w.c.Ping(ctx, host); err == nil {
				t.Errorf("%s is trusted by all", host)
			}
		}
		if err := trusting.Ping(ctx, "other.test"); err == nil {
			t.Error("a host is trusted that nobody has named")
		}
	})
}

// Of several client certificates the one is shown that the server accepts, whichever place it has.
func TestKeyPairs(t *testing.T) {
	ours, others := registrytest.NewNetwork(), registrytest.NewNetwork()
	defer ours.Close()
	defer others.Close()
	accepted := x509.NewCertPool()
	accepted.AppendCertsFromPEM(ours.CA())
	s := httptest.NewUnstartedServer(registrytest.New(registrytest.Behaviour{}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: accepted}
	s.StartTLS()
	defer s.Close()
	pair := func(n *registrytest.Network) KeyPair {
		cert, key := n.ClientCert()
		return KeyPair{cert, key}
	}
	good, bad := pair(ours), pair(others)
	host := strings.TrimPrefix(s.URL, "https://")
	for name, c := range map[string]struct {
		pairs []KeyPair
		fails bool
	}{
		"first": {[]KeyPair{good, bad}, false}, "last": {[]KeyPair{bad, bad, good}, false}, "none of them": {[]KeyPair{bad}, true},
	} {
		cl, err := New(Options{Hosts: map[string]Host{host: {Insecure: true, KeyPairs: c.pairs}}, Retry: RetryPolicy{Attempts: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.Ping(t.Context(), host); (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		}
		_ = cl.Close()
	}
}

// A redirect's host is verified with the registry's CA, or its own configuration, and gets neither the registry's client
// certificate nor its leave to be unverified.
func TestRedirectTLS(t *testing.T) {
	storage := registrytest.New(registrytest.Behaviour{})
	for _, insecure := range []bool{false, true} {
		setUp := func(w *world) {
			cert, key := w.net.ClientCert()
			h := Host{KeyPairs: []KeyPair{{cert, key}}, CA: w.net.CA()}
			if insecure {
				h = Host{KeyPairs: []KeyPair{{cert, key}}, Insecure: true}
			}
			w.opts.Hosts[testHost] = h
			w.reg.RedirectTo = "https://storage.test"
			w.net.HTTPS("storage.test:443", storage)
		}
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			d := w.putBlob([]byte("x"))
			storage.PutBlob("team/app", []byte("x"))
			_, err := w.readBlob(ctx, d)
			var cert *tls.CertificateVerificationError
			if insecure != errors.As(err, &cert) || !insecure && err != nil {
				t.Errorf("insecure %v: %v", insecure, err)
			}
			for _, r := range storage.Requests() {
				if r.ClientCert {
					t.Error("the storage was shown the client certificate")
				}
			}
			if r := w.reg.Requests()[0]; !r.ClientCert {
				t.Error("the registry was not")
			}
		})
	}
}

// A redirect from TLS to plain HTTP, or in circles, is an error.
func TestBadRedirects(t *testing.T) {
	for _, to := range []string{"http://storage.test", "file:///etc", "https://" + testHost + "/x/..", ":"} {
		setUp := func(w *world) { w.reg.RedirectTo = to }
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			d := w.putBlob([]byte("x"))
			if _, err := w.readBlob(ctx, d); err == nil || strings.Contains(err.Error(), "signature") {
				t.Errorf("%s: %v", to, err)
			}
			if n := w.net.Dials("storage.test:80"); n != 0 {
				t.Errorf("%s: %d dials", to, n)
			}
			if n := w.reg.Count("", ""); n > maxRedirects+1 {
				t.Errorf("%s: %d requests", to, n)
			}
		})
	}
}

// Options that make no sense are refused.
func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"upper case":   {Hosts: map[string]Host{"A.test": {}}},
		"a path":       {Hosts: map[string]Host{"a.test/x": {}}},
		"empty":        {Hosts: map[string]Host{"": {}}},
		"both":         {Hosts: map[string]Host{"a.test": {PlainHTTP: true, CA: []byte("x")}}},
		"no CA":        {Hosts: map[string]Host{"a.test": {CA: []byte("x")}}},
		"no key":       {Hosts: map[string]Host{"a.test": {KeyPairs: []KeyPair{{Cert: []byte("x")}}}}},
		"a bad mirror": {Hosts: map[string]Host{"a.test": {Mirrors: []string{"ftp://x"}}}},
		"chunks":       {Hosts: map[string]Host{"a.test": {ChunkSize: -1}}},
		"concurrency":  {MaxConcurrency: -1},
		"attempts":     {Retry: RetryPolicy{Attempts: -1}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	if _, err := New(Options{}); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}
