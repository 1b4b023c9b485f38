package bksession

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/cli/cli/config/types"
	bk "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/auth/authprovider"
	"golang.org/x/crypto/nacl/sign"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// spied is BuildKit's auth provider and what it is asked.
type spied struct {
	auth.AuthServer
	mu    sync.Mutex // guards calls
	calls []string
}

func (s *spied) Register(server *grpc.Server) { auth.RegisterAuthServer(server, s) }

func (s *spied) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
}

func (s *spied) Credentials(ctx context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	s.note("credentials " + req.Host)
	return s.AuthServer.Credentials(ctx, req)
}

func (s *spied) FetchToken(ctx context.Context, req *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	s.note("token " + req.Host + " " + strings.Join(req.Scopes, " "))
	return s.AuthServer.FetchToken(ctx, req)
}

// asked returns the calls since it was last asked.
func (s *spied) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.calls, "|")
	s.calls = nil
	return out
}

// login is a client that has logged in to all hosts, or without a user to none.
func login(user, password string) *spied {
	return &spied{AuthServer: authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: func(context.Context, string, []string, authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			return types.AuthConfig{Username: user, Password: password}, nil
		},
	}).(auth.AuthServer)}
}

// private starts a registry that wants tokens for everything, and returns the address.
func private(t *testing.T) (*registrytest.Registry, string) {
	t.Helper()
	reg := registrytest.New(registrytest.Behaviour{})
	tokens := &registrytest.TokenServer{Service: "the registry", Users: map[string]string{"ann": "hunter2"}, Public: true, Lifetime: time.Hour}
	mux := http.NewServeMux()
	mux.Handle("/token", tokens)
	mux.Handle("/", reg)
	addr := registrytest.Start(t, mux)
	reg.Auth = &registrytest.Auth{Tokens: tokens, Realm: "http://" + addr + "/token"}
	reg.PutImage("team/app", "1", []byte("{}"))
	return reg, addr
}

// resolve asks the registry with the session's credentials.
func resolve(t *testing.T, c *registry.Client, s *Session, addr string) error {
	t.Helper()
	repo, err := registry.ParseRepo(addr + "/team/app")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Resolve(registry.WithKeychain(t.Context(), s.Keychain()), repo.Tag("1"))
	return err
}

func newRegistryClient(t *testing.T) *registry.Client {
	t.Helper()
	c, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// The client gets tokens itself: the password stays with it. What one user's sessions have got is used for all of them,
// and for nobody else's.
func TestTokens(t *testing.T) {
	_, addr := private(t)
	c := newRegistryClient(t)
	m := New(patient(t))
	want := "token " + addr + " repository:team/app:pull"
	ann, again, nobody := login("ann", "hunter2"), login("ann", "hunter2"), login("", "")
	for _, tc := range []struct {
		name   string
		client *spied
		asked  string
		fails  bool
	}{
		{"ann", ann, want, false},
		{"ann's next session", again, "", false},
		{"nobody", nobody, want, false},
	} {
		s, _ := open(t, m, "", tc.client)
		if err := resolve(t, c, s, addr); (err != nil) != tc.fails {
			t.Errorf("%s: error %v", tc.name, err)
		}
		if got := tc.client.asked(); got != tc.asked {
			t.Errorf("%s: asked %q, want %q", tc.name, got, tc.asked)
		}
	}
}

// Without an authority, and for basic authentication, there are the credentials.
func TestCredentials(t *testing.T) {
	reg, addr := private(t)
	reg.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "hunter2"}}
	c := newRegistryClient(t)
	m := New(patient(t))
	ann := login("ann", "hunter2")
	s, _ := open(t, m, "", ann)
	if err := resolve(t, c, s, addr); err != nil {
		t.Error(err)
	}
	if got, want := ann.asked(), "credentials "+addr; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	none, _ := open(t, m, "")
	if err := resolve(t, c, none, addr); err == nil || !strings.Contains(err.Error(), "there are no credentials") {
		t.Errorf("error %v, want one that says that there are none", err)
	}
	wrong, _ := open(t, m, "", login("ann", "another password"))
	if err := resolve(t, c, wrong, addr); err == nil || strings.Contains(err.Error(), "another password") {
		t.Errorf("error %v, want one without the password", err)
	}
}

// impostor shows somebody's public key, which it cannot sign with.
type impostor struct {
	*spied
	key []byte
}

func (i *impostor) Register(server *grpc.Server) { auth.RegisterAuthServer(server, i) }

func (i *impostor) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return &auth.GetTokenAuthorityResponse{PublicKey: i.key}, nil
}

func (i *impostor) VerifyTokenAuthority(_ context.Context, req *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	_, private, err := sign.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return &auth.VerifyTokenAuthorityResponse{Signed: sign.Sign(nil, req.Payload, private)}, nil
}

// Who shows another one's key gets nothing of what was got for that one.
func TestImpostor(t *testing.T) {
	_, addr := private(t)
	c := newRegistryClient(t)
	m := New(patient(t))
	ann, _ := open(t, m, "", login("ann", "hunter2"))
	if err := resolve(t, c, ann, addr); err != nil {
		t.Fatal(err)
	}
	repo, err := registry.ParseRepo(addr + "/team/app")
	if err != nil {
		t.Fatal(err)
	}
	keys := ann.Keychain()
	key, err := keys.Authority(t.Context(), repo)
	if err != nil || len(key) != 32 {
		t.Fatalf("key %x, %v", key, err)
	}
	var offers bk.Attachable = &impostor{login("", ""), key}
	s, _ := open(t, m, "", offers)
	if got, err := s.Keychain().Authority(t.Context(), repo); err == nil || got != nil {
		t.Errorf("the impostor is taken for ann: %x, %v", got, err)
	}
}
