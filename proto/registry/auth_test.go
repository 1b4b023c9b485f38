package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// withTokens makes the registry ask for bearer tokens, from a server in its own domain.
func withTokens(w *world, s *registrytest.TokenServer) {
	s.Service = "the registry"
	w.reg.Auth = &registrytest.Auth{Tokens: s, Realm: "https://auth.registry.test/token"}
	w.trust("auth.registry.test", Host{})
	w.net.HTTPS("auth.registry.test:443", s)
}

// Basic credentials are sent when the registry has asked for them, from then on with every request, and to nobody else.
func TestBasic(t *testing.T) {
	setUp := func(w *world) {
		w.reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
		w.user(testHost, "ann", "secret")
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		w.reg.PutImage("team/app", "1", []byte("{}"))
		for range 3 {
			if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1")); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, r := range w.reg.Requests() {
			got = append(got, r.Authorization)
		}
		basic := "Basic YW5uOnNlY3JldA=="
		if strings.Join(got, "|") != strings.Join([]string{"", basic, basic, basic}, "|") {
			t.Errorf("got %q", got)
		}
	})
}

// A wrong password is refused once, with words that say so.
func TestBasicWrong(t *testing.T) {
	for _, tt := range []struct {
		name     string
		keychain authn.Keychain
		words    string
	}{
		{"none", nil, "there are no credentials for registry.test"},
		{"another host's", StaticKeychain("other.test", authn.AuthConfig{Username: "ann", Password: "secret"}), "there are no credentials"},
		{"wrong", StaticKeychain(testHost, authn.AuthConfig{Username: "ann", Password: "wrong"}), "authentication required"},
		{"broken", brokenKeychain{}, "no credentials were sent, since looking them up ended with: the helper is broken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setUp := func(w *world) {
				w.reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
				w.opts.Keychain = tt.keychain
			}
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				_, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1"))
				if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), tt.words) {
					t.Errorf("got %v", err)
				}
				if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong ")) {
					t.Errorf("the error tells the password: %v", err)
				}
				if n := w.reg.Count("", ""); n > 2 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

type brokenKeychain struct{}

func (brokenKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return nil, errors.New("the helper is broken")
}

// One token serves all requests of its scope until it is old; what it says of its age is believed, with a margin.
func TestTokenIsKept(t *testing.T) {
	for _, life := range []time.Duration{0, 5 * time.Minute} {
		s := &registrytest.TokenServer{Public: true, Lifetime: life}
		inWorld(t, func(w *world) { withTokens(w, s) }, func(ctx context.Context, w *world) {
			w.reg.PutImage("team/app", "1", []byte("{}"))
			d := w.putBlob([]byte("x"))
			read := func() {
				t.Helper()
				if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1")); err != nil {
					t.Fatal(err)
				}
				if _, err := w.readBlob(ctx, d); err != nil {
					t.Fatal(err)
				}
			}
			read()
			read()
			if n := len(s.Requests()); n != 1 {
				t.Errorf("%d tokens, want 1", n)
			}
			// The first request was sent without a token, all later ones are right at once.
			if n := w.reg.Count("", ""); n != 5 {
				t.Errorf("%d requests, want 5", n)
			}
			age := max(life, time.Minute)
			time.Sleep(age * 7 / 10)
			read()
			if n := len(s.Requests()); n != 1 {
				t.Errorf("%d tokens at seven tenths of its age, want 1", n)
			}
			time.Sleep(age * 2 / 10)
			read()
			if n := len(s.Requests()); n != 2 {
				t.Errorf("%d tokens at nine tenths of its age, want 2", n)
			}
			if n := w.reg.Count("", ""); n != 9 {
				t.Errorf("%d requests, want 9: none with an old token", n)
			}
		})
	}
}

// Many requests that need the same token at once ask for it once.
func TestTokenOnce(t *testing.T) {
	s := &registrytest.TokenServer{Public: true}
	inWorld(t, func(w *world) { withTokens(w, s) }, func(ctx context.Context, w *world) {
		d := w.putBlob(pattern(10))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := w.readBlob(ctx, d); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(s.Requests()); n > 2 {
			t.Errorf("%d tokens", n)
		}
	})
}

