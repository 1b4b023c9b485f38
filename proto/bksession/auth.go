package bksession

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	methodCredentials     = "/moby.filesync.v1.Auth/Credentials"
	methodFetchToken      = "/moby.filesync.v1.Auth/FetchToken"
	methodTokenAuthority  = "/moby.filesync.v1.Auth/GetTokenAuthority"
	methodVerifyAuthority = "/moby.filesync.v1.Auth/VerifyTokenAuthority"

	// authTimeout is how long the client may take to answer: it may have to ask a helper program, and that the user.
	authTimeout = time.Minute
)

// authState is what a session remembers of registries.
type authState struct{}

// Keychain returns the registry credentials of the client.
func (s *Session) Keychain() authn.Keychain { return keychain{s} }

type keychain struct{ s *Session }

var _ authn.ContextKeychain = keychain{}

// Resolve implements authn.Keychain.
func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (k keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
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
