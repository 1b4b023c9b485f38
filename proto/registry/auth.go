package registry

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
)

// An asker is who makes a request: one credential at one endpoint.
type asker struct {
	credential
	session *session
	repo    Repo // whose credential it is
	print   fingerprint
	// unasked says that the keychain has not come yet, and nobody has asked for credentials: it is not waited for. Then
	// print is like that of nobody else.
	unasked bool
}

func (c *Client) asker(ctx context.Context, ep *endpoint, path string) *asker {
	s, repo := c.session(ctx), ep.resource(path)
	if late, ok := s.keychain.(LateKeychain); ok && c.challenge(ep).scheme == "" && !late.Come(ctx) {
		return &asker{session: s, repo: repo, print: c.fingerprint(ep.name, &credential{authority: s.nonce}), unasked: true}
	}
	a := &asker{credential: c.credential(ctx, s, repo), session: s, repo: repo}
	a.print = c.fingerprint(ep.name, &a.credential)
	return a
}

// once sends rq to ep, authenticated as far as is known how, and once more if the server says how it wants that to be
// done. It returns an answer with one of the expected statuses, or an error.
func (c *Client) once(ctx context.Context, ep *endpoint, rq *request) (*http.Response, error) {
	who := c.asker(ctx, ep, rq.repo)
	ch := c.challenge(ep)
	if who.unasked {
		ch = challenge{} // what another call has learnt meanwhile this one is told again
	}
	authz, err := c.authorize(ctx, ep, who, authNeed{ch, rq.scopes})
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, ep, rq, authz)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized && !resp.elsewhere {
		resp, err = c.answerChallenge(ctx, ep, rq, &refusal{resp: resp, who: who, old: authz})
		if err != nil {
			return nil, err
		}
	}
	if !slices.Contains(rq.expect, resp.StatusCode) {
		e := newStatusError(resp.Response, rq.about)
		c.explain(e, ep, c.asker(ctx, ep, rq.repo))
		return nil, e
	}
	return resp.Response, nil
}

// A refusal is an answer of 401 and what was tried.
type refusal struct {
	resp *reply
	who  *asker
	old  string // Authorization that was refused; may be empty
}

// answerChallenge sends rq again with what the server asks for, if that is another thing than what it has refused.
// Otherwise it returns the refusal itself.
func (c *Client) answerChallenge(ctx context.Context, ep *endpoint, rq *request, no *refusal) (*reply, error) {
	ch, ok := parseChallenges(no.resp.Header)
	if !ok {
		return no.resp, nil
	}
	c.learn(ep, ch)
	who := no.who
	need := authNeed{ch, rq.scopes}
	if who.unasked {
		who = c.asker(ctx, ep, rq.repo)
	}
	if no.old != "" { // the token may have been revoked, the password changed
		c.forgetTokens(ep, who.print)
		who.session.forget(who.repo)
		who = c.asker(ctx, ep, rq.repo)
	}
	authz, err := c.authorize(ctx, ep, who, need)
	if err != nil {
		no.resp.Body.Close()
		return nil, err
	}
	if authz == "" || authz == no.old {
		return no.resp, nil
	}
	drain(no.resp.Body)
	return c.send(ctx, ep, rq, authz)
}

// authNeed is what a request needs to be let in.
type authNeed struct {
	challenge
	scopes []string
}

// authorize returns the Authorization header for a request, empty if there is nothing to send.
func (c *Client) authorize(ctx context.Context, ep *endpoint, who *asker, need authNeed) (string, error) {
	switch {
	case need.scheme == "":
		return "", nil // nobody has asked yet, so nobody is told
	case who.bearer != "" && need.scheme == "bearer":
		return "Bearer " + who.bearer, nil
	case need.scheme == "basic":
		cr := who.credential
		if cr.authority != "" { // there is no token to be got for this
			cr = c.answer(ctx, who.session, question{repo: who.repo, password: true})
		}
		if cr.user == "" && cr.password == "" {
			return "", nil
		}
		return basicAuth(&cr), nil
	case need.scheme == "bearer":
		t, err := c.token(ctx, ep, who, need)
		if err != nil || t == "" {
			return "", err
		}
		return "Bearer " + t, nil
	}
	return "", nil
}

func basicAuth(cr *credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cr.user+":"+cr.password))
}

// challenge returns how ep wanted to be authenticated with the last time it said so.
func (c *Client) challenge(ep *endpoint) challenge {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.challenges[ep.base()]
}

func (c *Client) learn(ep *endpoint, ch challenge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.challenges[ep.base()] = ch
}

// explain adds to a refusal what the client knows of its reasons.
func (c *Client) explain(e *StatusError, ep *endpoint, who *asker) {
	if e.Status != http.StatusUnauthorized && e.Status != http.StatusForbidden || e.Hint != "" {
		return
	}
	switch ch := c.challenge(ep); {
	case who.err != nil:
		e.Hint = fmt.Sprintf("no credentials were sent, since looking them up ended with: %v", who.err)
	case who.anonymous():
		e.Hint = fmt.Sprintf("there are no credentials for %s", ep.name)
	case ch.scheme == "bearer" && who.bearer == "":
		if u, ok := realmURL(ep, ch.realm); !ok || !tokenServerAllowed(ep, u) {
			e.Hint = fmt.Sprintf("the credentials for %s were not sent to its token server %s, which is in another domain; "+
				"if that is right, list it among the host's token servers", ep.name, printable(ch.realm, 256))
		}
	}
}