// A token that is refused before its time is replaced, once.
func TestTokenRevoked(t *testing.T) {
	s := &registrytest.TokenServer{Public: true, Lifetime: time.Hour}
	inWorld(t, func(w *world) { withTokens(w, s) }, func(ctx context.Context, w *world) {
		d := w.putBlob([]byte("x"))
		for range 3 {
			if _, err := w.readBlob(ctx, d); err != nil {
				t.Fatal(err)
			}
			s.Revoke()
		}
		if n := len(s.Requests()); n != 3 {
			t.Errorf("%d tokens, want 3", n)
		}
	})
}

// Each credential is used as it is meant: passwords and identity tokens at the token server, registry tokens at the
// registry; and the scope is the one that is needed, whatever the server asks for.
func TestTokenCredentials(t *testing.T) {
	for _, tt := range []struct {
		name   string
		conf   authn.AuthConfig
		method string
		basic  bool
	}{
		{"password", authn.AuthConfig{Username: "ann", Password: "secret"}, "GET", true},
		{"identity token", authn.AuthConfig{IdentityToken: "refresh"}, "POST", false},
		{"identity token of a helper", authn.AuthConfig{Username: "<token>", Password: "refresh"}, "POST", false},
		{"both", authn.AuthConfig{Username: "ann", IdentityToken: "refresh"}, "POST", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}, Identity: map[string]bool{"refresh": true}}
			setUp := func(w *world) {
				withTokens(w, s)
				w.opts.Keychain = StaticKeychain(testHost, tt.conf)
			}
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				b := []byte("x")
				if _, err := w.c.PushBlob(ctx, repoAt(testHost), describeBytes(b), opener(b), nil); err != nil {
					t.Fatal(err)
				}
				r := s.Requests()
				if len(r) != 1 || r[0].Method != tt.method || strings.HasPrefix(r[0].Authorization, "Basic ") != tt.basic || !r[0].TLS {
					t.Errorf("the token server was asked %+v", r)
				}
				query := r[0].Query
				if tt.method == "POST" {
					query = s.Forms()[0]
				}
				q, _ := url.ParseQuery(query)
				if q.Get("scope") != "repository:team/app:pull,push" || q.Get("service") != "the registry" {
					t.Errorf("it was asked for %v", q)
				}
				for _, r := range w.reg.Requests() {
					if r.Authorization != "" && !strings.HasPrefix(r.Authorization, "Bearer token-") {
						t.Errorf("the registry got %q", r.Authorization)
					}
				}
			})
		})
	}
}

// A registry token is sent as it is, and only to the registry.
func TestRegistryToken(t *testing.T) {
	s := &registrytest.TokenServer{Public: true}
	setUp := func(w *world) {
		withTokens(w, s)
		w.opts.Keychain = StaticKeychain(testHost, authn.AuthConfig{RegistryToken: "mine"})
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		if _, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1")); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("got %v", err)
		}
		if r := w.reg.Requests(); len(s.Requests()) != 0 || r[len(r)-1].Authorization != "Bearer mine" {
			t.Errorf("the registry was asked %+v", r)
		}
	})
}

