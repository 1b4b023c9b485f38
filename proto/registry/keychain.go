package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// credentialAge is how long a keychain's answer is used before it is asked again, so that a login takes effect without a
// restart, and a build does not start a helper program for every layer.
const credentialAge = time.Minute

// credential is what a keychain has for one repository.
type credential struct {
	user, password string
	identity       string // refresh token: goes to token servers only
	bearer         string // registry token: goes to the registry as it is
	authority      string // who gets tokens himself, instead of all that; see TokenKeychain
	err            error  // why the keychain could not say; then there is nothing else
}

// fingerprint stands for who asks: equal credentials have equal fingerprints, in this process.
type fingerprint [sha256.Size]byte

func (cr *credential) anonymous() bool {
	return cr.user == "" && cr.password == "" && cr.identity == "" && cr.bearer == "" && cr.authority == ""
}

func (c *Client) fingerprint(host string, cr *credential) fingerprint {
	if cr.anonymous() {
		return fingerprint{}
	}
	mac := hmac.New(sha256.New, c.salt)
	for _, s := range []string{host, cr.user, cr.password, cr.identity, cr.bearer, cr.authority} {
		mac.Write([]byte(s))
		mac.Write([]byte{0})
	}
	return fingerprint(mac.Sum(nil))
}

// A session is a keychain and what it answered lately.
type session struct {
	keychain authn.Keychain // may be nil
	nonce    string         // stands for it while it has not come: see LateKeychain
	mu       sync.Mutex     // guards known
	known    map[question]knownCredential
}

// A question is what a keychain is asked: for its credentials for a repository, or, if it gets tokens itself, who it is.
type question struct {
	repo     Repo
	password bool
}

type knownCredential struct {
	credential
	at time.Time
}

func newSession(k authn.Keychain) *session {
	return &session{keychain: k, nonce: rand.Text(), known: map[question]knownCredential{}}
}

// A lookupKey names one question to one keychain.
type lookupKey struct {
	session *session
	question
}

type sessionKey struct{}

// WithKeychain returns a context whose calls use the credentials in k, and none of the client's own. Keep the context
// for the whole of a build: answers of k are remembered with it. k is asked about a Repo, and its answer is never used
// for another host.
func WithKeychain(ctx context.Context, k authn.Keychain) context.Context {
	return context.WithValue(ctx, sessionKey{}, newSession(k))
}

func (c *Client) session(ctx context.Context) *session {
	if s, ok := ctx.Value(sessionKey{}).(*session); ok {
		return s
	}
	return c.anon
}

// credential returns what the keychain of s has for a repository: not its password, if it gets tokens itself. A keychain
// that fails has nothing for anybody: the failure is kept to be told if the registry then refuses.
func (c *Client) credential(ctx context.Context, s *session, repo Repo) credential {
	return c.answer(ctx, s, question{repo: repo})
}

func (c *Client) answer(ctx context.Context, s *session, q question) credential {
	if s.keychain == nil {
		return credential{}
	}
	if cr, ok := s.lately(q); ok {
		return cr
	}
	cr, err := c.lookups.do(ctx, lookupKey{s, q}, func(ctx context.Context) (credential, error) {
		cr, ok := credential{}, false
		if !q.password {
			cr, ok = authority(ctx, s.keychain, q.repo)
		}
		if !ok {
			cr = lookUp(ctx, s.keychain, q.repo)
		}
		if ctx.Err() == nil { // an answer that was cut short is none
			s.learn(q, cr)
		}
		return cr, nil
	})
	if err != nil {
		return credential{err: err}
	}
	return cr
}

func (s *session) lately(q question) (credential, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.known[q]
	return k.credential, ok && time.Since(k.at) < credentialAge
}

func (s *session) learn(q question, cr credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[q] = knownCredential{cr, time.Now()}
}

// forget makes the session ask its keychain again.
func (s *session) forget(repo Repo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, question{repo: repo})
	delete(s.known, question{repo: repo, password: true})
}

func lookUp(ctx context.Context, k authn.Keychain, repo Repo) credential {
	auth, err := authn.Resolve(ctx, k, repo)
	if err != nil {
		return credential{err: err}
	}
	conf, err := authn.Authorization(ctx, auth)
	if err != nil {
		return credential{err: err}
	}
	if conf == nil {
		return credential{}
	}
	cr := credential{user: conf.Username, password: conf.Password, identity: conf.IdentityToken, bearer: conf.RegistryToken}
	// A helper program says by this user name that its secret is an identity token.
	if cr.user == "<token>" && cr.identity == "" {
		cr.identity, cr.password = cr.password, ""
	}
	if cr.user == "<token>" {
		cr.user = ""
	}
	for _, s := range []string{cr.user, cr.password, cr.identity, cr.bearer} {
		if strings.ContainsAny(s, "\r\n\x00") {
			return credential{err: errors.New("the credentials hold control characters")}
		}
	}
	return cr
}

// StaticKeychain returns a keychain that has conf for host and nothing for anybody else. host is as in a Repo; the names
// that Docker Hub's credentials are kept under are the same as "docker.io".
func StaticKeychain(host string, conf authn.AuthConfig) authn.Keychain {
	return staticKeychain{canonicalHost(host), conf}
}

type staticKeychain struct {
	host string
	conf authn.AuthConfig
}

// Resolve implements authn.Keychain.
func (k staticKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if canonicalHost(r.RegistryStr()) != k.host {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(k.conf), nil
}

// canonicalHost returns the host that credentials kept under a name or URL are for.
func canonicalHost(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	s, _, _ = strings.Cut(s, "/")
	s = strings.ToLower(s)
	if s == dockerHubIndex || s == dockerHubAddr {
		return dockerHub
	}
	return s
}

// An Identity stands for the credentials that a call would use: equal for equal ones, and zero without any.
type Identity struct{ print fingerprint }

// Identity returns the identity that calls with ctx have at the registry of repo, so that what one user was shown can be
// remembered for him alone.
func (c *Client) Identity(ctx context.Context, repo Repo) Identity {
	return Identity{c.asker(ctx, c.origin(repo.Host), repo.Path).print}
}
