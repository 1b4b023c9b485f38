package bksession

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/buildkit/session/auth"
	"golang.org/x/crypto/nacl/sign"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/proto/registry"
)

const (
	methodCredentials     = "/moby.filesync.v1.Auth/Credentials"
	methodFetchToken      = "/moby.filesync.v1.Auth/FetchToken"
	methodTokenAuthority  = "/moby.filesync.v1.Auth/GetTokenAuthority"
	methodVerifyAuthority = "/moby.filesync.v1.Auth/VerifyTokenAuthority"

	// authTimeout is how long the client may take to answer: it may have to ask a helper program, and that the user.
	authTimeout = time.Minute
)

// salt makes the keys that clients sign with good for this process alone.
var salt = func() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
}()

// Keychain returns what the client can do to be let in to registries: it gets tokens itself, if it can, so that its
// passwords stay where they are; otherwise it gives its credentials.
func (s *Session) Keychain() registry.TokenKeychain { return &keychain{s} }

type keychain struct{ s *Session }

var (
	_ authn.ContextKeychain  = (*keychain)(nil)
	_ registry.TokenKeychain = (*keychain)(nil)
)

// Resolve implements authn.Keychain.
func (k *keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (k *keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	if !k.s.Has(methodCredentials) {
		return authn.Anonymous, nil
	}
	host := authHost(r.RegistryStr())
	what := fmt.Sprintf("asking the client for its credentials for %s", host)
	ctx, cancel := k.s.authContext(ctx, what)
	defer cancel()
	resp, err := auth.NewAuthClient(k.s.cc).Credentials(ctx, &auth.CredentialsRequest{Host: host})
	if status.Code(err) == codes.Unimplemented {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, k.s.fail(ctx, what, err)
	}
	switch {
	case resp.Secret == "":
		return authn.Anonymous, nil
	case resp.Username == "": // a secret without a user is an identity token
		return authn.FromConfig(authn.AuthConfig{IdentityToken: resp.Secret}), nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: resp.Username, Password: resp.Secret}), nil
}

// Authority implements registry.TokenKeychain. It is the public key of a pair that the client derives from a secret of its
// own for each credential. As a public key is nothing that only its owner can have, the client has to sign something.
func (k *keychain) Authority(ctx context.Context, r authn.Resource) ([]byte, error) {
	if !k.s.Has(methodTokenAuthority) || !k.s.Has(methodVerifyAuthority) || !k.s.Has(methodFetchToken) {
		return nil, nil
	}
	host := authHost(r.RegistryStr())
	what := fmt.Sprintf("asking the client who it is for %s", host)
	ctx, cancel := k.s.authContext(ctx, what)
	defer cancel()
	client := auth.NewAuthClient(k.s.cc)
	resp, err := client.GetTokenAuthority(ctx, &auth.GetTokenAuthorityRequest{Host: host, Salt: salt})
	if c := status.Code(err); c == codes.Unimplemented || c == codes.Unavailable && k.s.ctx.Err() == nil && ctx.Err() == nil {
		return nil, nil // it gets no tokens
	}
	if err != nil {
		return nil, k.s.fail(ctx, what, err)
	}
	if len(resp.PublicKey) != 32 {
		return nil, fmt.Errorf("%s (session %s): a key of %d bytes", what, k.s.id, len(resp.PublicKey))
	}
	payload := make([]byte, 32)
	_, _ = rand.Read(payload) // never fails
	signed, err := client.VerifyTokenAuthority(ctx, &auth.VerifyTokenAuthorityRequest{Host: host, Salt: salt, Payload: payload})
	if err != nil {
		return nil, k.s.fail(ctx, what, err)
	}
	said, ok := sign.Open(nil, signed.Signed, (*[32]byte)(resp.PublicKey))
	if !ok || subtle.ConstantTimeCompare(said, payload) != 1 {
		return nil, fmt.Errorf("%s (session %s): the key that it shows is not its own", what, k.s.id)
	}
	return resp.PublicKey, nil
}

// Token implements registry.TokenKeychain.
func (k *keychain) Token(ctx context.Context, req registry.TokenRequest) (registry.Token, error) {
	host := authHost(req.Resource.RegistryStr())
	what := fmt.Sprintf("asking the client for a token for %s", host)
	ctx, cancel := k.s.authContext(ctx, what)
	defer cancel()
	resp, err := auth.NewAuthClient(k.s.cc).FetchToken(ctx, &auth.FetchTokenRequest{
		ClientID: req.ClientID, Host: host, Realm: req.Realm, Service: req.Service, Scopes: req.Scopes,
	})
	if err != nil {
		return registry.Token{}, k.s.fail(ctx, what, err)
	}
	if resp.Token == "" {
		return registry.Token{}, errors.New(what + ": it gave none")
	}
	return registry.Token{Value: resp.Token, Age: time.Duration(min(max(resp.ExpiresIn, 0), 24*60*60)) * time.Second}, nil
}

// authHost is what BuildKit's clients know a registry by: its address.
func authHost(host string) string {
	if host == "docker.io" || host == "index.docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

func (s *Session) authContext(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	ctx, unbind := s.Bind(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, fmt.Errorf("%s: no answer within %s", what, authTimeout))
	return ctx, func() { cancel(); unbind() }
}
