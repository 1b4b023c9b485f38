package buildkit

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver/session"
)

// A lateSession is the session that a request names, which may come after the request, or not at all: only what needs
// something of the client waits for it. It is safe for concurrent use.
type lateSession struct {
	id      string
	manager *bksession.Manager
	begun   time.Time

	ready chan struct{} // closed when what follows is known
	sess  *bksession.Session
	err   error
}

var (
	_ session.Session        = (*lateSession)(nil)
	_ authn.ContextKeychain  = (*lateKeychain)(nil)
	_ registry.TokenKeychain = (*lateKeychain)(nil)
	_ registry.LateKeychain  = (*lateKeychain)(nil)
)

func late(id string, manager *bksession.Manager) *lateSession {
	return &lateSession{id: id, manager: manager, begun: time.Now(), ready: make(chan struct{})}
}

// bind begins to wait for the session, and returns ctx, which the end of the session ends too, with the *LostError as its
// cause. It is called once; the caller calls cancel.
func (l *lateSession) bind(ctx context.Context) (bound context.Context, cancel func()) {
	bound, end := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		l.sess, l.err = l.manager.Get(bound, l.id)
		close(l.ready)
		var lost *bksession.LostError
		switch {
		case l.err == nil:
			select {
			case <-l.sess.Context().Done():
				end(context.Cause(l.sess.Context()))
			case <-bound.Done():
			}
		case errors.As(l.err, &lost):
			end(l.err)
		}
	})
	return bound, func() {
		end(context.Canceled)
		wg.Wait()
	}
}

// get waits for the session. The error is that of Manager.Get.
func (l *lateSession) get(ctx context.Context) (*bksession.Session, error) {
	select {
	case <-l.ready:
		return l.sess, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Secret implements session.Session.
func (l *lateSession) Secret(ctx context.Context, id string) ([]byte, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Secret(ctx, id)
}

// CheckSSH implements session.Session.
func (l *lateSession) CheckSSH(ctx context.Context, id string) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	return s.CheckSSH(ctx, id)
}

// DialSSH implements session.Session.
func (l *lateSession) DialSSH(ctx context.Context, id string) (session.Conn, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.DialSSH(ctx, id)
}

// A lateKeychain is the session's.
type lateKeychain struct{ l *lateSession }

func (k *lateKeychain) get(ctx context.Context) (registry.TokenKeychain, error) {
	s, err := k.l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Keychain(), nil
}

// grace is how long after its request a session is waited for where nothing is needed of it yet. One that is opened at all is
// there by then, and has what the registry client remembers for its user.
const grace = time.Second

// Come implements registry.LateKeychain.
func (k *lateKeychain) Come(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(k.l.begun.Add(grace)))
	defer timer.Stop()
	select {
	case <-k.l.ready:
		return true
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	select {
	case <-k.l.ready:
		return true
	default:
		return false
	}
}

// Resolve implements authn.Keychain.
func (k *lateKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (k *lateKeychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	own, err := k.get(ctx)
	if err != nil {
		return nil, err
	}
	return authn.Resolve(ctx, own, r)
}

// Authority implements registry.TokenKeychain.
func (k *lateKeychain) Authority(ctx context.Context, r authn.Resource) ([]byte, error) {
	own, err := k.get(ctx)
	if err != nil {
		return nil, err
	}
	return own.Authority(ctx, r)
}

// Token implements registry.TokenKeychain.
func (k *lateKeychain) Token(ctx context.Context, req registry.TokenRequest) (registry.Token, error) {
	own, err := k.get(ctx)
	if err != nil {
		return registry.Token{}, err
	}
	return own.Token(ctx, req)
}