// A mount gets one token for both repositories, which then serves the push, too.
func TestTokenForMount(t *testing.T) {
	s := &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}, Lifetime: time.Hour}
	setUp := func(w *world) {
		withTokens(w, s)
		w.user(testHost, "ann", "secret")
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		d := withDigest(t, w.reg.PutBlob("base", []byte("x")))
		d.Size = 1
		how, err := w.c.PushBlob(ctx, repoAt(testHost), d, nil, []Repo{{testHost, "base"}})
		if err != nil || how != Mounted {
			t.Fatalf("got %v, %v", how, err)
		}
		r := s.Requests()
		q, _ := url.ParseQuery(r[len(r)-1].Query)
		if want := []string{"repository:base:pull", "repository:team/app:pull,push"}; len(q["scope"]) != 2 ||
			q["scope"][0] != want[0] || q["scope"][1] != want[1] {
			t.Errorf("asked for %q, want %q", q["scope"], want)
		}
		before := len(s.Requests())
		if _, err := w.c.PushManifest(ctx, repoAt(testHost).Tag("1"), types.OCIImageIndex, []byte(`{"manifests":[]}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.readBlob(ctx, d); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Requests()); n != before {
			t.Errorf("%d tokens more for what the first ones cover", n-before)
		}
	})
}

// Two users never share a token, an answer, or a flight.
func TestUsersAreApart(t *testing.T) {
	s := &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}, Lifetime: time.Hour}
	inWorld(t, func(w *world) { withTokens(w, s) }, func(ctx context.Context, w *world) {
		w.reg.PutImage("team/app", "1", []byte("{}"))
		w.reg.Fail(registrytest.Fault{Kind: registrytest.Manifest, Delay: time.Second})
		ann := WithKeychain(ctx, StaticKeychain(testHost, authn.AuthConfig{Username: "ann", Password: "secret"}))
		var wg sync.WaitGroup
		resolve := func(ctx context.Context, want error) {
			wg.Go(func() {
				if _, err := w.c.Resolve(ctx, repoAt(testHost).Tag("1")); !errors.Is(err, want) || (err == nil) != (want == nil) {
					t.Errorf("got %v, want %v", err, want)
				}
			})
		}
		for range 2 {
			resolve(ann, nil)
			resolve(ctx, ErrUnauthorized)
			resolve(WithKeychain(ctx, StaticKeychain(testHost, authn.AuthConfig{Username: "ann", Password: "guess"})), ErrUnauthorized)
			wg.Wait()
		}
	})
}

// A login takes effect within a minute, or at once if what was there before is refused.
func TestLoginTakesEffect(t *testing.T) {
	k := &changingKeychain{host: testHost}
	setUp := func(w *world) {
		w.reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
		w.opts.Keychain = k
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		if err := w.c.Ping(ctx, testHost); !errors.Is(err, ErrUnauthorized) || !strings.HasPrefix(err.Error(), "the login is not accepted: ") {
			t.Fatalf("without credentials: %v", err)
		}
		k.set("ann", "secret")
		time.Sleep(credentialAge)
		if err := w.c.Ping(ctx, testHost); err != nil {
			t.Errorf("after a login: %v", err)
		}
		w.reg.Auth.Basic["ann"] = "changed"
		k.set("ann", "changed")
		if err := w.c.Ping(ctx, testHost); err != nil {
			t.Errorf("after a change of password: %v", err)
		}
		before := k.asked()
		for range 5 {
			if err := w.c.Ping(ctx, testHost); err != nil {
				t.Fatal(err)
			}
		}
		if n := k.asked() - before; n > 0 {
			t.Errorf("the keychain was asked %d times for five requests", n)
		}
	})
}

// One can log in to Docker Hub, by all the names that its credentials are kept under, and is refused with a wrong password.
func TestLoginToHub(t *testing.T) {
	hub := registrytest.New(registrytest.Behaviour{Auth: &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}})
	setUp := func(w *world) {
		w.trust(dockerHub, Host{})
		w.net.HTTPS(dockerHubAddr+":443", hub)
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		for _, host := range []string{dockerHub, dockerHubIndex, dockerHubAddr, dockerHubKey} {
			login := func(password string) error {
				return w.c.Ping(WithKeychain(ctx, StaticKeychain(host, authn.AuthConfig{Username: "ann", Password: password})), host)
			}
			if err := login("secret"); err != nil {
				t.Errorf("%s: %v", host, err)
			}
			if err := login("guess"); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("%s with a wrong password: %v", host, err)
			}
		}
		if n := len(hub.Requests()); n == 0 {
			t.Error("Docker Hub was never asked")
		}
	})
}

// A lookup that ended with its caller is no answer for the next one.
func TestLookupCutShort(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		ctx = WithKeychain(ctx, slowKeychain{})
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		repo := repoAt(testHost)
		if cr := w.c.credential(short, w.c.session(short), repo); !errors.Is(cr.err, context.DeadlineExceeded) {
			t.Errorf("cut short: %+v", cr)
		}
		w.c.lookups.wait()
		if cr := w.c.credential(ctx, w.c.session(ctx), repo); cr.user != "ann" || cr.err != nil {
			t.Errorf("the next one: %+v", cr)
		}
	})
}

// slowKeychain answers after ten seconds.
type slowKeychain struct{}

func (slowKeychain) Resolve(authn.Resource) (authn.Authenticator, error) { panic("it has a context") }

func (slowKeychain) ResolveContext(ctx context.Context, _ authn.Resource) (authn.Authenticator, error) {
	select {
	case <-time.After(10 * time.Second):
		return authn.FromConfig(authn.AuthConfig{Username: "ann", Password: "x"}), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type changingKeychain struct {
	host string
	mu   sync.Mutex
	conf authn.AuthConfig
	n    int
}

func (k *changingKeychain) set(user, password string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conf = authn.AuthConfig{Username: user, Password: password}
}

func (k *changingKeychain) asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.n
}

func (k *changingKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n++
	return staticKeychain{k.host, k.conf}.Resolve(r)
}

// Token servers that answer nonsense are an error, not a token.
func TestReadToken(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		body, want string
		age        time.Duration
	}{
		{`{"token":"a"}`, "a", 48 * time.Second},
		{`{"access_token":"b","expires_in":300}`, "b", 240 * time.Second},
		{`{"token":"a","access_token":"b","expires_in":-5}`, "a", 48 * time.Second},
		{`{"token":"a","expires_in":9999999999}`, "a", 24 * time.Hour * 4 / 5},
		{`{"token":"a\r\nX-Evil: 1"}`, "", 0},
		{`{"token":"a b"}`, "", 0},
		{`{"token":""}`, "", 0},
		{`{}`, "", 0},
		{`<html>`, "", 0},
		{`{"token":"` + strings.Repeat("x", maxTokenBody) + `"}`, "", 0},
	} {
		got, err := readToken(strings.NewReader(tt.body), now)
		if got.value != tt.want || (err == nil) != (tt.want != "") || err == nil && got.until.Sub(now) != tt.age {
			t.Errorf("%.40q: got %.40q for %v, %v; want %q for %v", tt.body, got.value, got.until.Sub(now), err, tt.want, tt.age)
		}
	}
}

// A token that covers more is as good as the one that is needed, but never one that covers less.
func TestCovers(t *testing.T) {
	pull, push, other := pullScope("a"), pushScope("a"), pullScope("b")
	for _, tt := range []struct {
		has, need []string
		want      bool
	}{
		{[]string{pull}, []string{pull}, true},
		{[]string{push}, []string{pull}, true},
		{[]string{pull}, []string{push}, false},
		{[]string{push, other}, []string{pull}, true},
		{[]string{push}, []string{pull, other}, false},
		{nil, []string{pull}, false},
		{[]string{pull}, nil, true},
	} {
		if got := covers(tt.has, tt.need); got != tt.want {
			t.Errorf("covers(%q, %q) = %v", tt.has, tt.need, got)
		}
	}
}

// What the token server says of a refusal reaches the user, and a server that is down is tried again.
func TestTokenServerFails(t *testing.T) {
	s := &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}}
	setUp := func(w *world) {
		withTokens(w, s)
		w.user(testHost, "ann", "wrong")
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		_, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1"))
		if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "incorrect username or password") {
			t.Errorf("got %v", err)
		}
		w.net.Remove("auth.registry.test:443")
		w.net.HTTPS("auth.registry.test:443", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
		}))
		w.c.Close() // the connection to the server that was there
		if _, _, err := w.c.Get(ctx, repoAt(testHost).Tag("1")); err == nil || !strings.Contains(err.Error(), "after 5 attempts") {
			t.Errorf("got %v", err)
		}
	})
}
