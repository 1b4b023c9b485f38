package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// mirrorRest is how long a mirror that did not answer, or answered wrongly, is left alone.
const mirrorRest = time.Minute

// mirrorSpec is a parsed Host.Mirrors entry.
type mirrorSpec struct{ scheme, host, prefix string }

func parseMirror(s string) (mirrorSpec, error) {
	full := s
	if !strings.Contains(s, "://") {
		full = "//" + s
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https") {
		return mirrorSpec{}, fmt.Errorf("mirror %q is not [http://|https://]host[:port][/path]", s)
	}
	m := mirrorSpec{scheme: u.Scheme, host: strings.ToLower(u.Host), prefix: strings.Trim(u.Path, "/")}
	if m.prefix != "" {
		if err := (Repo{Host: m.host, Path: m.prefix}).check(); err != nil {
			return mirrorSpec{}, fmt.Errorf("mirror %q: %w", s, err)
		}
		m.prefix += "/"
	}
	return m, nil
}

// mirrors returns the endpoints of a registry's mirrors that are worth asking now.
func (c *Client) mirrors(host string, skip map[string]bool) []*endpoint {
	var eps []*endpoint
	for _, s := range c.opts.Hosts[host].Mirrors {
		m, err := parseMirror(s)
		if err != nil {
			continue // Validate has refused it
		}
		conf := c.opts.Hosts[m.host]
		ep := &endpoint{name: m.host, addr: m.host, prefix: m.prefix, ns: host, conf: conf, scheme: m.scheme}
		if ep.name == dockerHub {
			ep.addr = dockerHubAddr
		}
		if ep.scheme == "" {
			ep.scheme = c.scheme(m.host, conf)
		}
		if !skip[ep.base()] && !c.isDown(ep) {
			eps = append(eps, ep)
		}
	}
	return eps
}

func (c *Client) isDown(ep *endpoint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.down[ep.base()])
}

// rest leaves a mirror alone for a while.
func (c *Client) rest(ep *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[ep.base()] = time.Now().Add(mirrorRest)
}

// pull asks the mirrors of host, each once, and then the registry itself, with retries. Whatever a mirror answers but
// what was asked for, the next one gets its chance: what ask returns is verified by digest, so a mirror can be no worse
// than useless. skip names mirrors, by base, that are not to be asked.
func (c *Client) pull(ctx context.Context, host string, skip map[string]bool, ask func(*endpoint) error) error {
	var refused []string
	for _, ep := range c.mirrors(host, skip) {
		err := ask(ep)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var broken *transportError
		if errors.As(err, &broken) || errors.Is(err, ErrDigest) || serverFault(err) {
			c.rest(ep)
		}
		refused = append(refused, fmt.Sprintf("mirror %s: %v", strings.TrimSuffix(ep.addr+"/"+ep.prefix, "/"), err))
	}
	err := c.retry(ctx, func() error { return ask(c.origin(host)) })
	if err != nil && len(refused) > 0 {
		return fmt.Errorf("%w; before that %s", err, strings.Join(refused, "; "))
	}
	return err
}
