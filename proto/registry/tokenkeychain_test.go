package registry

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A clerk is a keychain that gets tokens itself, from the token server that it knows.
type clerk struct {
	user, password string
	authority      string
	err            error // of Token

	mu    sync.Mutex // guards asked
	asked []string
}

func (k *clerk) Resolve(authn.Resource) (authn.Authenticator, error) {
	k.note("password")
	return authn.FromConfig(authn.AuthConfig{Username: k.user, Password: k.password}), nil
}

func (k *clerk) Authority(context.Context, authn.Resource) ([]byte, error) {
	return []byte(k.authority), nil
}

func (k *clerk) Token(_ context.Context, req TokenRequest) (Token, error) {
	k.note("token " + req.Realm + " " + req.Service + " " + strings.Join(req.Scopes, " "))
	return Token{Value: "from-the-clerk", Age: time.Hour}, k.err
}

func (k *clerk) note(s string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, s)
}

// A keychain that gets tokens itself is asked for one, once for equal authorities, and not for the password. The token
// goes to the registry.
func TestTokenKeychain(t *testing.T) {
	setUp := func(w *world) { withTokens(w, &registrytest.TokenServer{}) }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		w.reg.PutImage("team/app", "1", []byte("{}"))
		ann, again := &clerk{authority: "ann"}, &clerk{authority: "ann"}
		for _, k := range []*clerk{ann, again} {
			// The registry does not know the token, so the answer is no; what it was asked with is what counts.
			_, err := w.c.Resolve(WithKeychain(ctx, k), repoAt(testHost).Tag("1"))
			if !errors.Is(err, ErrUnauthorized) {
				t.Errorf("error %v", err)
			}
		}
		want := "token https://auth.registry.test/token the registry repository:team/app:pull"
		for _, k := range []*clerk{ann, again} {
			for _, a := range k.asked {
				if a != want {
					t.Errorf("asked %q, want %q", a, want)
				}
			}
		}
		if len(ann.asked) == 0 {
			t.Error("the keychain was not asked")
		}
		found := false
		for _, r := range w.reg.Requests() {
			found = found || r.Authorization == "Bearer from-the-clerk"
		}
		if !found {
			t.Error("the token has not come to the registry")
		}
	})
}

// It is not asked for a token from a server that could not have the password either, and for basic authentication it is
// asked for the password.
func TestTokenKeychainElsewhere(t *testing.T) {
	k := &clerk{authority: "ann", user: "ann", password: "secret"}
	setUp := func(w *world) {
		s := &registrytest.TokenServer{Service: "s", Public: true}
		w.reg.Auth = &registrytest.Auth{Tokens: s, Realm: "https://evil.test/token"}
		w.trust("evil.test", Host{})
		w.net.HTTPS("evil.test:443", s)
	}
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		w.reg.PutImage("team/app", "1", []byte("{}"))
		if _, err := w.c.Resolve(WithKeychain(ctx, k), repoAt(testHost).Tag("1")); err != nil {
			t.Error(err)
		}
		if len(k.asked) > 0 {
			t.Errorf("asked %q for a server in another domain", k.asked)
		}
	})
	setUp = func(w *world) { w.reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}} }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		w.reg.PutImage("team/app", "1", []byte("{}"))
		if _, err := w.c.Resolve(WithKeychain(ctx, k), repoAt(testHost).Tag("1")); err != nil {
			t.Error(err)
		}
		if strings.Join(k.asked, "|") != "password" {
			t.Errorf("asked %q, want the password once", k.asked)
		}
	})
}

// A token that cannot be got is an error that says so.
func TestTokenKeychainFails(t *testing.T) {
	setUp := func(w *world) { withTokens(w, &registrytest.TokenServer{}) }
	inWorld(t, setUp, func(ctx context.Context, w *world) {
		k := &clerk{authority: "ann", err: errors.New("the user said no")}
		_, err := w.c.Resolve(WithKeychain(ctx, k), repoAt(testHost).Tag("1"))
		if err == nil || !strings.Contains(err.Error(), "the user said no") || !strings.Contains(err.Error(), testHost) {
			t.Errorf("error %v, want the keychain's", err)
		}
	})
}

// A latecomer is a keychain that comes when it is closed, with the credentials of Ann's or an error.
type latecomer struct {
	come chan struct{}
	err  error
	nothing

	mu    sync.Mutex // guards asked
	asked int
}

// nothing implements the old half of a keychain.
type nothing struct{}

func (nothing) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

func (k *latecomer) Come(context.Context) bool {
	select {
	case <-k.come:
		return true
	default:
		return false
	}
}

func (k *latecomer) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	k.mu.Lock()
	k.asked++
	k.mu.Unlock()
	select {
	case <-k.come:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if k.err != nil {
		return nil, k.err
	}
	return authn.FromConfig(authn.AuthConfig{Username: "ann", Password: "secret"}), nil
}

// A registry that asks nobody for credentials is not kept waiting by a keychain that has not come. One that does has
// the keychain waited for, and then gets what it has, or is asked without.
func TestLateKeychain(t *testing.T) {
	const wait = 5 * time.Second
	for _, tt := range []struct {
		name   string
		asks   bool
		err    error
		want   string // of the error
		waited time.Duration
	}{
		{"nobody is asked", false, errors.New("it never came"), "", 0},
		{"asked, and comes", true, nil, "", wait},
		{"asked, and never comes", true, errors.New("it never came"), "it never came", wait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setUp := func(w *world) {
				if tt.asks {
					withTokens(w, &registrytest.TokenServer{Users: map[string]string{"ann": "secret"}})
				}
			}
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				w.reg.PutImage("team/app", "1", []byte("{}"))
				k := &latecomer{come: make(chan struct{}), err: tt.err}
				var came sync.WaitGroup
				came.Go(func() {
					time.Sleep(wait)
					close(k.come)
				})
				defer came.Wait()
				begin, own := time.Now(), WithKeychain(ctx, k)
				_, err := w.c.Resolve(own, repoAt(testHost).Tag("1"))
				if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, ErrUnauthorized)) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				if got := time.Since(begin); got != tt.waited {
					t.Errorf("it took %s, want %s", got, tt.waited)
				}
				if (k.asked == 0) == tt.asks {
					t.Errorf("the keychain was asked %d times", k.asked)
				}
			})
		})
	}
}

// Two users whose keychains have not come are told apart, from each other and from nobody.
func TestLateIdentity(t *testing.T) {
	inWorld(t, nil, func(ctx context.Context, w *world) {
		seen := map[Identity]bool{w.c.Identity(ctx, repoAt(testHost)): true}
		for range 2 {
			own := WithKeychain(ctx, &latecomer{come: make(chan struct{})})
			id := w.c.Identity(own, repoAt(testHost))
			if seen[id] || id != w.c.Identity(own, repoAt(testHost)) {
				t.Errorf("the identity %v is not one user's own", id)
			}
			seen[id] = true
		}
	})
}
