package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// clientID is our name in OAuth2 requests.
	clientID = "boxbuild"
	// maxTokenBody is how long a token server's answer may be, in bytes.
	maxTokenBody = 1 << 20
	// defaultTokenAge is what the token specification says of tokens that do not say it themselves.
	defaultTokenAge = time.Minute
	// maxTokens is how many tokens are remembered.
	maxTokens = 4096
)

// A token is what a token server gave out.
type token struct {
	value string
	until time.Time // used before that only
}

// A tokenKey says what a token is for: who got it, from which server, for which, and which scopes.
type tokenKey struct {
	base           string // of the endpoint that it is for
	realm, service string
	scopes         string // sorted, separated by spaces
	who            fingerprint
}

// pullScope and pushScope are what a token must allow, in the token specification's terms. They are made here and never
// taken from the server, which could otherwise have the user's name put under more than was asked for.
func pullScope(path string) string { return "repository:" + path + ":pull" }
func pushScope(path string) string { return "repository:" + path + ":pull,push" }

// token returns a bearer token for what is needed at ep, a remembered one if there is one that will do. It returns an
// empty one if the token server is not one to be asked.
func (c *Client) token(ctx context.Context, ep *endpoint, who *asker, need authNeed) (string, error) {
	u, ok := realmURL(ep, need.realm)
	if !ok {
		return "", nil
	}
	scopes := make([]string, len(need.scopes))
	for i, s := range need.scopes {
		scopes[i] = strings.Replace(s, "repository:", "repository:"+ep.prefix, 1)
	}
	slices.Sort(scopes)
	scopes = slices.Compact(scopes)
	key := tokenKey{ep.base(), need.realm, need.service, strings.Join(scopes, " "), who.print}
	if t, ok := c.remembered(key, scopes); ok {
		return t.value, nil
	}
	cr := who.credential
	if !tokenServerAllowed(ep, u) {
		cr = credential{}
	}
	t, err := c.fetches.do(ctx, key, func(ctx context.Context) (token, error) {
		tr := tokenRequest{cr, need.service, scopes}
		var t token
		var err error
		if cr.authority != "" {
			t, err = delegated(ctx, who, tr, need.realm)
		} else {
			t, err = c.fetchToken(ctx, ep, u, tr)
		}
		if err == nil {
			c.remember(key, t)
		}
		return t, err
	})
	if err == nil {
		return t.value, nil
	}
	var status *StatusError
	if errors.As(err, &status) {
		own := *status // the error is shared with others, whose reasons may differ
		c.explain(&own, ep, who)
		err = &own
	}
	return "", fmt.Errorf("asking the token server of %s: %w", ep.name, err)
}

// remembered returns a token that covers key: one for the same scopes, or for more of them.
func (c *Client) remembered(key tokenKey, scopes []string) (token, bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.tokens[key]; ok && now.Before(t.until) {
		return t, true
	}
	for k, t := range c.tokens {
		if !now.Before(t.until) {
			delete(c.tokens, k)
			continue
		}
		has := strings.Fields(k.scopes)
		k.scopes = key.scopes
		if k == key && covers(has, scopes) {
			return t, true
		}
	}
	return token{}, false
}

// covers says whether scopes are all among has, where push covers pull.
func covers(has, scopes []string) bool {
	for _, s := range scopes {
		if !slices.Contains(has, s) && !slices.Contains(has, strings.TrimSuffix(s, ":pull")+":pull,push") {
			return false
		}
	}
	return true
}

func (c *Client) remember(key tokenKey, t token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) >= maxTokens {
		clear(c.tokens) // costs a round trip for each that was still good
	}
	c.tokens[key] = t
}

// forgetTokens drops the tokens that one asker has for ep.
func (c *Client) forgetTokens(ep *endpoint, who fingerprint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.tokens {
		if k.base == ep.base() && k.who == who {
			delete(c.tokens, k)
		}
	}
}

// A tokenRequest is what is asked of a token server.
type tokenRequest struct {
	credential
	service string
	scopes  []string
}

// fetchToken asks the token server at u, which stands for ep: by GET with the password, if there is one, or by an OAuth2
// POST with an identity token.
func (c *Client) fetchToken(ctx context.Context, ep *endpoint, u *url.URL, tr tokenRequest) (token, error) {
	form := url.Values{}
	if tr.service != "" {
		form.Set("service", tr.service)
	}
	rq := &request{url: u, expect: []int{http.StatusOK}, header: http.Header{}, about: ep.name}
	authz := ""
	if tr.identity != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", tr.identity)
		form.Set("client_id", clientID)
		form.Set("scope", strings.Join(tr.scopes, " "))
		body := form.Encode()
		rq.method, rq.size = http.MethodPost, int64(len(body))
		rq.header.Set("Content-Type", "application/x-www-form-urlencoded")
		rq.body = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	} else {
		rq.method, rq.query = http.MethodGet, form
		if len(tr.scopes) > 0 {
			form["scope"] = tr.scopes
		}
		if tr.user != "" || tr.password != "" {
			form.Set("account", tr.user)
			authz = basicAuth(&tr.credential)
		}
	}
	// The token server is an endpoint of its own as far as redirects and credentials go.
	server := *ep
	server.scheme, server.addr = u.Scheme, u.Host
	if u.Host != ep.addr {
		server.tls, server.conf = c.elsewhere(ep, u.Host)
	}
	resp, err := c.send(ctx, &server, rq, authz)
	if err != nil {
		return token{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, newStatusError(resp.Response, ep.name)
	}
	defer resp.Body.Close()
	return readToken(resp.Body, time.Now())
}

// readToken reads a token server's answer.
func readToken(body io.Reader, now time.Time) (token, error) {
	var doc struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
	}
	b, err := io.ReadAll(io.LimitReader(body, maxTokenBody))
	if err != nil {
		return token{}, &transportError{fmt.Errorf("reading a token: %w", err)}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return token{}, fmt.Errorf("reading a token: %w", err)
	}
	value := doc.Token
	if value == "" {
		value = doc.AccessToken
	}
	// issued_at is the server's clock. It is not used: the two clocks may differ, and the answer is seconds old at most.
	return newToken(value, time.Duration(min(max(doc.ExpiresIn, 0), 24*60*60))*time.Second, now)
}
