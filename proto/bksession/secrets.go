package bksession

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/session/secrets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/solver/session"
)

const methodSecret = "/moby.buildkit.secrets.v1.Secrets/GetSecret"

// Secret implements solver/session.Session. A client that offers no secrets at all has none of that ID.
func (s *Session) Secret(ctx context.Context, id string) ([]byte, error) {
	if !s.Has(methodSecret) {
		return nil, &session.NotFoundError{Kind: "secret", ID: id}
	}
	what := fmt.Sprintf("asking for the secret %q", printable(id, maxID))
	ctx, cancel := s.Bind(ctx)
	defer cancel()
	resp, err := secrets.NewSecretsClient(s.cc).GetSecret(ctx, &secrets.GetSecretRequest{ID: id})
	if c := status.Code(err); c == codes.NotFound || c == codes.Unimplemented {
		return nil, &session.NotFoundError{Kind: "secret", ID: id}
	}
	if err != nil {
		return nil, s.fail(ctx, what, err)
	}
	if len(resp.Data) > session.MaxSecret {
		return nil, fmt.Errorf("%s: it has more than %d bytes", what, session.MaxSecret)
	}
	return resp.Data, nil
}
