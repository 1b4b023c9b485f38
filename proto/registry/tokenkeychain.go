package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// A TokenKeychain is a keychain whose owner gets tokens himself, so that passwords need not come here. It is found by
// assertion. Basic authentication and whatever it has no authority for still go by its Resolve.
type TokenKeychain interface {
	authn.Keychain
	// Authority returns what stands for the owner's credentials for r: the same for the same credentials, and nothing that
	// somebody without them could have. nil means that no tokens are got for r.
	Authority(ctx context.Context, r authn.Resource) ([]byte, error)
	// Token gets a token from the token server that req names.
	Token(ctx context.Context, req TokenRequest) (Token, error)
}

// A LateKeychain is a keychain that cannot be asked yet: what it is asked waits until it can, or fails. It is found by
// assertion, and not waited for before a registry wants credentials.
type LateKeychain interface {
	authn.Keychain
	// Come says whether it answers, or fails, at once. It may wait a moment to be able to say that it does.
	Come(ctx context.Context) bool
}

// A TokenRequest is what is asked of a TokenKeychain. The token server is one that may have the credentials for Resource.
type TokenRequest struct {
	Resource authn.Resource
	Realm    string // URL of the token server
	Service  string
	Scopes   []string
	ClientID string
}

// A Token is what a TokenKeychain has got.
type Token struct {
	Value string
	Age   time.Duration // how long it is good for; a minute if 0
}

// delegated gets a token by way of the keychain that has the authority for it.
func delegated(ctx context.Context, who *asker, tr tokenRequest, realm string) (token, error) {
	k, ok := who.session.keychain.(TokenKeychain)
	if !ok {
		return token{}, errors.New("the keychain gets no tokens") // cannot be: it has shown an authority
	}
	now := time.Now()
	t, err := k.Token(ctx, TokenRequest{Resource: who.repo, Realm: realm, Service: tr.service, Scopes: tr.scopes, ClientID: clientID})
	if err != nil {
		return token{}, err
	}
	return newToken(t.Value, t.Age, now)
}

// newToken checks a token that somebody has given us.
func newToken(value string, age time.Duration, now time.Time) (token, error) {
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return token{}, errors.New("reading a token: the token server gave none that can be sent")
	}
	if age <= 0 {
		age = defaultTokenAge
	}
	age = min(age, 24*time.Hour)
	// A fifth of the age is kept back for requests that begin just before its end.
	return token{value: value, until: now.Add(age - age/5)}, nil
}

// authority asks a keychain that gets tokens itself for whom it does. ok is false if it is not one, or does not for repo.
func authority(ctx context.Context, k authn.Keychain, repo Repo) (cr credential, ok bool) {
	t, ok := k.(TokenKeychain)
	if !ok {
		return credential{}, false
	}
	a, err := t.Authority(ctx, repo)
	if err != nil {
		return credential{err: fmt.Errorf("asking who gets tokens: %w", err)}, true
	}
	return credential{authority: string(a)}, len(a) > 0
}
