package registry

import (
	"net/http"
	"strings"
	"time"
)

// An endpoint is one place to send a repository's requests to: the registry itself or one of its mirrors.
type endpoint struct {
	name   string // that credentials and configuration are kept under: "docker.io", "mirror.example:5000"
	scheme string // "http" or "https"
	addr   string // host, with the port if it was given: "registry-1.docker.io"
	prefix string // goes before the repository's path: "" or "proxy/"
	ns     string // for a mirror, the name of the registry it stands for
	conf   Host
	tls    string // names conf among the transports; empty means name
}

// base returns what identifies the server of ep: challenges and tokens are remembered under it.
func (ep *endpoint) base() string { return ep.scheme + "://" + ep.addr }

func (ep *endpoint) mirror() bool { return ep.ns != "" }

// resource returns whom the credentials for a request about repo must belong to.
func (ep *endpoint) resource(path string) Repo { return Repo{Host: ep.name, Path: ep.prefix + path} }

// origin returns the endpoint of a registry itself.
func (c *Client) origin(host string) *endpoint {
	conf := c.opts.Hosts[host]
	ep := &endpoint{name: host, addr: host, scheme: c.scheme(host, conf), conf: conf}
	if host == dockerHub {
		ep.addr = dockerHubAddr
	}
	return ep
}

// scheme decides between HTTP and HTTPS by the name as written and its configuration, and by nothing else, but that an
// insecure host which answered in plain HTTP once is not asked for TLS again.
func (c *Client) scheme(host string, conf Host) string {
	tlsWanted := conf.Insecure || len(conf.CA) > 0 || len(conf.KeyPairs) > 0
	switch {
	case conf.PlainHTTP, !tlsWanted && isLocalName(host), conf.Insecure && c.isPlain(host):
		return "http"
	}
	return "https"
}

func (c *Client) isPlain(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plain[host]
}

// markPlain remembers that an insecure host does not know TLS.
func (c *Client) markPlain(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plain[host] = true
}

// elsewhere returns how to speak with a host that ep's server sent us to: a redirect's, a token server, an upload's
// location. It gets its own configuration; if it has none, it shares the CA that ep's host is verified with, since a
// company's storage is signed by the company's CA, but neither its client certificate nor its being insecure.
func (c *Client) elsewhere(ep *endpoint, addr string) (key string, conf Host) {
	name := strings.ToLower(addr)
	if own, ok := c.opts.Hosts[name]; ok {
		return name, own
	}
	return "with the CA of " + ep.name, Host{CA: ep.conf.CA}
}

// transport returns how to reach addr in the course of a request to ep.
func (c *Client) transport(ep *endpoint, addr string) (*http.Transport, error) {
	key, conf := ep.name, ep.conf
	switch {
	case addr != ep.addr:
		key, conf = c.elsewhere(ep, addr)
	case ep.tls != "":
		key = ep.tls
	}
	if !conf.Insecure && len(conf.CA) == 0 && len(conf.KeyPairs) == 0 {
		key = "" // all hosts without a TLS configuration share one
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transports[key]; ok {
		return t, nil
	}
	tlsConf, err := conf.tlsConfig()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:               c.opts.Proxy,
		DialContext:         c.opts.Dial,
		TLSClientConfig:     tlsConf,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 15 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 2 * c.opts.MaxConcurrency,
		// A registry's bytes are hashed as they are; a Content-Encoding taken off on the way would change them.
		DisableCompression: true,
		ReadBufferSize:     64 << 10,
		WriteBufferSize:    64 << 10,
	}
	c.transports[key] = t
	return t, nil
}
