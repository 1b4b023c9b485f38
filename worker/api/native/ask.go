package native

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/registry"
)

// errNoAnswers is why a question to a client that answers no more fails.
var errNoAnswers = errors.New("the client answers no more")

// An asker asks the client of one stream and matches answers to questions. It is safe for concurrent use.
type asker struct {
	send func(*boxbuildv1.Ask) error // takes the question to the client; safe for concurrent use
	gone error                       // what questions fail with once it answers no more; nil for errNoAnswers

	mu      sync.Mutex // guards all below
	last    uint64
	waiting map[uint64]chan *boxbuildv1.Answer
	closed  bool
}

// ask asks the question, whose id it sets, and waits for the answer. An answer that is an error is returned as one.
func (a *asker) ask(ctx context.Context, q *boxbuildv1.Ask) (*boxbuildv1.Answer, error) {
	reply, err := a.post(q)
	if err != nil {
		return nil, err
	}
	defer a.forget(q.GetId())
	select {
	case ans, ok := <-reply:
		if !ok {
			return nil, a.over()
		}
		if e := ans.GetError(); e != nil {
			return nil, &boxbuildv1.Failure{Wire: e}
		}
		return ans, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// over is why there is no answer any more.
func (a *asker) over() error {
	if a.gone != nil {
		return a.gone
	}
	return errNoAnswers
}

// post sends the question. The caller must forget it.
func (a *asker) post(q *boxbuildv1.Ask) (<-chan *boxbuildv1.Answer, error) {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil, a.over()
	}
	a.last++
	q.Id = a.last
	reply := make(chan *boxbuildv1.Answer, 1)
	if a.waiting == nil {
		a.waiting = map[uint64]chan *boxbuildv1.Answer{}
	}
	a.waiting[q.Id] = reply
	a.mu.Unlock()
	if err := a.send(q); err != nil {
		a.forget(q.Id)
		return nil, err
	}
	return reply, nil
}

func (a *asker) forget(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, id)
}

// answer delivers an answer; one to no question is dropped.
func (a *asker) answer(ans *boxbuildv1.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reply := a.waiting[ans.GetId()]; reply != nil {
		delete(a.waiting, ans.GetId())
		reply <- ans
	}
}

// close fails every question, now and later.
func (a *asker) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for id, reply := range a.waiting {
		delete(a.waiting, id)
		close(reply)
	}
}

// A keychain asks the client for the credentials of one registry at a time, once each: the daemon never sees those of
// registries that it does not talk to. It is safe for concurrent use.
type keychain struct {
	asker *asker

	mu     sync.Mutex // guards what follows
	known  map[string]*credential
	missed string // a registry whose credentials a client had no time to give
}

// A credential is asked for once; done is closed when the rest is set.
type credential struct {
	done chan struct{}
	auth authn.AuthConfig
	err  error
	left bool // whoever asked has left before there was an answer, which is not for those who waited
}

func newKeychain(a *asker) *keychain {
	return &keychain{asker: a, known: map[string]*credential{}}
}

// Resolve implements authn.Keychain. It ends at the latest when the stream does.
func (k *keychain) Resolve(res authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), res)
}

// ResolveContext implements authn.ContextKeychain.
func (k *keychain) ResolveContext(ctx context.Context, res authn.Resource) (authn.Authenticator, error) {
	host := res.RegistryStr()
	for {
		k.mu.Lock()
		c := k.known[host]
		if c == nil {
			c = &credential{done: make(chan struct{})}
			k.known[host] = c
			k.mu.Unlock()
			return k.ask(ctx, c, res)
		}
		k.mu.Unlock()
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !c.left {
			return c.authenticator()
		}
	}
}

// ask asks for c, which is known under the name of the registry of res.
func (k *keychain) ask(ctx context.Context, c *credential, res authn.Resource) (authn.Authenticator, error) {
	host := res.RegistryStr()
	defer close(c.done)
	ans, err := k.asker.ask(ctx, &boxbuildv1.Ask{Question: &boxbuildv1.Ask_Credentials{
		Credentials: &boxbuildv1.CredentialsQuestion{Registry: host, Repository: res.String()},
	}})
	if errors.Is(err, errDetached) {
		// What is public can be had without.
		k.mu.Lock()
		k.missed = host
		k.mu.Unlock()
		return authn.Anonymous, nil
	}
	if err != nil {
		c.err, c.left = fmt.Errorf("asking the client for credentials of %s: %w", host, err), ctx.Err() != nil
		k.mu.Lock()
		delete(k.known, host) // another caller may have more luck
		k.mu.Unlock()
		return nil, c.err
	}
	c.auth = authConfig(ans.GetCredentials())
	return c.authenticator()
}

// explain adds to an error that it may have been for want of credentials.
func (k *keychain) explain(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.missed == "" || !errors.Is(err, registry.ErrUnauthorized) {
		return err
	}
	return fmt.Errorf("%w: there are no credentials for %s: %w", err, k.missed, errDetached)
}

func (c *credential) authenticator() (authn.Authenticator, error) {
	if c.err != nil {
		return nil, c.err
	}
	if c.auth == (authn.AuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(c.auth), nil
}

func authConfig(c *boxbuildv1.Credentials) authn.AuthConfig {
	return authn.AuthConfig{
		Username:      c.GetUsername(),
		Password:      c.GetPassword(),
		Auth:          c.GetAuth(),
		IdentityToken: c.GetIdentityToken(),
		RegistryToken: c.GetRegistryToken(),
	}
}
